//! `doctor`: what each backend needs, whether it is there, and what to type to get it.

use crate::{
    cli::Doctor,
    paths::Paths,
    plan::credential::ModelCredential,
    plugin::{self, Services, discover},
    signals::Cancellation,
    ui,
};
use anyhow::Result;
use bottle_api::Finding;
use serde::Serialize;
use std::thread;

/// `doctor --json`.
#[derive(Serialize)]
struct Findings<'a> {
    version: u32,
    findings: &'a [Row],
}

#[derive(Serialize)]
struct Row {
    backend: Option<String>,
    #[serde(flatten)]
    finding: Finding,
}

/// Runs `doctor`. The exit code is 1 where something is missing.
pub(super) fn run(backend: Option<&str>, args: &Doctor) -> Result<u8> {
    let (paths, services, cancel) = (Paths::from_env()?, Services::from_env(), Cancellation::install()?);
    let names = discover::names(backend)?;
    let ask = |name: &str| {
        let found = plugin::select(name, &services).and_then(|b| b.diagnose(&paths.owner(), cancel.fd()));
        found.map_or_else(|error| vec![of_error("plugin", &error)], |diagnosis| diagnosis.findings)
    };
    let mut rows = vec![Row { backend: None, finding: credential() }];
    thread::scope(|scope| {
        let asked: Vec<_> = names.iter().map(|name| (name, scope.spawn(|| ask(name)))).collect();
        for (name, thread) in asked {
            let findings = thread.join().unwrap_or_default().into_iter();
            rows.extend(findings.map(|finding| Row { backend: Some(name.clone()), finding }));
        }
    });
    let missing = rows.iter().any(|row| !row.finding.ok);
    if args.json {
        ui::json(&Findings { version: 1, findings: &rows })?;
        return Ok(u8::from(missing));
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let verdict = if row.finding.ok { "ok" } else { "MISSING" };
            let backend = row.backend.clone().unwrap_or_else(|| "-".into());
            vec![backend, row.finding.what.clone(), verdict.into(), row.finding.found.clone()]
        })
        .collect();
    ui::table(&["BACKEND", "NEEDS", "", "FOUND"], &cells)?;
    for row in rows.iter().filter(|row| !row.finding.ok) {
        if let Some(hint) = &row.finding.hint {
            ui::say(format!("{}: {hint}", row.finding.what));
        }
    }
    Ok(u8::from(missing))
}

fn credential() -> Finding {
    match ModelCredential::from_env() {
        Ok(kind) => Finding {
            what: "model credential".into(),
            ok: true,
            found: format!("${} is set", kind.host_variable()),
            hint: None,
        },
        Err(error) => of_error("model credential", &error),
    }
}

fn of_error(what: &str, error: &anyhow::Error) -> Finding {
    let hint = ui::hint_of(error).map(str::to_owned);
    Finding { what: what.into(), ok: false, found: format!("{error:#}"), hint }
}
