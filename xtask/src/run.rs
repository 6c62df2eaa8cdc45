//! Running other programs, and knowing where things are.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// The cargo that runs this.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command; an error names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Runs a command; its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Builds one package and says where cargo has put its artifacts. One package at a time: features of one must not leak
/// into another, as they would not for a third party.
pub(crate) fn build(package: &str, args: &[&str], rustflags: &str) -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.args(["build", "--locked", "--message-format=json-render-diagnostics", "-p", package]).args(args);
    if !rustflags.is_empty() {
        command.env("RUSTFLAGS", rustflags);
    }
    let messages = output(&mut command)?;
    let mut files = vec![];
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let ours =
            message["package_id"].as_str().is_some_and(|id| id.contains(package) || id.ends_with(&short(package)));
        if message["reason"] == "compiler-artifact" && ours {
            let kept = message["filenames"].as_array().into_iter().flatten().chain([&message["executable"]]);
            files.extend(kept.filter_map(|file| file.as_str()).map(PathBuf::from));
        }
    }
    Ok(files)
}

/// Package ids name the directory where it is the package's own name.
fn short(package: &str) -> String {
    format!("/{}", package.rsplit('-').next().unwrap_or(package))
}

/// The built file of that name.
pub(crate) fn artifact(files: &[PathBuf], name: &str) -> Result<PathBuf> {
    let found = files.iter().find(|file| file.file_name().is_some_and(|n| n == name));
    found.cloned().with_context(|| format!("cargo built no {name} (but {files:?})"))
}

/// Copies a program to its place under a new inode: a loaded library that is written over ends its process.
pub(crate) fn install(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a directory")?)?;
    let draft = to.with_extension("new");
    fs::copy(from, &draft).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    fs::rename(&draft, to).with_context(|| format!("install {}", to.display()))
}

/// SHA-256 of a file, hexadecimal.
pub(crate) fn sha256(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    Ok(format!("{:x}", Sha256::digest(bytes)))
}

/// This machine's target triple and Debian's word for its processor.
pub(crate) fn host_target() -> Result<(String, &'static str)> {
    let said = output(Command::new("rustc").arg("-vV"))?;
    let triple = said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let arch = match triple.split('-').next() {
        Some("x86_64") => "amd64",
        Some("aarch64") => "arm64",
        _ => bail!("bottle runs on amd64 and arm64, not on {triple}"),
    };
    Ok((triple.to_owned(), arch))
}
