#!/usr/bin/env bash
# Images for the one-node cluster (scripts/kube-node.sh), built by buildah from this repository's Dockerfiles, unchanged:
#
#   sluice:0.1.0  sluice-operator:0.1.0  localhost/pause:1
#
# The base image python:3.11-slim-bookworm is stood in for by a Debian 12 made by debootstrap, so that no registry is
# needed. They are kept as archives in ~/.cache/sluice-kube/images (SLUICE_KUBE_CACHE names another folder).
#
#   scripts/kube-images.sh           build what is missing
#   scripts/kube-images.sh --again   build sluice and its operator anew, from the layers that are kept
#   scripts/kube-images.sh --have    only says whether all are there, by its exit status
#
# Debian 12, root.
set -euo pipefail
cd "$(dirname "$0")/.."

home=${SLUICE_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-kube}/images
names=(pause sluice-operator sluice)
base=docker.io/library/python:3.11-slim-bookworm

say() { printf 'kube-images: %s\n' "$*"; }
fail() { printf 'kube-images: %s\n' "$*" >&2; exit 1; }
have() { local name; for name in "${names[@]}"; do [ -e "$home/$name.tar" ] || return 1; done; }

if [ "${1:-}" = --have ]; then have; exit; fi
[ "${1:-}" != --again ] || rm -f "$home/sluice.tar" "$home/sluice-operator.tar"
if have; then exit 0; fi
[ "$(id -u)" = 0 ] || fail "this needs root"

install_tools() {
  local missing=() package
  for package in buildah debootstrap gcc libc6-dev; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ "${#missing[@]}" = 0 ] && return
  say "installing ${missing[*]}"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq
    --no-install-recommends "${missing[@]}")
  "${install[@]}" >/dev/null || { apt-get update -qq && "${install[@]}" >/dev/null; }
}

# A storage of its own: the machine's, if it has one, is not touched.
use_storage() {
  mkdir -p "$home/build"
  printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$home/storage" "$home/build/run" \
    >"$home/build/storage.conf"
  printf '{"default": [{"type": "insecureAcceptAnything"}]}\n' >"$home/build/policy.json"
  export CONTAINERS_STORAGE_CONF=$home/build/storage.conf BUILDAH_ISOLATION=chroot
}

# What this machine knows about its mirrors and certificates, for the steps of a build only: nothing of it stays.
find_mounts() {
  local links folder
  mounts=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)
  torch=cpu
  printf 'system-certs = true\n' >"$home/build/uv.toml"
  links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}}
  for folder in $links; do
    if compgen -G "${folder#file://}/torch-*+cpu-*.whl" >/dev/null; then
      folder=${folder#file://}
      printf 'find-links = ["%s"]\n' "$folder" >>"$home/build/uv.toml"
      mounts+=(--volume "$folder:$folder:ro")
      torch=
    fi
  done
  mounts+=(--volume "$home/build/uv.toml:/etc/uv/uv.toml:ro")
  [ ! -e /etc/pip.conf ] || mounts+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
}

make_base() {
  buildah inspect --type image "$base" >/dev/null 2>&1 && return
  say "making the base image"
  local mirror container
  mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -1)
  rm -rf "$home/build/root"
  debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$home/build/root" \
    ${mirror:+"$mirror"} >"$home/build/debootstrap.log" 2>&1 || { tail "$home/build/debootstrap.log" >&2; fail "no base"; }
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$home/build/root" / >/dev/null
  buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
  buildah commit --quiet --rm "$container" "$base" >/dev/null
  rm -rf "$home/build/root"
}

keep() { # NAME IMAGE
  rm -f "$home/$1.tar.new"
  buildah push --quiet --signature-policy "$home/build/policy.json" "$2" "docker-archive:$home/$1.tar.new:$2"
  mv "$home/$1.tar.new" "$home/$1.tar"
}

build() { # NAME DOCKERFILE
  local image=docker.io/library/$1:0.1.0
  say "building $1"
  buildah bud --layers --format docker --pull-never --signature-policy "$home/build/policy.json" "${mounts[@]}" \
    --build-arg "TORCH_BACKEND=$torch" ${3:+--ignorefile "$3"} --file "$2" --tag "$image" . >"$home/build/$1.log" 2>&1 ||
    { tail -30 "$home/build/$1.log" >&2; fail "$1 was not built"; }
  keep "$1" "$image"
}

make_pause() {
  local container
  say "building pause"
  gcc -O2 -static -o "$home/build/pause" tests/deploy/node/pause.c
  container=$(buildah from scratch)
  buildah copy --quiet "$container" "$home/build/pause" /pause >/dev/null
  buildah config --entrypoint '["/pause"]' "$container"
  buildah commit --quiet --rm "$container" localhost/pause:1 >/dev/null
  keep pause localhost/pause:1
}

install_tools
use_storage
find_mounts
[ -e "$home/pause.tar" ] || make_pause
make_base
[ -e "$home/sluice-operator.tar" ] || build sluice-operator deploy/operator/Dockerfile deploy/operator/Dockerfile.dockerignore
[ -e "$home/sluice.tar" ] || build sluice Dockerfile
say "all are in $home"
