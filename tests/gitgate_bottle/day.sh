# What people do with git all day, in a bottle: PART URL [OTHER].
set -eu
part=$1 url=$2 other=${3-}
mkdir -p "/tmp/$part" && cd "/tmp/$part"

commit() { git add -A && git commit -q --allow-empty -m "$1"; }

# A push of a leak to a branch of its own; what git said is in ../said, and how it ended is returned.
pushes() { git push -q origin "$@" >../said 2>&1; }

case $part in
tags-*)
    git clone -q "$url" work && cd work
    commit own && git tag -a -m v1 v1
    git push -q origin main v1
    git ls-remote --tags origin v1 | wc -l
    ;;
shallow-*)
    git clone -q --depth=1 "$url" work && cd work
    git rev-list --count HEAD
    echo x >shallow && commit shallow && git push -q origin HEAD:refs/heads/shallow
    git fetch -q --unshallow && git rev-list --count HEAD
    ;;
two-*)
    for one in a b; do
        (git clone -q "$url" $one && cd $one && for n in 1 2 3; do
            commit "$one $n" && git push -q origin HEAD:refs/heads/two-$one
        done) & pids="${pids-} $!"
    done
    for pid in $pids; do wait "$pid"; done
    git ls-remote "$url" 'refs/heads/two-*' | wc -l
    ;;
submodule-*)
    git clone -q "$url" work && cd work
    git submodule --quiet add "$other" sub && commit submodule && git push -q origin HEAD:refs/heads/with-sub
    git clone -q --recurse-submodules -b with-sub "$url" ../whole && cat ../whole/sub/README
    ;;
large-*)
    git clone -q "$url" work && cd work
    head -c 100000000 /dev/urandom >noise && commit noise && git push -q origin HEAD:refs/heads/large
    git ls-remote origin refs/heads/large | wc -l
    ;;
leaks-*)
    git clone -q "$url" work && cd work
    # Everything in its place, as KIND VALUE.
    put() {
        local branch=$1-${2:0:3} to
        to=HEAD:refs/heads/$branch
        case $1 in
        blob) echo "key = $2" >f && commit f ;;
        binary) printf '\177ELF\0\0%s\0\377' "$2" >f && commit f ;;
        message) commit "with $2" ;;
        author) git commit -q --allow-empty -m m --author "$2 <a@example.com>" ;;
        tag) git tag -a -m "$2" "$branch" && to=$branch ;;
        note) git notes add -f -m "$2" && to=refs/notes/commits ;;
        name) echo x >"$2" && commit f ;;
        ref) commit m && to=HEAD:refs/heads/$2 ;;
        submodule) printf '[submodule "s"]\n\tpath = s\n\turl = https://example.com/%s.git\n' "$2" >.gitmodules && commit f ;;
        undone) echo "$2" >f && commit f && rm f && commit gone ;;
        merge)
            git checkout -q -b side && echo "$2" >f && commit side && git checkout -q - && echo y >g && commit own
            git merge -q --no-ff -m merge side && git branch -q -D side
            ;;
        base64) echo "a $2 b" | base64 -w0 >f && commit f ;;
        gzip) echo "a $2 b" | gzip -9 >f && commit f ;;
        esac
        pushes "$to"
    }
    for kind in blob binary message author tag note name ref submodule undone merge base64 gzip; do
        for value in "$AGENT_SECRET" "not-a-secret-at-all"; do
            git checkout -q --detach origin/main && git clean -qfd
            git update-ref -d refs/notes/commits
            if (put $kind "$value"); then echo "$kind: taken"; else
                grep -q 'refused before upstream was asked' ../said && echo "$kind: refused" || cat ../said
            fi
        done
    done
    ;;
esac
