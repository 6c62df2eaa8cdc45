//! `backends`: the installed plugins. Their code runs only with `--probe`, in a process of its own.

use crate::{
    cli::Backends,
    plugin::{discover, probe, vet},
    ui,
};
use anyhow::{Result, anyhow};
use bottle_api::descriptor::Descriptor;
use serde::Serialize;
use std::path::Path;

/// The shape of `--json`; a new field leaves the number as it is.
const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Listing {
    version: u32,
    backends: Vec<Row>,
}

/// A file. What is not known of it is `null`.
#[derive(Serialize)]
struct Row {
    backend: String,
    version: Option<String>,
    api: Option<String>,
    file: String,
    /// `ok`, `shadowed`, `loads, …`, `refused: …` or `broken: …`.
    status: String,
    ok: bool,
    /// From the file to the backend, in microseconds; with `--probe`.
    load_micros: Option<u64>,
}

/// Runs `backends`. The exit code is 1 where a file cannot be used, or there is none.
pub(super) fn run(only: Option<&str>, args: &Backends) -> Result<u8> {
    let mut backends = vec![];
    let names = discover::names(only)?;
    for (name, files) in discover::discover().into_iter().filter(|(name, _)| names.contains(name)) {
        backends.extend(files.iter().enumerate().map(|(rank, file)| examine(&name, file, rank > 0, args.probe)));
    }
    let misnamed = || anyhow!("a backend's name is made of a-z, 0-9 and `_`, and its file's name is not");
    backends.extend(discover::misnamed().iter().map(|file| Row::new("-", file).failed("refused", &misnamed())));
    let code = u8::from(backends.is_empty() || backends.iter().any(|row| !row.ok));
    if args.json {
        ui::json(&Listing { version: JSON_VERSION, backends })?;
    } else if backends.is_empty() {
        ui::say("no backends; they are looked for in:");
        discover::search_path().iter().for_each(|dir| ui::say(format!("  {}", dir.display())));
    } else {
        let known = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".into());
        let cells: Vec<_> = backends
            .iter()
            .map(|r| vec![r.backend.clone(), known(&r.version), known(&r.api), r.file.clone(), r.status.clone()])
            .collect();
        ui::table(&["BACKEND", "VERSION", "API", "FILE", "STATUS"], &cells)?;
    }
    Ok(code)
}

impl Row {
    fn new(name: &str, file: &Path) -> Self {
        Self {
            backend: name.to_owned(),
            version: None,
            api: None,
            file: file.display().to_string(),
            status: "ok".into(),
            ok: true,
            load_micros: None,
        }
    }

    fn failed(self, how: &str, error: &anyhow::Error) -> Self {
        Self { status: format!("{how}: {error:#}"), ok: false, ..self }
    }
}

fn examine(name: &str, file: &Path, shadowed: bool, probe: bool) -> Row {
    let mut row = Row::new(name, file);
    let vetted = match vet::vet(file) {
        Ok(vetted) => vetted,
        Err(error) => return row.failed("refused", &error),
    };
    row.version = Some(Descriptor::text(&vetted.descriptor.version));
    row.api = Some(vetted.descriptor.api[..3].iter().map(u16::to_string).collect::<Vec<_>>().join("."));
    if shadowed {
        row.status = "shadowed".into();
    } else if probe {
        match probe::probe(file) {
            Ok(loaded) => {
                row.status = format!("loads, isolation {}", loaded.isolation);
                row.load_micros = Some(loaded.load_micros);
            }
            Err(error) => return row.failed("broken", &error),
        }
    }
    row
}
