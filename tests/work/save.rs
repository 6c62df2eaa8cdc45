//! What is saved, and within which bounds.

use crate::place::{Kept, MAKE, Place, bring_home, check_made};
use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Run, assert_nothing_left, contains, eventually, identity_in},
    lab::output,
    target::Target,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, process::Command};

#[test]
fn work_is_saved_and_can_be_brought_home_however_the_session_ends() -> Result<()> {
    let place = Place::new()?;
    // By itself.
    let (run, kept) = place.play(true, &[MAKE])?;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(kept.names(), ["changes.tar", "commits.bundle", "deleted", "head", "projects.tar"], "{run:?}");
    kept.check_modes()?;
    assert!(run.stderr.contains("the agent left work"), "{run:?}");
    assert_eq!(fs::read(kept.file("deleted"))?, b"going\0");
    check_made(&place, &identity_in(&run.stderr)?)?;
    let log = output(Command::new("tar").arg("-xOf").arg(kept.dir.join("transcript/projects.tar")))?;
    assert!(log.contains("git checkout -qb side"), "the conversation is not in it");
    assert!(place.left(&kept.identity())?.is_empty());

    // No cleanup takes it away.
    let cleanup = place.home.run(&["cleanup", "--yes"])?;
    assert!(cleanup.stderr.contains(&format!("left alone: {}", kept.identity())), "{cleanup:?}");
    assert_eq!((cleanup.code, kept.names().len()), (Some(0), 5), "{cleanup:?}");

    // By an error of the agent's, and killed.
    for (end, code) in [("kill -9 $PPID", None), ("until [ -e /nowhere ]; do sleep 0.1; done", Some(128 + 15))] {
        let child = place.command(true, &[MAKE, "touch ready", end]).spawn()?;
        if code.is_some() {
            eventually("the agent is at its last line", || {
                let rows = place.home.listed();
                let at = place.home.run(&["exec", rows.first()?, "--", "test", "-e", "ready"]).ok()?;
                (at.code == Some(0)).then_some(())
            })?;
            kill_process(Pid::from_child(&child), Signal::TERM)?;
        }
        let run: Run = child.wait_with_output()?.into();
        assert!(code.map_or(run.code != Some(0), |code| run.code == Some(code)), "{run:?}");
        check_made(&place, &identity_in(&run.stderr)?)?;
        assert!(place.left(&identity_in(&run.stderr)?)?.is_empty());
    }
    Ok(())
}

#[test]
fn a_session_that_changed_nothing_leaves_nothing_though_the_directory_was_dirty() -> Result<()> {
    let place = Place::new()?;
    place.home.write("repo/tracked", "changed before\n")?;
    fs::remove_file(place.path("repo/going"))?;
    let look = "git status --porcelain; git log --format=%s; cat mine; id -u; stat -c %u . mine .git";
    let (run, kept) = place.play(true, &[look, "echo x > y; rm y; git branch other"])?;
    assert_eq!(run.code, Some(0), "{run:?}");
    let said = &run.results()?[0];
    assert_eq!(said.trim(), "D going\n M tracked\n?? mine\nfirst\nuntracked before\n1000\n1000\n1000\n1000");
    assert_nothing_left(place.lab, &place.home, &kept.identity())?;

    // The same of a directory without a repository, and what is missed in it.
    fs::rename(place.path("repo/.git"), place.path("git"))?;
    let (run, kept) = place.play(true, &["ls -A"])?;
    assert_eq!((run.code, run.results()?[0].trim()), (Some(0), "mine\ntracked"), "{run:?}");
    assert_nothing_left(place.lab, &place.home, &kept.identity())?;
    let (_, kept) = place.play(true, &["rm mine"])?;
    assert_eq!(
        (kept.names(), fs::read(kept.file("deleted"))?),
        (vec!["deleted".into(), "projects.tar".into()], b"mine\0".into())
    );
    Ok(())
}

#[test]
fn what_is_made_in_an_empty_workspace_is_saved_too() -> Result<()> {
    let place = Place::new()?;
    let (run, kept) = place.play(false, &["mkdir sub; cd sub; git init -q; echo x > y; echo z > $'../n\\new'"])?;
    assert_eq!((run.code, kept.names()), (Some(0), vec!["changes.tar".into(), "projects.tar".into()]), "{run:?}");
    let there = bring_home(&place, &kept.identity(), "repo")?;
    assert!(there.join("sub/.git/HEAD").exists() && fs::read_to_string(there.join("sub/y"))? == "x\n");
    // A repository of its own, on no branch.
    let make = "git init -q; git config user.name A; git config user.email a@example.com; echo x > y; git add y; \
                git commit -qm one; git checkout -q --detach; git commit -q --allow-empty -m two; rm y";
    let (run, kept) = place.play(false, &[make, "(exit 3)"])?;
    assert_eq!(kept.names(), ["commits.bundle", "deleted", "head", "projects.tar"], "{run:?}");
    let there = bring_home(&place, &kept.identity(), "repo")?;
    let there = there.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let detached = format!("refs/bottle/{}/bottle/detached", kept.identity());
    assert_eq!(place.git(&there, &["log", "--format=%s", &detached])?, "two\none");
    Ok(())
}

#[test]
fn what_a_hostile_guest_leaves_is_bounded_and_stays_where_it_is_put() -> Result<()> {
    let place = Place::new()?;
    // A pipe, names that are no lines, and a file that is too large: what is small is saved.
    let make =
        "mkfifo pipe; echo small > small; truncate -s 10G huge; echo x > $'a\\nb'; mkdir -- '-- x'; echo y > '-- x/y'";
    let (run, kept) = place.play(false, &[make])?;
    assert!(run.stderr.contains("were cut off"), "{run:?}");
    let mut names: Vec<_> = kept.listed("changes.tar")?.lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["./-- x/y", "./a\\nb", "./pipe", "./small"], "{run:?}");
    assert!(fs::metadata(kept.file("changes.tar"))?.len() < 1 << 20);
    assert!(place.left(&kept.identity())?.is_empty());

    // The bottle is not there to be asked, or its git never answers: the workspace is fetched from outside.
    // (An agent in namespaces cannot end its first process.)
    let hang = "git init -q; printf '#!/bin/sh\\nsleep 1000\\n' > /tmp/hang; chmod +x /tmp/hang; git config core.fsmonitor /tmp/hang";
    let end = "echo x > y; sleep 0.3; kill 1; sleep 5";
    let cases = [Some(end).filter(|_| place.home.target() == Target::Docker), Some(&format!("{hang}; echo x > y"))];
    for make in cases.into_iter().flatten() {
        let mut command = place.command(false, &[make]);
        let run: Run = command.env("CLAUDE_BOTTLE_FAULT_PATIENCE", "6000").output()?.into();
        let kept = Kept { dir: place.home.state().join(identity_in(&run.stderr)?) };
        assert!(run.stderr.contains("does not answer in the bottle"), "{run:?}");
        assert!(kept.listed("workspace.tar")?.contains("workspace/y"), "{run:?}");
        assert!(place.left(&kept.identity())?.is_empty());
    }
    Ok(())
}

#[test]
fn what_git_does_not_see_or_cannot_tell_is_saved_all_the_same() -> Result<()> {
    let place = Place::new()?;
    let me = "git config user.name A; git config user.email a@example.com";
    let embedded = format!("mkdir sub; cd sub; git init -q; {me}; echo x > f; git add f; git commit -qm sub; cd ..");
    for (make, archive, names) in [
        ("git update-index --skip-worktree tracked; echo agent > tracked", "changes.tar", &["./tracked"][..]),
        ("git update-index --assume-unchanged tracked; echo agent > tracked", "changes.tar", &["./tracked"]),
        (
            &format!("{embedded}; {me}; git add sub 2>/dev/null; git commit -qm embedded"),
            "changes.tar",
            &["./sub/f", "./sub/.git/HEAD"],
        ),
        // A git that cannot read its repository says nothing, which is not that there is nothing.
        ("echo x > made; : > .git/refs/heads/broken", "workspace.tar", &["workspace/made", "workspace/.git/HEAD"]),
        ("echo x > made; echo '[' >> .git/config", "workspace.tar", &["workspace/made"]),
    ] {
        let (run, kept) = place.play(true, &[make])?;
        assert_eq!(run.code, Some(0), "{make}: {run:?}");
        let listed = kept.listed(archive).with_context(|| format!("{make}: {run:?}"))?;
        assert!(names.iter().all(|name| listed.lines().any(|line| line == *name)), "{make}: {listed}");
    }
    // What was ignored and came along is work, too.
    place.home.write("repo/.git/info/exclude", "settings\n")?;
    place.home.write("repo/settings", "mine\n")?;
    let mut command = place.command(false, &["echo agent > settings"]);
    let run: Run = command.arg("--cwd-all").current_dir(place.path("repo")).output()?.into();
    let kept = Kept { dir: place.home.state().join(identity_in(&run.stderr)?) };
    assert!(kept.listed("changes.tar").with_context(|| format!("{run:?}"))?.contains("./settings\n"), "{run:?}");
    Ok(())
}

#[test]
fn a_signal_while_work_is_saved_loses_nothing() -> Result<()> {
    let place = Place::new()?;
    let name = format!("/tmp/hang-{}", std::process::id());
    let hang =
        format!("printf '#!/bin/sh\\nsleep 1000\\n' > {name}; chmod +x {name}; git config core.fsmonitor {name}");
    let mut command = place.command(true, &[&format!("echo x > y; {hang}")]);
    let child = command.env("CLAUDE_BOTTLE_FAULT_PATIENCE", "6000").spawn()?;
    eventually("the bottle is asked what there is to save", || {
        // What runs in there runs on this machine: the agent's own git has no such variable.
        let asked = |pid: &str| fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| contains(&env, b"UNIGNORED="));
        let hangs =
            |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| contains(&line, name.as_bytes()));
        let pids = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        pids.into_iter().find(|pid| hangs(pid) && asked(pid))
    })?;
    for signal in [Signal::WINCH, Signal::INT] {
        kill_process(Pid::from_child(&child), signal)?;
    }
    let run: Run = child.wait_with_output()?.into();
    let kept = Kept { dir: place.home.state().join(identity_in(&run.stderr)?) };
    assert!(kept.listed("workspace.tar").with_context(|| format!("{run:?}"))?.contains("workspace/y"), "{run:?}");
    assert!(kept.dir.join(".preserve").exists() && place.left(&kept.identity())?.is_empty());
    Ok(())
}
