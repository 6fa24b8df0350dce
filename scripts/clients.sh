#!/bin/sh
# Clients that applications use, each in an environment of its own (their pins differ) under .cache/clients/, kept
# between runs:
#
#   scripts/clients.sh langchain | pydantic-ai | litellm    prints the environment's Python
#   scripts/clients.sh guidellm                             the same; takes torch's CPU build along (1.2 GB)
#   scripts/clients.sh node                                 prints the directory with OpenAI's package for Node
#
# Needs the uv that scripts/setup.sh fetched, one in PATH, or one named by UV; node needs npm. As in scripts/setup.sh the CPU
# build of torch comes from a wheel folder (UV_FIND_LINKS, PIP_FIND_LINKS or pip's configuration), else from PyTorch's index.
set -eu

cd "$(dirname "$0")/.."
CLIENTS=$PWD/.cache/clients
PYTHON=${SLUICE_PYTHON:-python3}

find_uv() {
    for candidate in "${UV:-}" "$PWD/.cache/bootstrap/bin/uv" uv; do
        if [ -n "$candidate" ] && command -v "$candidate"; then return; fi
    done
    echo "clients.sh: uv not found: run make setup, or name it: UV=/path/to/uv $0" >&2
    exit 1
}

# made NAME WHAT: whether the environment is there and holds exactly WHAT.
made() {
    [ -f "$CLIENTS/$1/made-of" ] && [ "$(cat "$CLIENTS/$1/made-of")" = "$2" ]
}

python_client() {
    name=$1
    shift
    if ! made "$name" "$*"; then
        uv=$(find_uv)
        rm -rf "${CLIENTS:?}/$name"
        "$uv" venv --quiet --python "$PYTHON" "$CLIENTS/$name"
        "$uv" pip install --quiet --python "$CLIENTS/$name/bin/python" "$@"
        echo "$*" >"$CLIENTS/$name/made-of"
    fi
    echo "$CLIENTS/$name/bin/python"
}

# python_client with torch's CPU build beside it, instead of gigabytes for GPUs.
torch_client() {
    links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$PYTHON" -m pip config get global.find-links 2>/dev/null || true)}}
    if [ -n "$links" ] && ls "${links%% *}"/torch-*+cpu-*.whl >/dev/null 2>&1; then
        export UV_FIND_LINKS="$links"
    else
        export UV_TORCH_BACKEND=cpu
    fi
    python_client "$@" torch==2.13.0+cpu
}

node_client() {
    if ! made node "$1"; then
        command -v npm >/dev/null || { echo "clients.sh: npm not found" >&2; exit 1; }
        rm -rf "${CLIENTS:?}/node"
        mkdir -p "$CLIENTS/node"
        (cd "$CLIENTS/node" && npm init --yes >/dev/null && npm install --silent --no-audit --no-fund "$1" >/dev/null)
        echo "$1" >"$CLIENTS/node/made-of"
    fi
    echo "$CLIENTS/node"
}

case ${1:-} in
    langchain) python_client langchain langchain-openai==1.7.3 ;;
    pydantic-ai) python_client pydantic-ai 'pydantic-ai-slim[openai]==2.68.0' ;;
    litellm) python_client litellm litellm==1.106.2 mcp ;; # it imports mcp as soon as a request has tools
    guidellm) torch_client guidellm guidellm==0.8.1 ;;
    node) node_client openai@7.57.0 ;;
    *) echo "usage: $0 langchain | pydantic-ai | litellm | guidellm | node" >&2; exit 2 ;;
esac
