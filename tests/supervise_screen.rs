//! `bottle supervise` on a real terminal: what waits is seen as it comes, keys decide, and whatever ends it the terminal
//! is as it was.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

use anyhow::{Context, Result, ensure};
use bottle_host::{
    paths::Paths,
    session::owner::{Served, Surroundings},
    supervise::{
        desk::{Decision, Word, words},
        queue::{Entry, Queue, Standing},
    },
};
use bottle_policy::{Proposal, ProposedRoute, message::LogLine};
use bottle_tests::{
    bottle::{Home, eventually},
    pty::Pty,
};
use rustix::process::Signal;
use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    thread,
};

const IDENTITY: &str = "dev-x7k2q";

/// A home in which one bottle's proposals wait, and a desk that takes decisions on them.
struct Place {
    home: Home,
    paths: Paths,
    queue: Queue,
}

impl Place {
    fn new() -> Result<Self> {
        let home = Home::bare()?;
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        let queue = Queue::of(&paths, IDENTITY);
        // An editor that says what it was given, and changes it.
        let editor = "#!/bin/sh\nexec >>edited\nstat -c 'mode %a' \"$1\"\nstty -a <&2\n\
                      sed -i 's,paths: .*,paths: [/only],' \"$1\"\n";
        home.write("editor", editor)?;
        fs::set_permissions(home.path().join("editor"), Permissions::from_mode(0o755))?;
        let home = home.with_env("EDITOR", "./editor");
        Ok(Self { home, paths, queue })
    }

    fn state(&self) -> PathBuf {
        self.paths.state().join(IDENTITY)
    }

    fn propose(&self, n: usize, host: &str) -> Result<()> {
        let route = ProposedRoute { host: host.into(), ports: vec![], paths: vec![], methods: vec![] };
        let proposal = Proposal::EgressBlock { routes: vec![route], justification: "it\x1b[2J is needed".into() };
        let (id, asked, standing) = (format!("{n:016x}"), "2026-11-21T08:00:00Z".into(), Standing::Pending);
        self.queue.put(&Entry { id, asked, proposal, known: vec![], standing, error: None })
    }

    /// A bottle that runs, whose desk takes this many decisions; what it was told.
    fn run(&self, decisions: usize) -> Result<thread::JoinHandle<Vec<Decision>>> {
        fs::create_dir_all(self.state())?;
        let metadata = r#"{"identity": "dev-x7k2q", "agent": "dev", "backend": "namespace"}"#;
        fs::write(self.state().join("metadata.json"), metadata)?;
        let (words, desk) = words();
        let surroundings = Surroundings { env: Default::default(), cwd: "/".into() };
        let served = Served::begin(&self.state(), surroundings, Some(words))?;
        let queue = Queue::of(&self.paths, IDENTITY);
        Ok(thread::spawn(move || {
            let mut told = vec![];
            while told.len() < decisions {
                let Ok(Word::Decided { id, decision, answer }) = desk.recv() else { break };
                let mut entry = queue.get(&id).unwrap().unwrap();
                entry.standing = Standing::Rejected { at: entry.asked.clone(), reason: String::new() };
                queue.put(&entry).unwrap();
                answer.send(Ok(())).unwrap();
                told.push(decision);
            }
            drop(served);
            told
        }))
    }

    fn log(&self, host: &str) -> Result<()> {
        let time = "2026-11-21T08:00:01.000Z".into();
        let line =
            LogLine { time, decision: "deny".into(), rule: "host".into(), host: host.into(), ..LogLine::default() };
        let mut log = fs::File::options().append(true).create(true).open(self.state().join("egress.jsonl"))?;
        Ok(writeln!(log, "{}", serde_json::to_string(&line)?)?)
    }

    fn command(&self) -> Command {
        self.home.command(&["supervise"])
    }
}

fn title(what: &str) -> String {
    format!("\x1b]2;bottle: {what}\x1b\\")
}

/// The modes of a terminal that nobody has changed.
fn untouched(place: &Place) -> Result<String> {
    let mut terminal = Pty::start(Command::new("true").current_dir(place.home.path()), 80, 24)?;
    terminal.wait()?;
    terminal.modes()
}

/// The terminal is as it was, and what our screen has switched on last was switched off after.
fn assert_put_back(terminal: &Pty, before: &str) -> Result<()> {
    assert_eq!(terminal.modes()?, before);
    let shown = terminal.text();
    for mode in ["1049", "2004"] {
        let last = |end: &str| shown.rfind(&format!("\x1b[?{mode}{end}"));
        ensure!(last("h").is_some() && last("l") > last("h"), "{mode} is still on: {}", shown.escape_debug());
    }
    let last = |end: &str| shown.rfind(&format!("\x1b[?25{end}"));
    ensure!(last("h") > last("l"), "the cursor is hidden: {}", shown.escape_debug());
    Ok(())
}

#[test]
fn what_comes_is_seen_and_rung_for_and_keys_decide() -> Result<()> {
    let place = Place::new()?;
    let before = untouched(&place)?;
    let mut terminal = Pty::start(&place.command(), 80, 24)?;
    terminal.until(&title("nothing waits"))?;
    let desk = place.run(3)?;
    terminal.until(IDENTITY)?;
    place.log("evil.example:443")?;
    terminal.until("evil.example:443")?;

    place.propose(1, "docs.example.com")?;
    terminal.until(&format!("\x07{}", title("1 proposal waits")))?;
    terminal.until("docs.example.com")?;
    terminal.until("it\u{fffd}[2J")?;
    place.propose(2, "second.example")?;
    terminal.until(&title("2 proposals wait"))?;
    // What was pasted decides nothing; and then a word to the agent, which may hold any key.
    terminal.clear();
    terminal.press(b"\x1b[200~a\r\x1b[201~jaqq\r")?;
    terminal.until(&title("1 proposal waits"))?;
    // Another size: all of it is drawn anew.
    terminal.clear();
    terminal.resize(200, 60)?;
    terminal.until("docs.example.com")?;
    terminal.press(b"rno\r")?;
    terminal.until(&title("nothing waits"))?;

    // The editor is started on a terminal as it was, and what it leaves is asked about before it holds.
    place.propose(3, "third.example")?;
    terminal.until("third.example")?;
    terminal.press(b"m")?;
    terminal.until("/only")?;
    terminal.press(b"\r")?;
    let told = desk.join().expect("the desk");
    let [Decision::Approve { once: false, note }, Decision::Reject { reason }, Decision::Modify { proposal, .. }] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((note.as_str(), reason.as_str()), ("qq", "no"));
    assert_eq!(proposal.routes().unwrap()[0].paths, ["/only"]);
    let edited = fs::read_to_string(place.home.path().join("edited")).context("the editor was started")?;
    assert!(edited.contains("mode 600") && edited.contains("isig icanon"), "{edited}");

    terminal.press(b"q")?;
    assert_eq!(terminal.wait()?, Some(0), "{}", terminal.text());
    assert_put_back(&terminal, &before)?;
    Ok(())
}

#[test]
fn whatever_ends_it_the_terminal_is_as_it_was() -> Result<()> {
    let place = Place::new()?;
    place.propose(1, "docs.example.com")?;
    let before = untouched(&place)?;
    for (fault, signal, code, said) in [
        ("", Some(Signal::TERM), 128 + 15, ""),
        ("", Some(Signal::HUP), 128 + 1, ""),
        ("panic@screen-drawn:2", None, 101, "fault point screen-drawn:2"),
        ("error@screen-drawn:2", None, 1, "fault point screen-drawn:2"),
        ("panic@screen-read:2", None, 1, "fault point screen-read:2"),
        ("error@screen-read:2", None, 1, "fault point screen-read:2"),
        ("term@screen-drawn:1", None, 128 + 15, ""),
    ] {
        let mut terminal = Pty::start(place.command().env("CLAUDE_BOTTLE_FAULT", fault), 80, 24)?;
        if fault != "term@screen-drawn:1" && fault != "panic@screen-drawn:2" && fault != "error@screen-drawn:2" {
            terminal.until("docs.example.com")?;
        }
        match signal {
            Some(signal) => terminal.signal(signal)?,
            None => place.propose(2, "second.example")?,
        }
        assert_eq!(terminal.wait()?, Some(code), "{fault} {signal:?}: {}", terminal.text());
        terminal.until(said)?;
        assert_put_back(&terminal, &before).with_context(|| format!("{fault} {signal:?}"))?;
    }
    Ok(())
}

#[test]
fn a_terminal_that_goes_away_ends_it() -> Result<()> {
    let place = Place::new()?;
    place.propose(1, "docs.example.com")?;
    // With SIGHUP, and with nothing but the end of what can be read; also while keys are on their way.
    for (ignored, keys) in [("USR1", ""), ("HUP", ""), ("USR1", "jkjkjkj"), ("HUP", "rjkjkjkj")] {
        let way = format!("--ignore-signal={ignored}");
        let mut terminal = Pty::start_by(&["env", &way], &place.command(), 80, 24)?;
        terminal.until("docs.example.com")?;
        terminal.press(keys.as_bytes())?;
        terminal.hang_up();
        assert_eq!(terminal.wait()?, Some(128 + 1), "{ignored} {keys}");
    }
    Ok(())
}

#[test]
fn a_screen_that_is_stopped_gives_the_terminal_back_and_goes_on() -> Result<()> {
    let place = Place::new()?;
    place.propose(1, "docs.example.com")?;
    let before = untouched(&place)?;
    let mut terminal = Pty::start(&place.command(), 80, 24)?;
    terminal.until("docs.example.com")?;
    terminal.signal(Signal::TSTP)?;
    eventually("it is stopped", || terminal.status("State").ok()?.starts_with('T').then_some(()))?;
    assert_put_back(&terminal, &before)?;
    terminal.clear();
    terminal.signal(Signal::CONT)?;
    terminal.until("docs.example.com")?;
    terminal.press(b"q")?;
    assert_eq!(terminal.wait()?, Some(0), "{}", terminal.text());
    assert_put_back(&terminal, &before)
}

#[test]
fn without_a_terminal_it_says_what_to_type() -> Result<()> {
    let run = Place::new()?.home.run(&["supervise"])?;
    assert!(run.code == Some(2) && run.stderr.contains("--once") && run.stderr.contains("--json"), "{run:?}");
    Ok(())
}
