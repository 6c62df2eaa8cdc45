//! Whatever ends a launch or a teardown, and wherever: nothing is left of the bottle after one `cleanup`.

use crate::place::{Place, machine_processes};
use anyhow::{Context, Result};
use bottle_tests::bottle::{eventually, identity_in, report};
use std::env;

const START: [&str; 5] = ["start", "dev", "--yes", "--prompt", "hello"];
/// While a machine is made, and when the bottle is up. The rest is for `--full`.
const SAMPLE: [&str; 2] = ["panic@ledger-created:3", "kill@launched:1"];

fn points() -> Vec<String> {
    if env::var_os("BOTTLE_FULL").is_none() {
        return SAMPLE.map(str::to_owned).to_vec();
    }
    let hows = ["error", "panic", "term", "kill"];
    let ats = ["ledger-intent:1", "ledger-intent:2", "ledger-intent:3", "ledger-created:1", "ledger-created:2"];
    let ats = ats.iter().chain(&["ledger-created:3", "launched:1", "close:1"]);
    ats.flat_map(|at| hows.map(|how| format!("{how}@{at}"))).collect()
}

#[test]
fn faults_and_sigkill_in_launch_and_teardown_leave_nothing() -> Result<()> {
    let place = Place::get()?;
    let points = points();
    for fault in &points {
        let run = place.home.start(&START, &[("CLAUDE_BOTTLE_FAULT", fault)])?.finish()?;
        let identity = identity_in(&run.stderr)?;
        let killed = fault.starts_with("kill");
        assert!(run.code != Some(0) && run.code.is_none() == killed, "{fault}: {run:?}");
        if !killed {
            place.nothing_left(&identity).with_context(|| format!("{fault}: {run:?}"))?;
        }
        place.clean().with_context(|| format!("{fault}: {run:?}"))?;
        place.nothing_left(&identity).with_context(|| format!("{fault}, after cleanup: {run:?}"))?;
        assert!(place.home.identities().is_empty(), "{fault}: {:?}", place.home.identities());
        report(format!("nothing left after {fault}"));
    }
    report(format!("{} points", points.len()));
    Ok(())
}

#[test]
fn a_machine_that_boots_while_its_owner_is_killed_does_not_come_to_be() -> Result<()> {
    let place = Place::get()?;
    let mut owner = place.home.start(&START, &[])?;
    let identity = eventually("the machine boots", || {
        let identity = place.home.identities().into_iter().next()?;
        machine_processes(&identity).iter().any(|line| line.contains(" machine start ")).then_some(identity)
    })?;
    owner.kill()?;
    owner.wait()?;
    assert!(!machine_processes(&identity).is_empty(), "the client went with its owner: there is nothing to clean up");
    place.clean()?;
    place.nothing_left(&identity)?;
    // Nor of what smolvm makes by itself to unpack an image.
    assert_eq!(place.smolvm(&["machine", "ls", "-q"])?, "");
    Ok(())
}
