#!/usr/bin/env bash
# A private Docker engine for tests, on a machine with root and no init system.
#
#   engine.sh            installs it if missing, starts it if down; prints one line, DOCKER_HOST=unix://...
#   engine.sh --stop     stops the engine that this script started, and takes its bridges and rules away
#   engine.sh --status   prints the line if it answers (exit 0), else nothing (exit 1)
#
# Environment:
#   DOCKERD_DIR     state, images and socket (default /var/tmp/bottle-lab/engine)
#   DOCKERD_REUSE   1 (default): an engine that already answers, on $DOCKER_HOST or /var/run/docker.sock, is used as it is
#   DOCKERD_SUITE   empty (default): Debian's configured docker.io; trixie: that suite's newer engine and buildx,
#                   unpacked under DOCKERD_DIR (nothing of it is installed on the system), on this release's runc
#   DOCKERD_SWEEP   1 (default): what an engine that was killed has left running is killed, too, before it starts again;
#                   0: it starts over that, as a service manager would have it
#   DOCKERD_ARGS    more flags for dockerd
# Everything but the one line goes to standard error.
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
DIR=${DOCKERD_DIR:-/var/tmp/bottle-lab/engine}
SUITE=${DOCKERD_SUITE:-}
SOCK=$DIR/docker.sock
EXEC=$DIR/exec
PIDFILE=$DIR/dockerd.pid
LOG=$DIR/dockerd.log
say() { echo "engine: $*" >&2; }
die() { say "$*"; exit 1; }

answers() { # is there a Docker API on this unix:// address?
    case ${1:-} in unix://*) ;; *) return 1 ;; esac
    [ -S "${1#unix://}" ] && [ "$(curl -s -m 5 --unix-socket "${1#unix://}" http://docker/_ping 2>/dev/null)" = OK ]
}

cmdline_has() { # pid, text: does that live process carry the text in its command line? (a pid alone may be someone else's by now)
    [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -qF -- "$2"
}

ours() { # pids of this directory's dockerd, containerd and shims, by the exec-root in their command line
    local p
    for p in /proc/[0-9]*; do
        p=${p#/proc/}
        [ "$p" != $$ ] || continue
        case $(readlink "/proc/$p/exe" 2>/dev/null) in
            */dockerd* | */containerd* | */docker-proxy*) cmdline_has "$p" "$EXEC" && echo "$p" ;;
        esac
    done
    return 0
}

gone() { # wait up to $1 tenths of a second for the pids that follow
    local n=$1 p alive; shift
    for ((; n > 0; n--)); do
        alive=
        for p in "$@"; do [ -d "/proc/$p" ] && [ "$(awk '{print $3}' "/proc/$p/stat" 2>/dev/null)" != Z ] && alive=1; done
        [ -n "$alive" ] || return 0
        sleep 0.1
    done
    return 1
}

sweep() { # no dockerd of ours is alive: clear what an unclean end left
    local p m
    for p in $(ours); do kill -9 "$p" 2>/dev/null || true; done
    # processes of containers whose shim is gone: runc's cgroups of ours name them
    for m in /sys/fs/cgroup/*/"$CG" /sys/fs/cgroup/"$CG"; do
        [ -d "$m" ] || continue
        find "$m" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | while read -r p; do kill -9 "$p" 2>/dev/null || true; done || true
        for _ in 1 2 3 4 5; do find "$m" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.1; done || true
    done
    awk -v d="$DIR/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do umount -l "$m" 2>/dev/null || true; done || true
    rm -rf "$EXEC" "$PIDFILE" "$SOCK"
}

forget() { # what ended and was not waited for counts as alive for whoever reads its pid
    rm -f "$PIDFILE" "$EXEC/containerd/containerd.pid"
}

apt_retry() { # another apt may hold the locks
    local i
    for i in $(seq 60); do
        apt-get -o DPkg::Lock::Timeout=300 "$@" >>"$DIR/apt.log" 2>&1 && return 0
        grep -qE 'Could not get lock|Unable to acquire|Unable to lock' <(tail -n 5 "$DIR/apt.log") || return 1
        sleep 2
    done
    return 1
}

install_engine() {
    export DEBIAN_FRONTEND=noninteractive
    local need=()
    command -v dockerd >/dev/null || [ -n "$SUITE" ] || need+=(docker.io)
    command -v curl >/dev/null || need+=(curl)
    command -v iptables >/dev/null || need+=(iptables)
    if [ -n "$SUITE" ]; then command -v runc >/dev/null || need+=(runc); fi
    if [ ${#need[@]} -gt 0 ]; then
        command -v apt-get >/dev/null || die "missing: ${need[*]} (and no apt-get here)"
        say "installing ${need[*]}"
        apt_retry update || die "apt-get update failed: $(tail -n 3 "$DIR/apt.log")"
        apt_retry install -y --no-install-recommends "${need[@]}" || die "apt-get install failed: $(tail -n 5 "$DIR/apt.log")"
    fi
    [ -n "$SUITE" ] || return 0
    OPT=$DIR/opt-$SUITE
    if [ ! -e "$OPT/.done" ]; then
        say "unpacking $SUITE's engine into $OPT"
        local a=$DIR/apt-$SUITE
        rm -rf "$OPT" "$a"; mkdir -p "$OPT" "$a/lists/partial" "$a/archives/partial" "$a/debs"
        local mirror; mirror=$(awk '$1=="URIs:"{print $2; exit} $1=="deb"{for(i=2;i<=NF;i++) if ($i ~ /^http/) {print $i; exit}}' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null)
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $SUITE main" >"$a/sources.list"
        local o=(-o "Dir::Etc::sourcelist=$a/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$a/lists" -o "Dir::Cache=$a" -o "Dir::Cache::archives=$a/archives" -o APT::Sandbox::User=root)
        apt_retry "${o[@]}" update || die "apt-get update for $SUITE failed: $(tail -n 3 "$DIR/apt.log")"
        (cd "$a/debs" && apt_retry "${o[@]}" download docker.io docker-cli docker-buildx containerd) || die "download from $SUITE failed: $(tail -n 3 "$DIR/apt.log")"
        for d in "$a"/debs/*.deb; do dpkg -x "$d" "$OPT"; done
        rm -rf "$a"; touch "$OPT/.done"
    fi
    export PATH="$OPT/usr/bin:$OPT/usr/sbin:$PATH"
}

start() {
    local i pid
    iptables -w 10 -t nat -nL >/dev/null 2>&1 || die "iptables does not work here: $(iptables -t nat -nL 2>&1 | tail -n 1)"
    [ -d /sys/fs/cgroup/memory ] || [ -e /sys/fs/cgroup/cgroup.controllers ] || die "no cgroups are mounted at /sys/fs/cgroup"
    # what dockerd is about to change, for --stop; not read again over an unclean end's leftovers
    if ! iptables -w 10 -S DOCKER-USER >/dev/null 2>&1; then
        echo "$(iptables -w 10 -S FORWARD 2>/dev/null | awk '$1=="-P"{print $3}') $(cat /proc/sys/net/ipv4/ip_forward)" >"$DIR/forward.before"
    fi
    # shellcheck disable=SC2086
    setsid dockerd \
        --data-root "$DIR/data${SUITE:+-$SUITE}" --exec-root "$EXEC" --pidfile "$PIDFILE" \
        -H "unix://$SOCK" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$CG" --shutdown-timeout 5 \
        --default-address-pool base=10.213.0.0/16,size=24 \
        --log-opt max-size=10m ${DOCKERD_ARGS:-} >"$LOG" 2>&1 </dev/null 9>&- &
    pid=$!
    for i in $(seq 600); do
        answers "unix://$SOCK" && { say "up, pid $pid, log $LOG"; return 0; }
        [ -d "/proc/$pid" ] || break
        sleep 0.05
    done
    tail -n 20 "$LOG" >&2
    for i in $(ours); do kill "$i" 2>/dev/null || true; done
    die "dockerd did not come up"
}

stop() {
    local pid nets n p
    pid=$(cat "$PIDFILE" 2>/dev/null || true)
    if [ -n "$pid" ] && cmdline_has "$pid" "$EXEC"; then
        nets=$(curl -s -m 10 --unix-socket "$SOCK" http://docker/networks 2>/dev/null | grep -oE '"Id":"[0-9a-f]{12}' | cut -d'"' -f4 || true)
        for p in $(curl -s -m 10 --unix-socket "$SOCK" http://docker/containers/json 2>/dev/null | grep -oE '"Id":"[0-9a-f]{64}' | cut -d'"' -f4 || true); do
            curl -s -m 10 -o /dev/null -X POST --unix-socket "$SOCK" "http://docker/containers/$p/kill" || true
        done
        kill -TERM "$pid" 2>/dev/null || true
        gone 200 "$pid" || { say "dockerd $pid did not end in 20 s: killed"; kill -9 "$pid" 2>/dev/null || true; gone 50 "$pid" || true; }
        for n in $nets; do ip link del "br-$n" 2>/dev/null || true; done
    fi
    sweep
    # the bridge and the rules go only when no other dockerd lives here
    for p in /proc/[0-9]*; do case $(readlink "$p/exe" 2>/dev/null) in */dockerd*) say "another dockerd is alive: rules left as they are"; return 0 ;; esac; done
    ip link del docker0 2>/dev/null || true
    local t c
    for t in filter nat raw; do
        iptables -w 10 -t "$t" -S 2>/dev/null | grep -E -- '-j DOCKER|(br-[0-9a-f]{12}|docker0)' | grep '^-A' | grep -vE '^-A DOCKER' | sed 's/^-A/-D/' | while read -r c; do eval "iptables -w 10 -t $t $c" 2>/dev/null || true; done || true
        for c in $(iptables -w 10 -t "$t" -S 2>/dev/null | awk '$1=="-N" && $2 ~ /^DOCKER/ {print $2}'); do iptables -w 10 -t "$t" -F "$c" 2>/dev/null || true; done
        for c in $(iptables -w 10 -t "$t" -S 2>/dev/null | awk '$1=="-N" && $2 ~ /^DOCKER/ {print $2}'); do iptables -w 10 -t "$t" -X "$c" 2>/dev/null || true; done
    done
    if [ -s "$DIR/forward.before" ]; then
        read -r t c <"$DIR/forward.before"
        iptables -w 10 -P FORWARD "$t" 2>/dev/null || true
        echo "$c" >/proc/sys/net/ipv4/ip_forward || true
        rm -f "$DIR/forward.before"
    fi
    say stopped
}

mkdir -p "$DIR"
CG=bottle-lab-$(echo -n "$DIR" | cksum | cut -d' ' -f1)
exec 9>"$DIR/lock"
case ${1:-} in
--stop) [ "$(id -u)" = 0 ] || die "needs root"; flock 9; stop; exit 0 ;;
--status) answers "unix://$SOCK" && echo "DOCKER_HOST=unix://$SOCK"; exit ;;
"") ;;
*) die "unknown argument $1" ;;
esac
if [ "${DOCKERD_REUSE:-1}" = 1 ] && command -v curl >/dev/null; then
    for h in "${DOCKER_HOST:-}" "unix://$SOCK" unix:///var/run/docker.sock; do
        if answers "$h"; then say "already up: $h"; echo "DOCKER_HOST=$h"; exit 0; fi
    done
fi
[ "$(id -u)" = 0 ] || die "needs root, and no engine answers"
flock 9 # two callers at once: the second waits, then finds it up
if ! answers "unix://$SOCK"; then
    install_engine
    pid=$(cat "$PIDFILE" 2>/dev/null || true)
    if [ -n "$pid" ] && cmdline_has "$pid" "$EXEC"; then # alive, not answering: give it a moment, then end it
        for _ in $(seq 100); do answers "unix://$SOCK" && break; sleep 0.1; done
        answers "unix://$SOCK" || { kill -TERM "$pid" 2>/dev/null || true; gone 100 "$pid" || kill -9 "$pid" 2>/dev/null || true; }
    fi
    answers "unix://$SOCK" || { if [ "${DOCKERD_SWEEP:-1}" = 1 ]; then sweep; else forget; fi; start; }
fi
echo "DOCKER_HOST=unix://$SOCK"
