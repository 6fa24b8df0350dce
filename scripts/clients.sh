#!/bin/sh
# Clients that applications use, each in an environment of its own (their pins differ) under .cache/clients/, kept
# between runs:
#
#   scripts/clients.sh langchain | pydantic-ai | litellm    prints the environment's Python
#   scripts/clients.sh node                                 prints the directory with OpenAI's package for Node
#
# Needs the uv that scripts/setup.sh fetched, one in PATH, or one named by UV; node needs npm.
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
    node) node_client openai@7.57.0 ;;
    *) echo "usage: $0 langchain | pydantic-ai | litellm | node" >&2; exit 2 ;;
esac
