//! `audit show`, `audit verify`: what agents asked for, what was decided, and what was done.

use crate::{
    cli::AuditWhat,
    paths::Paths,
    supervise::{
        audit::{Audit, Event, Record},
        words::asked_for,
    },
    ui,
};
use anyhow::Result;
use std::io::{self, Write};

/// Runs `audit`.
pub(super) fn run(what: &AuditWhat) -> Result<u8> {
    let audit = Audit::of(&Paths::from_env()?);
    match what {
        AuditWhat::Verify => {
            let lines = audit.read(|_, _| Ok(()))?;
            ui::say(format!(
                "the audit log holds: {}, none of them changed, removed or moved",
                ui::count(lines as usize, "line")
            ));
        }
        AuditWhat::Show { json: true } => {
            audit.read(|_, line| Ok(writeln!(io::stdout().lock(), "{}", ui::escaped_json(line))?))?;
        }
        AuditWhat::Show { json: false } => {
            let mut rows = vec![];
            audit.read(|record, _| {
                rows.push(row(record));
                Ok(())
            })?;
            ui::table(&["TIME", "BOTTLE", "PROPOSAL", "EVENT", "WHAT"], &rows)?;
        }
    }
    Ok(0)
}

fn row(record: &Record) -> Vec<String> {
    let (event, what) = match &record.event {
        Event::Proposed { proposal } => ("proposed", asked_for(proposal)),
        Event::Modified { proposal } => ("modified", asked_for(proposal)),
        Event::Approved { once: true, note } => ("approved once", note.clone()),
        Event::Approved { note, .. } => ("approved", note.clone()),
        Event::Applied { image } => ("applied", image.clone().unwrap_or_default()),
        Event::Failed { error } => ("failed", error.clone()),
        Event::Rejected { reason } => ("rejected", reason.clone()),
    };
    let second = |time: &str| time.split_once('.').map_or(time.to_owned(), |(second, _)| format!("{second}Z"));
    let one_line = what.lines().collect::<Vec<_>>().join(" ");
    vec![second(&record.time), record.identity.clone(), record.id.clone(), event.into(), one_line]
}
