//! Backends are plugins: found by file name, vetted as files, loaded once and never unloaded.
//!
//! ```text
//! discover ─ which files? ─▶ vet ─ may this one run? ─▶ loader ─ does its ABI fit? ─▶ backend ─ its safe side
//! ```

pub mod backend;
mod call;
pub mod discover;
pub mod loader;
pub mod services;
pub mod vet;

pub use backend::{Backend, Bottle, Cleanup, Plan, Process};
pub use services::Services;

use crate::ui::hinted;
use anyhow::{Context, Result};
use std::{path::Path, sync::Arc};

/// The host's variable that names the backend.
pub const BACKEND_ENV: &str = "CLAUDE_BOTTLE_BACKEND";
const DEFAULT_BACKEND: &str = "docker";

/// The backend's name: the option's, over the variable's, over `docker`.
pub fn chosen_name(option: Option<&str>) -> String {
    let variable = std::env::var(BACKEND_ENV).ok().filter(|name| !name.is_empty());
    option.map(str::to_owned).or(variable).unwrap_or_else(|| DEFAULT_BACKEND.into())
}

/// Loads a backend by name. An unknown name lists the known ones.
pub fn select(name: &str, services: &Arc<Services>) -> Result<Backend> {
    let found = discover::discover();
    let Some(files) = found.get(name) else {
        let known: Vec<&str> = found.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none is installed".into() } else { known.join(", ") };
        return Err(hinted(
            format!("unknown backend `{name}`; known backends: {known}"),
            "Choose one with --backend or CLAUDE_BOTTLE_BACKEND; `bottle backends` shows where they are looked for.",
        ));
    };
    open(&files[0], services)
}

/// Vets, loads and creates the backend in a file.
pub fn open(path: &Path, services: &Arc<Services>) -> Result<Backend> {
    let vetted = vet::vet(path).with_context(|| format!("refuse to load {}", path.display()))?;
    let module = loader::load(&vetted).with_context(|| format!("load {}", path.display()))?;
    Backend::create(&vetted.name(), module, services).with_context(|| format!("start the backend {}", vetted.name()))
}
