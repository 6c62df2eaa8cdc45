//! `state ls`, `state rm`: what is kept of bottles that have ended.

use crate::{
    cli::StateWhat,
    paths::Paths,
    signals::Cancellation,
    state::kept::{self, Kept, Removable},
    ui::{self, UsageError},
};
use anyhow::Result;
use serde::Serialize;

/// `state ls --json`.
#[derive(Serialize)]
struct Listing<'a> {
    version: u32,
    states: &'a [Kept],
}

/// Runs `state`.
pub(super) fn run(what: &StateWhat) -> Result<u8> {
    let paths = Paths::from_env()?;
    match what {
        StateWhat::Ls { json } => list(&kept::list(&paths)?, *json),
        StateWhat::Rm { identities, all, yes } => {
            let cancel = Cancellation::install()?;
            if identities.is_empty() && !all {
                return Err(UsageError("name the bottles whose state is to go, or say --all".into()).into());
            }
            cancel.conclude(remove(Removable::choose(&paths, identities)?, *yes, &cancel))
        }
    }
}

fn list(states: &[Kept], json: bool) -> Result<u8> {
    if json {
        ui::json(&Listing { version: 1, states })?;
    } else if states.is_empty() {
        ui::say("no state is kept");
    } else {
        let row = |kept: &Kept| {
            let holds = if kept.holds.is_empty() { "-".into() } else { kept.holds.join(",") };
            let size = ui::size(kept.bytes);
            // To the second, in UTC, as it was written down.
            let started = kept.started.split_once('.').map_or(kept.started.clone(), |(second, _)| format!("{second}Z"));
            let cells = [&kept.identity, &kept.agent, &kept.backend, kept.state, &started, &holds, &size];
            cells.map(|cell: &str| cell.to_owned()).to_vec()
        };
        let header = ["IDENTITY", "AGENT", "BACKEND", "STATE", "STARTED", "HOLDS", "SIZE"];
        ui::table(&header, &states.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(0)
}

fn remove(chosen: Removable, yes: bool, cancel: &Cancellation) -> Result<u8> {
    let rows: Vec<(&str, bool)> = chosen.rows().collect();
    if rows.is_empty() {
        ui::say("no state is kept");
        return Ok(0);
    }
    let preserved: Vec<&str> = rows.iter().filter(|(_, preserved)| *preserved).map(|(identity, _)| *identity).collect();
    if !preserved.is_empty() {
        ui::say(format!("work or a conversation goes with: {}", preserved.join(", ")));
    }
    let (count, with_image) = (ui::count(rows.len(), "state"), chosen.has_image());
    if !yes && !ui::confirm(&format!("remove {count} for good?"), cancel)? {
        ui::say("aborted by user");
        return Ok(0);
    }
    chosen.remove()?;
    ui::say(format!("removed {count}"));
    if with_image {
        ui::say("hint: the image that was made for it goes with the next `bottle cleanup`");
    }
    Ok(0)
}
