//! The packaged program's processor and wall time, and a plugin's loading. Needs no engine.

use super::{Figure, print, scratch};
use anyhow::{Context, Result, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

const RUNS: usize = 30;

/// Measures the package in `tree`.
pub(super) fn bench(tree: &Path) -> Result<()> {
    let home = scratch("program")?;
    let manifest = home.join(".claude-bottle");
    for (file, text) in [("bottles/box.md", "---\n---\n"), ("agents/dev.md", "---\nbottle: box\n---\n")] {
        let path = manifest.join(file);
        fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        fs::write(path, text)?;
    }
    let mut figures = vec![];
    // The last one fails after it has loaded its backend: there is no engine.
    for (arguments, code) in
        [("--help", 0), ("list", 0), ("start nobody", 125), ("start dev", 2), ("start dev --yes --prompt x", 125)]
    {
        figures.extend(program(tree, &home, arguments, code)?);
    }
    figures.push(load(tree, &home)?);
    print(&format!("{RUNS} runs, one after another"), &figures)
}

/// Processor time and wall time of a command, its children's included.
fn program(tree: &Path, home: &Path, arguments: &str, code: i32) -> Result<[Figure; 2]> {
    let (mut cpu, mut wall) = (vec![], vec![]);
    for _ in 0..=RUNS {
        let (before, began) = (cpu_of_children()?, Instant::now());
        let mut command = bottle(tree, home);
        let status = command.args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.code() == Some(code), "bottle {arguments}: {status}, {code} expected");
        wall.push(began.elapsed().as_secs_f64() * 1e3);
        cpu.push(cpu_of_children()? - before);
    }
    let figure = |what: &str, values: Vec<f64>, limit| Figure {
        what: format!("bottle {arguments}: {what}"),
        unit: "ms",
        limit: Some(limit),
        values: values[1..].to_vec(),
    };
    Ok([figure("cpu", cpu, 50.0), figure("wall", wall, 100.0)])
}

/// A packaged plugin vetted, hashed, loaded and created, as the probe says.
fn load(tree: &Path, home: &Path) -> Result<Figure> {
    let mut values = vec![];
    for _ in 0..=RUNS {
        let out = bottle(tree, home).args(["backends", "--probe", "--json"]).output()?;
        let listing: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        let micros = listing["backends"][0]["load_micros"].as_f64().context("the probe says how long it took")?;
        values.push(micros / 1e3);
    }
    values.remove(0);
    Ok(Figure { what: "load the docker plugin, with hash".into(), unit: "ms", limit: Some(3.0), values })
}

fn bottle(tree: &Path, home: &Path) -> Command {
    let mut command = Command::new(tree.join("bin/bottle"));
    command
        .env_clear()
        .env("HOME", home)
        .env("ANTHROPIC_API_KEY", "none")
        .env("DOCKER_HOST", "unix:///nowhere")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Milliseconds of processor time that this program's ended children have taken.
fn cpu_of_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e3)
}
