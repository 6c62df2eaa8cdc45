//! `cleanup`: what earlier bottles left behind, on every backend, as one list and one y/N.

use super::rescue;
use crate::{
    cli::Cleanup,
    paths::Paths,
    plugin::{self, Backend, Services, discover},
    signals::Cancellation,
    state::{self, Abandoned, Survey},
    ui,
};
use anyhow::Result;
use bottle_api::{CleanupItem, CleanupRequest, LedgerEntry};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashSet},
    mem::take,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

/// How long one backend may take to remove its things.
const DEADLINE: Duration = Duration::from_secs(120);

/// `cleanup --json`.
#[derive(Serialize)]
struct Listing<'a> {
    version: u32,
    /// What is, or would be, removed.
    leftovers: &'a [Row],
    /// Bottles of another machine or user, which only `--foreign` takes.
    foreign: &'a [String],
    /// Backends that cannot say what they left.
    silent: Vec<&'a str>,
    /// What only its name makes look like a bottle's: it goes with `--unlabelled`, or a y of its own.
    unlabelled: &'a [Row],
}

/// One line of the list.
#[derive(Serialize)]
struct Row {
    backend: String,
    identity: String,
    kind: String,
    name: String,
    /// Another owner's.
    foreign: bool,
}

/// Runs `cleanup`.
pub(super) fn run(only: Option<&str>, args: &Cleanup) -> Result<u8> {
    let paths = Paths::from_env()?;
    let services = Services::from_env();
    let cancel = Cancellation::install()?;
    let names = discover::names(only)?;
    let mut survey = state::survey(&paths, args.foreign)?;
    survey.abandoned.retain(|bottle| only.is_none_or(|only| bottle.metadata.backend == only));
    for bottle in &survey.abandoned {
        bottle.ledger.iter().for_each(|ledger| services.keep_ledger(&bottle.identity, ledger.clone()));
    }
    let places = places(names, &survey.abandoned);
    let planned = plan(&places, &survey, args.foreign, &paths, &services, &cancel);
    // A backend that is not there does not hide what the others have left; having left something itself, it is a failure.
    let mut failed = places.iter().zip(&planned).any(|(place, plan)| plan.is_none() && !place.entries.is_empty());
    let silent = places.iter().zip(&planned).filter(|(_, plan)| plan.is_none());
    let silent: Vec<&str> = silent.map(|(place, _)| place.backend.as_str()).collect();
    let mut plans: Vec<Planned> = planned.into_iter().flatten().collect();
    let others: Vec<Planned> = plans.iter_mut().map(Planned::take_unlabelled).collect();
    let (rows, other_rows) = (rows(&paths, &plans, &survey.abandoned), rows(&paths, &others, &[]));
    if args.json {
        let (foreign, silent) = (survey.foreign.as_slice(), silent.clone());
        ui::json(&Listing { version: 1, leftovers: &rows, foreign, silent, unlabelled: &other_rows })?;
    } else if !rows.is_empty() {
        show(&rows)?;
    }
    if !survey.foreign.is_empty() {
        ui::say(format!("of another machine or user, and left alone: {}", survey.foreign.join(", ")));
        ui::say("hint: `bottle cleanup --foreign` takes them, and what other owners have on the engines, too");
    }
    if !survey.kept.is_empty() {
        let at = paths.short(&paths.state());
        ui::say(format!("work that is kept, and left alone: {}; it is in {at}", survey.kept.join(", ")));
    }
    if survey.abandoned.iter().any(|bottle| !bottle.entries().is_empty() && !bottle.is_preserved()) {
        ui::say("what their agents made is saved first, where they still run");
    }
    if rows.is_empty() {
        ui::say(match silent.as_slice() {
            [] => "nothing to clean up",
            _ => "nothing to clean up on the backends that answered",
        });
    } else if !args.dry_run {
        if !args.yes && !ui::confirm("remove all of this?", &cancel)? {
            ui::say("aborted by user");
            return Ok(0);
        }
        let lost = rescue::save(&survey.abandoned, &paths, &services, &cancel);
        if !lost.is_empty() && !args.unsaved {
            // They count as alive: everything else can go.
            survey.abandoned.retain(|bottle| !lost.contains(&bottle.identity));
            survey.live.extend(lost.iter().cloned());
            plans = plan(
                &self::places(discover::names(only)?, &survey.abandoned),
                &survey,
                args.foreign,
                &paths,
                &services,
                &cancel,
            )
            .into_iter()
            .flatten()
            .collect();
            ui::say(format!("left alone: {}", lost.join(", ")));
            ui::say("hint: mend what the warnings name, or let the work go: `bottle cleanup --unsaved`");
            failed = true;
        }
        failed |= !remove(plans, survey.abandoned);
    }
    if !other_rows.is_empty() {
        failed |= !remove_unlabelled(args, others, &other_rows, &cancel)?;
    }
    Ok(u8::from(failed))
}

/// Removes what bottles have left, then the states of those that have nothing left. `false` where something is.
fn remove(plans: Vec<Planned>, abandoned: Vec<Abandoned>) -> bool {
    let (mut all, mut forgotten) = (execute(plans), 0);
    for bottle in abandoned {
        if bottle.entries().is_empty() {
            match bottle.remove() {
                Ok(()) => forgotten += 1,
                Err(error) => {
                    all = false;
                    ui::warn(format!("{error:#}"));
                }
            }
        } else {
            all = false;
            ui::warn(format!("the state of {} is kept: things of it are left", bottle.identity));
        }
    }
    match all {
        true => ui::say(format!("cleaned up; {} forgotten", ui::count(forgotten, "bottle"))),
        false => {
            ui::say("not all of it could be removed; mend what the warnings name, then run `bottle cleanup` again")
        }
    }
    all
}

/// What is only named like a bottle's may be anybody's, and in use: it goes by a word of its own alone.
fn remove_unlabelled(args: &Cleanup, others: Vec<Planned>, rows: &[Row], cancel: &Cancellation) -> Result<bool> {
    ui::say("named like a bottle's, without its labels: another program's (the Python claude-bottle's?), maybe in use");
    if !args.json {
        show(rows)?;
    }
    let agreed = match (args.dry_run, args.yes) {
        (true, _) => false,
        (false, true) => args.unlabelled,
        (false, false) => ui::can_ask() && ui::confirm("remove these, too?", cancel)?,
    };
    if !agreed {
        ui::say("hint: left alone; `bottle cleanup --yes --unlabelled` takes them, too");
        return Ok(true);
    }
    let all = execute(others);
    if all {
        ui::say(format!("removed {}", ui::count(rows.len(), "unlabelled thing")));
    }
    Ok(all)
}

/// What a backend's engine of today has that is only named like a bottle's.
fn unlabelled(backend: &Backend, paths: &Paths, cancel: &Cancellation) -> Result<Vec<Part>> {
    let req =
        CleanupRequest { unlabelled: true, owner: paths.owner(), env: backend.env(), ..CleanupRequest::default() };
    let cleanup = backend.prepare_cleanup(&req, cancel.fd())?;
    let items = cleanup.items()?;
    // A backend that does not know the request would answer another one.
    Ok(if items.iter().all(|item| item.unlabelled) { vec![(cleanup, items)] } else { vec![] })
}

/// A backend that may have left something, with each setting of the host's variables that it was used with.
struct Place {
    backend: String,
    /// What the ledgers of abandoned bottles say, by the variables of each.
    entries: Vec<(BTreeMap<String, String>, Vec<LedgerEntry>)>,
}

/// What a backend would remove, one after another: one engine may be reached by several settings.
struct Planned {
    backend: String,
    parts: Vec<Part>,
    /// What is only named like a bottle's.
    unlabelled: Vec<Part>,
}

impl Planned {
    fn take_unlabelled(&mut self) -> Self {
        Self { backend: self.backend.clone(), parts: take(&mut self.unlabelled), unlabelled: vec![] }
    }
}

type Part = (plugin::Cleanup, Vec<CleanupItem>);

/// Every installed backend, and every one that an abandoned bottle was started on: it may not be installed any more.
fn places(names: Vec<String>, abandoned: &[Abandoned]) -> Vec<Place> {
    let mut places: Vec<Place> = names.into_iter().map(|backend| Place { backend, entries: vec![] }).collect();
    for bottle in abandoned.iter().filter(|bottle| !bottle.entries().is_empty()) {
        let (name, env) = (&bottle.metadata.backend, &bottle.metadata.env);
        let at = places.iter().position(|place| place.backend == *name).unwrap_or_else(|| {
            places.push(Place { backend: name.clone(), entries: vec![] });
            places.len() - 1
        });
        let known = &mut places[at].entries;
        match known.iter_mut().find(|(of, _)| of == env) {
            Some((_, entries)) => entries.extend(bottle.entries()),
            None => known.push((env.clone(), bottle.entries())),
        }
    }
    places
}

/// Asks every backend at once. `None` for one that cannot say: a warning has said why.
fn plan(
    places: &[Place],
    survey: &Survey,
    foreign: bool,
    paths: &Paths,
    services: &Arc<Services>,
    cancel: &Cancellation,
) -> Vec<Option<Planned>> {
    let ask = |place: &Place| -> Result<Planned> {
        let backend = plugin::select(&place.backend, services)?;
        let now = backend.env();
        let mut entries = place.entries.clone();
        if !entries.iter().any(|(env, _)| *env == now) {
            entries.push((now.clone(), vec![]));
        }
        let mut parts = vec![];
        for (env, entries) in entries {
            // Without `--foreign` what is another's counts as alive.
            let (live, owner) = ([survey.live.clone(), survey.foreign.clone()].concat(), paths.owner());
            let keep = state::images(paths);
            // Beyond the ledgers' entries only the engine that is in use now is searched.
            let req = CleanupRequest {
                entries,
                sweep: env == now,
                foreign,
                live,
                keep,
                owner,
                env,
                ..CleanupRequest::default()
            };
            let (needed, asked) = (!req.entries.is_empty(), prepare(&backend, req, paths, &survey.abandoned, cancel));
            match asked.and_then(|cleanup| Ok((cleanup.items()?, cleanup))) {
                Ok((items, cleanup)) => parts.push((cleanup, items)),
                // Today's engine does not answer, and is not the one in question.
                Err(error) if !needed && !place.entries.is_empty() => warn_silent(&place.backend, &error),
                Err(error) => return Err(error),
            }
        }
        // An engine that does not answer has been complained of.
        let unlabelled = unlabelled(&backend, paths, cancel).unwrap_or_default();
        Ok(Planned { backend: place.backend.clone(), parts, unlabelled })
    };
    let ask = |place: &Place| ask(place).inspect_err(|error| warn_silent(&place.backend, error)).ok();
    thread::scope(|scope| {
        let asked: Vec<_> = places.iter().map(|place| scope.spawn(|| ask(place))).collect();
        asked.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    })
}

fn warn_silent(backend: &str, error: &anyhow::Error) {
    ui::warn_of(format!("the backend {backend} cannot say what it left"), error);
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
        let mut now = state::survey(paths, false)?.live;
        now.retain(|identity| !held.iter().any(|bottle| bottle.identity == *identity));
        if now.iter().all(|identity| req.live.contains(identity)) {
            return Ok(plan);
        }
        req.live.extend(now);
    }
}

/// One engine may be two places, by variables that do not matter to it: each thing is shown once.
fn rows(paths: &Paths, plans: &[Planned], abandoned: &[Abandoned]) -> Vec<Row> {
    let mut shown = HashSet::new();
    let parts = plans.iter().flat_map(|plan| plan.parts.iter().map(|(_, items)| (&plan.backend, items)));
    let items = parts.flat_map(|(backend, items)| items.iter().map(move |item| (backend, item)));
    let mut rows: Vec<Row> = items
        .filter(|(backend, item)| !item.id.is_empty() && shown.insert(((*backend).clone(), item.id.clone())))
        .map(|(backend, item)| Row {
            backend: backend.clone(),
            identity: item.identity.clone(),
            kind: item.kind.clone(),
            name: item.name.clone(),
            foreign: item.foreign,
        })
        .collect();
    rows.extend(abandoned.iter().map(|bottle| {
        // Work stays. What its launch has left is forgotten, or nobody could resume it.
        let (kind, below) = if bottle.is_preserved() { ("ledger", state::LEDGER) } else { ("state", "") };
        let path: PathBuf = paths.state().join(&bottle.identity).join(below).components().collect();
        Row {
            backend: bottle.metadata.backend.clone(),
            identity: bottle.identity.clone(),
            kind: kind.into(),
            name: paths.short(&path),
            foreign: bottle.metadata.holder.is_foreign(),
        }
    }));
    rows
}

/// Removes what was planned, on all backends at once. `false` where something is left; a warning has named it.
fn execute(plans: Vec<Planned>) -> bool {
    let remove = |plan: Planned| {
        let mut all = true;
        for (cleanup, _) in plan.parts {
            match cleanup.execute(DEADLINE) {
                Ok(outcome) => {
                    let said = |(item, why): &(CleanupItem, String)| {
                        ui::warn(format!("the {} {} is left: {why}", item.kind, item.name));
                    };
                    outcome.left.iter().for_each(said);
                    all &= outcome.left.is_empty();
                }
                Err(error) => {
                    ui::warn_of(format!("clean up on {}", plan.backend), &error);
                    all = false;
                }
            }
        }
        all
    };
    thread::scope(|scope| {
        let removals: Vec<_> = plans.into_iter().map(|plan| scope.spawn(|| remove(plan))).collect();
        // All are waited for, whatever one says.
        removals.into_iter().map(|thread| thread.join().unwrap_or(false)).filter(|all| !all).count() == 0
    })
}

fn show(rows: &[Row]) -> Result<()> {
    let identity = |r: &Row| if r.foreign { format!("{} (foreign)", r.identity) } else { r.identity.clone() };
    let cells = |r: &Row| vec![r.backend.clone(), identity(r), r.kind.clone(), r.name.clone()];
    ui::table(&["BACKEND", "IDENTITY", "KIND", "NAME"], &rows.iter().map(cells).collect::<Vec<_>>())
}
