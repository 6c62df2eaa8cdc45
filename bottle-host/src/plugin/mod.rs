//! Backends are plugins: found by file name, vetted as files, loaded once and never unloaded.
//!
//! ```text
//! discover ─ which files? ─▶ vet ─ may this one run? ─▶ probe ─ does it survive? ─▶ loader ─ does its ABI fit? ─▶
//! backend ─ its safe side
//! ```

pub mod backend;
mod call;
pub mod discover;
pub mod loader;
pub mod probe;
pub mod sealed;
pub mod services;
pub mod trust;
pub mod vet;

pub use backend::{Backend, Bottle, Cleanup, Plan, Process};
pub use services::Services;

use anyhow::{Context, Result};
use probe::Probe;
use std::{path::Path, sync::Arc};

/// The host's variable that names the backend.
pub const BACKEND_ENV: &str = "CLAUDE_BOTTLE_BACKEND";
const DEFAULT_BACKEND: &str = "docker";

/// The backend's name: the option's, over the variable's, over `docker`.
pub fn chosen_name(option: Option<&str>) -> String {
    let variable = std::env::var(BACKEND_ENV).ok().filter(|name| !name.is_empty());
    option.map(str::to_owned).or(variable).unwrap_or_else(|| DEFAULT_BACKEND.into())
}

/// Has anybody named a backend?
pub fn is_named(option: Option<&str>) -> bool {
    option.is_some() || std::env::var(BACKEND_ENV).is_ok_and(|name| !name.is_empty())
}

/// Loads a backend by name. An unknown name lists the known ones.
pub fn select(name: &str, services: &Arc<Services>) -> Result<Backend> {
    let found = discover::discover();
    let Some(files) = found.get(name) else { return Err(discover::unknown(name, &found)) };
    open(&files[0], services)
}

/// Vets, loads and creates the backend in a file. A child loads it first: what ends or hangs the process that loads it
/// is an error here, like any other. Both vet it, at the same time.
pub fn open(path: &Path, services: &Arc<Services>) -> Result<Backend> {
    let loading = || format!("load {}", path.display());
    let probe = Probe::begin(path).with_context(loading)?;
    let vetted = vet::vet(path).with_context(|| format!("refuse to load {}", path.display()))?;
    probe.finish().with_context(loading)?;
    start(vetted, services).with_context(loading)
}

/// Loads and creates a backend without a child going first: what the child does.
pub fn start(vetted: vet::Vetted, services: &Arc<Services>) -> Result<Backend> {
    let name = vetted.name.clone();
    Backend::create(&name, loader::load(vetted)?, services).context("start it")
}
