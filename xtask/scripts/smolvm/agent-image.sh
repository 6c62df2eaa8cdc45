#!/usr/bin/env bash
# agent-image.sh TAR: makes a small agent image for the lab's machines, as a `docker load` archive, with tar alone: this
# machine's own shell, tools and git with the libraries that they need, and a `claude` that plays its prompt as a script.
# A real Claude Code is too heavy under emulation. Image name: $IMAGE (bottle-lab-agent:1).
set -euo pipefail
tar=$(readlink -f "${1:?usage: agent-image.sh TAR}")
name=${IMAGE:-bottle-lab-agent:1}
tools=(bash sh cat ls id stat mktemp rm mkdir mkfifo mknod ln cp mv touch chmod chown timeout head tail wc sleep env tr cut
    sort uniq sed grep find xargs tar gzip sha256sum cmp date dd stty tty kill ps curl git perl getent ip ping unshare dmesg
    readlink base64 printf true false seq tee nproc hostname dirname basename)
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
r=$d/r; mkdir -p "$r"/{etc/ssl/certs,etc/bottle,tmp,proc,sys,dev,run,root,home/agent,workspace,usr/{bin,lib,lib64,sbin,local/{bin,libexec}},var/tmp} "$d/i"
for l in bin sbin lib lib64; do ln -s "usr/$l" "$r/$l"; done
chmod 1777 "$r/tmp" "$r/var/tmp"
add() { # a file with the libraries that it is linked to
    local f; f=$(readlink -f "$1"); install -D -m 755 "$f" "$r$2"
    { ldd "$f" 2>/dev/null || true; } | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^\s*\(\/[^ ]*\).*/\1/p' | while read -r lib; do
        to=$lib; case $lib in /lib/* | /lib64/*) to=/usr$lib ;; esac
        [ -e "$r$to" ] || install -D -m 755 "$(readlink -f "$lib")" "$r$to"
    done
}
for t in "${tools[@]}"; do p=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin type -P "$t") && add "$p" "/usr/bin/$t" || echo "agent-image: no $t here" >&2; done
core=$(git --exec-path)
for t in git-upload-pack git-receive-pack; do mkdir -p "$r$core"; ln -sf /usr/bin/git "$r$core/$t"; done
perl=$(/usr/bin/perl -MConfig -e 'print $Config{archlibexp}'); base=$(dirname "$(/usr/bin/perl -MIO::Socket -e 'print $INC{"IO/Socket.pm"}')")
for dir in "$perl" "${base%/IO}"; do case $dir in */perl-base) mkdir -p "$r$dir"; cp -a "$dir/." "$r$dir/" ;; esac; done
cat >"$r/usr/local/bin/claude" <<'CLAUDE'
#!/bin/bash
# Plays its last argument: lines that begin with @@bash are commands, others are said.
prompt=${!#}
case ${1:-} in --version) echo '0.0.0 (scripted)'; exit ;; esac
[ $# -gt 0 ] && [[ $prompt == *@@* ]] || { echo "scripted: $*"; exit 0; }
code=0
while IFS= read -r line; do case $line in @@bash\ *) bash -c "${line#@@bash }"; code=$? ;; *) echo "$line" ;; esac; done <<<"$prompt"
exit $code
CLAUDE
chmod 755 "$r/usr/local/bin/claude"
printf 'root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000::/home/agent:/bin/bash\n' >"$r/etc/passwd"
printf 'root:x:0:\nagent:x:1000:\n' >"$r/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$r/etc/nsswitch.conf"
cp /etc/ssl/certs/ca-certificates.crt "$r/etc/ssl/certs/"
tar -C "$r" --numeric-owner --owner=0 --group=0 --mtime=@0 --sort=name --exclude=./home/agent --exclude=./workspace -cf "$d/i/layer.tar" .
tar -C "$r" --numeric-owner --owner=1000 --group=1000 --mtime=@0 -rf "$d/i/layer.tar" ./home/agent ./workspace
diff=$(sha256sum "$d/i/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/usr/local/bin:/usr/bin","HOME=/home/agent"],"WorkingDir":"/workspace","User":"1000:1000","Cmd":["bash"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(dpkg --print-architecture)" "$diff" >"$d/i/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >"$d/i/manifest.json"
tar -C "$d/i" -cf "$tar" manifest.json config.json layer.tar
