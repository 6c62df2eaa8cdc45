//! Nothing is left behind: after an error, a panic or a signal anywhere in the life of a bottle; after SIGKILL, once
//! `cleanup` has run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{
        Home, REAL_TOKEN, Run, assert_nothing_left, assert_only_log_left, eventually, identity_in, left_in_engine,
        report,
    },
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

fn run_with_fault(home: &Home, fault: &str) -> Result<Run> {
    home.start(&START, &[("CLAUDE_BOTTLE_FAULT", fault)])?.finish()
}

#[test]
fn an_error_or_a_panic_or_a_signal_at_any_point_of_the_launch_leaves_nothing() -> Result<()> {
    let (lab, home) = home()?;
    let mut points = 0;
    // Two networks and two containers are announced and confirmed, then the bottle is up.
    for at in [
        "ledger-intent:1",
        "ledger-intent:2",
        "ledger-intent:4",
        "ledger-created:1",
        "ledger-created:3",
        "ledger-created:4",
        "launched:1",
        "close:1",
    ] {
        for how in ["error", "panic", "term"] {
            let fault = format!("{how}@{at}");
            let run = run_with_fault(&home, &fault)?;
            let expected = match how {
                "error" => Some(125),
                "term" if at == "close:1" => Some(0), // the session is over: there is nothing left to stop
                "term" => Some(128 + 15),
                _ => run.code, // a panic of the host itself is 101, one contained at the boundary 125
            };
            assert_eq!(run.code, expected, "{fault}: {run:?}");
            assert!(how != "panic" || run.code != Some(0), "{fault}: {run:?}");
            assert_only_log_left(lab, &home, &identity_in(&run.stderr)?)
                .with_context(|| format!("{fault}: {run:?}"))?;
            points += 1;
        }
    }
    report(format!("{points} points"));
    Ok(())
}

#[test]
fn sigint_and_sigterm_during_a_session_leave_nothing() -> Result<()> {
    let (lab, home) = home()?;
    for signal in [Signal::INT, Signal::TERM] {
        let child = home.start(&["start", "dev", "--yes", "--prompt", WAIT], &[])?;
        eventually("the agent asks the model", || {
            home.egress_log().into_iter().find(|line| line["path"] == "/v1/messages")
        })?;
        kill_process(Pid::from_child(&child), signal)?;
        let run = child.finish()?;
        assert_eq!(run.code, Some(128 + signal.as_raw()), "{run:?}");
        assert_only_log_left(lab, &home, &identity_in(&run.stderr)?).with_context(|| format!("{run:?}"))?;
        assert!(run.stderr.contains("its egress log is ") && !home.egress_log().is_empty(), "{run:?}");
        assert_eq!((home.run(&["cleanup", "--yes"])?.code, home.identities().len()), (Some(0), 0));
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
fn after_sigkill_cleanup_removes_what_is_left_and_nothing_else() -> Result<()> {
    let (lab, home) = home()?;
    // A live bottle beside it, of the same owner.
    let neighbour = home.start(&["start", "dev", "--yes", "--prompt", WAIT], &[])?;
    let live = eventually("the neighbour is up", || {
        home.identities().into_iter().find(|i| left_in_engine(lab, i).is_ok_and(|left| left.len() == 4))
    })?;
    for at in ["ledger-created:1", "ledger-created:4", "launched:1"] {
        let run = run_with_fault(&home, &format!("kill@{at}"))?;
        assert_eq!(run.code, None, "{run:?}");
        let dead = identity_in(&run.stderr)?;
        assert!(!left_in_engine(lab, &dead)?.is_empty(), "nothing to clean up after {at}");
        let dry = home.run(&["cleanup", "--dry-run", "--json"])?;
        assert!(dry.stdout.contains(&dead) && !dry.stdout.contains(&live), "{dry:?}");
        let cleanup = home.run(&["cleanup", "--yes"])?;
        assert_eq!(cleanup.code, Some(0), "{cleanup:?}");
        assert_eq!(left_in_engine(lab, &dead)?, Vec::<String>::new(), "after {at}: {cleanup:?}");
        assert_eq!(home.identities(), [live.as_str()]);
        assert!(home.run(&["cleanup", "--yes"])?.stderr.contains("nothing to clean up"));
    }
    assert_eq!(left_in_engine(lab, &live)?.len(), 4, "the live bottle was touched");
    kill_process(Pid::from_child(&neighbour), Signal::TERM)?;
    let run = neighbour.finish()?;
    assert_only_log_left(lab, &home, &live).with_context(|| format!("{run:?}"))
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

#[test]
fn the_sidecar_refuses_everything_once_its_host_is_dead() -> Result<()> {
    let (lab, home) = home()?;
    let mut child = home.start(&["start", "dev", "--yes", "--prompt", WAIT], &[])?;
    let identity = eventually("the agent asks the model", || {
        home.egress_log().iter().any(|line| line["path"] == "/v1/messages").then(|| home.identities().remove(0))
    })?;
    let running = |role: &str| {
        let (id, role) =
            (format!("label=claude-bottle.identity={identity}"), format!("label=claude-bottle.role={role}"));
        lab.docker(&["ps", "-q", "--filter", &id, "--filter", &role]).map(|ids| ids.lines().count())
    };
    assert_eq!(running("sidecar")?, 1);
    child.kill()?;
    child.wait()?;
    let began = std::time::Instant::now();
    eventually("the sidecar has ended", || (running("sidecar").ok()? == 0).then_some(()))?;
    report(format!("the sidecar ended {:?} after its host's death", began.elapsed()));
    assert_eq!(home.run(&["cleanup", "--yes"])?.code, Some(0));
    assert_nothing_left(lab, &home, &identity)
}
