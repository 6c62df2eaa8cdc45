//! `cargo xtask bench`: what the packaged program costs, beside what it may cost. Prints; a machine under load is no
//! reason to fail.

#![allow(clippy::print_stdout)] // the result is what it prints

use crate::{package, run::root};
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

/// A figure's best, middle and worst.
struct Figure {
    what: String,
    unit: &'static str,
    limit: f64,
    values: Vec<f64>,
}

/// Measures the package that is in `dist`, made anew where it is older than its sources.
pub(crate) fn bench() -> Result<()> {
    let tarball = package::package()?;
    let tree = tarball.with_extension("").with_extension("");
    let home = root().join("target/bench-home");
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
        figures.extend(program(&tree, &home, arguments, code)?);
    }
    figures.push(load(&tree, &home)?);
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>9}",
        format!("{RUNS} runs, one after another"),
        "best",
        "median",
        "worst",
        "limit"
    );
    for Figure { what, unit, limit, mut values } in figures {
        values.sort_by(f64::total_cmp);
        let (best, median, worst) = (values[0], values[values.len() / 2], values[values.len() - 1]);
        let over = if median > limit { "  OVER" } else { "" };
        println!("{:<34} {best:>9.2} {median:>9.2} {worst:>9.2} {limit:>9.2}{over}", format!("{what} ({unit})"));
    }
    Ok(())
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
        limit,
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
    Ok(Figure { what: "load the docker plugin, with hash".into(), unit: "ms", limit: 3.0, values })
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
