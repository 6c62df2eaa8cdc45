//! `list`: the manifest's agents, or the bottles that run.

use crate::{
    cli::{List, ListWhat},
    manifest::Manifest,
    paths::Paths,
    plugin::{self, Services, discover},
    signals::Cancellation,
    state, ui,
};
use anyhow::Result;
use bottle_api::ActiveBottle;
use serde::Serialize;
use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// How long a backend may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Runs `list`.
pub(super) fn run(backend: Option<&str>, args: &List) -> Result<u8> {
    let paths = Paths::from_env()?;
    match args.what {
        ListWhat::Agents => agents(&paths, args.json),
        ListWhat::Active => active(backend, &paths, args.json),
    }
}

/// `list --json`.
#[derive(Serialize)]
struct Agents<'a> {
    version: u32,
    agents: &'a [AgentRow],
}

/// `list active --json`.
#[derive(Serialize)]
struct Active<'a> {
    version: u32,
    bottles: &'a [ActiveRow],
    /// Backends that did not answer, or not in time.
    silent: &'a [String],
}

#[derive(Serialize)]
struct AgentRow {
    agent: String,
    bottle: Option<String>,
    file: Option<String>,
    error: Option<String>,
    hint: Option<String>,
}

fn agents(paths: &Paths, json: bool) -> Result<u8> {
    let manifest = Manifest::load(paths)?;
    let rows: Vec<AgentRow> = manifest
        .agents()
        .map(|(name, _)| match manifest.resolve(paths, name) {
            Ok((agent, ..)) => AgentRow {
                agent: name.into(),
                bottle: Some(agent.fields.bottle.clone()),
                file: Some(agent.source.shown(paths)),
                error: None,
                hint: None,
            },
            Err(error) => {
                if !json {
                    ui::warn_of(name, &error);
                }
                let (error, hint) = (Some(format!("{error:#}")), ui::hint_of(&error).map(str::to_owned));
                AgentRow { agent: name.into(), bottle: None, file: None, error, hint }
            }
        })
        .collect();
    if json {
        ui::json(&Agents { version: 1, agents: &rows })?;
        return Ok(0);
    }
    if rows.is_empty() {
        ui::say(format!("no agents; write one: {}/NAME.md", paths.short(&paths.root().join("agents"))));
        return Ok(0);
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let cells: Vec<_> = rows.iter().map(|r| vec![r.agent.clone(), or_dash(&r.bottle), or_dash(&r.file)]).collect();
    ui::table(&["AGENT", "BOTTLE", "FILE"], &cells)?;
    Ok(0)
}

#[derive(Serialize)]
struct ActiveRow {
    backend: String,
    /// The process that started it is gone: `cleanup` removes it.
    abandoned: bool,
    #[serde(flatten)]
    bottle: ActiveBottle,
}

/// Asks every backend at once; one that is slow or broken is named and hides none of the others.
fn active(backend: Option<&str>, paths: &Paths, json: bool) -> Result<u8> {
    let services = Services::from_env();
    let cancel = Cancellation::install()?;
    let (answers, asked) = mpsc::channel();
    let names = discover::names(backend)?;
    for name in &names {
        let (name, services, owner) = (name.clone(), services.clone(), paths.owner());
        let (answers, cancel) = (answers.clone(), cancel.clone());
        thread::spawn(move || {
            let found = plugin::select(&name, &services).and_then(|b| b.list_active(&owner, cancel.fd()));
            let _ = answers.send((name, found));
        });
    }
    drop(answers);
    let live = state::survey(paths, false)?.live;
    let (mut rows, mut waiting, mut silent) = (vec![], names, vec![]);
    let deadline = Instant::now() + ANSWER_TIME;
    while let Ok((name, found)) = asked.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        waiting.retain(|waited| *waited != name);
        match found {
            Ok(bottles) => rows.extend(bottles.into_iter().map(|bottle| {
                let abandoned = !live.contains(&bottle.identity);
                ActiveRow { backend: name.clone(), abandoned, bottle }
            })),
            Err(error) => {
                ui::warn_of(format!("the backend {name}"), &error);
                silent.push(name);
            }
        }
    }
    for name in waiting {
        ui::warn(format!("the backend {name} did not answer within {} s", ANSWER_TIME.as_secs()));
        silent.push(name);
    }
    let failed = !silent.is_empty();
    rows.sort_by(|a, b| (&a.bottle.started, &a.bottle.identity).cmp(&(&b.bottle.started, &b.bottle.identity)));
    if json {
        ui::json(&Active { version: 1, bottles: &rows, silent: &silent })?;
    } else if rows.is_empty() {
        ui::say(if failed { "no active bottles on the backends that answered" } else { "no active bottles" });
    } else {
        let cells: Vec<_> = rows
            .iter()
            .map(|r| {
                let b = &r.bottle;
                let identity = if r.abandoned { format!("{} (abandoned)", b.identity) } else { b.identity.clone() };
                vec![r.backend.clone(), identity, b.agent.clone(), b.started.clone(), b.daemons.join(",")]
            })
            .collect();
        ui::table(&["BACKEND", "IDENTITY", "AGENT", "STARTED", "DAEMONS"], &cells)?;
    }
    Ok(u8::from(failed))
}
