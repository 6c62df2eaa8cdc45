//! Two backends in one host: Docker's, and one that was built apart, with a workspace and a lockfile of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::Result;
use bottle_tests::{
    bottle::{Home, Run},
    lab::Lab,
    standin::Standin,
    wire::Authority,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn second_dir() -> PathBuf {
    Lab::get().stage.parent().map(|target| target.join("second")).unwrap_or_default()
}

fn home() -> Result<Home> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], "nobody asks")?;
    let home = Home::new(lab, &authority, &standin)?;
    fs::create_dir(home.path().join("second"))?;
    // It isolates nothing, and a bottle has to say that this will do.
    home.write(".claude-bottle/bottles/box.md", "---\nisolation: process\n---\n")?;
    Ok(home)
}

fn run(home: &Home, path: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Run> {
    let mut command = home.command(args);
    command.env("CLAUDE_BOTTLE_PLUGIN_PATH", path).env("SECOND_ROOT", home.path().join("second"));
    Ok(command.envs(env.iter().copied()).output()?.into())
}

#[test]
fn a_backend_built_apart_loads_beside_docker_and_runs_the_same_session() -> Result<()> {
    let home = home()?;
    let probed = run(&home, &second_dir(), &["backends", "--probe"], &[])?;
    assert_eq!(probed.code, Some(0), "{probed:?}");
    for line in [
        "docker 1.0.0 1.0.0 |loads, isolation container",
        "smolmachines 1.0.0 1.0.0 |loads, isolation vm",
        "second 0.3.1 1.0.0 |loads, isolation process",
    ] {
        let (begins, ends) = line.split_once('|').expect("both halves");
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = probed.stdout.lines().map(words).any(|line| line.starts_with(begins) && line.ends_with(ends));
        assert!(shown, "{}", probed.stdout);
    }
    let start = ["start", "dev", "--yes", "--prompt", "hello", "--", "--model", "x"];
    for (args, env) in [
        ([&["--backend", "second"], &start[..]].concat(), &[][..]),
        (start.to_vec(), &[("CLAUDE_BOTTLE_BACKEND", "second")]),
    ] {
        let run = run(&home, &second_dir(), &args, env)?;
        assert_eq!(run.code, Some(7), "{run:?}");
        assert!(run.stdout.contains("helper /usr/local/libexec/bottle-helper run\n"), "{run:?}");
        let argv = "argv claude --dangerously-skip-permissions --append-system-prompt-file /home/agent/.bottle/prompt.md --model x -p hello\n";
        assert!(run.stdout.contains(argv), "{run:?}");
        assert!(run.stdout.contains("archives 2\n") && run.stdout.contains(" HTTPS_PROXY "), "{run:?}");
        assert!(run.stderr.contains("told on standard error") && run.stderr.contains("WEAKER"), "{run:?}");
        assert_eq!(fs::read_dir(home.path().join("second"))?.count(), 0, "the bottle's directory is left");
    }
    // Both answer at once.
    let list = run(&home, &second_dir(), &["list", "active"], &[])?;
    assert!(list.code == Some(0) && list.stderr.contains("no active bottles"), "{list:?}");
    Ok(())
}

#[test]
fn a_backend_weaker_than_the_bottles_floor_is_refused() -> Result<()> {
    let home = home()?;
    for (floor, backend, ok) in [
        ("process", "second", true),
        ("container", "second", false),
        ("container", "docker", true),
        ("vm", "docker", false),
    ] {
        home.write(".claude-bottle/bottles/box.md", &format!("---\nisolation: {floor}\n---\n"))?;
        let run = run(&home, &second_dir(), &["start", "dev", "--backend", backend, "--dry-run"], &[])?;
        assert_eq!(run.code == Some(0), ok, "{floor} on {backend}: {run:?}");
        assert!(ok || run.stderr.contains(&format!("the bottle wants `{floor}` at least")), "{run:?}");
    }
    Ok(())
}

#[test]
fn a_failure_in_the_second_backend_is_torn_down_by_the_ledger() -> Result<()> {
    let home = home()?;
    let args = ["start", "dev", "--backend", "second", "--yes", "--prompt", "hello"];
    for fault in ["error@ledger-created:1", "panic@launched:1"] {
        let run = run(&home, &second_dir(), &args, &[("CLAUDE_BOTTLE_FAULT", fault)])?;
        assert_ne!(run.code, Some(7), "{run:?}");
        assert_eq!(fs::read_dir(home.path().join("second"))?.count(), 0, "{fault}: {run:?}");
        assert!(home.identities().is_empty(), "{fault}: {run:?}");
    }
    Ok(())
}
