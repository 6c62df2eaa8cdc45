//! Every point of a bottle's life at which `bottle` may fail: an error, a panic, a signal and SIGKILL there
//! leave nothing behind, and a live bottle beside it is untouched. The points are those that a run has passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{Home, KillOnDrop, REAL_TOKEN, Run, eventually, identity_in, processes_of, report},
    lab::Lab,
    standin::Standin,
    tiny,
    wire::Authority,
};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const HOWS: [&str; 4] = ["error", "panic", "term", "kill"];
/// Each of them is in every run. Beside these there are only `write`, which `faults.rs` has a test of its own for, and
/// `pump`, which is no step of a bottle's.
const KINDS: [&str; 11] = [
    "planned",
    "progress",
    "ledger-intent",
    "ledger-created",
    "ledger-gone",
    "launched",
    "probe",
    "session",
    "save",
    "close",
    "settle",
];
/// Teardown has a deadline of a minute, which nothing here should come near.
const TOO_LONG: Duration = Duration::from_secs(30);

/// A home with a bottle that lives through the whole test.
struct Neighbourhood {
    lab: &'static Lab,
    home: Home,
    neighbour: KillOnDrop,
    /// The neighbour's.
    live: String,
}

impl Neighbourhood {
    fn new() -> Result<Self> {
        let (lab, authority) = (Lab::get(), Authority::new()?);
        let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
        let home = tiny::at(Home::new(lab, &authority, &standin)?, lab)?;
        home.write("project/file", "brought along\n")?;
        let neighbour = home.start(&["start", "dev", "--yes", "--prompt", "wait"], &[])?;
        let live = eventually("the neighbour is listed", || home.listed().pop())?;
        Ok(Self { lab, home, neighbour, live })
    }

    /// A bottle with an image of its own, whose session ends at once.
    fn command(&self, fault: &str) -> Command {
        let mut command = self.home.command(&["start", "dev", "--yes", "--cwd", "--prompt", "return"]);
        command.current_dir(self.home.path().join("project")).env("CLAUDE_BOTTLE_FAULT", fault);
        command
    }

    fn start(&self, fault: &str) -> Result<Run> {
        Ok(self.command(fault).output()?.into())
    }

    /// The points that such a bottle passes, in their order.
    fn points(&self) -> Result<Vec<Point>> {
        let file = self.home.path().join("points");
        let run = self.start(&format!("record@{}", file.display()))?;
        ensure!(run.code == Some(0), "{run:?}");
        self.assert_gone(&identity_in(&run.stderr)?, false)?;
        let text = fs::read_to_string(file)?;
        let points: Vec<_> = text.lines().filter(|point| KINDS.contains(&kind(point))).map(str::to_owned).collect();
        let place = |of: &str| points.iter().position(|p| p == of).with_context(|| format!("{of} in {points:?}"));
        let (launched, session) = (place("launched:1")?, place("session:1")?);
        let points = points.iter().zip(0..).map(|(at, n)| Point {
            at: at.clone(),
            in_launch: n < launched,
            before_session: n < session,
        });
        Ok(points.collect())
    }

    /// Makes a bottle fail at a point, and sees that it leaves nothing. How long its life took.
    fn strike(&self, point: &Point, how: &str) -> Result<Duration> {
        let began = Instant::now();
        let run = self.start(&format!("{how}@{}", point.at))?;
        let took = began.elapsed();
        self.judge(point, how, &run).with_context(|| format!("{how}@{} after {took:?}: {run:?}", point.at))?;
        ensure!(took < TOO_LONG, "{how}@{} took {took:?}: {run:?}", point.at);
        Ok(took)
    }

    fn judge(&self, point: &Point, how: &str, run: &Run) -> Result<()> {
        let expected = point.codes(how);
        ensure!(expected.contains(&run.code), "ended with {:?}, not with {expected:?}", run.code);
        ensure!(!["error", "panic"].contains(&how) || run.stderr.contains(&format!("fault point {}", point.at)));
        // Without a preflight there is no bottle yet, but its state may be there.
        let identity = match identity_in(&run.stderr) {
            Ok(identity) => identity,
            Err(_) => self.home.identities().into_iter().find(|i| *i != self.live).unwrap_or_default(),
        };
        if how == "kill" {
            ensure!(!identity.is_empty(), "it was killed before it had a state");
            ensure!(self.clean_up(&identity)? > 0, "a cleanup does not find it");
        }
        ensure!(identity.is_empty() || !identity.contains(&self.live));
        if !identity.is_empty() {
            // Where work could not be saved, that is said, and the log of what happened stays.
            let may_be_kept = run.code != Some(0) || kind(&point.at) == "save";
            self.assert_gone(&identity, how != "kill" && may_be_kept)?;
        }
        self.assert_neighbour_untouched()
    }

    fn assert_neighbour_untouched(&self) -> Result<()> {
        let target = self.home.target();
        let live = target.left(self.lab, &self.live)?;
        ensure!(live.len() == target.things(), "the neighbour was touched: {live:?}");
        Ok(())
    }

    /// The first takes all that is left and nothing else, and the second finds nothing. How much the first has found.
    fn clean_up(&self, dead: &str) -> Result<usize> {
        let first = self.home.run(&["cleanup", "--yes", "--json"])?;
        ensure!(first.code == Some(0), "the first cleanup: {first:?}");
        let listing: Value = serde_json::from_str(&first.stdout).with_context(|| format!("{first:?}"))?;
        let rows = listing["leftovers"].as_array().context("leftovers")?;
        let listed = |identity: &str| rows.iter().filter(|row| row["identity"] == identity).count();
        ensure!(listed(&self.live) == 0, "the first cleanup: {first:?}");
        let second = self.home.run(&["cleanup", "--yes"])?;
        ensure!(second.code == Some(0) && second.stderr.contains("nothing to clean up"), "the second: {second:?}");
        Ok(listed(dead))
    }

    /// Nothing of a bottle is left, but its log where that `may_be_kept`.
    fn assert_gone(&self, identity: &str, may_be_kept: bool) -> Result<()> {
        let left = self.home.target().left(self.lab, identity)?;
        ensure!(left.is_empty(), "left of it: {left:?}");
        let state = self.home.state().join(identity);
        if state.exists() {
            let names =
                |dir| -> Result<BTreeSet<_>> { Ok(fs::read_dir(dir)?.flatten().map(|e| e.file_name()).collect()) };
            let (found, log) = (names(&state)?, ["egress.jsonl", "lock", "metadata.json"].map(Into::into).into());
            ensure!(may_be_kept && found == log, "left in its state: {found:?}");
        }
        let neighbour = i32::try_from(self.neighbour.id())?;
        let processes: Vec<_> = processes_of(&self.home).into_iter().filter(|(pid, _)| *pid != neighbour).collect();
        ensure!(processes.is_empty(), "left running: {processes:?}");
        Ok(())
    }

    /// The neighbour is what it was, and ends by itself.
    fn end(self) -> Result<()> {
        ensure!(self.home.listed() == [self.live.as_str()], "{:?}", self.home.listed());
        ensure!(self.home.run(&["cleanup", "--yes"])?.code == Some(0));
        ensure!(self.home.identities() == [self.live.as_str()], "{:?}", self.home.identities());
        let told = self.home.run(&["exec", &self.live, "--", "claude", "end"])?;
        ensure!(told.code == Some(0), "{told:?}");
        let run = self.neighbour.finish()?;
        ensure!(run.code == Some(0), "the neighbour: {run:?}");
        bottle_tests::bottle::assert_nothing_left(self.lab, &self.home, &self.live).with_context(|| format!("{run:?}"))
    }
}

/// Where a life can fail.
struct Point {
    /// `ledger-created:3`.
    at: String,
    in_launch: bool,
    before_session: bool,
}

fn kind(point: &str) -> &str {
    point.split(':').next().unwrap_or_default()
}

impl Point {
    fn hows(&self) -> impl Iterator<Item = &'static str> + Clone {
        // What announces progress has no error to return.
        let silent = kind(&self.at) == "progress";
        HOWS.into_iter().filter(move |how| !(silent && *how == "error"))
    }

    /// What `bottle` may end with.
    fn codes(&self, how: &str) -> &'static [Option<i32>] {
        match (how, kind(&self.at)) {
            ("kill", _) => &[None],
            // Work that cannot be saved is a warning.
            ("error", "save") => &[Some(0)],
            ("error", _) => &[Some(125)],
            // A panic in what a plugin calls stays there.
            ("panic", "progress") if self.in_launch => &[Some(0)],
            ("panic", "ledger-intent" | "ledger-created" | "ledger-gone" | "probe") => &[Some(125)],
            ("panic", _) => &[Some(101)],
            _ if self.before_session => &[Some(128 + 15)],
            // The session ends meanwhile.
            ("term", "session") => &[Some(0), Some(128 + 15)],
            _ => &[Some(0)],
        }
    }
}

/// Strikes rows of the table of all points by all ways to fail.
fn table(rows: impl Fn(&[Point]) -> Vec<(&Point, &'static str)>) -> Result<()> {
    let place = Neighbourhood::new()?;
    let points = place.points()?;
    let kinds: BTreeSet<_> = points.iter().map(|point| kind(&point.at)).collect();
    assert_eq!(kinds, KINDS.into(), "not every kind of point was passed");
    let rows = rows(&points);
    let mut took: HashMap<&str, Vec<Duration>> = HashMap::new();
    for (point, how) in &rows {
        took.entry(how).or_default().push(place.strike(point, how)?);
    }
    assert_eq!(took.len(), HOWS.len());
    report(format!("{} points, {} faults", points.len(), rows.len()));
    for how in HOWS {
        report(format!("  {how}: {} times, {:?} at most", took[how].len(), took[how].iter().max().unwrap()));
    }
    place.end()
}

#[test]
fn a_fault_at_any_point_of_a_sample_leaves_nothing() -> Result<()> {
    // Each point once, by one way to fail after another.
    table(|points| {
        points.iter().enumerate().filter_map(|(n, point)| Some((point, point.hows().cycle().nth(n)?))).collect()
    })
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --full`"]
fn a_fault_at_any_point_by_any_way_leaves_nothing() -> Result<()> {
    table(|points| points.iter().flat_map(|point| point.hows().map(move |how| (point, how))).collect())
}

/// What the engine was asked for and has not done yet stands at no point of ours.
#[test]
#[ignore = "takes minutes: `cargo xtask test --full`"]
fn sigkill_at_any_moment_leaves_nothing() -> Result<()> {
    const MOMENTS: u32 = 100;
    let place = Neighbourhood::new()?;
    let began = Instant::now();
    ensure!(place.start("")?.code == Some(0));
    let whole = began.elapsed();
    let mut killed = 0;
    for moment in 0..MOMENTS {
        let after = whole * moment / MOMENTS;
        let mut child = KillOnDrop(place.command("").spawn()?);
        sleep(after);
        child.kill()?;
        let run = child.finish()?;
        killed += u32::from(run.code.is_none());
        let check = || -> Result<()> {
            // Before its preflight it has nothing in the engine.
            let dead = identity_in(&run.stderr).unwrap_or_else(|_| "no-identity".into());
            place.clean_up(&dead)?;
            place.assert_gone(&dead, false)?;
            ensure!(place.home.identities() == [place.live.as_str()], "states: {:?}", place.home.identities());
            place.assert_neighbour_untouched()
        };
        check().with_context(|| format!("killed after {after:?}: {run:?}"))?;
    }
    ensure!(killed > MOMENTS / 2, "only {killed} of {MOMENTS} were still there to be killed");
    report(format!("killed at {killed} moments of {whole:?}"));
    place.end()
}
