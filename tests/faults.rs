//! Whatever a backend does in whatever verb, and wherever the host is when it ends: what is left is known, goes with one
//! `cleanup`, and a live bottle beside it is untouched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{KillOnDrop, Run, eventually, report},
    scripted::Scripted,
};
use std::{fs, process::Command};

const START: [&str; 5] = ["start", "dev", "--yes", "--prompt", "hello"];
const HOWS: [&str; 7] = ["fail", "panic", "panic-in-thread", "hang", "kill", "cancel", "cancel-and-hang"];

/// A home with a bottle that lives through the whole test.
struct Neighbourhood {
    home: Scripted,
    neighbour: KillOnDrop,
    /// The neighbour's.
    identity: String,
    points: u32,
}

impl Neighbourhood {
    fn new() -> Result<Self> {
        let home = Scripted::new()?;
        let neighbour = home.start(&["start", "dev", "--yes", "--prompt", "wait"], "")?;
        let identity = eventually("the neighbour is up", || {
            home.things().ok().filter(|things| things.len() == 3)?.first().cloned()
        })?;
        Ok(Self { home, neighbour, identity, points: 0 })
    }

    /// Runs `args` with a script; afterwards one `cleanup` leaves nothing but the neighbour, and another has nothing to do.
    fn strike(&mut self, args: &[&str], script: &str, env: &[(&str, &str)]) -> Result<Run> {
        let mut command = self.home.command(args, script);
        let run: Run = command.envs(env.iter().copied()).output()?.into();
        self.points += 1;
        self.check_after().with_context(|| format!("after {args:?} {script} {env:?}: {run:?}"))?;
        Ok(run)
    }

    fn check_after(&self) -> Result<()> {
        let first = self.home.run(&["cleanup", "--yes"], "")?;
        ensure!(first.code == Some(0), "the first cleanup: {first:?}");
        let second = self.home.run(&["cleanup", "--yes"], "")?;
        ensure!(second.code == Some(0) && second.stderr.contains("nothing to clean up"), "the second: {second:?}");
        let things = self.home.things()?;
        ensure!(things == vec![self.identity.clone(); 3], "left: {things:?}, the neighbour is {}", self.identity);
        let state = self.home.state();
        ensure!(state.len() == 1 && state[0].ends_with(&self.identity), "left in the state: {state:?}");
        Ok(())
    }

    /// The neighbour ends by itself, and in order.
    fn end(self) -> Result<()> {
        self.home.end()?;
        let run = self.neighbour.finish()?;
        ensure!(run.code == Some(0), "the neighbour: {run:?}");
        ensure!(self.home.things()?.is_empty() && self.home.state().is_empty(), "the neighbour left something");
        report(format!("{} points", self.points));
        Ok(())
    }
}

/// What a run with a fault ends with. A verb that never hears of a cancellation works on, so that only what follows
/// ends early; one that only ends things has nothing left to stop.
fn check_code(how: &str, verb: &str, run: &Run) {
    let expected: &[Option<i32>] = match how {
        "kill" => &[None],
        "cancel" | "cancel-and-hang" => &[Some(128 + 15), Some(0)],
        _ => &[Some(125)],
    };
    assert!(expected.contains(&run.code), "{how}@{verb}: {run:?}");
    // Nobody may take a failed launch for the agent's success.
    assert!(how != "cancel-and-hang" || verb.starts_with("drop") || run.code != Some(0), "{how}@{verb}: {run:?}");
    let said = match how {
        "hang" | "cancel-and-hang" if !verb.contains('-') => format!("did not return from `{verb}`"),
        "panic" => format!("{verb} panics, as scripted"),
        "fail" => format!("{verb} fails, as scripted"),
        _ => return,
    };
    assert!(run.stderr.contains(&said), "{how}@{verb}: {run:?}");
}

#[test]
fn start_survives_its_backend_in_every_verb() -> Result<()> {
    let mut place = Neighbourhood::new()?;
    for verb in [
        "create",
        "info",
        "validate",
        "resolve_plan",
        "summary",
        "launch",
        "put",
        "channel",
        "describe",
        "probe",
        "start",
        "wait",
        "close",
    ] {
        // A session may last for as long as it likes: only a cancellation gives a deaf `wait` up.
        for how in HOWS.into_iter().filter(|how| (verb, *how) != ("wait", "hang")) {
            // `put` is called within `launch`, and these two have no error to return but a panic.
            let (verb_said, how_said) = match (verb, how) {
                ("put", "hang" | "cancel-and-hang") => ("launch", how),
                // The session, begun beside it, hears of the cancellation.
                ("probe", "cancel-and-hang") => (verb, "cancel"),
                ("probe", "hang") => ("start", how),
                ("info" | "summary", "fail" | "panic-in-thread") => (verb, "panic-in-thread"),
                _ => (verb, how),
            };
            let run = place.strike(&START, &format!("{how}@{verb}"), &[])?;
            check_code(how_said, verb_said, &run);
        }
        for how in ["panic-twice", "panic-in-task"] {
            let run = place.strike(&START, &format!("{how}@{verb}"), &[])?;
            assert_eq!(run.code, Some(125), "{how}@{verb}: {run:?}");
        }
    }
    for verb in ["drop-plan", "drop-bottle", "drop-process"] {
        for how in ["panic", "hang", "kill", "cancel"] {
            let run = place.strike(&START, &format!("{how}@{verb}"), &[])?;
            // The session was over, or has not been touched: what a plugin does at its objects' end is its own.
            let lived = run.code == Some(0) || (how == "cancel" && run.code == Some(128 + 15));
            assert!(lived || how == "kill" || verb == "drop-plan", "{how}@{verb}: {run:?}");
        }
    }
    place.end()
}

#[test]
fn start_survives_its_backend_between_any_two_steps_of_a_thing() -> Result<()> {
    let mut place = Neighbourhood::new()?;
    for kind in ["network", "sidecar", "agent"] {
        for step in ["before", "announced", "made", "confirmed"] {
            for how in HOWS {
                let verb = format!("{step}-{kind}");
                check_code(how, &verb, &place.strike(&START, &format!("{how}@{verb}"), &[])?);
            }
        }
        for step in ["removed", "forgotten"] {
            for how in HOWS {
                let run = place.strike(&START, &format!("{how}@{step}-{kind}"), &[])?;
                check_code(how, &format!("{step}-{kind}"), &run);
                // The same where the ledger is replayed.
                place.strike(&START, &format!("fail@launch,{how}@{step}-{kind}"), &[])?;
            }
        }
    }
    place.end()
}

#[test]
fn start_survives_a_fault_of_its_own_at_every_event_of_the_ledger() -> Result<()> {
    let mut place = Neighbourhood::new()?;
    for event in ["ledger-intent", "ledger-created", "ledger-gone"] {
        for nth in 1..=3 {
            for how in ["error", "panic", "term", "kill"] {
                let fault = format!("{how}@{event}:{nth}");
                let run = place.strike(&START, "", &[("CLAUDE_BOTTLE_FAULT", &fault)])?;
                assert!(run.code != Some(0) || how == "term", "{fault}: {run:?}");
            }
        }
    }
    for at in ["launched:1", "close:1"] {
        for how in ["error", "panic", "term", "kill"] {
            place.strike(&START, "", &[("CLAUDE_BOTTLE_FAULT", &format!("{how}@{at}"))])?;
        }
    }
    place.end()
}

#[test]
fn a_crash_between_any_two_writes_is_cleaned_up() -> Result<()> {
    let mut place = Neighbourhood::new()?;
    let mut writes = 0;
    // A session that ends well, one whose log is kept, and a launch that fails.
    for (prompt, script) in [("hello", ""), ("7", ""), ("hello", "fail@launch")] {
        for nth in 1.. {
            let start = ["start", "dev", "--yes", "--prompt", prompt];
            let run = place.strike(&start, script, &[("CLAUDE_BOTTLE_FAULT", &format!("kill@write:{nth}"))])?;
            if run.code.is_some() {
                break; // it has lived through all of them
            }
            writes += 1;
        }
    }
    // The very first start of all.
    for nth in 1.. {
        let home = Scripted::new()?;
        let mut command = home.command(&START, "");
        let run: Run = command.env("CLAUDE_BOTTLE_FAULT", format!("kill@write:{nth}")).output()?.into();
        let after = home.run(&["cleanup", "--yes"], "")?;
        let left = (after.code, home.things()?.len(), home.state().len());
        ensure!(left == (Some(0), 0, 0), "after kill@write:{nth}: {left:?}, {after:?}");
        if run.code.is_some() {
            break;
        }
        writes += 1;
    }
    // And a crash of the cleanup itself.
    for nth in 1.. {
        place.home.run(&START, "kill@launch")?;
        let run = place.strike(&["cleanup", "--yes"], "", &[("CLAUDE_BOTTLE_FAULT", &format!("kill@write:{nth}"))])?;
        if run.code.is_some() {
            break;
        }
        writes += 1;
    }
    assert!(writes > 30, "{writes}");
    report(format!("{writes} writes"));
    place.end()
}

#[test]
fn cleanup_and_the_lists_survive_the_backend() -> Result<()> {
    let mut place = Neighbourhood::new()?;
    let within = ["removed-sidecar", "forgotten-network"];
    for verb in ["create", "info", "prepare_cleanup", "items", "execute", "drop-cleanup"].into_iter().chain(within) {
        for how in HOWS {
            place.home.run(&START, "kill@launch")?;
            let run = place.strike(&["cleanup", "--yes"], &format!("{how}@{verb}"), &[])?;
            // What could not be removed is a failure, and said.
            assert!(
                run.code != Some(0) || how.starts_with("cancel") || verb == "drop-cleanup",
                "{how}@{verb}: {run:?}"
            );
        }
        // The same where a failed launch is undone.
        for how in HOWS {
            place.strike(&START, &format!("fail@launch,{how}@{verb}"), &[])?;
        }
    }
    for (command, verb) in [("list active", "list_active"), ("doctor", "diagnose")] {
        for how in HOWS {
            let args: Vec<&str> = command.split(' ').collect();
            let run = place.strike(&args, &format!("{how}@{verb}"), &[])?;
            assert_ne!(run.code, Some(0), "{how}@{verb}: {run:?}");
        }
    }
    place.end()
}

#[test]
fn the_verbs_that_no_command_needs_alone_are_contained_too() -> Result<()> {
    let mut place = Neighbourhood::new()?;
    for verb in ["attach", "describe", "put", "get", "start", "resize", "signal", "drop-bottle", "drop-process"] {
        for how in HOWS.into_iter().chain([""]) {
            let script = if how.is_empty() { String::new() } else { format!("{how}@{verb}") };
            let mut command = Command::new(env!("CARGO_BIN_EXE_drive"));
            place.home.prepare(&mut command, &script);
            let run: Run = command.args([verb, &place.identity]).output()?.into();
            // An object's end says nothing.
            let untouched = how.is_empty() || verb.starts_with("drop") || how == "cancel";
            let expected = if how == "kill" { None } else { Some(i32::from(!untouched)) };
            let also = (how == "cancel" && run.code == Some(1)) || (how == "kill" && run.code.is_none());
            assert!(run.code == expected || also, "{script}: {run:?}");
            place.points += 1;
        }
        // Nobody who only looked at a bottle has closed it.
        place.check_after().with_context(|| format!("after {verb}"))?;
    }
    for verb in ["attach", "start", "wait", "drop-bottle", "drop-process"] {
        for how in HOWS.into_iter().filter(|how| (verb, *how) != ("wait", "hang")) {
            let args = ["exec", &place.identity.clone(), "--", "7"];
            let run = place.strike(&args, &format!("{how}@{verb}"), &[])?;
            let own = run.code == Some(7) && (verb.starts_with("drop") || how.starts_with("cancel"));
            let expected = own || matches!((how, run.code), ("kill", None) | (_, Some(125 | 143)));
            assert!(expected, "exec {how}@{verb}: {run:?}");
        }
    }
    place.end()
}

#[test]
fn what_cannot_be_judged_from_here_is_left_alone() -> Result<()> {
    let home = Scripted::new()?;
    home.run(&START, "kill@launch")?;
    let [dir] = &home.state()[..] else { anyhow::bail!("{:?}", home.state()) };
    let (metadata, things) = (dir.join("metadata.json"), home.things()?.len());
    let own = fs::read_to_string(&metadata)?;
    let mut others: serde_json::Value = serde_json::from_str(&own)?;
    others["holder"]["machine"] = "another".into();
    // Another machine's goes with `--foreign` only; one that cannot be read is taken to be alive.
    for (text, said) in
        [(others.to_string(), "of another machine or user"), ("{\"holder\": 7}".into(), "taken to be alive")]
    {
        fs::write(&metadata, text)?;
        let run = home.run(&["cleanup", "--yes"], "")?;
        ensure!(run.code == Some(0) && run.stderr.contains(said) && home.things()?.len() == things, "{run:?}");
    }
    fs::write(&metadata, others.to_string())?;
    let run = home.run(&["cleanup", "--yes", "--foreign"], "")?;
    ensure!(run.code == Some(0) && home.things()?.is_empty() && home.state().is_empty(), "{run:?}");
    // A state directory that cannot be listed may be full of life.
    home.run(&START, "kill@launch")?;
    let state = home.path().join(".claude-bottle/state");
    fs::rename(&state, home.path().join("aside"))?;
    fs::write(&state, "")?;
    let run = home.run(&["cleanup", "--yes"], "")?;
    ensure!(run.code == Some(1) && run.stderr.contains("look into") && home.things()?.len() == things, "{run:?}");
    Ok(())
}

#[test]
fn no_backend_is_asked_before_the_hosts_own_checks() -> Result<()> {
    let home = Scripted::new()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_drive"));
    home.prepare(&mut command, "kill@validate,kill@resolve_plan");
    let run: Run = command.args(["prepare-nothing", "nobody"]).output()?.into();
    assert!(run.code == Some(1) && run.stderr.contains("the bottle has no identity of its own"), "{run:?}");
    Ok(())
}
