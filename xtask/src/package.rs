//! `cargo xtask package`: `dist/bottle-<version>-<target>.tar.gz` and `plugins/`, and proof that the packaged program
//! loads its own plugins.

use crate::{
    run::{artifact, build, cargo, host_target, install, output, root, run, sha256},
    stage::{BACKENDS, launcher, sidecar},
};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

const PROFILE: &str = "dist";
const PLUGIN_PROFILE: &str = "dist-plugin";
/// For whoever unpacks a package.
const SUMS: &str = "SHA256SUMS";
/// For bottle itself, beside plugins.
const LOCK: &str = "B3SUMS";

/// Builds the package; its tarball.
pub(crate) fn package() -> Result<PathBuf> {
    let (triple, arch) = host_target()?;
    let dist = root().join("dist");
    let name = format!("bottle-{}-{triple}", version()?);
    let tree = dist.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let backends = tree.join("lib/bottle/backends");
    // Whole programs are optimised by one thread each.
    let (dynamic, statics) = thread::scope(|scope| {
        let statics = scope.spawn(|| Ok::<_, anyhow::Error>((sidecar(PROFILE)?, launcher(PROFILE, &[])?)));
        (dynamic(), statics.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let ((host, plugins), (sidecar, launcher)) = (dynamic?, statics?);
    install(&host, &tree.join("bin/bottle"))?;
    for (file, built) in plugins {
        install(&built, &backends.join(&file))?;
        install(&built, &root().join("plugins").join(&file))?;
    }
    install(&sidecar, &tree.join(format!("libexec/bottle/bottle-sidecar-{arch}")))?;
    install(&launcher, &tree.join(format!("libexec/bottle/bottle-namespace-{arch}")))?;
    for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(root().join(file), tree.join(file)).with_context(|| format!("copy {file}"))?;
    }
    // The plugins' own list is a lock: what it does not name is not loaded.
    for dir in [&backends, &root().join("plugins")] {
        write_sums(dir, LOCK, |file| Ok(blake3::hash(&fs::read(file)?).to_hex().to_string()))?;
    }
    write_sums(&tree, SUMS, sha256)?;
    prove(&tree)?;
    let tarball = dist.join(format!("{name}.tar.gz"));
    pack(&dist, &name, &tarball)?;
    let sum = sha256(&tarball)?;
    fs::write(dist.join(format!("{name}.tar.gz.sha256")), format!("{sum}  {name}.tar.gz\n"))?;
    eprintln!("xtask: {} ({} bytes, sha256 {sum})", tarball.display(), fs::metadata(&tarball)?.len());
    Ok(tarball)
}

/// The host, and its plugins by their names.
fn dynamic() -> Result<(PathBuf, Vec<(String, PathBuf)>)> {
    let host = build("bottle-host", &["--profile", PROFILE, "--bin", "bottle"], "")?;
    let plugin = |backend: &&str| {
        let files = build(&format!("bottle-backend-{backend}"), &["--profile", PLUGIN_PROFILE], "")?;
        let file = format!("libbottle_backend_{backend}.so");
        Ok((file.clone(), artifact(&files, &file)?))
    };
    Ok((artifact(&host, "bottle")?, BACKENDS.iter().map(plugin).collect::<Result<_>>()?))
}

fn version() -> Result<String> {
    let id = output(cargo().args(["pkgid", "-p", "bottle-host"]))?;
    id.trim().rsplit(['@', '#']).next().map(str::to_owned).context("cargo pkgid names a version")
}

/// Lists every file below a directory, but for itself and what is not the package's.
fn write_sums(dir: &Path, name: &str, hash: fn(&Path) -> Result<String>) -> Result<()> {
    let (mut dirs, mut lines) = (vec![dir.to_owned()], vec![]);
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let inside = path.strip_prefix(dir)?.display().to_string();
            if path.is_dir() {
                dirs.push(path);
            } else if inside != name
                && (!inside.ends_with(".md") || inside.starts_with("README") && dir.join("bin").exists())
            {
                lines.push(format!("{}  {inside}\n", hash(&path)?));
            }
        }
    }
    lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
    Ok(fs::write(dir.join(name), lines.concat())?)
}

/// The packaged program, with an empty environment, must load every packaged plugin.
fn prove(tree: &Path) -> Result<()> {
    let mut command = Command::new(tree.join("bin/bottle"));
    let said = output(command.args(["backends", "--probe", "--json"]).env_clear().current_dir("/"))?;
    let listing: serde_json::Value = serde_json::from_str(&said)?;
    let loads = listing["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| Some((row, row["load_micros"].as_u64()?)));
    let loaded: Vec<_> = loads.collect();
    for (row, micros) in &loaded {
        eprintln!("xtask: {} is vetted, hashed and loaded in {micros} µs", row["backend"]);
    }
    ensure!(loaded.len() == BACKENDS.len(), "{} of {} packaged plugins load: {said}", loaded.len(), BACKENDS.len());
    Ok(())
}

fn pack(dist: &Path, name: &str, tarball: &Path) -> Result<()> {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| "0".into());
    let mtime = format!("--mtime=@{epoch}");
    let same = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar", "-I", "gzip -n9", &mtime];
    run(Command::new("tar").args(same).arg("-cf").arg(tarball).arg(name).current_dir(dist))
}
