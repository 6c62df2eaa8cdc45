#!/usr/bin/env bash
# record.sh DIR IMAGE_TAR: writes down what the real smolvm answers, as backends/smolmachines/recorded has it: NAME.out is
# standard output, NAME.err standard error. `cargo xtask lab smolvm --record` runs it in the lab.
set -u
out=${1:?usage: record.sh DIR IMAGE_TAR} image=${2:?usage: record.sh DIR IMAGE_TAR}
export HOME; HOME=$(mktemp -d)
to=$HOME/recorded; mkdir "$to"
say() { # name, arguments: only what the stream has is kept
    local n=$1; shift
    timeout 200 "$SMOLVM" --error-format json "$@" >"$to/$n.out" 2>"$to/$n.err" </dev/null; echo "$n: $?"
    for f in "$to/$n.out" "$to/$n.err"; do [ -s "$f" ] || rm -f "$f"; done
}
label() { printf -- '--label claude-bottle.%s ' "$@"; }
# shellcheck disable=SC2046
create() { say "$1" machine create --name bottle --mem 512 --cpus 1 --image "$image" --net --allow-cidr 10.232.7.2/32 \
    --allow-host-pattern no-name.invalid $(label identity=demo-12345 entry=8d7c owner=recorder role=agent agent=demo \
    daemons=egress,dns sidecar=10.232.7.2 pids=300) -- sleep 100000; }
say version --version
say ls-empty machine ls --json
create create
create create-again
say create-bad-name machine create --name 'bad name' --mem 512
say create-no-image machine create --name other --image /nonexistent.tar
say usage machine create --nonsense
say exec-no-machine machine exec --name nope -- true
say delete-no-machine machine delete --name nope --force
say exec-stopped machine exec --name bottle -- true
say ls-stopped machine ls --json
say start machine start --name bottle
say ls machine ls --json
say exec-127 machine exec --name bottle -- no-such-program
say delete machine delete --name bottle --force
# What a start says differs from run to run; what nobody reads is not kept.
rm -f "$to"/create.* "$to"/start.* "$to"/delete.*
# All of it or nothing.
[ -s "$to/ls.out" ] && cp "$to"/* "$out"/
