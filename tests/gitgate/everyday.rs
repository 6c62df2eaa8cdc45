//! What people do all day, over ssh and over https.

use crate::{
    work::Work,
    world::{World, hold, usual},
};
use anyhow::{Result, ensure};
use std::{fs, thread};

/// Remotes and what is behind them.
const BOTH: [(&str, &str); 2] = [("app", "app.git"), ("web", "web.git")];

#[test]
fn clone_fetch_push_and_tags() -> Result<()> {
    hold(usual, |world| {
        for (remote, repository) in BOTH {
            let work = Work::clone(world, remote, &format!("work-{remote}"), &[])?;
            ensure!(work.dir().join("base.txt").exists() && work.git(&["branch", "--show-current"]) == "main");
            work.write("own.txt", b"x\n");
            let head = work.commit("own");
            work.git(&["tag", "-a", "-m", "v1", "v1"]);
            work.git(&["push", "-q", "origin", "main", "HEAD:refs/heads/topic", "v1"]);
            let refs = world.refs(repository);
            for name in ["main", "topic"] {
                ensure!(refs.contains(&format!("refs/heads/{name} {head}")), "{remote}: {refs}");
            }
            ensure!(refs.contains("refs/tags/v1"), "{remote}: {refs}");
            // What came behind the gate's back is there at the next fetch, and in the way of a push.
            world.upstream_gets(repository, "behind.txt");
            work.write("late.txt", b"x\n");
            work.commit("late");
            work.tries(&["push", "origin", "main"]).fails_with("! [rejected]")?;
            work.git(&["pull", "-q", "--rebase", "origin", "main"]);
            ensure!(work.dir().join("behind.txt").exists());
            work.git(&["push", "-q", "origin", "main"]);
            for rule in ["git-clean", "git-push"] {
                let refs = ["refs/heads/main", "refs/heads/topic", "refs/tags/v1"];
                let is_it = |path: &str| path.contains(repository) && refs.iter().all(|name| path.contains(name));
                let line = world.logged(rule, |line| line.rule == rule && is_it(&line.path))?;
                ensure!(line.decision == "allow" && line.method == "push", "{line:?}");
            }
            world.logged("a fetch", |line| line.rule == "git-fetch" && line.path.ends_with(repository))?;
        }
        Ok(())
    })
}

#[test]
fn a_shallow_clone_pushes_and_deepens() -> Result<()> {
    hold(usual, |world| {
        for (remote, repository) in BOTH {
            for n in 0..3 {
                world.upstream_gets(repository, &format!("{n}.txt"));
            }
            let work = Work::clone(world, remote, &format!("shallow-{remote}"), &["--depth=1"])?;
            ensure!(work.git(&["rev-list", "--count", "HEAD"]) == "1");
            work.write("own.txt", b"x\n");
            let head = work.commit("own");
            work.git(&["push", "-q", "origin", "main"]);
            ensure!(world.refs(repository).contains(&format!("refs/heads/main {head}")));
            work.git(&["fetch", "-q", "--unshallow", "origin"]);
            ensure!(work.git(&["rev-list", "--count", "HEAD"]) == "5");
            let partial = Work::clone(world, remote, &format!("partial-{remote}"), &["--filter=blob:none"])?;
            ensure!(partial.dir().join("large.txt").exists(), "a file that is fetched when it is needed");
        }
        Ok(())
    })
}

#[test]
fn submodules_come_by_the_gate_too_and_a_hostile_one_runs_nothing() -> Result<()> {
    hold(usual, |world| {
        let work = Work::clone(world, "app", "work", &[])?;
        work.git(&["submodule", "--quiet", "add", "../web.git", "sub"]);
        work.commit("a submodule");
        work.git(&["push", "-q", "origin", "main"]);
        let whole = Work::clone(world, "app", "whole", &["--recurse-submodules"])?;
        ensure!(whole.dir().join("sub/base.txt").exists());
        // `ext::` would run a command. Upstream has such a one; the mirror does not care, and the agent's git refuses it.
        let witness = world.path("witness");
        let module = format!("[submodule \"sub\"]\n\tpath = sub\n\turl = ext::sh -c touch% {}\n", witness.display());
        let other = world.path("other-app.git");
        world.upstream_gets("app.git", "x.txt");
        fs::write(other.join(".gitmodules"), module)?;
        world.upstream_gets("app.git", "hostile.txt");
        let said =
            crate::work::git(world.root(), &["clone", "-q", "--recurse-submodules", &world.url("app"), "hostile"]);
        ensure!(!said.ok && said.text.contains("transport 'ext' not allowed"), "{}", said.text);
        ensure!(!witness.exists(), "a submodule's URL was run");
        Ok(())
    })
}

#[test]
fn two_push_at_once() -> Result<()> {
    const EACH: usize = 3;
    hold(usual, |world| {
        let world: &World = world;
        for (remote, repository) in BOTH {
            let works = ["one", "two"].map(|name| (Work::clone(world, remote, &format!("{name}-{remote}"), &[]), name));
            // Each thread's git has to stand in the world's network, where a scope's threads are, too.
            thread::scope(|scope| {
                for (work, name) in &works {
                    scope.spawn(move || {
                        let work = work.as_ref().unwrap();
                        for n in 0..EACH {
                            work.write(format!("{name}-{n}"), b"x\n");
                            work.commit("m");
                            work.git(&["push", "-q", "origin", &format!("HEAD:refs/heads/{name}")]);
                        }
                    });
                }
            });
            let refs = world.refs(repository);
            for (work, name) in works {
                let head = work?.git(&["rev-parse", "HEAD"]);
                ensure!(refs.contains(&format!("refs/heads/{name} {head}")), "{remote}: {refs}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_reload_takes_remotes_away_and_brings_others_and_keeps_the_rest() -> Result<()> {
    hold(usual, |world| {
        let work = Work::clone(world, "app", "work", &[])?;
        let mut newer = world.policy.clone();
        let web = newer.git.pop().unwrap();
        newer.git.push(bottle_policy::GitRemote { name: "again".into(), ..web });
        newer.git[0].push.allow_refs = vec!["refs/heads/agent/*".into()];
        world.sidecar.reload(&newer)?;
        crate::work::git(world.root(), &["ls-remote", &world.url("web")])
            .fails_with("this bottle has no remote `web`")?;
        ensure!(crate::work::git(world.root(), &["ls-remote", &world.url("again")]).ok);
        work.commit("m");
        work.tries(&["push", "origin", "HEAD:refs/heads/x"])
            .fails_with("refused: refs/heads/x may not be pushed to")?;
        work.git(&["push", "-q", "origin", "HEAD:refs/heads/agent/x"]);
        let bad = bottle_policy::Policy { git: vec![newer.git[0].clone(), newer.git[0].clone()], ..newer.clone() };
        ensure!(world.sidecar.reload(&bad).is_err_and(|error| error.to_string().contains("stands twice")));
        ensure!(crate::work::git(world.root(), &["ls-remote", &world.url("again")]).ok);
        Ok(())
    })
}

#[test]
fn who_does_not_know_the_capability_learns_nothing() -> Result<()> {
    hold(usual, |world| {
        for remote in ["app", "none"] {
            let url = world.url(remote).replace("the-capability", "another");
            crate::work::git(world.root(), &["ls-remote", &url]).fails_with("this is no remote of this bottle's")?;
        }
        ensure!(world.sshd.asked().is_empty() && world.forge.asked().is_empty());
        let line = world.logged("the refusal", |line| line.rule == "git-capability")?;
        ensure!((line.decision.as_str(), line.host.as_str(), line.path.as_str()) == ("deny", "", ""), "{line:?}");
        Ok(())
    })
}
