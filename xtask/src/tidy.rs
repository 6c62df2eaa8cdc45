//! `cargo xtask tidy`: the invariants of `docs/ARCHITECTURE.md` that can be read off the text.

use crate::run::{output, root};
use anyhow::{Result, bail};
use std::{fs, process::Command};

const MAX_LINES: usize = 500;
/// Where `unsafe` may stand.
const UNSAFE_ROOMS: [&str; 3] = ["bottle-api/src/", "bottle-host/src/plugin/", "backends/namespace/"];
/// Crates that a directory's crate may not depend on: knowledge flows one way.
const FORBIDDEN: [(&str, &[&str]); 5] = [
    ("bottle-api/Cargo.toml", &["bottle-"]),
    ("backends/policy/Cargo.toml", &["bottle-"]),
    ("backends/kit/Cargo.toml", &["bottle-host", "bottle-policy", "bottle-backend"]),
    ("backends/docker/Cargo.toml", &["bottle-host", "bottle-policy"]),
    ("bottle-host/Cargo.toml", &["bottle-kit", "bottle-backend", "bollard"]),
];
/// What a backend never does by itself: print, read the environment, install handlers (tests excepted).
const BACKEND_NEVER: [&str; 6] =
    ["println!", "eprintln!", "std::env::var", "env::set_var", "signal_hook", "tokio::signal"];

/// Fails with every line that breaks one of them.
pub(crate) fn tidy() -> Result<()> {
    let files = output(
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root()),
    )?;
    let mut found = vec![];
    for file in files.lines().filter(|file| root().join(file).exists()) {
        if file.ends_with(".rs") {
            check_source(file, &fs::read_to_string(root().join(file))?, &mut found);
        }
    }
    for (manifest, never) in FORBIDDEN {
        let text = fs::read_to_string(root().join(manifest))?;
        let dependencies = text.split_once("[dependencies]").map_or("", |(_, rest)| rest);
        let dependencies = dependencies.split_once("\n[").map_or(dependencies, |(own, _)| own);
        for line in dependencies.lines().filter(|line| never.iter().any(|n| line.starts_with(n))) {
            found.push(format!("{manifest}: must not depend on {line}"));
        }
    }
    if !found.is_empty() {
        bail!("not tidy:\n  {}", found.join("\n  "));
    }
    Ok(())
}

fn check_source(file: &str, text: &str, found: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{file}: {lines} lines, {MAX_LINES} at most"));
    }
    if !text.lines().take(3).any(|line| line.starts_with("//!")) {
        found.push(format!("{file}: no `//!` head"));
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let has_unsafe = code.lines().any(|l| {
        !l.trim_start().starts_with("//")
            && (l.contains("unsafe {") || l.contains("unsafe fn") || l.contains("unsafe impl"))
    });
    if has_unsafe && !UNSAFE_ROOMS.iter().any(|room| file.starts_with(room)) {
        found.push(format!("{file}: unsafe code outside its rooms"));
    }
    let backend = ["backends/docker/", "backends/kit/", "backends/smolmachines/", "backends/namespace/"];
    if backend.iter().any(|dir| file.starts_with(dir)) {
        for never in BACKEND_NEVER.iter().filter(|never| code.contains(**never)) {
            found.push(format!("{file}: a backend never uses {never}"));
        }
    }
}
