//! `cargo xtask stage`: a debug build, laid out like a package, for tests and demo. The host has its fault points; the
//! sidecar is optimised, because it is copied into every bottle.

use crate::run::{artifact, build, cargo, host_target, install, output, root};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Backends that come with bottle.
pub(crate) const BACKENDS: [&str; 3] = ["docker", "namespace", "smolmachines"];

/// Builds and lays out `target/stage`.
pub(crate) fn stage() -> Result<()> {
    let stage = root().join("target/stage");
    let host = build("bottle-host", &["--features", "fault-points", "--bin", "bottle"], "")?;
    install(&artifact(&host, "bottle")?, &stage.join("bin/bottle"))?;
    for name in BACKENDS {
        let files = build(&format!("bottle-backend-{name}"), &[], "")?;
        let file = format!("libbottle_backend_{name}.so");
        install(&artifact(&files, &file)?, &stage.join("lib/bottle/backends").join(&file))?;
    }
    // Where nothing looks for backends but the tests.
    let file = "libbottle_backend_scripted.so";
    let files = build("bottle-backend-scripted", &[], "")?;
    install(&artifact(&files, file)?, &root().join("target/scripted").join(file))?;
    let (_, arch) = host_target()?;
    install(&sidecar("release")?, &stage.join(format!("libexec/bottle/bottle-sidecar-{arch}")))?;
    install(&launcher("release", &[])?, &stage.join(format!("libexec/bottle/bottle-namespace-{arch}")))?;
    // Where nothing looks for artifacts but the tests that leave single defences out.
    let open = launcher("release", &["--features", "open-defences"])?;
    install(&open, &root().join(format!("target/open-defences/bottle-namespace-{arch}")))?;
    second_backend()
}

/// The sidecar.
pub(crate) fn sidecar(profile: &str) -> Result<PathBuf> {
    static_program("bottle-sidecar", profile, &[])
}

/// What makes bottles of namespaces.
pub(crate) fn launcher(profile: &str, features: &[&str]) -> Result<PathBuf> {
    static_program("bottle-namespace", profile, features)
}

/// One static program: `--target` keeps the flag away from build scripts and macros. In a directory of their own, they are
/// built beside what is dynamic.
fn static_program(package: &str, profile: &str, features: &[&str]) -> Result<PathBuf> {
    let (triple, _) = host_target()?;
    let dir = root().join("target/static").display().to_string();
    let target = ["--profile", profile, "--target", &triple, "--target-dir", &dir, "--bin", package];
    let args = [&target, features].concat();
    let mut flags = "-C target-feature=+crt-static".to_owned();
    if profile != "dist" {
        flags += " -C strip=symbols";
    }
    artifact(&build(package, &args, &flags)?, package)
}

/// The tests' second backend: a workspace and a lockfile of its own, as a third party's would be.
fn second_backend() -> Result<()> {
    let manifest = root().join("tests/second-backend/Cargo.toml");
    let target = root().join("target/second-backend");
    output(
        cargo()
            .args(["build", "--locked", "--quiet", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target),
    )?;
    let file = "libbottle_backend_second.so";
    let built = target.join("debug").join(file);
    install(&built, &root().join("target/second").join(file)).context("stage the second backend")
}
