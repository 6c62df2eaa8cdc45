//! Clients of a gate, and upstreams of every kind behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests, helpers too

mod hostile;
mod keys;
mod world;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};
use world::{CAPABILITY, SECRET, World, commit, git, plain};

#[test]
fn what_upstream_has_is_cloned_and_what_is_pushed_upstream_has() {
    let world = World::new();
    let work = world.clone("work", &[]);
    assert!(work.join("first").exists());
    assert_eq!(plain(&work, &["branch", "--show-current"]).text.trim(), "trunk");
    commit(&work, "own", "x\n");
    plain(&work, &["tag", "-a", "-m", "v1", "v1"]);
    plain(&work, &["push", "-q", "origin", "trunk", "HEAD:refs/heads/topic", "v1"]);
    let refs = world.upstream_refs();
    let head = plain(&work, &["rev-parse", "HEAD"]).text;
    for name in ["trunk", "topic"] {
        assert!(refs.contains(&format!("refs/heads/{name} {}", head.trim())), "{refs}");
    }
    assert!(refs.contains("refs/tags/v1"), "{refs}");
    // What came behind the gate's back is there at the next fetch, and in the way of the next push.
    plain(&world.path("other"), &["pull", "-q", "--rebase", "origin", "trunk"]);
    world.upstream_gets("behind");
    commit(&work, "late", "x\n");
    let said = git(&work, &["push", "origin", "trunk"]);
    assert!(!said.ok && said.text.contains("(fetch first)"), "{}", said.text);
    plain(&work, &["pull", "-q", "--rebase", "origin", "trunk"]);
    assert!(work.join("behind").exists());
    plain(&work, &["push", "-q", "origin", "trunk"]);
}

#[test]
fn a_leak_is_refused_before_upstream_hears_of_it() {
    let world = World::new();
    let work = world.clone("work", &[]);
    let heard = world.path("heard");
    world.upstream_says(&format!("touch {}", heard.display()));
    let before = world.upstream_refs();
    commit(&work, "a.txt", &format!("x\n{SECRET}\n"));
    let said = git(&work, &["push", "origin", "trunk"]);
    let short = plain(&work, &["rev-parse", "HEAD"]).text;
    let expected = format!("remote:   commit {}: a.txt, line 2: TOKEN", &short[..12]);
    assert!(!said.ok && said.text.contains(&expected) && !said.text.contains(SECRET), "{}", said.text);
    assert!(said.text.contains("[remote rejected] trunk -> trunk (pre-receive hook declined)"), "{}", said.text);
    assert!(!heard.exists() && world.upstream_refs() == before);
    assert!(
        std::iter::from_fn(|| Some(world.decided())).any(|decision| decision.rule == "git-leak" && !decision.allowed)
    );
    fs::write(work.join("a.txt"), "x\n").unwrap();
    plain(&work, &["commit", "-qa", "--amend", "-m", "clean"]);
    plain(&work, &["push", "-q", "origin", "trunk"]);
    assert!(heard.exists() && world.upstream_refs() != before);
}

#[test]
fn only_what_has_gone_counts_as_a_piece() {
    let world = World::new();
    let work = world.clone("work", &[]);
    fs::write(work.join("one"), &SECRET[..10]).unwrap();
    commit(&work, "two", &SECRET[10..]);
    let said = git(&work, &["push", "origin", "trunk"]);
    assert!(!said.ok && said.text.contains("in pieces: TOKEN"), "{}", said.text);
    plain(&work, &["rm", "-q", "--cached", "two"]);
    plain(&work, &["commit", "-q", "--amend", "-m", "one half"]);
    plain(&work, &["push", "-q", "origin", "trunk"]);
    commit(&work, "two", &SECRET[10..]);
    let said = git(&work, &["push", "origin", "trunk"]);
    assert!(!said.ok && said.text.contains("two, in pieces: TOKEN"), "{}", said.text);
}

#[test]
fn the_log_has_no_name_that_holds_a_secret() {
    let world = World::with(|rules, _| rules.allow_refs = vec!["refs/heads/*".into()]);
    let work = world.clone("work", &[]);
    for (refspec, rule) in
        [(format!("HEAD:refs/heads/{SECRET}"), "git-leak"), (format!("HEAD:refs/x/{SECRET}"), "git-ref")]
    {
        assert!(!git(&work, &["push", "origin", &refspec]).ok);
        let decision = std::iter::from_fn(|| Some(world.decided())).find(|decision| decision.rule == rule).unwrap();
        assert!(decision.refs.contains("(name withheld)") && !decision.refs.contains(SECRET), "{decision:?}");
    }
}

#[test]
fn upstreams_own_refusal_reaches_the_pusher() {
    let world = World::new();
    let work = world.clone("work", &[]);
    world.upstream_says("echo 'not on a Friday'; exit 1");
    commit(&work, "a.txt", "x\n");
    let said = git(&work, &["push", "origin", "trunk"]);
    assert!(!said.ok && said.text.contains("remote: not on a Friday"), "{}", said.text);
    assert!(said.text.contains("upstream: [remote rejected] (pre-receive hook declined)"), "{}", said.text);
    // The mirror does not say that it was taken.
    assert!(!plain(&work, &["ls-remote", "origin"]).text.contains(plain(&work, &["rev-parse", "HEAD"]).text.trim()));
}

#[test]
fn without_upstream_nothing_is_served_and_nothing_stale() {
    let world = World::new();
    let work = world.clone("work", &[]);
    fs::rename(world.path("upstream.git"), world.path("away.git")).unwrap();
    commit(&work, "a.txt", "x\n");
    for (args, what) in [
        (&["fetch", "origin"][..], "asking upstream for its branches"),
        (&["push", "origin", "trunk"], "fetching from upstream"),
        (&["ls-remote", "origin"], "asking upstream for its branches"),
    ] {
        let said = git(&work, args);
        assert!(!said.ok && said.text.contains(&format!("remote error: app: {what} failed")), "{}", said.text);
        // Where upstream is, the agent need not know.
        assert!(said.text.contains("'upstream'") && !said.text.contains("upstream.git"), "{}", said.text);
    }
    fs::rename(world.path("away.git"), world.path("upstream.git")).unwrap();
    plain(&work, &["push", "-q", "origin", "trunk"]);
}

#[test]
fn a_push_keeps_to_its_rules() {
    let world = World::with(|rules, _| rules.allow_refs = vec!["refs/heads/agent/*".into(), "refs/tags/*".into()]);
    let work = world.clone("work", &[]);
    commit(&work, "a.txt", "x\n");
    plain(&work, &["push", "-q", "origin", "HEAD:refs/heads/agent/one", "HEAD:refs/tags/t"]);
    let before = world.upstream_refs();
    plain(&work, &["commit", "-q", "--amend", "-m", "other"]);
    for (refspec, told) in [
        ("HEAD:refs/heads/trunk", "refused: refs/heads/trunk may not be pushed to"),
        ("+HEAD:refs/heads/agent/one", "refused: refs/heads/agent/one would lose commits"),
        (":refs/heads/agent/one", "refused: refs/heads/agent/one may not be deleted"),
        ("+HEAD:refs/tags/t", "a tag is not moved"),
        ("HEAD:refs/notes/commits", "refused: refs/notes/commits may not be pushed to"),
    ] {
        let said = git(&work, &["push", "origin", refspec, "HEAD:refs/heads/agent/two"]);
        assert!(!said.ok && said.text.contains(told), "{refspec}: {}", said.text);
        assert_eq!(world.upstream_refs(), before, "{refspec}");
    }
    let free = World::with(|rules, _| (rules.allow_force, rules.allow_delete) = (true, true));
    let work = free.clone("work", &[]);
    commit(&work, "a.txt", "x\n");
    plain(&work, &["push", "-q", "origin", "HEAD:refs/heads/one"]);
    plain(&work, &["commit", "-q", "--amend", "-m", "other"]);
    plain(&work, &["push", "-q", "origin", "+HEAD:refs/heads/one"]);
    assert!(free.upstream_refs().contains(plain(&work, &["rev-parse", "HEAD"]).text.trim()));
    plain(&work, &["push", "-q", "origin", ":refs/heads/one"]);
    assert!(!free.upstream_refs().contains("refs/heads/one"));
}

#[test]
fn who_does_not_know_the_capability_learns_nothing() {
    let world = World::new();
    for (capability, name, told) in [
        ("wrong", "app", "this is no remote of this bottle's"),
        ("wrong", "none", "this is no remote of this bottle's"),
        (CAPABILITY, "none", "this bottle has no remote `none`"),
        (CAPABILITY, "app.git-docs", "this is not the remote `app` but a repository whose URL begins like it"),
    ] {
        let said = git(&world.path(""), &["ls-remote", &world.url(capability, name)]);
        assert!(!said.ok && said.text.contains(told), "{}", said.text);
        assert!(!world.decided().allowed);
    }
}

#[test]
fn a_hook_that_was_not_asked_first_forwards_nothing() {
    let world = World::new();
    let before = world.upstream_refs();
    let head = before.split_whitespace().nth(1).unwrap();
    let mut hook = UnixStream::connect(world.path("gate.sock")).unwrap();
    let line = format!("{} {head} refs/heads/new", "0".repeat(40));
    write!(hook, "0010proc-receive0000{:04x}{line}0000", line.len() + 4).unwrap();
    let mut answer = String::new();
    hook.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("ng refs/heads/new this push was not judged"), "{answer}");
    assert_eq!(world.upstream_refs(), before);
}

#[test]
fn two_push_at_once_and_a_shallow_clone_pushes() {
    let world = World::new();
    let works = [world.clone("one", &[]), world.clone("two", &["--depth=1", "--no-local"])];
    thread::scope(|scope| {
        for (work, name) in works.iter().zip(["one", "two"]) {
            scope.spawn(move || {
                for n in 0..4 {
                    commit(work, &format!("{name}-{n}"), "x\n");
                    plain(work, &["push", "-q", "origin", &format!("HEAD:refs/heads/{name}")]);
                }
            });
        }
    });
    let refs = world.upstream_refs();
    for (work, name) in works.iter().zip(["one", "two"]) {
        let head = plain(work, &["rev-parse", "HEAD"]).text;
        assert!(refs.contains(&format!("refs/heads/{name} {}", head.trim())), "{refs}");
    }
}

#[test]
fn a_push_that_is_too_large_is_refused_and_nothing_of_it_is_kept() {
    let world = World::with(|_, upstream| upstream.pack = 100 << 10);
    let work = world.clone("work", &[]);
    let noise: String = (0..40_000_u64).map(|n| format!("{}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    commit(&work, "large", &noise);
    let before = (world.upstream_refs(), objects(&world));
    let said = git(&work, &["push", "origin", "trunk"]);
    assert!(!said.ok && said.text.contains("pack exceeds maximum allowed size"), "{}", said.text);
    assert_eq!((world.upstream_refs(), objects(&world)), before);
}

#[test]
fn bad_objects_pass_neither_way() {
    let world = World::new();
    let work = world.clone("work", &[]);
    // An author without an address, which fsck refuses.
    let tree = plain(&work, &["rev-parse", "HEAD^{tree}"]).text;
    let text = format!("tree {}\nauthor A 1 +0000\ncommitter C <c@d> 1 +0000\n\nm\n", tree.trim());
    fs::write(work.join(".git/bad"), text).unwrap();
    let bad = plain(&work, &["hash-object", "-w", "--literally", "-t", "commit", ".git/bad"]).text;
    let said = git(&work, &["push", "origin", &format!("{}:refs/heads/bad", bad.trim())]);
    assert!(!said.ok && said.text.contains("remote unpack failed"), "{}", said.text);
    // The same, served by upstream.
    let upstream = world.path("upstream.git");
    fs::copy(work.join(".git/bad"), upstream.join("bad")).unwrap();
    let bad = plain(&upstream, &["hash-object", "-w", "--literally", "-t", "commit", "bad"]).text;
    plain(&upstream, &["update-ref", "refs/heads/bad", bad.trim()]);
    let said = git(&work, &["fetch", "origin"]);
    assert!(!said.ok && said.text.contains("remote error: app: fetching from upstream failed"), "{}", said.text);
    assert!(!objects(&world).contains(bad.trim()));
}

fn objects(world: &World) -> String {
    plain(&world.path("app.git"), &["cat-file", "--batch-all-objects", "--batch-check"]).text
}
