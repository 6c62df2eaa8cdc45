//! Upstreams that refuse, are away, are somebody else, or mean ill: each failure reaches the agent as one clear message,
//! nothing stale is served, and nothing is touched.

use crate::{
    forge::Manner,
    sshd::Sshd,
    work::{Work, git, noise},
    world::{PRIVATE, World, hold, usual},
};
use anyhow::{Result, ensure};
use bottle_policy::{GitHttps, GitLimits, GitRemote, GitSsh, GitUpstream};
use std::fs;

/// One more remote, like the one of that name but for its upstream.
fn beside(remotes: &mut Vec<GitRemote>, name: &str, like: usize, change: impl FnOnce(&mut GitRemote)) {
    let mut remote = GitRemote { name: name.into(), ..remotes[like].clone() };
    change(&mut remote);
    remotes.push(remote);
}

fn ssh(remote: &mut GitRemote) -> &mut GitSsh {
    match &mut remote.upstream {
        GitUpstream::Ssh(ssh) => ssh,
        GitUpstream::Https(_) => panic!("{} is over https", remote.name),
    }
}

fn https(remote: &mut GitRemote) -> &mut GitHttps {
    match &mut remote.upstream {
        GitUpstream::Https(https) => https,
        GitUpstream::Ssh(_) => panic!("{} is over ssh", remote.name),
    }
}

/// Remotes that cannot be reached, each in its own way.
fn unreachable(remotes: &mut Vec<GitRemote>, sshd: &Sshd) -> Result<()> {
    let other = sshd.another_key()?;
    beside(remotes, "another-host", 0, |remote| ssh(remote).known_host_key = other);
    beside(remotes, "private", 0, |remote| ssh(remote).host = PRIVATE.0.into());
    beside(remotes, "private-web", 1, |remote| https(remote).host = PRIVATE.0.into());
    beside(remotes, "pinned-private", 0, |remote| remote.address = "127.0.0.1".parse().ok());
    beside(remotes, "gone", 0, |remote| ssh(remote).port = 2222);
    beside(remotes, "gone-web", 1, |remote| https(remote).port = 8443);
    beside(remotes, "another-name", 1, |remote| {
        https(remote).host = "evil.example".into();
        remote.address = "203.0.113.21".parse().ok();
    });
    beside(remotes, "missing", 0, |remote| ssh(remote).path = "/nowhere/app.git".into());
    beside(remotes, "missing-web", 1, |remote| https(remote).path = "/nowhere.git".into());
    beside(remotes, "expired", 1, |remote| https(remote).token = Some("git:expired".into()));
    beside(remotes, "no-key", 0, |remote| ssh(remote).key = "git:none".into());
    beside(remotes, "no-token", 1, |remote| https(remote).token = Some("git:none".into()));
    beside(remotes, "wrong-passphrase", 0, |remote| ssh(remote).passphrase = Some("git:token".into()));
    Ok(())
}

#[test]
fn what_cannot_be_reached_is_told_in_one_line() -> Result<()> {
    hold(unreachable, |world| {
        for (remote, why) in [
            ("another-host", "upstream shows another host key than the one that is pinned"),
            ("private", "private.example is at 10.1.2.3, a private address"),
            ("private-web", "private.example is at 10.1.2.3, a private address"),
            ("pinned-private", "git.example is at 127.0.0.1, a loopback address"),
            ("gone", "git.example cannot be reached"),
            ("gone-web", "forge.example cannot be reached"),
            ("another-name", "evil.example cannot be reached: invalid peer certificate"),
            ("missing", "does not appear to be a git repository"),
            ("missing-web", "upstream has no such repository, or hides it from the token (404)"),
            ("expired", "upstream does not take the token: it is wrong, has expired, or there is none (401)"),
            ("no-key", "the credential git:none is missing"),
            ("no-token", "the credential git:none is missing"),
            ("wrong-passphrase", "ssh-add did not take the key"),
        ] {
            let said = git(world.root(), &["ls-remote", &world.url(remote)]);
            said.fails_with(why).map_err(|error| error.context(remote))?;
            said.fails_with(&format!("remote error: {remote}: ")).map_err(|error| error.context(remote))?;
            ensure!(!said.text.contains("127.0.0.1:"), "{remote}: where our own port is: {}", said.text);
            let place = match remote {
                "no-key" | "no-token" | "wrong-passphrase" => "git-remote",
                _ => "git-upstream",
            };
            let path = world.policy.git.iter().find(|entry| entry.name == remote).unwrap().upstream.path();
            world.logged(remote, |line| line.decision == "deny" && line.rule == place && line.path == path)?;
        }
        // The others are served all the while.
        for remote in ["app", "web"] {
            ensure!(git(world.root(), &["ls-remote", &world.url(remote)]).ok);
        }
        Ok(())
    })
}

#[test]
fn upstreams_own_refusal_and_its_outage_reach_the_pusher_and_nothing_stale_is_served() -> Result<()> {
    hold(usual, |world| {
        for (remote, repository) in [("app", "app.git"), ("web", "web.git")] {
            let work = Work::clone(world, remote, &format!("work-{remote}"), &[])?;
            world.upstream_says(repository, "echo 'not on a Friday'; exit 1");
            let head = work.commit("own");
            let said = work.tries(&["push", "origin", "main"]);
            said.fails_with("remote: not on a Friday")?;
            said.fails_with("upstream: [remote rejected] (pre-receive hook declined)")?;
            // The mirror does not say that it was taken.
            ensure!(!work.git(&["ls-remote", "origin"]).contains(&head));
            world
                .logged("the refusal", |line| line.rule == "git-upstream" && line.path.ends_with("refs/heads/main"))?;
            fs::remove_file(world.path(repository).join("hooks/pre-receive"))?;
            let away = world.path(&format!("away-{repository}"));
            fs::rename(world.path(repository), &away)?;
            for (args, what) in [
                (&["fetch", "origin"][..], "asking upstream for its branches"),
                (&["push", "origin", "main"], "fetching from upstream"),
                (&["ls-remote", "origin"], "asking upstream for its branches"),
            ] {
                work.tries(args).fails_with(&format!("remote error: {remote}: {what} failed"))?;
            }
            fs::rename(&away, world.path(repository))?;
            work.git(&["push", "-q", "origin", "main"]);
        }
        Ok(())
    })
}

#[test]
fn a_hostile_forge_gets_nowhere() -> Result<()> {
    let small = |remotes: &mut Vec<GitRemote>, _: &Sshd| {
        remotes[1].limits = GitLimits { fetch_bytes: 4 << 20, seconds: 60, ..GitLimits::default() };
        Ok(())
    };
    hold(small, |world| {
        let work = Work::clone(world, "web", "work", &[])?;
        let kept = mirrors(world);
        for (manner, why) in [
            (Manner::Redirects, "upstream redirects elsewhere, and redirects are not followed"),
            (Manner::Page, "upstream does not answer as a server of git's does"),
            (Manner::Squeezed, "upstream does not answer as a server of git's does"),
            (Manner::Busy, "upstream answered 503"),
            (Manner::Endless, "upstream sent more than the 4194304 bytes that a fetch may bring"),
            (Manner::BreaksOff, "fetching from upstream failed"),
        ] {
            if matches!(manner, Manner::Endless | Manner::BreaksOff) {
                world.upstream_gets("web.git", &format!("{manner:?}"));
            }
            world.forge.answers(manner);
            for args in [&["fetch", "origin"][..], &["push", "origin", "main"]] {
                work.tries(args).fails_with(why).map_err(|error| error.context(format!("{manner:?} {args:?}")))?;
            }
            ensure!(mirrors(world) == kept, "{manner:?} left something: {:?}", mirrors(world));
            world.forge.answers(Manner::Honest);
        }
        let named = [world.forge.asked(), world.names.asked()].concat();
        ensure!(!named.iter().any(|name| name.contains("evil")), "somebody followed: {named:?}");
        work.git(&["fetch", "-q", "origin"]);
        Ok(())
    })
}

#[test]
fn a_pack_that_is_too_large_is_cut_off() -> Result<()> {
    let small = |remotes: &mut Vec<GitRemote>, _: &Sshd| {
        for remote in remotes {
            remote.limits = GitLimits { fetch_bytes: 1 << 20, seconds: 60, ..GitLimits::default() };
        }
        Ok(())
    };
    hold(small, |world| {
        for (remote, repository) in [("app", "app.git"), ("web", "web.git")] {
            let work = Work::clone(world, remote, &format!("work-{remote}"), &[])?;
            let kept = mirrors(world);
            world.upstream_gets(repository, "x.txt");
            fs::write(world.path(&format!("other-{repository}")).join("noise"), noise(2 << 20))?;
            world.upstream_gets(repository, "y.txt");
            let why = "upstream sent more than the 1048576 bytes that a fetch may bring";
            work.tries(&["fetch", "origin"]).fails_with(why)?;
            ensure!(mirrors(world) == kept, "{remote}: something was left: {:?}", mirrors(world));
        }
        Ok(())
    })
}

#[test]
fn bad_objects_pass_neither_way() -> Result<()> {
    hold(usual, |world| {
        for (remote, repository) in [("app", "app.git"), ("web", "web.git")] {
            let work = Work::clone(world, remote, &format!("work-{remote}"), &[])?;
            // An author without an address, which fsck refuses.
            let tree = work.git(&["rev-parse", "HEAD^{tree}"]);
            let text = format!("tree {tree}\nauthor A 1 +0000\ncommitter C <c@d> 1 +0000\n\nm\n");
            let bad = work.object("commit", text.as_bytes());
            let said = work.tries(&["push", "origin", &format!("{bad}:refs/heads/bad")]);
            said.fails_with("remote unpack failed")?;
            // The same, served by upstream.
            let file = world.path("bad");
            fs::write(&file, text)?;
            let bad =
                world.at(repository, &["hash-object", "-w", "--literally", "-t", "commit", file.to_str().unwrap()]);
            world.at(repository, &["update-ref", "refs/heads/bad", &bad]);
            work.tries(&["fetch", "origin"])
                .fails_with(&format!("remote error: {remote}: fetching from upstream failed"))?;
            world.at(repository, &["update-ref", "-d", "refs/heads/bad"]);
            work.git(&["fetch", "-q", "origin"]);
        }
        Ok(())
    })
}

/// All packs of all mirrors, whole or not.
fn mirrors(world: &World) -> Vec<String> {
    let find =
        crate::work::output(std::process::Command::new("find").arg(world.path("mirrors")).args(["-path", "*/pack/*"]));
    let mut files: Vec<String> = find.unwrap().lines().map(str::to_owned).collect();
    files.sort();
    files
}
