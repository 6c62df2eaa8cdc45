//! `cargo xtask test`: every lane, one after another, with its time beside its budget, and the counts at the end.

#![allow(clippy::print_stdout)] // the result is what it prints

use crate::{
    compat, demo, lab, package,
    run::{cargo, root, run},
    setup, stage, tidy,
};
use anyhow::{Context, Result};
use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// Leaves out what needs the lab. The only way to skip anything.
const SKIP_ENV: &str = "BOTTLE_SKIP_LAB";

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Counts {
    fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }

    /// What a test program closes with.
    fn add(&mut self, result: &str) {
        self.passed += count(result, "passed");
        self.failed += count(result, "failed");
        self.skipped += count(result, "ignored");
    }
}

struct Lane {
    name: &'static str,
    budget: Duration,
    needs_lab: bool,
    run: fn() -> Result<Counts>,
}

/// What `--full` adds: what would make every landing wait.
const FULL: [Lane; 6] = [
    lane("fifty bottles", 180, true, fifty_bottles),
    lane("every fault", 600, true, every_fault),
    lane("newer engine", 300, true, on_newer_engine),
    lane("hostile", 360, true, hostile_clients),
    lane("slow operator", 600, true, slow_operator),
    lane("… in machines", lab::FULL_BUDGET.as_secs(), true, || machines(lab::every_fault()?)),
];

const LANES: [Lane; 14] = [
    lane("setup", 300, true, || check(setup::setup())),
    lane("fmt", 20, false, || check(run(cargo().args(["fmt", "--all", "--check"])))),
    lane("tidy", 10, false, || check(tidy::tidy())),
    lane("clippy", 240, false, clippy),
    lane("doc", 120, false, doc),
    lane("unit", 240, false, unit),
    lane("stage", 330, true, || check(stage::stage())),
    lane("compat", 180, true, || check(compat::compat())),
    lane("package", 660, true, || check(package::package().map(drop))),
    lane("end-to-end", 900, true, end_to_end),
    lane("namespaces", 300, true, || Ok(tables_on("namespace")?.and(operator_on("namespace", &[])?))),
    lane("… by a user", 240, true, || tables_on("namespace-user")),
    lane("machines", lab::BUDGET.as_secs(), true, || machines(lab::tests()?)),
    lane("demo", 60, true, || check(demo::demo("namespace").and_then(|_| demo::by_a_user()))),
];

/// The tables that hold on every backend; of two programs those rows that are not the engine's own.
const TABLES: [&str; 7] = ["session", "terminal", "tmux", "secrets", "docker_faults", "conversation", "gitgate_bottle"];
const SHARED_ROWS: [&str; 4] = ["bottle::", "outsiders::", "a_refusal_is_logged", "sigint_and_sigterm"];

const fn lane(name: &'static str, seconds: u64, needs_lab: bool, run: fn() -> Result<Counts>) -> Lane {
    Lane { name, budget: Duration::from_secs(seconds), needs_lab, run }
}

/// Runs all lanes. One that fails does not keep the others from running.
pub(crate) fn test(full: bool) -> Result<ExitCode> {
    let skip = std::env::var_os(SKIP_ENV).is_some_and(|value| !value.is_empty() && value != "0");
    let mut total = Counts::default();
    let mut rows = vec![];
    for lane in LANES.iter().chain(full.then_some(&FULL).into_iter().flatten()) {
        if lane.needs_lab && skip {
            total.skipped += 1;
            rows.push(format!("{:<14} skipped by {SKIP_ENV}", lane.name));
            continue;
        }
        eprintln!("\n== {} (budget {} s)", lane.name, lane.budget.as_secs());
        let began = Instant::now();
        let counts = (lane.run)().unwrap_or_else(|error| {
            eprintln!("xtask: {}: {error:#}", lane.name);
            Counts { failed: 1, ..Counts::default() }
        });
        let took = began.elapsed();
        total.passed += counts.passed;
        total.failed += counts.failed;
        total.skipped += counts.skipped;
        let verdict = if counts.failed > 0 { "FAILED" } else { "ok" };
        let over = if took > lane.budget { "  OVER BUDGET" } else { "" };
        rows.push(format!(
            "{:<14} {verdict:<7} {:>4} passed {:>3} failed {:>3} skipped  {:>6.1} s of {:>4} s{over}",
            lane.name,
            counts.passed,
            counts.failed,
            counts.skipped,
            took.as_secs_f64(),
            lane.budget.as_secs()
        ));
    }
    println!("\n{}\n", rows.join("\n"));
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A lane that is one check.
fn check(result: Result<()>) -> Result<Counts> {
    result.map(|()| Counts { passed: 1, ..Counts::default() })
}

fn clippy() -> Result<Counts> {
    const CLIPPY: [&str; 3] = ["clippy", "--locked", "--quiet"];
    let all = ["--workspace", "--all-targets", "--features", "bottle-host/fault-points", "--", "-D", "warnings"];
    run(cargo().args(CLIPPY).args(all))?;
    // What no test run of this machine includes is no target of all.
    let machines = ["-p", "bottle-tests", "--test", "machines", "--", "-D", "warnings"];
    check(run(cargo().args(CLIPPY).args(machines)))
}

fn doc() -> Result<Counts> {
    let args = ["doc", "--locked", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
    check(run(cargo().args(args).env("RUSTDOCFLAGS", "-D warnings")))
}

fn unit() -> Result<Counts> {
    cargo_test(&["--workspace", "--exclude", "bottle-tests"])
}

fn end_to_end() -> Result<Counts> {
    // One session of the real Claude needs a core and 400 MB.
    cargo_test(&["-p", "bottle-tests", "--", "--test-threads=2"])
}

/// What runs on Docker in [`end_to_end`], with every bottle there.
fn tables_on(target: &str) -> Result<Counts> {
    let variable = format!("BOTTLE_TEST_BACKEND={target}");
    let tables: Vec<&str> = TABLES.iter().flat_map(|table| ["--test", *table]).collect();
    let whole =
        cargo_test_with(&[&variable], &[&["-p", "bottle-tests"], &tables[..], &["--", "--test-threads=2"]].concat())?;
    let work = ["-p", "bottle-tests", "--test", "work", "--", "--test-threads=2", "--skip", "image::"];
    let work = cargo_test_with(&[&variable], &work)?;
    let programs = ["-p", "bottle-tests", "--test", "escape", "--test", "leftovers", "--", "--test-threads=2"];
    let rows = cargo_test_with(&[&variable], &[&programs[..], &SHARED_ROWS].concat())?;
    anyhow::ensure!(rows.passed + rows.failed == 4, "{SHARED_ROWS:?} name other tests than they did");
    Ok(whole.and(work).and(rows))
}

/// Against the real smolvm, in an emulated machine.
fn machines(run: lab::Run) -> Result<Counts> {
    println!("{} of their steps were repeated", run.retries);
    let of = |names: &[String]| u32::try_from(names.len()).unwrap_or(u32::MAX);
    let failed = of(&run.failed).max(u32::from(!run.ok()));
    Ok(Counts { passed: of(&run.passed), failed, skipped: 0 })
}

/// Alone: they take the machine whole.
fn fifty_bottles() -> Result<Counts> {
    let docker = cargo_test(&["-p", "bottle-tests", "--test", "engine", "--", "--ignored"])?;
    let namespace = cargo_test(&["-p", "bottle-tests", "--test", "namespace", "--", "--ignored"])?;
    Ok(docker.and(namespace))
}

/// At every point of a bottle's life, by every way to fail; and SIGKILL at any moment.
fn every_fault() -> Result<Counts> {
    let faults = ["-p", "bottle-tests", "--test", "docker_faults", "--", "--ignored"];
    let docker = cargo_test(&faults)?;
    Ok(docker.and(cargo_test_with(&["BOTTLE_TEST_BACKEND=namespace"], &faults)?))
}

/// Five minutes of clients that mean the proxy ill.
fn hostile_clients() -> Result<Counts> {
    cargo_test(&["-p", "bottle-tests", "--test", "egress", "--", "--ignored"])
}

/// Somebody who thinks for longer than any client waits in silence; of two clients' versions.
fn slow_operator() -> Result<Counts> {
    let slow = ["--ignored"];
    let root = operator_on("docker", &slow)?.and(operator_on("namespace", &slow)?);
    Ok(root.and(operator_on("namespace-user", &[])?))
}

/// The operator in the loop, who takes a minute to think.
fn operator_on(target: &str, more: &[&str]) -> Result<Counts> {
    let variable = format!("BOTTLE_TEST_BACKEND={target}");
    let asks = ["-p", "bottle-tests", "--test", "supervise", "--", "--test-threads=2"];
    // Images are made on Docker alone; that another backend says so is a test of its own.
    let images = ["--skip", "image::what_fails", "--skip", "image::an_owner"];
    let left_out = if target == "docker" { &[][..] } else { &images };
    cargo_test_with(&[&variable], &[&asks[..], more, left_out].concat())
}

/// The end-to-end tests on the engine of Debian's next release; the usual one is up again afterwards.
fn on_newer_engine() -> Result<Counts> {
    setup::teardown()?;
    setup::setup_on(setup::Engine::Newer)?;
    let counts = end_to_end();
    setup::teardown()?;
    setup::setup()?;
    counts
}

fn cargo_test(args: &[&str]) -> Result<Counts> {
    cargo_test_with(&[], args)
}

/// Runs tests with these variables, passing their output on and adding up what each test program closes with.
fn cargo_test_with(variables: &[&str], args: &[&str]) -> Result<Counts> {
    // A shell's background job begins with SIGINT ignored, and so would the program under test.
    let cargo = cargo();
    let mut command = Command::new("env");
    command.arg("--default-signal").args(variables).arg(cargo.get_program()).current_dir(root());
    command.args(["test", "--locked", "--no-fail-fast"]).args(args).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().context("its output")?).lines() {
        let line = line?;
        if let Some(result) = line.strip_prefix("test result: ") {
            counts.add(result);
        } else {
            println!("{line}");
        }
    }
    // A test program that crashes, or does not build, closes with no counts.
    if !child.wait()?.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// The number before `word;` in cargo's closing line.
fn count(result: &str, word: &str) -> u32 {
    let words: Vec<&str> = result.split([' ', ';']).filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| *w == word);
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
}
