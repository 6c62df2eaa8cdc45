//! `cargo xtask compat`: hosts and plugins of other versions, for the compatibility matrix (`tests/compat.rs`).
//!
//! Each is built from a tree of its own below `target/compat`: a copy of the crates that it needs, edited as text. 1.1 is
//! this very version with one verb appended to every object, and one field to what a backend says of itself.

use crate::run::{cargo, install, root, run};
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};

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
        members.extend(["bottle-host", "backends/policy", "compat/host"]);
    }
    let (plugin, host) = (format!("bottle_backend_{}", tree.name), tree.name.replace("compat", "host"));
    // Cargo puts what it builds under its own name, whichever tree it is from.
    let named = |text: String| {
        let text = text.replace("\"compat\"", &format!("\"{}\"", tree.name)).replace("bottle_backend_compat", &plugin);
        text.replace("compat-host", &host)
    };
    for member in &members {
        let from = root().join(member.replace("compat/", "tests/compat/"));
        copy(&from, &place.join(member), &|file, text| (tree.edit)(file, named(text)))?;
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

/// Copies manifest, build script and sources, each through an edit, and leaves alone what is already so.
fn copy(from: &Path, to: &Path, edit: &dyn Fn(&str, String) -> Result<String>) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "tests" {
            copy(&path, &to.join(&*name), edit)?;
        } else if name.ends_with(".rs") || name.ends_with(".toml") {
            let mut text = fs::read_to_string(&path)?;
            if let Some((own, tests)) = text.split_once("\n[dev-dependencies]") {
                let rest = tests.split_once("\n[").map_or(String::new(), |(_, rest)| format!("\n[{rest}"));
                text = format!("{own}{rest}");
            }
            write(&to.join(&*name), &edit(&name, text).with_context(|| path.display().to_string())?)?;
        }
    }
    Ok(())
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
    if file == "abi.rs" {
        append(&mut text, "pub struct AbiStdio {", "    pub pty: i32,")?;
    }
    Ok(text)
}

/// 1.1: a verb appended to every object, a field to what a backend says of itself, a setting that must be understood.
fn appended(file: &str, mut text: String) -> Result<String> {
    let edits: &[(&str, &str)] = match file {
        "Cargo.toml" => {
            text = text.replace("\nversion = \"1.0.0\"\nedition", "\nversion = \"1.1.0\"\nedition");
            &[]
        }
        "abi.rs" => &[
            ("pub trait HostServices:", ABI),
            ("pub trait BottleBackend:", ABI),
            ("pub trait BottlePlan:", ABI),
            ("pub trait BottleCleanupPlan:", ABI),
            ("pub trait BottleHandle:", ABI),
            ("pub trait BottleProcess:", ABI),
        ],
        "adapter.rs" => &[
            (
                "abi::BottleBackend for",
                "    fn appended(&self, _: JsonRef<'_>) -> AbiResult<JsonBuf> {\n        guard(|| to_json(&self.0.appended()?))\n    }",
            ),
            (
                "abi::BottlePlan for",
                "    fn appended(&self, _: JsonRef<'_>) -> AbiResult<JsonBuf> {\n        guard(|| to_json(&self.0.1.appended()?))\n    }",
            ),
            (
                "abi::BottleCleanupPlan for",
                "    fn appended(&self, _: JsonRef<'_>) -> AbiResult<JsonBuf> {\n        guard(|| to_json(&self.0.1.appended()?))\n    }",
            ),
            (
                "abi::BottleHandle for",
                "    fn appended(&self, _: JsonRef<'_>) -> AbiResult<JsonBuf> {\n        guard(|| to_json(&self.bottle.appended()?))\n    }",
            ),
            (
                "abi::BottleProcess for",
                "    fn appended(&self, _: JsonRef<'_>) -> AbiResult<JsonBuf> {\n        guard(|| to_json(&self.0.appended()?))\n    }",
            ),
        ],
        "backend.rs" if text.contains("pub trait CleanupPlan") => &[
            ("pub trait Backend:", AUTHOR),
            ("pub trait Plan:", AUTHOR),
            ("pub trait CleanupPlan:", AUTHOR),
            ("pub trait Bottle:", AUTHOR),
            ("pub trait Process:", AUTHOR),
        ],
        "host.rs" => &[("impl Host {", HOST)],
        "spec.rs" => {
            ensure!(text.contains("API_FEATURES: &[&str] = &["), "no list of features");
            text = text.replace("API_FEATURES: &[&str] = &[", "API_FEATURES: &[&str] = &[\"appended\", ");
            &[("pub struct BackendInfo {", "    /// New.\n    pub appended: String,")]
        }
        _ => &[],
    };
    for (block, lines) in edits {
        append(&mut text, block, lines)?;
    }
    Ok(text)
}

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
