#!/usr/bin/env bash
# base-image.sh IMAGE CLAUDE: imports a base image for tests, made of this machine's own installed Debian packages and of
# the program CLAUDE. No registry, no network. The machine's CA bundle comes along. Needs $DOCKER_HOST.
# The image is for tests on this machine; it is never pushed anywhere.
set -euo pipefail
image=${1:?usage: base-image.sh IMAGE CLAUDE}
claude=${2:?usage: base-image.sh IMAGE CLAUDE}
want=(base-files base-passwd bash coreutils dash debianutils diffutils findutils grep gzip sed tar util-linux procps
      hostname libc-bin ca-certificates curl git openssh-client login passwd perl-base openssl iproute2 iputils-ping)
arch=$(dpkg --print-architecture)

# Dependencies, and theirs, as far as they are installed here.
seen=" " queue="${want[*]}"
while [ -n "$queue" ]; do
    new=
    for package in $queue; do case $seen in *" $package "*) ;; *) seen+="$package " new+=" $package" ;; esac; done
    [ -n "$new" ] || break
    # shellcheck disable=SC2086
    queue=$(dpkg-query -W -f='${Pre-Depends}, ${Depends}\n' $new 2>/dev/null | tr ',|' '\n\n' \
        | sed 's/([^)]*)//g; s/:any//; s/ //g' | sort -u | grep -v '^$' || true)
    # shellcheck disable=SC2086
    queue=$([ -z "$queue" ] || dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' $queue 2>/dev/null \
        | awk '$1=="ii"{print $2}' | sort -u || true)
done

list=$(mktemp); trap 'rm -f "$list"' EXIT
{
    for package in $seen; do
        cat "/var/lib/dpkg/info/$package.list" "/var/lib/dpkg/info/$package:$arch.list" 2>/dev/null || true
    done | sed -E 's#^/(bin|sbin|lib|lib64|lib32|libx32)/#/usr/\1/#' \
        | grep -vE '^/\.$|^/usr/(include|share/(man|doc|locale|info|lintian|bash-completion))(/|$)' || true
    printf '%s\n' /bin /sbin /lib /lib64 /etc/ssl/certs/ca-certificates.crt /etc/group /etc/ld.so.cache \
        /etc/nsswitch.conf /tmp /root /var /run
    find /etc/alternatives /etc/ssl/certs -maxdepth 1 2>/dev/null
} | LC_ALL=C sort -u | while IFS= read -r f; do [ -e "$f" ] || [ -L "$f" ] || continue; printf '%s\n' "${f#/}"; done >"$list"

# Not this machine's users: root and what every Debian has.
users=$(mktemp -d); trap 'rm -rf "$list" "$users"' EXIT
mkdir -p "$users/etc" "$users/usr/local/bin"
awk -F: '$3 < 1000 || $3 == 65534' /etc/passwd >"$users/etc/passwd"
awk -F: '$3 < 1000 || $3 == 65534' /etc/group >"$users/etc/group"
sed -i '\#^etc/group$#d; \#^etc/passwd$#d' "$list"
ln "$claude" "$users/usr/local/bin/claude" 2>/dev/null || cp "$claude" "$users/usr/local/bin/claude"
chmod 755 "$users/usr/local/bin/claude"

tar --no-recursion --numeric-owner -cf - -C / -T "$list" -C "$users" --owner=0 --group=0 \
    etc/passwd etc/group usr/local/bin/claude | docker import -c 'CMD ["bash"]' - "$image" >/dev/null
