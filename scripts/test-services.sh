#!/bin/sh
# Install what the tests start for themselves, where it is missing: servers (PostgreSQL, Redis,
# Prometheus, HAProxy), a voice (espeak-ng) and a browser (Chromium).
# Nothing is started here, and what is there already is left as it is.
set -eu

# Debian keeps PostgreSQL's server out of the path.
have_postgres() { ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1; }
have_redis() { command -v redis-server >/dev/null 2>&1; }
# HAProxy lives where only root's path leads.
have_haproxy() { [ -x /usr/sbin/haproxy ] || command -v haproxy >/dev/null 2>&1; }
have_prometheus() { command -v prometheus >/dev/null 2>&1 && command -v promtool >/dev/null 2>&1; }
have_voice() { command -v espeak-ng >/dev/null 2>&1; }
have_browser() { command -v chromium >/dev/null 2>&1; }

missing=""
have_postgres || missing="$missing postgresql"
have_redis || missing="$missing redis-server"
have_prometheus || missing="$missing prometheus"
have_haproxy || missing="$missing haproxy"
have_voice || missing="$missing espeak-ng"
have_browser || missing="$missing chromium"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "test-services.sh: please install:$missing" >&2
    exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
    sudo=sudo
    command -v sudo >/dev/null 2>&1 || { echo "test-services.sh: as root: apt-get install$missing" >&2; exit 1; }
fi

# The packages would start servers of their own on the usual ports: forbid that for the moment of the installation,
# unless the machine has a rule already.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$sudo rm -f "$policy"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
fi
log=$(mktemp)
# shellcheck disable=SC2086 # a list of words
install() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >"$log" 2>&1; }
# The lists of packages may be old, or not there at all.
if ! install && { ! $sudo apt-get update >"$log" 2>&1 || ! install; }; then
    cat "$log" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
