//! The package: its tarball, unpacked elsewhere, is all that is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bare::{Bare, Who, artifact},
    bottle::{Home, REAL_TOKEN, assert_nothing_left, contains, identity_in},
    lab::{Lab, output},
    standin::Standin,
    target::Target,
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
    let program = elsewhere.path().join("bin/bottle");
    let [docker, namespace] = [Target::Docker, Target::Namespace(Who::Root)];
    for (target, args, env) in [
        (docker, &["start", "dev", "--backend", "docker", "--yes", "--prompt", "hello"][..], &[][..]),
        (docker, &["start", "dev", "--yes", "--prompt", "hello"], &[("CLAUDE_BOTTLE_BACKEND", "docker")]),
        (namespace, &["start", "dev", "--yes", "--prompt", "hello"], &[]),
    ] {
        let home = Home::on(target, lab, &authority, &standin)?.with_program(program.clone());
        let run = home.start(args, env)?.finish()?;
        assert_eq!((run.code, run.stdout.trim()), (Some(0), "stand-in: hello"), "{run:?}");
        assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)?;
    }
    Ok(())
}

#[test]
fn the_packaged_programs_have_no_fault_points_and_leave_no_defence_out() -> Result<()> {
    let lab = Lab::get();
    let elsewhere = tempfile::tempdir()?;
    output(
        Command::new("tar").arg("-xzf").arg(tarball(lab)?).args(["--strip-components=1", "-C"]).arg(elsewhere.path()),
    )?;
    let needle = b"CLAUDE_BOTTLE_FAULT";
    assert!(contains(&fs::read(lab.stage.join("bin/bottle"))?, needle), "the staged program should have them");
    assert!(!contains(&fs::read(elsewhere.path().join("bin/bottle"))?, needle));
    let open = artifact("bottle-namespace");
    let name = open.file_name().context("the launcher's name")?;
    for (launcher, filters) in [(open.clone(), "0"), (elsewhere.path().join("libexec/bottle").join(name), "2")] {
        let said = Bare::start_by_program(&launcher, &["seccomp"])?.sh("grep Seccomp: /proc/self/status")?;
        assert_eq!(said.stdout.trim(), format!("Seccomp:\t{filters}"), "{}", launcher.display());
    }
    Ok(())
}
