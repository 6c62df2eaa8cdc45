//! A bottle that is not closed does not start: the hole is made between launch and probe, by the engine's own client.

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, assert_only_log_left, eventually},
    lab::Lab,
    standin::Standin,
    wire::Authority,
};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

#[test]
fn a_bottle_with_a_hole_in_it_gets_no_agent() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    for (hole, role, said) in [
        (
            &["network", "connect", "bridge"][..],
            "agent",
            &["there is a route to ", "is its neighbour", ":22 answers"][..],
        ),
        // What answers nothing is not known to be closed.
        (&["kill"], "sidecar", &["probe the bottle from inside"]),
    ] {
        let env = [("CLAUDE_BOTTLE_FAULT", "stop@launched:1")];
        let child = home.start(&["start", "dev", "--yes", "--prompt", "hello"], &env)?;
        let stat = format!("/proc/{}/stat", child.id());
        eventually("bottle has launched, and waits", || {
            fs::read_to_string(&stat).ok()?.contains(") T ").then_some(())
        })?;
        let identity = home.identities().pop().context("a bottle")?;
        let labels = [format!("label=claude-bottle.identity={identity}"), format!("label=claude-bottle.role={role}")];
        let id = lab.docker(&["ps", "-q", "--filter", &labels[0], "--filter", &labels[1]])?;
        lab.docker(&[hole, &[id.trim()]].concat())?;
        kill_process(Pid::from_child(&child), Signal::CONT)?;
        let run = child.finish()?;
        assert_eq!(run.code, Some(125), "{run:?}");
        for text in said {
            assert!(run.stderr.contains(text), "{text:?}: {run:?}");
        }
        assert_only_log_left(lab, &home, &identity)?;
        assert_eq!(home.run(&["cleanup", "--yes"])?.code, Some(0));
    }
    assert!(standin.seen().is_empty(), "an agent ran: {:?}", standin.seen());
    Ok(())
}
