//! An agent goes on where it left off, however its session ended: with its conversation, its commits, its files.

use crate::place::{MAKE, Place, check_made, prompt};
use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{Run, assert_nothing_left, eventually, identity_in},
    target::Target,
};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// What of the workspace a resumed agent must find as it left it.
const LOOK: &str = "git log --format=%s --all | sort -u; git symbolic-ref --short HEAD; cat tracked 'a file' d/e/f mine; \
    readlink link; stat -c %a tracked; ls; git status --porcelain | sort";
const FOUND: &str = "first\nsecond\nside\nthree\nnew\nx\nuntracked before\n/etc/passwd\n755\na file\nd\nlink\nmine\n\
    tracked\n D going\n M tracked\n?? \"a file\"\n?? d/\n?? link\n?? mine";

/// The repository's own configuration does not come back.
const THIRD: &str = "echo four > tracked; git -c user.name=A -c user.email=a@example.com commit -qam third; (exit 3)";

impl Place {
    fn resume(&self, identity: &str, lines: &[&str]) -> Result<Run> {
        self.home.run(&["resume", identity, "--yes", "--prompt", &prompt(lines)])
    }

    /// Waits until what is there now has been saved, by a save that begins after this call: the second one that ends.
    fn wait_for_saves(&self, identity: &str) -> Result<()> {
        let file = self.home.state().join(identity).join("transcript/projects.tar");
        let mut ended = vec![fs::metadata(&file).and_then(|saved| saved.modified()).ok()];
        eventually("it is saved", || {
            let now = fs::metadata(&file).and_then(|saved| saved.modified()).ok();
            if ended.last() != Some(&now) && now.is_some() {
                ended.push(now);
            }
            (ended.len() > 2).then_some(())
        })
    }

    /// A resumed agent finds its conversation and its files; ends with 0 and leaves the same work.
    fn check_resumed(&self, identity: &str) -> Result<()> {
        let run = self.resume(identity, &[LOOK])?;
        ensure!(run.code == Some(0), "{run:?}");
        let found = run.results().with_context(|| format!("{run:?}"))?;
        assert_eq!(found[0].trim_end(), FOUND, "{run:?}");
        // The model is sent what was said before.
        let last = self.standin.seen().into_iter().rev().find(|seen| seen.path.starts_with("/v1/messages"));
        let body = String::from_utf8_lossy(&last.context("nothing was asked")?.body).into_owned();
        ensure!(body.contains("git checkout -qb side"), "the conversation does not go on: {body}");
        ensure!(self.left(identity)?.is_empty());
        check_made(self, identity)?;
        fs::remove_dir_all(self.path(&format!("repo-{identity}")))?;
        Ok(())
    }
}

#[test]
fn an_agent_goes_on_with_its_files_and_its_conversation_however_its_session_ended() -> Result<()> {
    let place = Place::new()?;
    let wait = "until [ -e /nowhere ]; do sleep 0.1; done";
    let by_signal = [MAKE, "touch /tmp/ready", wait];
    for (lines, signal, code) in [
        (&[MAKE][..], None, Some(0)),
        (&[MAKE, "@@fail"], None, Some(1)),
        (&by_signal, Some(Signal::HUP), Some(128 + 1)),
        (&by_signal, Some(Signal::KILL), None),
    ] {
        // Processes die with their owner: of theirs there is what was saved meanwhile.
        let dies = signal == Some(Signal::KILL) && place.home.target() != Target::Docker;
        let often = dies.then_some(("CLAUDE_BOTTLE_FAULT_PATIENCE", "5000"));
        let child = place.command(true, lines).envs(often).spawn()?;
        if let Some(signal) = signal {
            let identity = eventually("the agent is at its last line", || {
                let identity = place.home.listed().pop()?;
                let at = place.home.run(&["exec", &identity, "--", "test", "-e", "/tmp/ready"]).ok()?;
                (at.code == Some(0)).then_some(identity)
            })?;
            if dies {
                place.wait_for_saves(&identity)?;
            }
            kill_process(Pid::from_child(&child), signal)?;
        }
        let run: Run = child.wait_with_output()?.into();
        ensure!(run.code == code, "{run:?}");
        let identity = identity_in(&run.stderr)?;
        if signal == Some(Signal::KILL) {
            let early = place.resume(&identity, &["true"])?;
            ensure!(early.code == Some(125) && early.stderr.contains("bottle cleanup"), "{early:?}");
            let cleanup = place.home.run(&["cleanup", "--yes"])?;
            ensure!(cleanup.code == Some(0), "{cleanup:?}");
        } else {
            let last = run.stderr.lines().last().unwrap_or_default();
            ensure!(last == format!("bottle: resume with: bottle resume {identity}"), "{run:?}");
        }
        check_made(&place, &identity).with_context(|| format!("{lines:?} {signal:?}"))?;
        fs::remove_dir_all(place.path(&format!("repo-{identity}")))?;
        place.check_resumed(&identity).with_context(|| format!("{lines:?} {signal:?}"))?;
        // And once more: work of a session stands on the one before.
        let more = place.resume(&identity, &[THIRD])?;
        ensure!(more.code == Some(0), "{more:?}");
        let diff = place.home.run(&["diff", &identity, "--stat"])?;
        ensure!(diff.stdout.contains(": third") && diff.stdout.contains(": second"), "{diff:?} {more:?}");
        let rm = place.home.run(&["state", "rm", &identity, "--yes"])?;
        ensure!(rm.code == Some(0), "{rm:?}");
        assert_nothing_left(place.lab, &place.home, &identity)?;
    }
    Ok(())
}

#[test]
fn one_resume_at_a_time_and_one_that_comes_to_nothing_loses_nothing() -> Result<()> {
    let place = Place::new()?;
    let (run, kept) = place.play(true, &[MAKE])?;
    ensure!(run.code == Some(0), "{run:?}");
    let identity = kept.identity();
    let names = kept.names();
    // A launch that fails, one that is killed, and a name that is none.
    for (fault, code) in [("error@launched:1", Some(125)), ("kill@planned:1", None), ("kill@launched:1", None)] {
        let mut command = place.home.command(&["resume", &identity, "--yes", "--prompt", "hello"]);
        let run: Run = command.env("CLAUDE_BOTTLE_FAULT", fault).output()?.into();
        ensure!(run.code == code, "{fault}: {run:?}");
        let cleanup = place.home.run(&["cleanup", "--yes"])?;
        ensure!(cleanup.code == Some(0) && place.left(&identity)?.is_empty(), "{fault}: {cleanup:?}");
        assert_eq!(kept.names(), names, "{fault}: {cleanup:?}");
    }
    let unknown = place.resume("dev-00000", &[])?;
    ensure!(unknown.code == Some(125) && unknown.stderr.contains("in ~/.claude-bottle/state"), "{unknown:?}");

    let wait = "@@bash until [ -e /nowhere ]; do sleep 0.1; done";
    let first = place.home.start(&["resume", &identity, "--yes", "--prompt", wait], &[])?;
    eventually("it runs", || place.home.listed().into_iter().find(|listed| *listed == identity))?;
    for args in [&["resume", &identity, "--yes", "--prompt", "hello"][..], &["state", "rm", &identity, "--yes"]] {
        let run = place.home.run(args)?;
        ensure!(run.code != Some(0) && kept.names() == names, "{args:?}: {run:?}");
    }
    kill_process(Pid::from_child(&first), Signal::TERM)?;
    ensure!(first.finish()?.code == Some(128 + 15));
    place.check_resumed(&identity)
}

#[test]
fn without_a_conversation_the_agent_begins_a_new_one() -> Result<()> {
    let place = Place::new()?;
    let (run, kept) = place.play(true, &[MAKE])?;
    ensure!(run.code == Some(0), "{run:?}");
    fs::remove_dir_all(kept.dir.join("transcript"))?;
    let run = place.resume(&kept.identity(), &[LOOK])?;
    let found = run.results().with_context(|| format!("{run:?}"))?;
    assert_eq!(found[0].trim_end(), FOUND, "{run:?}");
    // What is all taken back leaves nothing.
    let undo = "git checkout -qf main; git reset -q --hard HEAD^; git branch -qD side; git clean -qfd -e mine";
    let run = place.resume(&kept.identity(), &[undo])?;
    ensure!(run.code == Some(0), "{run:?}");
    assert_nothing_left(place.lab, &place.home, &kept.identity())
}
