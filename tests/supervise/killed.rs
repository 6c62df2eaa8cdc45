//! SIGKILL at every step of a proposal: to the bottle's owner, to the sidecar's daemon, to the operator's command. None is
//! lost, and the audit log holds.

use crate::place::{Place, ask_for, id, status_of};
use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bare,
    bottle::{KillOnDrop, identity_in},
    lab::Lab,
    target::Target,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, thread::sleep, time::Duration};

/// What is on disk when the owner passes its desk's fault point of that number, in the life of a proposal that is approved.
const STEPS: [(u32, &str); 8] = [
    (1, "nothing"),
    (2, "the proposal is audited"),
    (3, "and queued"),
    (4, "a decision has come"),
    (5, "the approval is audited"),
    (6, "it is applied"),
    (7, "that is audited"),
    (8, "and queued, and the agent not told"),
];
/// Until this one the agent was promised nothing.
const PROMISED: u32 = 2;
/// From this one on it takes an operator.
const DECIDED: u32 = 4;
const SETTLED: u32 = 8;

/// Calls `egress-block` without the client: it hears at once when the daemon is gone, and prints the proposal's id.
const ASK: &str = r#"ask() { curl -sN -H "Authorization: Bearer $BOTTLE_SUPERVISE_TOKEN" \
-H 'Accept: application/json, text/event-stream' -H 'Content-Type: application/json' -H 'MCP-Protocol-Version: 2025-11-25' \
-d '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "egress-block", "_meta": {"progressToken": 1}, "arguments": '"$1"'}}' \
http://supervise:9100/; }; "#;
/// Asks for a path by it, and prints what the proposal is called once the call has ended.
const ASKING: &str = r#"ask '{"routes": [{"host": "later.example", "paths": ["/api"]}], "justification": "x"}' \
| grep -o 'proposal [0-9a-f]*' | head -1"#;

#[test]
fn a_proposal_outlives_its_owner() -> Result<()> {
    let place = Place::new("")?;
    // One of each kind; the others are in the full run.
    [2, 6, 8].into_iter().try_for_each(|step| owner_killed(&place, step))
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --full`"]
fn a_proposal_outlives_its_owner_wherever_that_is_killed() -> Result<()> {
    let place = Place::new("")?;
    STEPS.iter().try_for_each(|(step, _)| owner_killed(&place, *step))
}

fn owner_killed(place: &Place, step: u32) -> Result<()> {
    let what = || format!("killed when {step}: {:?}", STEPS[step as usize - 1].1);
    let home = &place.home;
    let fault = format!("kill@desk:{step}");
    let prompt = ask_for("/api");
    let session = home.start(&["start", "dev", "--yes", "--prompt", &prompt], &[("CLAUDE_BOTTLE_FAULT", &fault)])?;
    if step >= DECIDED {
        let waiting = place.waiting(&[])?;
        let run = home.run(&["supervise", "approve", id(&waiting)])?;
        ensure!(run.code == Some(1), "{}: {run:?}", what());
    }
    let run = session.finish()?;
    ensure!(run.code.is_none(), "{}: {run:?}", what());
    let identity = identity_in(&run.stderr)?;
    let cleanup = home.run(&["cleanup", "--yes"])?;
    ensure!(cleanup.code == Some(0), "{}: {cleanup:?}", what());
    let asked = place.audited_of(&identity)?;
    if step < PROMISED {
        ensure!(asked.is_empty() && place.listed()?.is_empty(), "{}: {asked:?}", what());
        return Ok(());
    }
    let proposal = asked.first().and_then(|record| record["id"].as_str()).with_context(what)?;

    resumed(place, &identity, proposal, step >= SETTLED).with_context(what)
}

/// Whoever resumes a bottle finds a proposal as it was: the agent may ask again, and is answered.
fn resumed(place: &Place, identity: &str, proposal: &str, is_decided: bool) -> Result<()> {
    let again = format!("@@tool mcp__supervise__egress-block {{\"pending_id\": \"{proposal}\"}}");
    let prompt = [again, status_of("/api/hello")].join("\n");
    let session = place.home.start(&["resume", identity, "--yes", "--prompt", &prompt], &[])?;
    if !is_decided {
        let waiting = place.waiting(&[])?;
        ensure!(id(&waiting) == proposal, "{waiting}");
        place.decide(&["approve", proposal])?;
    }
    let run = session.finish()?;
    let results = run.results().with_context(|| format!("{run:?}"))?;
    ensure!(results[0].contains("was approved") && results[1] == "200", "{results:?}");
    place.audited()?;
    ensure!(place.listed()?.is_empty(), "something still waits");
    Ok(())
}

#[test]
fn a_proposal_outlives_the_session_that_made_it() -> Result<()> {
    let place = Place::new("")?;
    // It does not wait for the answer.
    let hasty = format!("@@bash {ASK}{ASKING}").replace("\\\n", "").replace("curl -sN", "curl -sN -m 2");
    let run = place.session(&[hasty])?.finish()?;
    ensure!(run.code == Some(0) && run.stderr.contains("what the agent asked for is not decided"), "{run:?}");
    let left = place.listed()?;
    let [proposal] = left.as_slice() else { anyhow::bail!("{left:?} wait") };
    let identity = proposal["identity"].as_str().context("an identity")?;
    ensure!(proposal["running"] == false && run.stderr.contains(&format!("bottle resume {identity}")), "{run:?}");
    let last = run.stderr.lines().last().unwrap_or_default();
    ensure!(last == "bottle: 1 proposal waits for you: bottle supervise", "{run:?}");
    let early = place.home.run(&["supervise", "approve", id(proposal)])?;
    ensure!(early.code == Some(1) && early.stderr.contains(identity), "{early:?}");
    resumed(&place, identity, id(proposal), false)
}

#[test]
fn a_proposal_outlives_the_daemon_that_took_it() -> Result<()> {
    let place = Place::new("")?;
    let first = format!("@@bash {ASK}{ASKING} > ~/asked; cat ~/asked");
    // Until another daemon serves.
    let again =
        r#"until ask '{"pending_id": "'$(cut -d' ' -f2 ~/asked)'"}' | grep -o 'was approved'; do sleep 0.1; done"#;
    let again = format!("@@bash {ASK}{again}");
    let lines = [first, again, status_of("/api/hello"), ask_for("/gate")].map(|line| line.replace("\\\n", ""));
    let session = place.session(&lines)?;
    let first = place.waiting(&[])?;
    kill_daemon(first["identity"].as_str().context("an identity")?)?;
    place.decide(&["approve", id(&first)])?;
    // The client finds the other one, too.
    let second = place.waiting(&[id(&first)])?;
    place.decide(&["reject", id(&second), "--reason", "use the mirror"])?;
    let run = session.finish()?;
    let results = run.results().with_context(|| format!("{run:?}"))?;
    ensure!(results[0] == format!("proposal {}", id(&first)), "{results:#?}");
    ensure!(results[1..3] == ["was approved", "200"] && results[3].contains("use the mirror"), "{results:#?}");
    let events = place.audited()?;
    ensure!(events == ["proposed", "approved", "applied", "proposed", "rejected"], "{events:?}");
    Ok(())
}

/// Kills a bottle's daemon `supervise`.
fn kill_daemon(identity: &str) -> Result<()> {
    let roots = match Target::chosen() {
        Target::Namespace(_) => bare::launchers(identity),
        Target::Docker => {
            let (lab, label) = (Lab::get(), format!("label=claude-bottle.identity={identity}"));
            let ids = lab.docker(&["ps", "-q", "--filter", &label])?;
            let inspect = [&["inspect", "-f", "{{.State.Pid}}"][..], &ids.lines().collect::<Vec<_>>()].concat();
            lab.docker(&inspect)?.lines().map(|pid| Ok(pid.parse()?)).collect::<Result<_>>()?
        }
    };
    let found: Vec<i32> = roots.into_iter().flat_map(bare::below).collect();
    let is_it = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("\0daemon\0supervise\0")
    };
    let pid = found.into_iter().find(is_it).and_then(Pid::from_raw).context("the daemon supervise")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

#[test]
fn an_operators_command_decides_once_however_it_ends_and_the_log_tells_what_was_changed_in_it() -> Result<()> {
    let place = Place::new("")?;
    let session = place.session(&[ask_for("/api"), ask_for("/gate"), status_of("/api/hello")])?;
    let first = place.waiting(&[])?;
    let first = id(&first);
    // Killed sooner or later on its way, until one of them has got through.
    let mut commands = 0;
    while place.listed()?.iter().any(|row| id(row) == first) {
        ensure!(commands < 100, "no command gets through");
        let command: KillOnDrop = place.home.start(&["supervise", "approve", first], &[])?;
        sleep(Duration::from_millis(commands));
        drop(command);
        commands += 1;
    }
    // Two at once: one of them is too late.
    let second = place.waiting(&[first])?;
    let both = [["approve", id(&second)], ["reject", id(&second)]]
        .map(|words| place.home.start(&[&["supervise"], &words[..]].concat(), &[]));
    let codes: Vec<_> = both.into_iter().map(|run| Ok(run?.finish()?.code)).collect::<Result<_>>()?;
    ensure!(codes.contains(&Some(0)) && codes.contains(&Some(1)), "{codes:?}");
    let run = session.finish()?;
    let results = run.results().with_context(|| format!("{run:?}"))?;
    ensure!(results[0].contains("was approved") && results[2] == "200", "{results:#?}");
    let decided = place.audited()?.iter().filter(|event| ["approved", "rejected"].contains(&event.as_str())).count();
    ensure!(decided == 2, "{decided} decisions");
    found_and_named(&place)
}

/// What is done to the log by hand.
fn found_and_named(place: &Place) -> Result<()> {
    let path = place.home.path().join(".claude-bottle/audit/log.jsonl");
    let whole = fs::read_to_string(&path)?;
    let lines: Vec<&str> = whole.lines().collect();
    let of = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let last = lines.len();
    for (text, named) in [
        (whole.replacen("\"event\":\"approved\"", "\"event\":\"rejected\"", 1), "line 2 was changed".to_owned()),
        (of(&[&lines[..1], &lines[2..]].concat()), "line 2 was written as line 3".into()),
        (of(&[&[lines[0], lines[2], lines[1]], &lines[3..]].concat()), "line 2 was written as line 3".into()),
        (of(&lines[..last - 1]), format!("lines {last} to {last} were removed from the end")),
    ] {
        fs::write(&path, text)?;
        let run = place.home.run(&["audit", "verify"])?;
        ensure!(run.code == Some(1) && run.stderr.contains(&named), "{named}: {run:?}");
    }
    fs::write(&path, whole)?;
    place.audited().map(drop)
}
