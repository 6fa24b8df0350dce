#!/usr/bin/env bash
# Writes the committed locks anew. They name versions only: no host, no path of one machine.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.cache/bootstrap/bin/uv
[ -x "$uv" ] || uv=uv
links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}}
common=(pip compile --quiet --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml)
without_cuda=(--excludes requirements/cpu-excludes.txt)

env -u UV_FIND_LINKS "$uv" "${common[@]}" --universal --generate-hashes -o requirements/base.txt >/dev/null
UV_FIND_LINKS=$links "$uv" "${common[@]}" --extra cpu "${without_cuda[@]}" -o requirements/cpu.txt >/dev/null
UV_FIND_LINKS=$links "$uv" "${common[@]}" --extra cpu --group dev "${without_cuda[@]}" \
  --constraints requirements/cpu.txt -o requirements/dev.txt >/dev/null
env -u UV_FIND_LINKS "$uv" "${common[@]}" --extra gpu --python-platform x86_64-manylinux_2_28 \
  -o requirements/gpu.txt >/dev/null
! grep -nE '://|--find-links|--index' requirements/*.txt
