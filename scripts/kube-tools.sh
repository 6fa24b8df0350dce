#!/usr/bin/env bash
# A real Kubernetes control plane for the operator's tests: kube-apiserver and kube-controller-manager, built from Debian's
# source package, and etcd from Debian's binary package. Kept in ~/.cache/sluice-kube/VERSION (SLUICE_KUBE_CACHE names
# another folder), because the build takes eight minutes or more. Does nothing when all is there.
#
#   scripts/kube-tools.sh                      what the tests need
#   scripts/kube-tools.sh --node               with what a node that runs pods needs beside it (scripts/kube-node.sh)
#   scripts/kube-tools.sh --have [--node]      only says whether that is there, by its exit status
#
# Debian 12 with its usual sources, root or sudo. JOBS=2 and NICE=10 build faster than the default of one job at the lowest
# priority.
set -euo pipefail

version=1.20.2
home=${SLUICE_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-kube}/$version
work=$home/work

say() { printf 'kube-tools: %s\n' "$*"; }
fail() { printf 'kube-tools: %s\n' "$*" >&2; exit 1; }

has() {
  case $1 in
    etcd) [ -x "$home/etcd" ] && "$home/etcd" --version >/dev/null 2>&1 ;;
    *) [ -x "$home/$1" ] && [[ $("$home/$1" --version 2>/dev/null) == *"v$version"* ]] ;;
  esac
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# A private state of apt, with the machine's own mirrors and their source packages: the machine's lists stay as they are.
make_apt() {
  mkdir -p "$work"/apt/{sources.list.d,lists/partial,cache/archives/partial}
  local list
  : >"$work/apt/sources.list"
  for list in /etc/apt/sources.list.d/*.sources; do
    [ -e "$list" ] && sed 's/^Types:.*/Types: deb deb-src/' "$list" >"$work/apt/sources.list.d/${list##*/}"
  done
  for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -e "$list" ] && sed -n 's/^deb \(.*\)/deb \1\ndeb-src \1/p' "$list" >>"$work/apt/sources.list"
  done
  apt=(-qq -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o "Dir::Etc::sourceparts=$work/apt/sources.list.d"
    -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" update
}

fetch_etcd() {
  say "fetching etcd"
  (cd "$work" && apt-get "${apt[@]}" download etcd-server)
  dpkg -x "$work"/etcd-server_*.deb "$work/etcd"
  cp "$work/etcd/usr/bin/etcd" "$home/etcd.new"
  mv "$home/etcd.new" "$home/etcd"
}

install_builders() {
  local missing=() package
  for package in golang-1.19-go rsync jq dpkg-dev xz-utils; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ "${#missing[@]}" = 0 ] && return
  say "installing ${missing[*]}"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq
    --no-install-recommends "${missing[@]}")
  as_root "${install[@]}" >/dev/null || { as_root apt-get update -qq && as_root "${install[@]}" >/dev/null; }
}

fetch_source() {
  [ -e "$work/kubernetes/.ready" ] && return
  say "fetching the source of Kubernetes"
  rm -rf "$work/kubernetes" "$work/reflect2"
  (cd "$work" && apt-get "${apt[@]}" source --download-only kubernetes &&
    apt-get "${apt[@]}" download golang-github-modern-go-reflect2-dev)
  compgen -G "$work/kubernetes_*$version*.dsc" >/dev/null || fail "this Debian has another Kubernetes than $version"
  # apt has checked the hashes; the signature is of a maintainer whose key is not here.
  dpkg-source --no-check -x "$work"/kubernetes_*.dsc "$work/kubernetes" >/dev/null
  dpkg -x "$work"/golang-github-modern-go-reflect2-dev_*.deb "$work/reflect2"
  # The vendored reflect2 1.0.1 dies at run time when it is built with Go 1.18 or newer; Debian's package is repaired.
  local vendored=$work/kubernetes/vendor/github.com/modern-go/reflect2
  rm -f "$vendored"/go_above_1*.go "$vendored"/go_below_1*.go
  cp "$work"/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2/*.go "$vendored"
  rm -f "$vendored/go_below_19.go"
  mkdir -p "$work/kubernetes/.go/src/k8s.io"
  ln -sfn ../../.. "$work/kubernetes/.go/src/k8s.io/kubernetes"
  touch "$work/kubernetes/.ready"
}

build() {
  say "building $* with ${JOBS:-1} job(s): minutes"
  local what=() part
  for part in "$@"; do what+=("cmd/$part"); done
  (cd "$work/kubernetes" && mkdir -p "$work/home" && env -u GOROOT HOME="$work/home" GOPATH="$PWD/.go" \
    GOCACHE="$work/gocache" PATH="/usr/lib/go-1.19/bin:$PATH" CGO_ENABLED=0 GOFLAGS="-p=${JOBS:-1}" \
    nice -n "${NICE:-19}" make WHAT="${what[*]}") >"$work/build.log" 2>&1 || { tail -30 "$work/build.log" >&2; fail "the build failed"; }
  for part in "$@"; do
    cp "$(find "$work/kubernetes/_output/local/bin" -type f -name "$part")" "$home/$part.new"
    mv "$home/$part.new" "$home/$part"
  done
}

needed=(kube-apiserver kube-controller-manager)
only_ask=
for argument in "$@"; do
  case $argument in
    --node) needed+=(kubelet kube-proxy kube-scheduler) ;;
    --have) only_ask=1 ;;
    *) fail "unknown argument: $argument" ;;
  esac
done
if [ -n "$only_ask" ]; then
  for part in etcd "${needed[@]}"; do has "$part" || exit 1; done
  exit 0
fi

mkdir -p "$work"
exec 9>"$home/lock"
flock 9 # one build at a time
missing=()
for part in "${needed[@]}"; do has "$part" || missing+=("$part"); done
if has etcd && [ "${#missing[@]}" = 0 ]; then rm -rf "$work"; exit 0; fi
command -v apt-get >/dev/null || fail "this needs Debian's packages: apt-get is not here"
make_apt
has etcd || fetch_etcd
if [ "${#missing[@]}" != 0 ]; then
  install_builders
  fetch_source
  build "${missing[@]}"
fi
for part in etcd "${needed[@]}"; do has "$part" || fail "$part was made but does not run as $version"; done
chmod -R u+w "$work" # Go's module cache is read-only
rm -rf "$work"
say "all is in $home"
