//! The operator at the screen, in tmux: what the agent asked for is seen there, decided by keys, and holds at once.

use crate::place::{Place, ask_for, id, status_of};
use anyhow::{Context, Result, ensure};
use bottle_tests::{bottle::eventually, tmux::Tmux};
use std::{fs, thread::sleep, time::Duration};

/// Longer than any client waits in silence.
const LONG: Duration = Duration::from_secs(90);

#[test]
fn an_operator_decides_at_the_screen_while_the_agent_waits() -> Result<()> {
    decides(&Place::new("")?, Duration::ZERO)
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --full`"]
fn an_operator_may_take_longer_than_any_limit_of_the_client() -> Result<()> {
    decides(&Place::new("")?, LONG)
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --full`"]
fn an_older_client_asks_in_the_same_way() -> Result<()> {
    decides(&Place::new("")?.with_older_client()?, LONG)
}

/// A session that is approved one thing, by an operator who thinks for so long, and refused another.
fn decides(place: &Place, thinking: Duration) -> Result<()> {
    let tmux = Tmux::start(&place.home.command(&["supervise"]), 80, 24)?;
    let raw = tmux.record()?;
    titled(&tmux, "bottle: nothing waits")?;
    let session = place.session(&[ask_for("/api"), status_of("/api/hello"), ask_for("/gate"), status_of("/gate")])?;
    // What would be opened stands beside what the manifest has.
    tmux.until("path /api")?;
    titled(&tmux, "bottle: 1 proposal waits")?;
    ensure!(tmux.pane("#{window_bell_flag}")? == "1", "no bell rang");
    let first = place.waiting(&[])?;
    sleep(thinking);
    tmux.keys(&["o"])?;
    tmux.keys(&["-l", "this once"])?;
    tmux.until("this once")?;
    tmux.keys(&["Enter"])?;
    place.waiting(&[id(&first)])?;
    tmux.until("path /gate")?;
    tmux.keys(&["r"])?;
    tmux.keys(&["-l", "use the mirror"])?;
    tmux.until("use the mirror")?;
    tmux.keys(&["Enter"])?;
    let run = session.finish()?;
    tmux.keys(&["q"])?;
    tmux.until("ended with 0")?;
    let results = run.results().with_context(|| format!("{run:?}"))?;
    let at = |n: usize| results.get(n).map(String::as_str).unwrap_or_default();
    ensure!(at(0).contains("was approved") && at(0).contains("this once"), "{results:#?}");
    ensure!([at(1), at(3)] == ["200", "403"], "{results:#?}");
    ensure!(at(2).contains("rejected") && at(2).contains("use the mirror"), "{results:#?}");
    place.told_of_the_tools()?;
    let written = String::from_utf8_lossy(&fs::read(raw)?).into_owned();
    // The log was live: both requests stood in it.
    ensure!(written.contains("later.example:443/gate"), "{}", written.escape_debug());
    ensure!(!written.contains("it\x1b[31m"), "{}", written.escape_debug());
    let events = place.audited()?;
    ensure!(events == ["proposed", "approved", "applied", "proposed", "rejected"], "{events:?}");
    Ok(())
}

fn titled(tmux: &Tmux, title: &str) -> Result<()> {
    let shown = || tmux.pane("#{pane_title}").ok();
    let found = eventually(title, || (shown()? == title).then_some(()));
    found.with_context(|| shown().unwrap_or_default())
}
