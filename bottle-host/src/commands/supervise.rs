//! `supervise`: what agents ask for, and what their operator says to it.

use crate::{
    cli::{Decide, Supervise},
    paths::Paths,
    session::owner,
    supervise::{
        desk::Decision,
        queue::{self, Entry, Queue, Standing},
        screen::{self, text::rows},
        words::shown,
    },
    ui::{self, hinted},
};
use anyhow::Result;
use bottle_policy::{Proposal, proposal::is_id};
use serde::Serialize;

/// Columns of a line of `--once`.
const WIDTH: usize = 72;

/// `supervise --once --json`.
#[derive(Serialize)]
struct Listing<'a> {
    version: u32,
    proposals: &'a [Row],
}

/// A proposal that waits.
#[derive(Serialize)]
struct Row {
    identity: String,
    /// Its owner takes decisions.
    running: bool,
    id: String,
    asked: String,
    #[serde(flatten)]
    proposal: Proposal,
    error: Option<String>,
}

/// Runs `supervise`.
pub(super) fn run(args: &Supervise) -> Result<u8> {
    let paths = Paths::from_env()?;
    match &args.decide {
        Some(Decide::Approve { id, once, note }) => {
            let identity = decide(&paths, id, &Decision::Approve { once: *once, note: note.clone() })?;
            let approved = Queue::of(&paths, &identity).get(id).ok().flatten().map(|entry| entry.proposal);
            ui::say(match approved {
                Some(Proposal::CapabilityBlock { .. }) => {
                    format!("approved {id}: the image is made; {identity} goes on in it when it is resumed")
                }
                _ => format!("approved {id}: it holds"),
            });
        }
        Some(Decide::Reject { id, reason }) => {
            decide(&paths, id, &Decision::Reject { reason: reason.clone() })?;
            ui::say(format!("rejected {id}"));
        }
        None if args.once => list(&paths, args.json)?,
        None => return screen::run(&paths),
    }
    Ok(0)
}

/// Has a proposal's owner decide. Returns whose it is.
fn decide(paths: &Paths, id: &str, decision: &Decision) -> Result<String> {
    let unknown = || {
        let hint = "`bottle supervise --once` shows what waits.";
        hinted(format!("there is no proposal `{}`", ui::printable(id)), hint)
    };
    if !is_id(id) {
        return Err(unknown());
    }
    let has_it = |identity: &String| !matches!(Queue::of(paths, identity).get(id), Ok(None));
    let identity = queue::identities(paths).into_iter().find(has_it).ok_or_else(unknown)?;
    owner::decided(paths, &identity, id, decision).map(|()| identity)
}

fn list(paths: &Paths, json: bool) -> Result<()> {
    let (running, mut rows) = (owner::running(paths), vec![]);
    for identity in queue::identities(paths) {
        let (entries, unreadable) = Queue::of(paths, &identity).entries()?;
        if unreadable > 0 {
            ui::warn(format!("{} in the queue of {identity} cannot be read", ui::count(unreadable, "file")));
        }
        let waits = entries.into_iter().filter(|entry| entry.standing == Standing::Pending);
        rows.extend(waits.map(|Entry { id, asked, proposal, error, .. }| Row {
            running: running.contains(&identity),
            identity: identity.clone(),
            id,
            asked,
            proposal,
            error,
        }));
    }
    if json {
        return ui::json(&Listing { version: 1, proposals: &rows });
    }
    if rows.is_empty() {
        ui::say("no proposal waits");
    }
    for row in &rows {
        show(row)?;
    }
    Ok(())
}

/// A proposal for a person: whose it is, what would change, and why. All of it but the labels is a guest's word.
fn show(row: &Row) -> Result<()> {
    let state = if row.running { "" } else { " (not running: resume it to decide)" };
    let mut lines = vec![format!("{}  {}  {}{state}", row.id, row.identity, row.proposal.tool())];
    match (&row.proposal, row.proposal.routes()) {
        (Proposal::CapabilityBlock { dockerfile, .. }, _) => {
            lines.extend(dockerfile.lines().map(|line| format!("  + {line}")))
        }
        (_, Ok(routes)) => lines.extend(routes.iter().map(|route| format!("  + {}", shown(route)))),
        (_, Err(why)) => lines.push(format!("  {why}")),
    }
    lines.extend(row.proposal.justification().lines().map(|line| format!("  because: {line}")));
    lines.extend(row.error.iter().map(|error| format!("  it could not be applied: {error}")));
    lines.push(format!("  since {}", row.asked));
    let mut out = std::io::stdout().lock();
    for line in lines {
        for row in folded(&line) {
            std::io::Write::write_fmt(&mut out, format_args!("{row}\n"))?;
        }
    }
    Ok(())
}

/// A line in rows, those after the first further in: a terminal would go on in its first column, where what a guest wrote
/// could pass for a line of ours.
fn folded(line: &str) -> Vec<String> {
    let text = ui::printable(line);
    rows(&text, WIDTH).enumerate().map(|(n, row)| if n == 0 { row } else { format!("{:8}{row}", "") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_of_a_guests_passes_for_a_line_of_ours() {
        let line = format!("  + RUN true {}  because: it is needed", "#".repeat(2 * WIDTH));
        let rows = folded(&line);
        assert!(rows.len() > 2 && rows[0].starts_with("  + RUN true"), "{rows:?}");
        assert!(rows[1..].iter().all(|row| row.starts_with("        ")), "{rows:?}");
        assert!(rows.iter().all(|row| row.len() <= WIDTH + 8), "{rows:?}");
    }
}
