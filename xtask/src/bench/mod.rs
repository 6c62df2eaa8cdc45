//! `cargo xtask bench`: what the packaged program costs, beside what it may cost. Prints; a machine under load is no
//! reason to fail.

#![allow(clippy::print_stdout)] // the result is what it prints

mod active;
mod cli;
mod egress;
mod engine;
mod launch;
mod place;
mod program;
mod raw;
mod rival;
mod scan;
mod trace;
mod workspace;

use crate::package;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Of a launch, where no other number is given.
pub(crate) const RUNS: usize = 20;
/// Of a large workspace.
pub(crate) const WORKSPACE_RUNS: usize = 5;

/// What to measure.
#[derive(Clone, Copy)]
pub(crate) enum Bench {
    /// The program alone: it needs no engine.
    Program,
    /// A bottle up and down, and the list of fifty, on the lab's engine; each that often.
    Launch(usize),
    /// The sidecar as a proxy, beside another one. It needs no package.
    Egress,
    /// A large working directory on its way into a bottle, that often.
    Workspace(usize),
    /// The scanner alone. It needs none either.
    Scan,
}

/// Measures the package that is in `dist`, made anew where it is older than its sources.
pub(crate) fn bench(what: &[Bench]) -> Result<()> {
    for bench in what {
        match bench {
            Bench::Program => program::bench(&tree()?)?,
            Bench::Launch(runs) => launch::bench(&tree()?, *runs)?,
            Bench::Egress => egress::bench()?,
            Bench::Workspace(runs) => workspace::bench(&tree()?, *runs)?,
            Bench::Scan => scan::bench()?,
        }
    }
    Ok(())
}

fn tree() -> Result<PathBuf> {
    Ok(package::package()?.with_extension("").with_extension(""))
}

/// One quantity, measured often.
struct Figure {
    what: String,
    unit: &'static str,
    /// What its median may be, where it may not be anything.
    limit: Option<f64>,
    values: Vec<f64>,
}

impl Figure {
    /// Best, middle and worst.
    fn sorted(&self) -> Result<[f64; 3]> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        let (best, worst) = values.first().zip(values.last()).context("nothing was measured")?;
        Ok([*best, values[values.len() / 2], *worst])
    }

    fn median(&self) -> Result<f64> {
        Ok(self.sorted()?[1])
    }
}

fn print(title: &str, figures: &[Figure]) -> Result<()> {
    println!("{title:<46} {:>9} {:>9} {:>9} {:>9}", "best", "median", "worst", "limit");
    for figure in figures {
        let [best, median, worst] = figure.sorted()?;
        let limit = figure.limit.map_or_else(String::new, |limit| format!("{limit:.2}"));
        let over = if figure.limit.is_some_and(|limit| median > limit) { "  OVER" } else { "" };
        let what = format!("{} ({})", figure.what, figure.unit);
        println!("{what:<46} {best:>9.2} {median:>9.2} {worst:>9.2} {limit:>9}{over}");
    }
    println!();
    Ok(())
}

/// A directory of the bench's own, empty.
fn scratch(name: &str) -> Result<PathBuf> {
    let dir = crate::run::root().join("target/bench").join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
