//! The engine itself is killed in the middle of a session: that is one error, and once the engine is back a cleanup
//! leaves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Result, bail, ensure};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, assert_nothing_left, is_running, left_in_engine, report},
    own_engine::OwnEngine,
    running::Running,
    standin::Standin,
    tiny,
    wire::Authority,
};
use std::time::{Duration, Instant};

/// How long nobody may be left without a word.
const AT_ONCE: Duration = Duration::from_secs(10);

#[test]
fn an_engine_that_is_killed_in_a_session_is_one_error_and_a_cleanup_leaves_nothing_once_it_is_back() -> Result<()> {
    let (engine, authority) = (OwnEngine::start()?, Authority::new()?);
    let lab = &engine.lab;
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?.with_env("CLAUDE_BOTTLE_IMAGE", tiny::image(lab)?);
    let bottle = Running::start(lab, &home)?;
    let (identity, sidecar) = (bottle.identity.clone(), bottle.processes("sidecar")?);
    let sidecar_runs = || sidecar.iter().any(|pid| is_running(*pid));
    ensure!(left_in_engine(lab, &identity)?.len() == 4 && sidecar_runs());

    let began = Instant::now();
    engine.kill()?;
    let run = bottle.owner.finish()?;
    let took = began.elapsed();
    ensure!(run.code == Some(125) && took < AT_ONCE, "after {took:?}: {run:?}");
    ensure!(run.stderr.matches("bottle: error: ").count() == 1, "{run:?}");
    let [.., error, hint] = run.stderr.lines().collect::<Vec<_>>()[..] else { bail!("{run:?}") };
    ensure!(error.starts_with("bottle: error: the engine went away: "), "{run:?}");
    ensure!(hint.starts_with("bottle: hint: ") && hint.contains("take away what is left: `bottle cleanup`"), "{run:?}");
    // Before it is back nothing can be removed, and nothing is forgotten.
    let early = home.run(&["cleanup", "--yes"])?;
    ensure!(early.code == Some(1) && home.identities() == [identity.as_str()], "{early:?}");

    engine.start_again()?;
    ensure!(left_in_engine(lab, &identity)?.len() == 4, "the engine itself forgot what it had");
    ensure!(!sidecar_runs(), "the engine has left the sidecar running, with its secrets");
    let began = Instant::now();
    let cleanup = home.run(&["cleanup", "--yes"])?;
    ensure!(cleanup.code == Some(0), "{cleanup:?}");
    report(format!("the error came after {took:?}, the cleanup took {:?}", began.elapsed()));
    assert_nothing_left(lab, &home, &identity)?;
    let second = home.run(&["cleanup", "--yes"])?;
    ensure!(second.code == Some(0) && second.stderr.contains("nothing to clean up"), "{second:?}");
    Ok(())
}
