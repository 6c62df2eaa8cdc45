//! The package: its tarball, unpacked elsewhere, is all that is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, assert_nothing_left, contains, identity_in},
    lab::{Lab, output},
    standin::Standin,
    wire::Authority,
};
use std::{fs, path::PathBuf, process::Command};

fn tarball(lab: &Lab) -> Result<PathBuf> {
    let entries = fs::read_dir(&lab.dist).context("no package: run `cargo xtask package` first")?;
    let tarballs = entries.flatten().map(|e| e.path()).filter(|p| p.to_string_lossy().ends_with(".tar.gz"));
    tarballs.max_by_key(|p| fs::metadata(p).and_then(|m| m.modified()).ok()).context("no tarball in dist/")
}

#[test]
fn the_unpacked_tarball_starts_a_bottle() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let elsewhere = tempfile::tempdir()?;
    output(
        Command::new("tar").arg("-xzf").arg(tarball(lab)?).args(["--strip-components=1", "-C"]).arg(elsewhere.path()),
    )?;
    output(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(elsewhere.path()))?;
    let home = Home::new(lab, &authority, &standin)?.with_program(elsewhere.path().join("bin/bottle"));
    for (args, env) in [
        (&["start", "dev", "--backend", "docker", "--yes", "--prompt", "hello"][..], &[][..]),
        (&["start", "dev", "--yes", "--prompt", "hello"], &[("CLAUDE_BOTTLE_BACKEND", "docker")]),
    ] {
        let run = home.start(args, env)?.finish()?;
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "stand-in: hello"), "{run:?}");
        assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)?;
    }
    Ok(())
}

#[test]
fn the_packaged_program_has_no_fault_points() -> Result<()> {
    let lab = Lab::get();
    let elsewhere = tempfile::tempdir()?;
    output(
        Command::new("tar").arg("-xzf").arg(tarball(lab)?).args(["--strip-components=1", "-C"]).arg(elsewhere.path()),
    )?;
    let needle = b"CLAUDE_BOTTLE_FAULT";
    assert!(contains(&fs::read(lab.stage.join("bin/bottle"))?, needle), "the staged program should have them");
    assert!(!contains(&fs::read(elsewhere.path().join("bin/bottle"))?, needle));
    Ok(())
}
