//! The backend of machines where there is no smolvm, or one that does not do: what is missing, and what to type.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::Result;
use bottle_tests::bottle::Home;
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

const DRY_RUN: [&str; 5] = ["--backend", "smolmachines", "start", "dev", "--dry-run"];
const INSTALL: &str =
    "Install it: `curl -sSL https://smolmachines.com/install.sh | bash`; or name it: SMOLVM=/path/to/smolvm.";

/// A program that answers nothing but its version.
fn smolvm(home: &Home, version: &str) -> Result<String> {
    home.write("bin/smolvm", &format!("#!/bin/sh\necho '{version}'\n"))?;
    let file = home.path().join("bin/smolvm");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file.display().to_string())
}

#[test]
fn a_start_says_what_is_missing_and_what_to_type() -> Result<()> {
    let home = Home::bare()?;
    let old = smolvm(&home, "smolvm 1.9.3")?;
    for (set, found, hint) in [
        (None, "no smolvm is installed: no program of that name is in a directory of PATH", INSTALL),
        (Some(old.as_str()), "is smolvm 1.9.3; bottle needs 1.14 or newer", INSTALL),
        (Some("/nowhere/smolvm"), "SMOLVM=/nowhere/smolvm names no program", "Name it whole, SMOLVM=/path/to/smolvm"),
        (Some("smolvm"), "SMOLVM=smolvm names no program", "Name it whole, SMOLVM=/path/to/smolvm"),
        (Some("/bin/true"), "it says ``", INSTALL),
    ] {
        let mut command = home.command(&DRY_RUN);
        command.env("PATH", "/usr/bin:/bin").envs(set.map(|program| ("SMOLVM", program)));
        let run: bottle_tests::bottle::Run = command.output()?.into();
        assert_ne!(run.code, Some(0), "{run:?}");
        assert!(run.stderr.contains(found) && run.stderr.contains(hint), "{set:?}: {run:?}");
        assert!(home.identities().is_empty(), "{run:?}");
    }
    Ok(())
}

#[test]
fn doctor_has_a_row_for_each_need_and_nothing_else_complains() -> Result<()> {
    let home = Home::bare()?;
    let run = |args: &[&str]| -> Result<bottle_tests::bottle::Run> {
        let mut command = home.command(&[&["--backend", "smolmachines"], args].concat());
        command.env("PATH", "/usr/bin:/bin").env("DOCKER_HOST", "unix:///nowhere/docker.sock");
        Ok(command.output()?.into())
    };
    let doctor = run(&["doctor", "--json"])?;
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    let json: Value = serde_json::from_str(&doctor.stdout)?;
    let row = |what: &str| json["findings"].as_array().unwrap().iter().find(|row| row["what"] == what).cloned();
    let smolvm = row("smolvm").unwrap();
    assert_eq!((&smolvm["ok"], &smolvm["hint"]), (&false.into(), &INSTALL.into()), "{json}");
    let engine = row("Docker engine, for the bundle").unwrap();
    assert!(engine["ok"] == false && engine["hint"].is_string(), "{json}");
    let kvm = row("KVM").unwrap();
    assert!(kvm["ok"] == true || kvm["hint"].is_string(), "{json}");
    assert!(kvm["ok"] == false || Path::new("/dev/kvm").exists(), "{json}");
    assert!(row("disk").is_some(), "{json}");
    // Where nothing of it is installed, nothing of it is left.
    for (args, said) in [(&["list", "active"][..], "no active bottles"), (&["cleanup", "--yes"], "nothing to clean up")]
    {
        let run = run(args)?;
        assert!(run.code == Some(0) && run.stderr.contains(said), "{args:?}: {run:?}");
        assert!(!run.stderr.contains("warning"), "{args:?}: {run:?}");
    }
    Ok(())
}
