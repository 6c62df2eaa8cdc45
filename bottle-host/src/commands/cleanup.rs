//! `cleanup`: what earlier bottles left behind, on every backend, as one list and one y/N.

use crate::{
    cli::Cleanup,
    paths::Paths,
    plugin::{self, Backend, Services, backend::UNCANCELLED, discover},
    signals::Cancellation,
    state::{self, Abandoned},
    ui,
};
use anyhow::{Context, Result, bail};
use bottle_api::{CleanupItem, CleanupRequest, LedgerEntry};
use serde::Serialize;
use std::time::Duration;

/// How long one backend may take to remove its things.
const DEADLINE: Duration = Duration::from_secs(120);

/// One line of the list.
#[derive(Serialize)]
struct Row {
    backend: String,
    identity: String,
    kind: String,
    name: String,
}

/// Runs `cleanup`.
pub(super) fn run(args: &Cleanup) -> Result<u8> {
    let paths = Paths::from_env()?;
    let services = Services::from_env();
    let cancel = Cancellation::install()?;
    let (live, abandoned) = state::survey(&paths)?;
    for bottle in &abandoned {
        services.keep_ledger(&bottle.identity, bottle.ledger.clone());
    }
    let mut failed = false;
    let mut plans = vec![];
    let mut rows = vec![];
    for name in discover::discover().into_keys() {
        let entries: Vec<LedgerEntry> = abandoned
            .iter()
            .filter(|bottle| bottle.metadata.backend == name || bottle.metadata.backend.is_empty())
            .flat_map(|bottle| bottle.ledger.entries())
            .collect();
        let needed = !entries.is_empty();
        let planned = plugin::select(&name, &services).and_then(|backend| {
            let owner = paths.owner();
            let req = CleanupRequest { entries, sweep: true, live: live.clone(), owner, ..CleanupRequest::default() };
            let plan = backend.prepare_cleanup(&req, cancel.fd())?;
            Ok((plan.items()?, plan, backend))
        });
        match planned {
            Ok((items, plan, backend)) => {
                rows.extend(items.iter().filter(|item| !item.id.is_empty()).map(|item| row(&name, item)));
                plans.push((plan, backend));
            }
            Err(error) => {
                // A backend that is not there cannot hide what the others have left, unless it has left something.
                failed |= needed;
                ui::warn(format!("the backend {name} cannot say what it left: {error:#}"));
            }
        }
    }
    rows.extend(abandoned.iter().map(|bottle| Row {
        backend: bottle.metadata.backend.clone(),
        identity: bottle.identity.clone(),
        kind: "state".into(),
        name: paths.short(&paths.state().join(&bottle.identity)),
    }));
    if args.json {
        ui::json(&rows)?;
    } else if !rows.is_empty() {
        show(&rows)?;
    }
    if rows.is_empty() {
        ui::say("nothing to clean up");
        return Ok(u8::from(failed));
    }
    if args.dry_run {
        return Ok(u8::from(failed));
    }
    if !args.yes && !ui::confirm("remove all of this?")? {
        ui::say("aborted by user");
        return Ok(0);
    }
    for (plan, backend) in plans {
        let outcome = plan.execute(DEADLINE).with_context(|| format!("clean up on {}", backend.info.name))?;
        for (item, why) in outcome.left {
            failed = true;
            ui::warn(format!("the {} {} is left: {why}", item.kind, item.name));
        }
    }
    let mut removed = 0;
    for bottle in abandoned {
        removed += usize::from(settle(bottle)?);
    }
    ui::say(format!("cleaned up; {removed} bottles are forgotten"));
    Ok(u8::from(failed))
}

/// Forgets a bottle whose things are all gone.
fn settle(bottle: Abandoned) -> Result<bool> {
    if !bottle.ledger.entries().is_empty() {
        ui::warn(format!("{} is kept: things of it are left", bottle.identity));
        return Ok(false);
    }
    bottle.remove()?;
    Ok(true)
}

/// Removes the entries of one ledger, whatever state they are in. Nothing but the deadline cuts it short.
pub(super) fn take_away(backend: &Backend, entries: Vec<LedgerEntry>, deadline: Duration) -> Result<()> {
    let Some(owner) = entries.first().map(|entry| entry.identity.clone()) else {
        return Ok(());
    };
    let req = CleanupRequest { entries, owner: Paths::from_env()?.owner(), ..CleanupRequest::default() };
    let outcome = backend.prepare_cleanup(&req, UNCANCELLED)?.execute(deadline)?;
    if let Some((item, why)) = outcome.left.first() {
        bail!("the {} {} of {owner} is left: {why}", item.kind, item.name);
    }
    Ok(())
}

fn row(backend: &str, item: &CleanupItem) -> Row {
    Row {
        backend: backend.to_owned(),
        identity: item.identity.clone(),
        kind: item.kind.clone(),
        name: item.name.clone(),
    }
}

fn show(rows: &[Row]) -> Result<()> {
    let cells = |r: &Row| vec![r.backend.clone(), r.identity.clone(), r.kind.clone(), r.name.clone()];
    ui::table(&["BACKEND", "IDENTITY", "KIND", "NAME"], &rows.iter().map(cells).collect::<Vec<_>>())
}
