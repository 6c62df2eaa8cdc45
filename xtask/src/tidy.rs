//! `cargo xtask tidy`: the invariants of `docs/ARCHITECTURE.md` that can be read off the text.

use crate::run::{output, root};
use anyhow::{Result, bail};
use std::{fs, process::Command};

const MAX_LINES: usize = 500;
/// Where `unsafe` may stand.
const UNSAFE_ROOMS: [&str; 3] = ["bottle-api/src/", "bottle-host/src/plugin/", "backends/namespace/"];
/// Crates that a directory's crate may not depend on: knowledge flows one way.
const FORBIDDEN: [(&str, &[&str]); 10] = [
    ("bottle-api/Cargo.toml", &["bottle-"]),
    ("backends/policy/Cargo.toml", &["bottle-"]),
    ("backends/scan/Cargo.toml", &["bottle-"]),
    ("backends/gate/Cargo.toml", &["bottle-host", "bottle-api", "bottle-kit", "bottle-sidecar", "tokio"]),
    ("backends/kit/Cargo.toml", &["bottle-host", "bottle-policy", "bottle-backend"]),
    ("backends/docker/Cargo.toml", &["bottle-host", "bottle-policy"]),
    // One client of the engine, in the kit.
    ("backends/smolmachines/Cargo.toml", &["bottle-host", "bottle-policy", "bollard", "hyper"]),
    ("backends/namespace/Cargo.toml", &["bottle-host", "bottle-policy", "bottle-kit", "bollard", "hyper", "tokio"]),
    ("backends/namespace/launcher/Cargo.toml", &["bottle-host", "bottle-policy", "bottle-kit", "tokio"]),
    ("bottle-host/Cargo.toml", &["bottle-kit", "bottle-backend", "bollard"]),
];
/// The policy decision does no I/O: all that its crate may depend on.
const POLICY_MAY_USE: [&str; 1] = ["serde"];
/// What a backend never does by itself: print, read the environment, install handlers (tests excepted).
const BACKEND_NEVER: [&str; 8] =
    ["print!", "println!", "io::stdout", "io::stderr", "env::var", "use std::env", "signal_hook", "tokio::signal"];

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
    check_invariants(&files, &mut found)?;
    for (manifest, never) in FORBIDDEN {
        let dependencies = dependencies(manifest)?;
        for line in dependencies.lines().filter(|line| never.iter().any(|n| line.starts_with(n))) {
            found.push(format!("{manifest}: must not depend on {line}"));
        }
    }
    for line in
        dependencies("backends/policy/Cargo.toml")?.lines().filter(|line| line.contains('=') || line.contains('.'))
    {
        if !POLICY_MAY_USE.iter().any(|name| line.starts_with(name)) {
            found.push(format!("backends/policy/Cargo.toml: must not depend on {line}"));
        }
    }
    if !found.is_empty() {
        bail!("not tidy:\n  {}", found.join("\n  "));
    }
    Ok(())
}

/// Every test that ARCHITECTURE.md names as holding an invariant is there.
fn check_invariants(files: &str, found: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md"))?;
    let sources: Vec<String> = files
        .lines()
        .filter(|file| file.ends_with(".rs"))
        .filter_map(|file| fs::read_to_string(root().join(file)).ok())
        .collect();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.rsplit_once(" | "));
    let named = rows.flat_map(|(_, held_by)| held_by.split('`').skip(1).step_by(2)).filter(|name| name.contains("::"));
    for name in named {
        // `module::test`, `module::beginning_…`, `module::*`.
        let (module, test) = name.rsplit_once("::").unwrap_or_default();
        let own = module.rsplit("::").next().filter(|own| *own != "tests" && *own != "bottle_api").unwrap_or_default();
        let begins = test.split(['…', '*']).next().unwrap_or_default();
        let there = |text: &String| text.contains(&format!("fn {begins}")) || begins == "tests" || begins == own;
        let has_module =
            files.lines().any(|file| file.contains(&format!("{own}.rs")) || file.contains(&format!("{own}/")));
        if !(has_module && (begins.is_empty() || sources.iter().any(there))) {
            found.push(format!("docs/ARCHITECTURE.md: there is no {name}"));
        }
    }
    Ok(())
}

/// The `[dependencies]` of a manifest; not those of its tests.
fn dependencies(manifest: &str) -> Result<String> {
    let text = fs::read_to_string(root().join(manifest))?;
    let rest = text.split_once("[dependencies]").map_or("", |(_, rest)| rest);
    Ok(rest.split_once("\n[").map_or(rest, |(own, _)| own).to_owned())
}

fn check_source(file: &str, text: &str, found: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{file}: {lines} lines, {MAX_LINES} at most"));
    }
    if !text.lines().take(3).any(|line| line.starts_with("//!")) {
        found.push(format!("{file}: no `//!` head"));
    }
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let begins = ["{", "fn", "impl", "extern"].map(|next| format!("{} {next}", "unsafe"));
    let has_unsafe = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(|line| begins.iter().any(|begin| line.contains(begin)));
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
