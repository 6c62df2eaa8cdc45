//! From the agent's question to the request that passes, by the real client's own tools.

use crate::place::{Place, ask_for, id, status_of};
use anyhow::{Context, Result, ensure};
use bottle_tests::bottle::report;
use serde_json::json;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// What the client is told to bear of a silent server, at its least. It looks twice a minute: silence ends a call after a
/// minute, so that whoever takes longer and is waited for was heard.
const IMPATIENT: &str = "env: {CLAUDE_CODE_MCP_TOOL_IDLE_TIMEOUT: \"30000\"}\n";
const THINKING: Duration = Duration::from_secs(65);

#[test]
fn what_is_approved_passes_at_once_and_what_is_rejected_is_told() -> Result<()> {
    let place = Place::new(IMPATIENT)?;
    let home = &place.home;
    let session = place.session(&[
        // Of the first turn: the server is known by then.
        ask_for("/api"),
        status_of("/api/hello"),
        status_of("/gate"),
        ask_for("/gate"),
        status_of("/gate"),
        "@@tool mcp__supervise__list-egress-routes {}".into(),
    ])?;
    let began = Instant::now();
    let first = place.waiting(&[])?;
    ensure!((&first["tool"], &first["routes"][0]["paths"][0]) == (&json!("egress-block"), &json!("/api")), "{first}");
    let shown = home.run(&["supervise", "--once"])?;
    ensure!(shown.stdout.contains(id(&first)) && shown.stdout.contains("later.example"), "{shown:?}");
    ensure!(!shown.stdout.contains('\u{1b}'), "a guest's word reaches the terminal raw: {shown:?}");
    sleep(THINKING);
    place.decide(&["approve", id(&first), "--note", "only this once"])?;
    // It is decided.
    ensure!(home.run(&["supervise", "approve", id(&first)])?.code == Some(1));
    let second = place.waiting(&[id(&first)])?;
    report(format!(
        "the next proposal {:.1} s after the first one's answer",
        (began.elapsed() - THINKING).as_secs_f64()
    ));
    place.decide(&["reject", id(&second), "--reason", "use the mirror"])?;

    let run = session.finish()?;
    let results = run.results().with_context(|| format!("{run:?}"))?;
    let at = |n: usize| results.get(n).map(String::as_str).unwrap_or_default();
    ensure!(at(0).contains("was approved") && at(0).contains("only this once"), "{results:#?}");
    ensure!([at(1), at(2), at(4)] == ["200", "403", "403"], "{results:#?}");
    ensure!(at(3).contains("rejected") && at(3).contains("use the mirror"), "{results:#?}");
    ensure!(at(5).contains("/api") && !at(5).contains("/gate"), "{results:#?}");

    place.told_of_the_tools()?;
    let events = place.audited()?;
    ensure!(events == ["proposed", "approved", "applied", "proposed", "rejected"], "{events:?}");
    Ok(())
}
