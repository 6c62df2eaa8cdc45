#!/usr/bin/env bash
# l1-lab.sh ROOT COMMAND...: INSIDE L1, makes the lab of the tests as `cargo xtask setup` would (engine, test hosts in a
# network namespace, lab.json in the checkout ROOT: L1's own copy of it), loads the scripted agent image, runs COMMAND.
# Environment: AGENT_TAR (agent-image.sh), SMOLVM (prep-smolvm.sh)
set -eu
here=$(cd "$(dirname "$0")" && pwd); root=$1; shift
# shellcheck source=/dev/null
. "$here/l1-dockerd.sh"
docker load -q -i "$AGENT_TAR" >/dev/null
n=bottle-lab; x="ip -n $n"
ip netns add $n; ip link add bottle-lab0 type veth peer name lab0 netns $n
ip addr add 198.51.100.1/30 dev bottle-lab0; ip link set bottle-lab0 up
$x addr add 198.51.100.2/30 dev lab0; $x link set lab0 up; $x link set lo up
$x route add default via 198.51.100.1; $x route add local 198.51.100.128/25 dev lo table local
ip route add 198.51.100.128/25 via 198.51.100.2
mkdir -p "$root/target/lab" /var/tmp/bottle-lab/addresses; rm -f /var/tmp/bottle-lab/addresses/*
printf '{"docker_host":"%s","base_image":"bottle-lab-agent:1"}' "$DOCKER_HOST" >"$root/target/lab/lab.json"
# Where clouds keep their metadata, and a resolver that writes down what it is asked.
ip addr add 169.254.169.254/32 dev lo
echo 'nameserver 127.0.0.1' >/run/l1/resolv.conf; mount --bind /run/l1/resolv.conf /etc/resolv.conf
"$@"
