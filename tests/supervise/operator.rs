//! The operator at the screen: what the agent asked for is seen there, decided by keys, and holds at once.

use crate::place::{Place, ask_for, id, status_of};
use anyhow::{Context, Result, ensure};
use bottle_tests::pty::Pty;

#[test]
fn an_operator_decides_at_the_screen_while_the_agent_waits() -> Result<()> {
    let place = Place::new("")?;
    let mut screen = Pty::start(&place.home.command(&["supervise"]), 80, 24)?;
    screen.until("\x1b]2;bottle: nothing waits\x1b\\")?;
    let session = place.session(&[ask_for("/api"), status_of("/api/hello"), ask_for("/gate"), status_of("/gate")])?;
    // The bell, and what would be opened beside what the manifest has.
    screen.until("\x07\x1b]2;bottle: 1 proposal waits\x1b\\")?;
    screen.until("path /api")?;
    let first = place.waiting(&[])?;
    screen.press(b"othis once\r")?;
    place.waiting(&[id(&first)])?;
    screen.until("path /gate")?;
    screen.press(b"ruse the mirror\r")?;
    let run = session.finish()?;
    screen.press(b"q")?;
    ensure!(screen.wait()? == Some(0), "{}", screen.text());
    let results = run.results().with_context(|| format!("{run:?}"))?;
    let at = |n: usize| results.get(n).map(String::as_str).unwrap_or_default();
    ensure!(at(0).contains("was approved") && at(0).contains("this once"), "{results:#?}");
    ensure!([at(1), at(3)] == ["200", "403"], "{results:#?}");
    ensure!(at(2).contains("rejected") && at(2).contains("use the mirror"), "{results:#?}");
    // The log was live: both requests stood in it.
    ensure!(screen.text().contains("later.example:443/gate"), "{}", screen.text().escape_debug());
    ensure!(!screen.text().contains("it\x1b[31m"), "{}", screen.text().escape_debug());
    let events = place.audited()?;
    ensure!(events == ["proposed", "approved", "applied", "proposed", "rejected"], "{events:?}");
    Ok(())
}
