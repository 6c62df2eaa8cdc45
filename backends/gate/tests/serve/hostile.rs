//! Agents and upstreams that mean ill: what they send, and what they leave.

use crate::{
    objects,
    world::{CAPABILITY, World, commit, git, plain},
};
use flate2::{Compression, write::ZlibEncoder};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Waits for it: the gate tidies up once its client has its answer.
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A program, which has to end well. What it says.
fn run(dir: &Path, program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{program} {args:?}");
    out.stdout
}

fn word(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn an_upstream_that_says_nothing_is_given_up_with_all_that_was_started() {
    let world = World::with(|_, upstream| {
        upstream.url = "ssh://git@silent.example/app.git".into();
        upstream.protocol = "ssh".into();
        // A grandchild of git's, which has its pipes.
        upstream.settings = vec!["core.sshCommand=sleep 600; true".into()];
        upstream.limit = Duration::from_secs(1);
    });
    let url = world.url(CAPABILITY, "app");
    for _ in 0..2 {
        let said = git(&world.path(""), &["ls-remote", &url]);
        assert!(!said.ok && said.text.contains("it took longer than 1 s"), "{}", said.text);
    }
}

/// `hello`, behind empty blocks of deflate whose headers have room for five bits each.
#[test]
fn what_goes_to_upstream_was_deflated_here() {
    const HIDDEN: [u8; 10] = [0xa8, 0, 0, 0xff, 0xff, 0x58, 0, 0, 0xff, 0xff];
    let world = World::new();
    // Keeps packs as they come.
    plain(&world.path("upstream.git"), &["config", "receive.unpackLimit", "1"]);
    let work = world.clone("work", &[]);
    let mut encoder = ZlibEncoder::new(vec![], Compression::default());
    encoder.write_all(b"hello\n").unwrap();
    let honest = encoder.finish().unwrap();
    let stream = [&honest[..2], &HIDDEN, &honest[2..]].concat();
    // A pack of one blob of six bytes.
    let mut pack = [&b"PACK\0\0\0\x02\0\0\0\x01\x36"[..], &stream].concat();
    let sum = word(run(&work, "sha1sum", &[], &pack));
    pack.extend((0..20).map(|n| u8::from_str_radix(&sum[2 * n..2 * n + 2], 16).unwrap()));
    run(&work, "git", &["index-pack", "--stdin"], &pack);
    let id = word(run(&work, "git", &["hash-object", "--stdin"], b"hello\n"));
    let holds = |dir: &Path| {
        let packs = fs::read_dir(dir.join("objects/pack")).unwrap().flatten();
        packs.map(|pack| fs::read(pack.path()).unwrap()).any(|pack| pack.windows(10).any(|window| window == HIDDEN))
    };
    assert!(holds(&work.join(".git")));
    // Git itself would send it so.
    plain(&work, &["push", "-q", world.path("upstream.git").to_str().unwrap(), &format!("{id}:refs/tags/direct")]);
    assert!(holds(&world.path("upstream.git")));
    plain(&world.path("upstream.git"), &["update-ref", "-d", "refs/tags/direct"]);
    fs::remove_dir_all(world.path("upstream.git/objects/pack")).unwrap();
    plain(&work, &["push", "-q", "origin", &format!("{id}:refs/tags/hello")]);
    assert_eq!(plain(&world.path("upstream.git"), &["cat-file", "blob", "refs/tags/hello"]).text, "hello\n");
    assert!(!holds(&world.path("upstream.git")));
}

#[test]
fn long_paths_take_no_memory() {
    let world = World::new();
    let work = world.clone("work", &[]);
    let blob = word(run(&work, "git", &["hash-object", "-w", "--stdin"], b"x\n"));
    let tree = |entries: String| word(run(&work, "git", &["mktree"], entries.as_bytes()));
    let below = |names: usize, inner: &str| {
        (0..names).fold(inner.to_owned(), |inner, _| tree(format!("040000 tree {inner}\t{}\n", "d".repeat(1000))))
    };
    let many = tree((0..6000).map(|n| format!("100644 blob {blob}\t{n:04}\n")).collect());
    for (name, names, inner, told) in [
        ("long", 5, tree(format!("040000 tree {many}\tx\n")), "the push has a path of more than 4096 bytes"),
        ("many", 3, many.clone(), "with the paths of its entries or without"),
    ] {
        let id = below(names, &inner);
        let said = git(&work, &["push", "origin", &format!("{id}:refs/tags/{name}")]);
        assert!(!said.ok && said.text.contains(told), "{name}: {}", said.text);
    }
    plain(&work, &["push", "-q", "origin", &format!("{}:refs/tags/fine", below(2, &many))]);
}

#[test]
fn a_branch_that_becomes_a_directory_of_branches_is_fetched() {
    let world = World::new();
    let upstream = world.path("upstream.git");
    plain(&upstream, &["branch", "a", "trunk"]);
    let work = world.clone("work", &[]);
    plain(&upstream, &["branch", "-m", "a", "a/b"]);
    plain(&work, &["fetch", "-q", "--prune", "origin"]);
    assert!(plain(&work, &["branch", "-r"]).text.contains("origin/a/b"));
}

#[test]
fn a_push_lands_on_the_ref_that_was_judged_or_nowhere() {
    let world = World::new();
    let work = world.clone("work", &[]);
    let said = git(&work, &["push", "origin", "HEAD:refs/heads/refs/heads/trunk"]);
    assert!(!said.ok && said.text.contains("is no plain name of a ref"), "{}", said.text);
    plain(&world.path("upstream.git"), &["update-ref", "refs/heads/refs/heads/new", "trunk"]);
    let before = world.upstream_refs();
    // Git's own client would do the same as git does here. Another one asks for what it means.
    let said = by_hand(&world, &before, "refs/heads/new");
    assert!(said.contains("a ref whose name ends in the name of one that is pushed"), "{said}");
    assert_eq!(world.upstream_refs(), before);
    plain(&work, &["push", "-q", "origin", "HEAD:refs/heads/other"]);
}

/// A push of what upstream has already to a new ref, without a client of git's. What it was answered.
fn by_hand(world: &World, refs: &str, name: &str) -> String {
    // No objects, and their sum.
    const PACK: [u8; 32] = [
        0x50, 0x41, 0x43, 0x4b, 0, 0, 0, 2, 0, 0, 0, 0, 0x02, 0x9d, 0x08, 0x82, 0x3b, 0xd8, 0xa8, 0xea, 0xb5, 0x10,
        0xad, 0x6a, 0xc7, 0x5c, 0x82, 0x3c, 0xfd, 0x3e, 0xd3, 0x1e,
    ];
    let packet = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let head = refs.split_whitespace().nth(1).unwrap();
    let mut gate = TcpStream::connect(world.address()).unwrap();
    let hello = packet(&format!("git-receive-pack /{CAPABILITY}/app.git\0host=gate\0"));
    let update = packet(&format!("{} {head} {name}\0report-status", "0".repeat(40)));
    gate.write_all(&[hello.as_bytes(), update.as_bytes(), b"0000", &PACK].concat()).unwrap();
    let mut said = vec![];
    gate.read_to_end(&mut said).unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn what_upstream_took_is_logged_as_taken_beside_what_it_refused() {
    let world = World::new();
    let work = world.clone("work", &[]);
    world.upstream_gets("behind");
    commit(&work, "own", "x\n");
    // Git's own client would see it coming.
    let head = plain(&work, &["rev-parse", "HEAD"]).text;
    let said = git(&work, &["push", "origin", &format!("{}:refs/heads/good", head.trim()), "+HEAD:trunk"]);
    assert!(!said.ok, "{}", said.text);
    world.upstream_says("while read old new ref; do case $ref in *bad) exit 1;; esac; done");
    let said = git(&work, &["push", "origin", "HEAD:refs/heads/bad"]);
    assert!(!said.ok, "{}", said.text);
    fs::remove_file(world.path("upstream.git/hooks/pre-receive")).unwrap();
    let update = world.path("upstream.git/hooks/update");
    fs::write(&update, "#!/bin/sh\ncase $1 in *bad*) exit 1;; esac\n").unwrap();
    run(&work, "chmod", &["755", update.to_str().unwrap()], b"");
    let names: Vec<String> =
        (0..40).map(|n| format!("HEAD:refs/heads/{}-{n}", if n % 2 == 0 { "good" } else { "bad" })).collect();
    let words: Vec<&str> = ["push", "origin"].into_iter().chain(names.iter().map(String::as_str)).collect();
    assert!(!git(&work, &words).ok);
    let mut decisions = std::iter::from_fn(|| Some(world.decided()));
    let mut next = |rule: &str| {
        decisions
            .find(|decision| decision.rule == rule && decision.refs.contains("-38") | decision.refs.contains("-39"))
            .unwrap()
    };
    let (taken, refused) = (next("git-push"), next("git-upstream"));
    assert!(taken.allowed && taken.refs.split(' ').count() == 20 && !taken.refs.contains("bad"), "{taken:?}");
    assert!(!refused.allowed && refused.refs.split(' ').count() == 20 && !refused.refs.contains("good"), "{refused:?}");
    assert!(world.upstream_refs().contains("refs/heads/good-38"));
}

#[test]
fn what_upstream_does_not_take_takes_no_room() {
    let world = World::new();
    let work = world.clone("work", &[]);
    plain(&work, &["fetch", "-q", "origin"]);
    let before = objects(&world);
    world.upstream_says("exit 1");
    commit(&work, "own", "x\n");
    assert!(!git(&work, &["push", "origin", "trunk"]).ok);
    eventually("what was refused is gone", || objects(&world) == before);
    fs::create_dir(world.path("app.git/objects/tmp_objdir-incoming-x")).unwrap();
    assert!(!git(&work, &["push", "origin", "trunk"]).ok);
    eventually("and what a killed git has left", || !world.path("app.git/objects/tmp_objdir-incoming-x").exists());
}

#[test]
fn all_or_nothing_is_not_promised() {
    let world = World::new();
    let work = world.clone("work", &[]);
    commit(&work, "own", "x\n");
    let said = git(&work, &["push", "--atomic", "origin", "trunk", "HEAD:refs/heads/other"]);
    assert!(!said.ok && said.text.contains("does not support --atomic push"), "{}", said.text);
}
