//! `backends`: the installed plugins. Their code runs only with `--probe`, in a process of its own.

use crate::{
    cli::Backends,
    plugin::{self, Services, discover, vet},
    ui,
};
use anyhow::{Context, Result};
use bottle_api::descriptor::Descriptor;
use serde::Serialize;
use std::{path::Path, process::Command};

#[derive(Serialize)]
struct Row {
    backend: String,
    version: String,
    api: String,
    file: String,
    status: String,
    ok: bool,
}

/// Runs `backends`. The exit code is 1 where a file that would be used cannot be.
pub(super) fn run(args: &Backends) -> Result<u8> {
    let mut rows = vec![];
    for (name, files) in discover::discover() {
        for (rank, file) in files.iter().enumerate() {
            rows.push(examine(&name, file, rank > 0, args.probe));
        }
    }
    let failed = rows.iter().any(|row| !row.ok);
    if args.json {
        ui::json(&rows)?;
        return Ok(u8::from(failed));
    }
    if rows.is_empty() {
        ui::say("no backends; they are looked for in:");
        discover::search_path().iter().for_each(|dir| ui::say(format!("  {}", dir.display())));
        return Ok(1);
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|r| vec![r.backend.clone(), r.version.clone(), r.api.clone(), r.status.clone(), r.file.clone()])
        .collect();
    ui::table(&["BACKEND", "VERSION", "API", "STATUS", "FILE"], &cells)?;
    Ok(u8::from(failed))
}

fn examine(name: &str, file: &Path, shadowed: bool, probe: bool) -> Row {
    let mut row = Row {
        backend: name.to_owned(),
        version: "-".into(),
        api: "-".into(),
        file: file.display().to_string(),
        status: String::new(),
        ok: true,
    };
    match vet::vet(file) {
        Err(error) => (row.status, row.ok) = (format!("refused: {error:#}"), false),
        Ok(vetted) => {
            let descriptor = &vetted.descriptor;
            row.version = Descriptor::text(&descriptor.version);
            row.api = descriptor.api[..3].iter().map(u16::to_string).collect::<Vec<_>>().join(".");
            row.status = if shadowed { "shadowed".into() } else { "ok".into() };
            if probe && !shadowed {
                (row.status, row.ok) = match probe_apart(file) {
                    Ok(said) => (said, true),
                    Err(error) => (format!("broken: {error:#}"), false),
                };
            }
        }
    }
    row
}

/// Loads the plugin in a child, so that whatever it does is one line here.
fn probe_apart(file: &Path) -> Result<String> {
    let output = Command::new(std::env::current_exe()?).arg("__probe").arg(file).env_clear().output()?;
    let last = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().lines().last().unwrap_or_default().to_owned();
    if output.status.success() {
        return Ok(last(&output.stdout));
    }
    anyhow::bail!("{} ({})", last(&output.stderr), output.status)
}

/// What the child does.
pub(super) fn probe(file: &Path) -> Result<u8> {
    let backend = plugin::open(file, &Services::from_env()).with_context(|| file.display().to_string())?;
    ui::table(&[&format!("loads, isolation {}", ui::printable(&backend.info.isolation))], &[])?;
    Ok(0)
}
