//! A bottle up and down: ours, the same resources by raw calls, and by the docker command; one after another, in turns,
//! so that what else the machine does falls on all of them alike.

use super::{Figure, active, cli, place::Place, print, raw::Recording, trace};
use crate::{
    run::{cargo, run},
    setup, stage,
};
use anyhow::Result;
use std::time::Instant;

/// Of the raw calls' median, and of the command's: what ours may take.
const OF_RAW: f64 = 1.15;
const OF_CLI: f64 = 0.7;
/// Runs whose calls are looked at.
const TRACED: usize = 5;

/// Measures the package in `tree`.
pub(super) fn bench(tree: &std::path::Path, runs: usize) -> Result<()> {
    stage::stage()?;
    setup::install_packages(&["bubblewrap"])?;
    run(cargo().args(["run", "--quiet", "--locked", "--release", "-p", "bottle-tests", "--bin", "time-namespaces"]))?;
    let place = Place::open(tree)?;
    // Builds the sidecar's image, where it is not there.
    place.up_and_down(&place.engine.socket)?;
    let recording = {
        let _bottle = place.stay()?;
        Recording::of(&place)?
    };
    let (mut ours, mut raw, mut cli, mut building) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        ours.push(timed(|| place.up_and_down(&place.engine.socket))?.0);
        raw.push(timed(|| recording.up_and_down(&place.engine))?.0);
        let (whole, build) = timed(|| cli::up_and_down(&place, &recording))?;
        cli.push(whole);
        building.push(build.as_secs_f64() * 1e3);
    }
    let figure = |what: &str, values| Figure { what: what.into(), unit: "ms", limit: None, values };
    let raw = figure("the same by raw engine calls", raw);
    let cli = figure("the same by the docker command", cli);
    let limit = (OF_RAW * raw.median()?).min(OF_CLI * cli.median()?);
    let ours = Figure { limit: Some(limit), ..figure("our bottle, up and down", ours) };
    let ratio = |other: &Figure, limit| -> Result<Figure> {
        let values = vec![ours.median()? / other.median()?];
        Ok(Figure { what: format!("ours of {}", other.what), unit: "x", limit: Some(limit), values })
    };
    let (of_raw, of_cli) = (ratio(&raw, OF_RAW)?, ratio(&cli, OF_CLI)?);
    let building = figure("of which `docker build`, cached", building);
    print(&format!("{runs} runs, in turns"), &[ours, raw, cli, building, of_raw, of_cli])?;

    let trace = trace::Trace::before(&place.engine.socket)?;
    let mut traced = vec![];
    for _ in 0..TRACED {
        let began = Instant::now();
        place.up_and_down(&trace.socket)?;
        let end = Instant::now();
        traced.push((began, trace.take(), end));
    }
    trace::print(&traced);
    active::bench(&place, &recording, &trace, runs)
}

/// How long something takes, in milliseconds.
pub(super) fn timed<T>(what: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let began = Instant::now();
    let done = what()?;
    Ok((began.elapsed().as_secs_f64() * 1e3, done))
}
