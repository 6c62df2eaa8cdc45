//! Chores of this repository: `cargo xtask <command>`, one file each.

mod bench;
mod compat;
mod demo;
mod lab;
mod package;
mod run;
mod setup;
mod stage;
mod test;
mod tidy;

use anyhow::{Context, Result, bail};
use bench::Bench;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND
  setup      make the lab of the tests: packages, Docker engine, base image with Claude Code, network (as root)
  stage      build host, backends and sidecar into target/stage, laid out like a package
  test       everything: set-up, fmt, clippy, doc, tidy, unit tests, package, end-to-end tests
             (BOTTLE_SKIP_LAB=1 leaves out what needs the lab, and counts it as skipped);
             --full: fifty bottles at once, every fault on Docker and in machines, five minutes of hostile clients,
             a slow operator and an older client, and end-to-end on the engine of Debian's next release, too
  lab smolvm the tests of machines against the real smolvm, in an emulated machine (as root; downloads are kept);
             --full: every fault point; --test NAME: those; -- COMMAND: that instead; --record: smolvm's answers anew
  compat     build hosts and plugins of other versions into target/compat, for the compatibility matrix
  demo       one bottle of namespaces, and a table of what it could and could not do; needs nothing but cargo
             --backend docker: one whose real Claude asks a stand-in model (as root; makes the lab)
  package    dist/bottle-VERSION-TARGET.tar.gz, and plugins/
  bench      what the packaged program costs, beside its limits, on a machine that does nothing else
             program: processor time, and a plugin's loading
             launch [RUNS]: a bottle up and down, beside the same by raw engine calls and by the docker command;
             the list of 50 bottles (needs the lab; medians of 20)
             egress: the sidecar as a proxy, beside none and beside mitmproxy (as root; from PyPI)
             workspace: 50,000 files into a bottle, beside `cp -a` and `git clone --local` (needs the lab)
             scan: the scanner, megabytes a second
  tidy       the invariants that are text: file lengths, heads, unsafe
  teardown   stop the lab's engine and remove its network";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["setup"] => setup::setup().map(drop)?,
        ["stage"] => stage::stage()?,
        ["test"] => return test::test(false),
        ["test", "--full"] => return test::test(true),
        ["compat"] => compat::compat()?,
        ["demo"] => return demo::demo("namespace"),
        ["demo", "--backend", backend] => return demo::demo(backend),
        ["lab", "smolvm", ref words @ ..] => return lab::smolvm(words),
        ["package"] => package::package().map(drop)?,
        ["bench"] => bench::bench(&[
            Bench::Program,
            Bench::Launch(bench::RUNS),
            Bench::Workspace(bench::WORKSPACE_RUNS),
            Bench::Egress,
            Bench::Scan,
        ])?,
        ["bench", "program"] => bench::bench(&[Bench::Program])?,
        ["bench", "egress"] => bench::bench(&[Bench::Egress])?,
        ["bench", "launch"] => bench::bench(&[Bench::Launch(bench::RUNS)])?,
        ["bench", "launch", runs] => bench::bench(&[Bench::Launch(runs.parse().context("RUNS is a number")?)])?,
        ["bench", "workspace"] => bench::bench(&[Bench::Workspace(bench::WORKSPACE_RUNS)])?,
        ["bench", "scan"] => bench::bench(&[Bench::Scan])?,
        ["tidy"] => tidy::tidy()?,
        ["teardown"] => setup::teardown()?,
        _ => bail!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}
