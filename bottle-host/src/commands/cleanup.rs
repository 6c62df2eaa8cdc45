//! `cleanup`: what earlier bottles left behind, on every backend, as one list and one y/N.

use crate::{
    cli::Cleanup,
    paths::Paths,
    plugin::{self, Backend, Services, discover},
    signals::Cancellation,
    state::{self, Abandoned},
    ui,
};
use anyhow::Result;
use bottle_api::{CleanupItem, CleanupRequest, LedgerEntry};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

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
    let (mut failed, mut silent) = (false, false);
    let mut plans = vec![];
    let mut shown = HashSet::new();
    let mut rows = vec![];
    for place in places(&abandoned) {
        let name = &place.backend;
        let needed = !place.entries.is_empty();
        let planned = plugin::select(name, &services).and_then(|backend| {
            let now = backend.env();
            let here = place.env.as_ref().is_none_or(|env| *env == now);
            let req = CleanupRequest {
                entries: place.entries,
                sweep: here,
                live: live.clone(),
                owner: paths.owner(),
                env: place.env.unwrap_or(now),
            };
            let plan = prepare(&backend, req, &paths, &abandoned, &cancel)?;
            Ok((plan.items()?, plan, backend))
        });
        match planned {
            Ok((items, plan, backend)) => {
                // One engine may be two places, by variables that do not matter to it: each thing is shown once.
                let new = |item: &&CleanupItem| !item.id.is_empty() && shown.insert((name.clone(), item.id.clone()));
                rows.extend(items.iter().filter(new).map(|item| row(name, item)));
                plans.push((plan, backend));
            }
            Err(error) => {
                // A backend that is not there does not hide what the others have left; having left something itself,
                // it is a failure.
                failed |= needed;
                silent = true;
                ui::warn_of(format!("the backend {name} cannot say what it left"), &error);
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
        ui::say(if silent { "nothing to clean up on the backends that answered" } else { "nothing to clean up" });
        return Ok(u8::from(failed));
    }
    if args.dry_run {
        return Ok(u8::from(failed));
    }
    if !args.yes && !ui::confirm("remove all of this?", &cancel)? {
        ui::say("aborted by user");
        return Ok(0);
    }
    for (plan, backend) in plans {
        match plan.execute(DEADLINE) {
            Ok(outcome) => {
                for (item, why) in outcome.left {
                    failed = true;
                    ui::warn(format!("the {} {} is left: {why}", item.kind, item.name));
                }
            }
            Err(error) => {
                failed = true;
                ui::warn_of(format!("clean up on {}", backend.info.name), &error);
            }
        }
    }
    let mut forgotten = 0;
    for bottle in abandoned {
        if bottle.ledger.entries().is_empty() {
            bottle.remove()?;
            forgotten += 1;
        } else {
            failed = true;
            ui::warn(format!("the state of {} is kept: things of it are left", bottle.identity));
        }
    }
    match failed {
        false => ui::say(format!("cleaned up; {forgotten} bottles are forgotten")),
        true => ui::say("not all of it could be removed; mend what the warnings name, then run `bottle cleanup` again"),
    }
    Ok(u8::from(failed))
}

/// Where bottles may have left something: a backend, with the host's variables that it was used with.
struct Place {
    backend: String,
    /// As now, where there is none.
    env: Option<BTreeMap<String, String>>,
    entries: Vec<LedgerEntry>,
}

/// Every installed backend as it would be used now, and every one that an abandoned bottle was started on: another
/// engine than now's, or a backend that is not installed any more.
fn places(abandoned: &[Abandoned]) -> Vec<Place> {
    let installed = discover::discover().into_keys();
    let mut places: Vec<Place> = installed.map(|backend| Place { backend, env: None, entries: vec![] }).collect();
    for bottle in abandoned {
        let (backend, env, entries) = (&bottle.metadata.backend, &bottle.metadata.env, bottle.ledger.entries());
        if entries.is_empty() {
            continue;
        }
        match places.iter_mut().find(|p| p.backend == *backend && p.env.as_ref() == Some(env)) {
            Some(place) => place.entries.extend(entries),
            None => places.push(Place { backend: backend.clone(), env: Some(env.clone()), entries }),
        }
    }
    places
}

/// A bottle's state is locked before anything of it is created. So what the backend found is safe to remove if nobody
/// has come to life since the list of the living was made; else it is asked again.
fn prepare(
    backend: &Backend,
    mut req: CleanupRequest,
    paths: &Paths,
    held: &[Abandoned],
    cancel: &Cancellation,
) -> Result<plugin::Cleanup> {
    loop {
        let plan = backend.prepare_cleanup(&req, cancel.fd())?;
        // What we hold looks alive to anybody who looks, to us too.
        let (mut now, _) = state::survey(paths)?;
        now.retain(|identity| !held.iter().any(|bottle| bottle.identity == *identity));
        if now.iter().all(|identity| req.live.contains(identity)) {
            return Ok(plan);
        }
        req.live.extend(now);
    }
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
