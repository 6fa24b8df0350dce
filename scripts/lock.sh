#!/usr/bin/env bash
# Writes the committed locks in requirements/ again from pyproject.toml:
#
#   scripts/lock.sh              keeps the versions that still fit
#   scripts/lock.sh --upgrade    takes the newest that fit (or --upgrade-package NAME)
#
# The locks name versions only, no host and no path of one machine. There is no uv.lock because it would name hosts.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.cache/bootstrap/bin/uv
[ -x "$uv" ] || uv=uv
options=(--quiet --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 "$@")
linux=(--python-platform x86_64-manylinux_2_28)

# The CPU build of torch: from a wheel folder that pip is configured with, or else from PyTorch's index (see setup.sh).
cpu=(--extra cpu --excludes requirements/cpu-excludes.txt)
links=
for folder in ${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}}; do
  if compgen -G "${folder#file://}/torch-*+cpu-*.whl" >/dev/null; then links=$folder; fi
done
[ -n "$links" ] || cpu+=(--torch-backend cpu)
unset UV_FIND_LINKS # a lock for others must not find what only this machine has

# lock NAME OPTION...
lock() {
  "$uv" pip compile pyproject.toml "${options[@]}" "${@:2}" --output-file "requirements/$1.txt" >/dev/null
}

lock base --universal --generate-hashes
lock cpu "${cpu[@]}" ${links:+--find-links "$links"}
lock dev "${cpu[@]}" ${links:+--find-links "$links"} --group dev --constraints requirements/cpu.txt
lock gpu --extra gpu "${linux[@]}"
# The operator's image: a group of its own, not the project, in the versions that the tests run with.
"$uv" pip compile "${options[@]}" --group operator --universal --generate-hashes --constraints requirements/dev.txt \
  --output-file requirements/operator.txt >/dev/null

if grep -nE '://|--find-links|--index|(^|[[:space:]])/' requirements/*.txt; then
  echo "lock: the lines above name a host or a path" >&2
  exit 1
fi
