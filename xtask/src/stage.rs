//! `cargo xtask stage`: a debug build, laid out like a package, for tests and demo. The host has its fault points; the
//! sidecar is optimised, because it is copied into every bottle.

use crate::run::{artifact, build, cargo, host_target, install, output, root};
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Backends that come with bottle.
pub(crate) const BACKENDS: [&str; 2] = ["docker", "smolmachines"];

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
    second_backend()
}

/// The sidecar as one static program: `--target` keeps the flag away from build scripts and macros.
pub(crate) fn sidecar(profile: &str) -> Result<PathBuf> {
    let (triple, _) = host_target()?;
    let args = ["--profile", profile, "--target", &triple];
    let mut flags = "-C target-feature=+crt-static".to_owned();
    if profile != "dist" {
        flags += " -C strip=symbols";
    }
    artifact(&build("bottle-sidecar", &args, &flags)?, "bottle-sidecar")
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
