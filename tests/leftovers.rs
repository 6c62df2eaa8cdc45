//! Nothing is left behind by a signal in a session or while an image is built, nor on another engine than today's.
//! `docker_faults.rs` has what may happen anywhere in the life of a bottle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, assert_nothing_left, assert_only_log_left, eventually, identity_in, left_in_engine},
    lab::Lab,
    standin::Standin,
    wire::Authority,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, os::unix::fs::PermissionsExt};

fn home() -> Result<(&'static Lab, Home)> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    Ok((lab, Home::new(lab, &authority, &standin)?))
}

/// Keeps the agent busy until the test ends it. (Claude declines to sleep for long.)
const WAIT: &str = "@@bash until [ -e /nowhere ]; do sleep 0.1; done";
const START: [&str; 5] = ["start", "dev", "--yes", "--prompt", "hello"];

#[test]
fn sigint_and_sigterm_during_a_session_leave_nothing() -> Result<()> {
    let (lab, home) = home()?;
    for signal in [Signal::INT, Signal::TERM] {
        let child = home.start(&["start", "dev", "--yes", "--prompt", WAIT], &[])?;
        eventually("the agent asks the model", || {
            home.egress_log().into_iter().find(|line| line["path"] == "/v1/messages")
        })?;
        let identity = home.identities().into_iter().next().context("no bottle")?;
        eventually("the client has written its conversation", || {
            let written = "grep -qs assistant ~/.claude/projects/*/*.jsonl";
            let run = home.run(&["exec", &identity, "--", "bash", "-c", written]).ok()?;
            (run.code == Some(0)).then_some(())
        })?;
        kill_process(Pid::from_child(&child), signal)?;
        let run = child.finish()?;
        assert_eq!(run.code, Some(128 + signal.as_raw()), "{run:?}");
        assert_only_log_left(lab, &home, &identity_in(&run.stderr)?).with_context(|| format!("{run:?}"))?;
        assert!(run.stderr.contains("its egress log is ") && !home.egress_log().is_empty(), "{run:?}");
        // Its conversation is for nobody's cleanup to take.
        assert_eq!((home.run(&["cleanup", "--yes"])?.code, home.identities().len()), (Some(0), 1));
        assert_eq!((home.run(&["state", "rm", "--all", "--yes"])?.code, home.identities().len()), (Some(0), 0));
    }
    Ok(())
}

/// A program of the base image's that never ends: the agent image's recipe runs it in its second step.
const NEVER_ENDS: &str = "#!/bin/sh\nuntil [ -e /nowhere ]; do sleep 0.1; done\n";

#[test]
fn sigint_while_an_image_is_built_leaves_neither_a_bottle_nor_a_step_of_the_build() -> Result<()> {
    let (lab, home) = home()?;
    let base = format!("bottle-test-never-ends-{}", std::process::id());
    home.write("base/sha256sum", NEVER_ENDS)?;
    home.write("base/Dockerfile", &format!("FROM {}\nUSER root\nCOPY sha256sum /usr/local/bin/\n", lab.base_image))?;
    fs::set_permissions(home.path().join("base/sha256sum"), fs::Permissions::from_mode(0o755))?;
    let id =
        lab.docker(&["build", "-q", "--no-cache", "-t", &base, &home.path().join("base").display().to_string()])?;
    let image = format!("{base}:interrupted");
    let env = [("CLAUDE_BOTTLE_BASE_IMAGE", base.as_str()), ("CLAUDE_BOTTLE_IMAGE", image.as_str())];
    let child = home.start(&START, &env)?;
    let identity = eventually("the bottle has all that needs no agent image", || {
        home.identities().into_iter().find(|i| left_in_engine(lab, i).is_ok_and(|left| left.len() == 3))
    })?;
    let of_base = format!("ancestor={base}");
    let step = || lab.docker(&["ps", "-q", "--filter", &of_base]).ok().filter(|id| !id.is_empty());
    let busy = || lab.docker(&["top", step()?.trim()]).ok().filter(|table| table.contains("sha256sum"));
    eventually("the recipe's second step runs", busy)?;
    kill_process(Pid::from_child(&child), Signal::INT)?;
    let run = child.finish()?;
    assert_eq!(run.code, Some(128 + 2), "{run:?}");
    assert_nothing_left(lab, &home, &identity).with_context(|| format!("{run:?}"))?;
    assert_eq!(lab.docker(&["ps", "-aq", "--filter", &of_base])?, "");
    // The engine removes no image that another one stands on.
    lab.docker(&["rmi", &base])?;
    assert!(lab.docker(&["image", "inspect", id.trim()]).is_err(), "a step of the build is left");
    Ok(())
}

#[test]
fn cleanup_goes_to_the_engine_that_a_bottle_was_started_on() -> Result<()> {
    let (lab, home) = home()?;
    let link = home.path().join("other.sock");
    std::os::unix::fs::symlink(lab.docker_host.trim_start_matches("unix://"), &link)?;
    let other = format!("unix://{}", link.display());
    let env = [("CLAUDE_BOTTLE_FAULT", "kill@launched:1"), ("DOCKER_HOST", other.as_str())];
    let run = home.start(&START, &env)?.finish()?;
    let dead = identity_in(&run.stderr)?;
    assert_eq!(left_in_engine(lab, &dead)?.len(), 4, "{run:?}");
    // Today's engine does not answer, and is not the one in question.
    let cleanup = home.start(&["cleanup", "--yes"], &[("DOCKER_HOST", "unix:///nowhere/docker.sock")])?.finish()?;
    assert_eq!(cleanup.code, Some(0), "{cleanup:?}");
    assert!(cleanup.stderr.contains("no Docker engine at unix:///nowhere/docker.sock"), "{cleanup:?}");
    assert_nothing_left(lab, &home, &dead)
}
