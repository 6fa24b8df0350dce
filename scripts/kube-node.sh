#!/usr/bin/env bash
# A one-node Kubernetes cluster that really runs pods, for as long as one command runs:
#
#   scripts/kube-node.sh run CMD...    CMD, with KUBECONFIG, on the node's network
#   scripts/kube-node.sh enter CMD...  another command there, while the first runs
#   scripts/kube-node.sh down          take away what a killed run left behind
#   scripts/kube-node.sh --have        only says whether all it needs is there, by its exit status
#
# etcd, API server, controllers, scheduler, kubelet and kube-proxy are those of scripts/kube-tools.sh --node, containerd,
# runc and the network plugins are Debian's, images those of scripts/kube-images.sh. All of it, pods included, lives in
# namespaces of its own (network, mounts, processes): nothing listens on the machine, and when the first process in there
# ends, the kernel ends every other one and takes the mounts and the network away. What is left, sysctls and cgroups, is
# put back on every way out. No pod reaches anything outside.
#
# Names of Services are answered by a small DNS server (tests/deploy/node/dns.py), metrics are scraped by Debian's
# Prometheus on http://10.99.0.1:9090 if it is installed, from pods annotated with prometheus.io/* (targets.py there).
#
# Debian 12, root, cgroups v1.
set -euo pipefail
here=$(realpath "$0")
cd "$(dirname "$here")/.."
root=$PWD

cache=${SLUICE_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice-kube}
bin=$cache/$(sed -n 's/^version=//p' scripts/kube-tools.sh)
images=$cache/images
node=$cache/node
state=$node/state      # gone after each run
ip=10.99.0.1
global=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
  kernel.keys.root_maxbytes)

say() { printf 'kube-node: %s\n' "$*" >&2; }
fail() { printf 'kube-node: %s\n' "$*" >&2; exit 1; }

have() {
  local tool
  for tool in containerd ctr runc conntrack iptables; do command -v "$tool" >/dev/null || return 1; done
  [ -x /usr/lib/cni/bridge ] && scripts/kube-tools.sh --have --node && scripts/kube-images.sh --have
}

# The packages would start containerd as a service: not while they are installed here.
install_packages() (
  say "installing $*"
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  install=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends)
  "${install[@]}" "$@" >/dev/null || { apt-get update -qq && "${install[@]}" "$@" >/dev/null; }
)

get_ready() {
  local missing=() package
  for package in containerd runc containernetworking-plugins conntrack iptables iproute2; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"
  scripts/kube-tools.sh --node >&2
  scripts/kube-images.sh >&2
  scripts/deploy-tools.sh >&2
}

# ---- outside ----------------------------------------------------------------------------------------------------------

keep_sysctls() {
  local name
  for name in "${global[@]}"; do
    printf '%s = %s\n' "$name" "$(sysctl -n "$name" 2>/dev/null || true)"
  done | grep -v '= $' >"$state/sysctls"
}

# Every line may find nothing to do: this runs after a good end, after a fault, and after a run that was killed.
take_down() {
  local pid directory attempt
  [ -d "$state" ] || return 0
  if [ -s "$state/pid" ]; then
    pid=$(cat "$state/pid")
    # Only if it is still ours: the first process of our namespace.
    if [ "$(readlink "/proc/$pid/ns/pid" 2>/dev/null)" = "$(cat "$state/ns" 2>/dev/null)" ]; then
      kill -KILL "$pid" 2>/dev/null || true
      for attempt in $(seq 100); do [ -e "/proc/$pid" ] || break; sleep 0.1; done
    fi
  fi
  [ ! -s "$state/sysctls" ] || sysctl -q -p "$state/sysctls" || say "the sysctls in $state/sysctls were not put back"
  for attempt in $(seq 50); do
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
    [ -n "$(find /sys/fs/cgroup -maxdepth 3 -type d -name kubepods -print -quit)" ] || break
    sleep 0.1
  done
  for directory in $(cat "$state/new" 2>/dev/null); do rm -rf --one-file-system "$directory"; done
  rm -rf --one-file-system "$state"
}

# Folders whose names are fixed in the kubelet and in containerd; those that were not there before go at the end.
note_new_folders() {
  local directory
  for directory in /var/lib/kubelet /var/lib/dockershim /var/lib/cni /opt/cni /etc/cni /usr/libexec/kubernetes; do
    [ -e "$directory" ] || printf '%s\n' "$directory"
  done >"$state/new"
}

run() {
  [ "$(id -u)" = 0 ] || fail "this needs root"
  [ -d /sys/fs/cgroup/memory ] || fail "this needs cgroups v1"
  mkdir -p "$node"
  exec 9>"$node/lock"
  flock --nonblock 9 || fail "one runs already"
  take_down
  get_ready
  mkdir -p "$state"
  note_new_folders
  keep_sysctls
  trap take_down EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # In the background, because only `wait` is interrupted by signals.
  unshare --net --mount --pid --fork --mount-proc --kill-child -- "$here" inside "$@" <&0 9>&- &
  local outer=$!
  until [ -s "$state/ns" ] || [ ! -e "/proc/$outer" ]; do sleep 0.1; done
  pgrep -P "$outer" >"$state/pid" || true
  wait $outer
}

# ---- inside -----------------------------------------------------------------------------------------------------------

start() { # NAME CMD...: in the background, with a log
  local name=$1
  shift
  "$@" >"$state/$name.log" 2>&1 </dev/null &
}

await() { # WHAT SECONDS CMD...
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt "$end" ] || { tail -n 5 "$state"/*.log >&2; fail "waited too long for $what"; }
    sleep 0.2
  done
}

make_network() {
  ip link set lo up
  ip link add node0 type bridge
  ip addr add "$ip/24" dev node0
  ip link set node0 up
  ip route add default via 10.99.0.254 dev node0
  # The kubelet asks a cloud's address for credentials: let it be told at once that nobody is there.
  ip route add unreachable 169.254.0.0/16
  sysctl -q -w net.ipv4.ip_forward=1
  # Packets between two pods pass the bridge, and must pass the rules of Services all the same.
  sysctl -q -w net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
}

make_certificates() {
  openssl genrsa -traditional -out sa.key 2048
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=sluice-node-ca
  openssl req -newkey rsa:2048 -nodes -keyout api.key -out api.csr -subj /CN=kube-apiserver
  openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out api.crt -extfile <(
    printf 'subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,'
    printf 'IP:127.0.0.1,IP:%s,IP:10.96.0.1\n' "$ip")
}

write_files() {
  local token
  token=$(openssl rand -hex 24)
  printf '%s,admin,admin,"system:masters"\n' "$token" >tokens.csv
  printf '%s' "$token" >token
  cat >kubeconfig <<K
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$ip:6443", certificate-authority: "$state/ca.crt"}}]
users: [{name: u, user: {token: "$token"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
K
  cat >kubelet.yaml <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ip
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /
failSwapOn: false
oomScoreAdj: 0
volumePluginDir: $state/plugins
resolvConf: $state/resolv.conf
clusterDNS: ["$ip"]
clusterDomain: cluster.local
evictionHard: {memory.available: "100Mi", nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100
K
  cat >containerd.toml <<K
version = 2
root = "$node/containerd"
state = "$state/containerd"
[grpc]
  address = "$state/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$state/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
K
  mkdir -p cni plugins
  printf 'nameserver %s\n' "$ip" >resolv.conf
  cat >cni/10-bridge.conflist <<K
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "dataDir": "$state/ipam",
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
K
  cat >prometheus.yml <<K
global: {scrape_interval: 5s, evaluation_interval: 5s}
scrape_configs:
  - job_name: pods
    file_sd_configs: [{files: [$state/targets.json], refresh_interval: 2s}]
K
}

start_control_plane() {
  local config=(--kubeconfig="$state/kubeconfig")
  start etcd "$bin/etcd" --data-dir "$state/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
  start apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=0.0.0.0 \
    --advertise-address="$ip" --tls-cert-file=api.crt --tls-private-key-file=api.key --client-ca-file=ca.crt \
    --token-auth-file=tokens.csv --authorization-mode=RBAC --service-cluster-ip-range=10.96.0.0/16 \
    --service-account-key-file=sa.key --service-account-signing-key-file=sa.key --allow-privileged=true \
    --service-account-issuer=https://kubernetes.default.svc --kubelet-preferred-address-types=InternalIP
  await "the API server" 120 "$kubectl" get --raw /readyz
  start controllers "$bin/kube-controller-manager" "${config[@]}" --service-account-private-key-file=sa.key \
    --root-ca-file=ca.crt --use-service-account-credentials=true --leader-elect=false --bind-address=127.0.0.1 --port=0 \
    --cert-dir="$state/certs-controllers" --controllers='*,-nodeipam,-route,-cloud-node-lifecycle,-service'
  start scheduler "$bin/kube-scheduler" "${config[@]}" --leader-elect=false --bind-address=127.0.0.1 --port=0 \
    --cert-dir="$state/certs-scheduler"
}

# Unpacked images are kept between runs; an archive is read again when it is another one.
load_images() {
  local archive mark
  for archive in "$images"/*.tar; do
    mark=$node/containerd/.$(basename "$archive").$(stat -c '%Y-%s' "$archive")
    [ ! -e "$mark" ] || continue
    say "loading $(basename "$archive")"
    ctr --address "$state/containerd.sock" --namespace k8s.io images import "$archive" >/dev/null
    touch "$mark"
  done
}

start_node() {
  await containerd 60 ctr --address "$state/containerd.sock" version
  load_images
  start kubelet "$bin/kubelet" --config=kubelet.yaml --kubeconfig="$state/kubeconfig" --root-dir="$state/kubelet" \
    --cert-dir="$state/certs-kubelet" --container-runtime=remote --node-ip="$ip" --hostname-override=node1 \
    --container-runtime-endpoint="unix://$state/containerd.sock"
  start proxy "$bin/kube-proxy" --kubeconfig="$state/kubeconfig" --proxy-mode=iptables --hostname-override=node1 \
    --cluster-cidr=10.244.0.0/16 --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0s \
    --conntrack-tcp-timeout-close-wait=0s --healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249
  await "the node" 180 "$kubectl" wait --for=condition=Ready node/node1 --timeout=1s
  await "the default account" 60 "$kubectl" get serviceaccount default
}

# Process 1 of the namespace: when it ends, everything in here does.
inside() {
  local status=0
  mount --make-rshared /
  # What containerd, the kubelet and its logs have at fixed places.
  mount -t tmpfs tmpfs /run
  mount -t tmpfs tmpfs /var/log
  readlink /proc/self/ns/pid >"$state/ns"
  kubectl=$root/.cache/tools/kubectl
  export KUBECONFIG=$state/kubeconfig KUBECACHEDIR=$state/kubectl-cache HELM_CACHE_HOME=$state/helm \
    SLUICE_KUBE_NODE=$ip PATH=$root/.cache/tools:$PATH
  cd "$state"
  make_network
  make_certificates >certificates.log 2>&1
  write_files
  start containerd containerd --config containerd.toml
  start_control_plane
  start_node
  start dns python3 "$root/tests/deploy/node/dns.py" "$ip" "https://$ip:6443" token ca.crt
  if command -v prometheus >/dev/null; then
    start targets python3 "$root/tests/deploy/node/targets.py" "$state/targets.json" "https://$ip:6443" token ca.crt
    start prometheus prometheus --config.file=prometheus.yml --storage.tsdb.path="$state/prometheus" \
      --web.listen-address="$ip:9090" --log.level=warn
  fi
  say "the node is ready after $SECONDS s"
  (cd "$root" && "$@") || status=$?
  say "done with status $status"
  exit $status
}

case ${1:-} in
  run) shift; [ $# -gt 0 ] || fail "run what?"; run "$@" ;;
  inside) shift; inside "$@" ;;
  enter)
    shift
    [ -s "$state/pid" ] || fail "none runs"
    exec nsenter --target "$(cat "$state/pid")" --mount --net --pid env --chdir="$root" \
      KUBECONFIG="$state/kubeconfig" PATH="$root/.cache/tools:$PATH" SLUICE_KUBE_NODE="$ip" "$@" ;;
  down) take_down ;;
  --have) have ;;
  *) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$here"; exit 2 ;;
esac
