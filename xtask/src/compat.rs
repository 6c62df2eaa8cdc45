//! `cargo xtask compat`: hosts and plugins of other versions, for the compatibility matrix (`tests/compat.rs`).
//!
//! Each is built from a tree of its own below `target/compat`: a copy of the crates that it needs, edited as text. 1.1 is
//! this very version with one verb appended to every object, and one field to what a backend says of itself.

use crate::run::{cargo, install, root, run};
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

/// The adapter's: the ABI's verb calls the author's.
macro_rules! forward {
    ($object:literal) => {
        concat!(
            "    fn appended(&self, _: JsonRef<'_>) -> AbiResult<JsonBuf> {\n        guard(|| to_json(&",
            $object,
            ".appended()?))\n    }"
        )
    };
}

/// A tree, and what is built from it.
struct Tree {
    /// Its directory's name, and its plugin's.
    name: &'static str,
    edit: fn(&str, String) -> Result<String>,
    /// A host, beside the plugin?
    host: bool,
    features: &'static [&'static str],
    /// As another author would build it: for size, with an older lockfile.
    otherwise: bool,
}

const TREES: [Tree; 4] = [
    Tree { name: "compat_1_0", edit: unchanged, host: true, features: &[], otherwise: false },
    Tree { name: "compat_1_1", edit: appended, host: true, features: &["--features", "v1_1"], otherwise: false },
    Tree { name: "compat_small", edit: unchanged, host: false, features: &[], otherwise: true },
    Tree { name: "compat_changed", edit: changed, host: false, features: &[], otherwise: false },
];

/// Builds all of them into `target/compat`.
pub(crate) fn compat() -> Result<()> {
    TREES.iter().try_for_each(|tree| build(tree).with_context(|| format!("build {}", tree.name)))
}

fn build(tree: &Tree) -> Result<()> {
    let compat = root().join("target/compat");
    let place = compat.join(tree.name);
    let mut members = vec!["bottle-api", "compat/plugin"];
    if tree.host {
        members.extend(["bottle-host", "backends/policy", "backends/scan", "compat/host"]);
    }
    let (plugin, host) = (format!("bottle_backend_{}", tree.name), tree.name.replace("compat", "host"));
    // Cargo puts what it builds under its own name, whichever tree it is from.
    let named = |text: String| {
        let text = text.replace("\"compat\"", &format!("\"{}\"", tree.name)).replace("bottle_backend_compat", &plugin);
        text.replace("compat-host", &host)
    };
    for member in &members {
        let from = root().join(member.replace("compat/", "tests/compat/"));
        copy(&from, &place, member, &|file, text| (tree.edit)(file, named(text)))?;
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let (_, rest) = manifest.split_once("\n]\n").context("the workspace's members")?;
    let manifest = format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}\n{rest}");
    write(&place.join("Cargo.toml"), &(tree.edit)("Cargo.toml", manifest)?)?;
    // Cargo leaves out what the tree does not need; that is no reason to start from the whole lock again.
    let lock = root().join(if tree.otherwise { "tests/compat/older.lock" } else { "Cargo.lock" });
    if !place.join("Cargo.lock").exists() || newer(&lock, &place.join("Cargo.lock"))? {
        fs::copy(&lock, place.join("Cargo.lock"))?;
    }

    let target = root().join("target");
    let mut command = cargo();
    command.current_dir(&place).args(["build", "--quiet"]).arg("--target-dir").arg(&target).args(tree.features);
    if tree.otherwise {
        command.args(["--config", "profile.dev.opt-level=\"z\""]);
    }
    run(&mut command)?;
    let library = format!("lib{plugin}.so");
    install(&target.join("debug").join(&library), &compat.join(&library))?;
    if tree.host {
        install(&target.join("debug").join(&host), &compat.join(&host))?;
    }
    Ok(())
}

/// Copies a crate to its path below `place`, each of its texts through an edit, and leaves alone what is already so.
fn copy(from: &Path, place: &Path, path: &str, edit: &dyn Fn(&str, String) -> Result<String>) -> Result<()> {
    fs::create_dir_all(place.join(path))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("{path}/{name}");
        if entry.is_dir() && name != "target" {
            copy(&entry, place, &path, edit)?;
        } else if let Ok(text) = fs::read_to_string(&entry) {
            let text = if name == "Cargo.toml" { without_tests(&text) } else { text };
            write(&place.join(&path), &edit(&path, text).with_context(|| path.clone())?)?;
        }
    }
    Ok(())
}

/// A manifest without what only tests need: an older lockfile does not know of it.
fn without_tests(manifest: &str) -> String {
    let Some((own, tests)) = manifest.split_once("\n[dev-dependencies]") else { return manifest.to_owned() };
    tests.split_once("\n[").map_or(own.to_owned(), |(_, rest)| format!("{own}\n[{rest}"))
}

fn write(file: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(file).is_ok_and(|same| same == text) {
        return Ok(());
    }
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

fn newer(file: &Path, than: &Path) -> Result<bool> {
    Ok(fs::metadata(file)?.modified()? > fs::metadata(than)?.modified()?)
}

fn unchanged(_: &str, text: String) -> Result<String> {
    Ok(text)
}

/// 1.0 as somebody changed it who did not append: no version tells.
fn changed(file: &str, mut text: String) -> Result<String> {
    if file == "bottle-api/src/abi.rs" {
        append(&mut text, "pub struct AbiStdio {", "    pub pty: i32,")?;
    }
    Ok(text)
}

/// 1.1: a verb appended to every object, a field to what a backend says of itself, a setting that must be understood.
fn appended(file: &str, mut text: String) -> Result<String> {
    for (_, head, lines) in APPENDED.iter().filter(|(path, ..)| *path == file) {
        append(&mut text, head, lines)?;
    }
    for (_, from, to) in REPLACED.iter().filter(|(path, ..)| *path == file) {
        ensure!(text.contains(from), "there is no `{from}`");
        text = text.replacen(from, to, 1);
    }
    Ok(text)
}

const REPLACED: [(&str, &str, &str); 2] = [
    ("Cargo.toml", "\nversion = \"1.0.0\"\n", "\nversion = \"1.1.0\"\n"),
    ("bottle-api/src/spec.rs", "API_FEATURES: &[&str] = &[", "API_FEATURES: &[&str] = &[\"appended\", "),
];

/// File, the beginning of a block in it, and what is appended to that block.
const APPENDED: [(&str, &str, &str); 18] = [
    ("bottle-api/src/abi.rs", "pub trait HostServices:", ABI),
    ("bottle-api/src/abi.rs", "pub trait BottleBackend:", ABI),
    ("bottle-api/src/abi.rs", "pub trait BottlePlan:", ABI),
    ("bottle-api/src/abi.rs", "pub trait BottleCleanupPlan:", ABI),
    ("bottle-api/src/abi.rs", "pub trait BottleHandle:", ABI),
    ("bottle-api/src/abi.rs", "pub trait BottleProcess:", ABI),
    ("bottle-api/src/adapter.rs", "abi::BottleBackend for", forward!("self.0")),
    ("bottle-api/src/adapter.rs", "abi::BottlePlan for", forward!("self.0.1")),
    ("bottle-api/src/adapter.rs", "abi::BottleCleanupPlan for", forward!("self.0.1")),
    ("bottle-api/src/adapter.rs", "abi::BottleHandle for", forward!("self.bottle")),
    ("bottle-api/src/adapter.rs", "abi::BottleProcess for", forward!("self.0")),
    ("bottle-api/src/backend.rs", "pub trait Backend:", AUTHOR),
    ("bottle-api/src/backend.rs", "pub trait Plan:", AUTHOR),
    ("bottle-api/src/backend.rs", "pub trait CleanupPlan:", AUTHOR),
    ("bottle-api/src/backend.rs", "pub trait Bottle:", AUTHOR),
    ("bottle-api/src/backend.rs", "pub trait Process:", AUTHOR),
    ("bottle-api/src/host.rs", "impl Host {", HOST),
    ("bottle-api/src/spec.rs", "pub struct BackendInfo {", "    /// New.\n    pub appended: String,"),
];

const ABI: &str = "    fn appended(&self, _req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        abi_stable::std_types::RErr(crate::Error::unsupported(\"the appended verb\").into())
    }";
const AUTHOR: &str = "    /// New.
    fn appended(&self) -> Result<String> {
        Err(Error::unsupported(\"the appended verb\"))
    }";
const HOST: &str = "    /// New.
    pub fn appended(&self) -> Result<String> {
        let answer = done(self.0.appended(b\"{}\".as_slice().into()))?;
        Ok(serde_json::from_slice(&answer)?)
    }";
/// Puts lines at the end of the block that begins with `head`.
fn append(text: &mut String, head: &str, lines: &str) -> Result<()> {
    let begin = text.find(head).with_context(|| format!("there is no `{head}`"))?;
    let end = text[begin..].find("\n}").with_context(|| format!("`{head}` has no end"))?;
    text.insert_str(begin + end, &format!("\n{lines}"));
    Ok(())
}
