//! A session's terminal, from both ends of a pseudoterminal pair: real bottles in a real engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{
        ENV_SECRET, Home, KillOnDrop, REAL_TOKEN, Run, assert_nothing_left, assert_only_log_left, contains, eventually,
        identity_in, report,
    },
    lab::Lab,
    pty::Pty,
    standin::Standin,
    wire::Authority,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{Read, Write},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

fn home() -> Result<Home> {
    let authority = Authority::new()?;
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    Home::new(Lab::get(), &authority, &standin)
}

/// A bottle whose agent is busy for as long as this lives.
struct Running {
    home: Home,
    owner: Option<KillOnDrop>,
    identity: String,
}

impl Running {
    fn start() -> Result<Self> {
        let home = home()?;
        let prompt = "@@bash until [ -e /nowhere ]; do sleep 0.1; done";
        let owner = home.start(&["start", "dev", "--yes", "--prompt", prompt], &[])?;
        let identity = eventually("the bottle serves", || {
            home.identities().into_iter().find(|i| home.state().join(i).join("control.sock").exists())
        })?;
        Ok(Self { home, owner: Some(owner), identity })
    }

    fn command(&self, options: &[&str], command: &[&str]) -> std::process::Command {
        self.home.command(&[&["exec"], options, &[&self.identity, "--"], command].concat())
    }

    fn exec(&self, command: &[&str]) -> Result<Run> {
        Ok(self.command(&[], command).output()?.into())
    }

    fn on_terminal(&self, options: &[&str], script: &str) -> Result<Pty> {
        Pty::start(&self.command(options, &["bash", "-c", script]), 80, 24)
    }

    /// How many processes in the bottle have a command line that contains this.
    fn count(&self, what: &str) -> Result<usize> {
        let all = self.exec(&["bash", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"])?;
        Ok(all.stdout.matches(what).count())
    }

    /// Sends the owner these signals, one after another, and waits for its end.
    fn stop(&mut self, signals: &[Signal]) -> Result<Run> {
        let owner = self.owner.take().context("a bottle that runs")?;
        for signal in signals {
            kill_process(Pid::from_child(&owner), *signal)?;
        }
        owner.finish()
    }

    /// Ends the bottle. After all that happened in it, it ends as any other.
    fn end(mut self) -> Result<()> {
        let run = self.stop(&[Signal::TERM])?;
        ensure!(run.code == Some(128 + 15), "{run:?}");
        assert_only_log_left(Lab::get(), &self.home, &self.identity)
    }
}

impl Drop for Running {
    /// A test that fails leaves nothing in the engine.
    fn drop(&mut self) {
        if self.owner.is_some() {
            let _ = self.stop(&[Signal::TERM]);
        }
    }
}

/// Every byte there is, a few times over.
fn all_bytes() -> Vec<u8> {
    (0..=255).cycle().take(256 * 20).collect()
}

#[test]
fn every_byte_passes_both_ways_through_pipes_and_through_a_terminal() -> Result<()> {
    let bottle = Running::start()?;
    let mut child = bottle.command(&[], &["cat"]).stdin(Stdio::piped()).spawn()?;
    let (mut stdin, wanted) = (child.stdin.take().context("stdin")?, all_bytes().repeat(200));
    let sent = wanted.clone();
    let feeding = thread::spawn(move || stdin.write_all(&sent)); // and then the end of input
    let mut got = vec![];
    child.stdout.take().context("stdout")?.read_to_end(&mut got)?;
    feeding.join().expect("fed")?;
    assert_eq!(child.wait()?.code(), Some(0));
    assert!(got == wanted, "{} bytes of {}", got.len(), wanted.len());

    let apart = bottle.exec(&["bash", "-c", "printf 'a\\0b'; printf 'c\\377' >&2 | cat"])?;
    assert_eq!((apart.stdout.as_str(), apart.stderr.as_str()), ("a\0b", "c\u{fffd}"));

    // The filter would take out what acts on the operator's terminal; --raw-terminal is how to have every byte.
    let mut terminal = bottle.on_terminal(&["--raw-terminal"], "stty raw -echo; echo ready; exec cat")?;
    terminal.until("ready\n")?;
    terminal.clear();
    terminal.press(&all_bytes())?;
    let back = eventually("all of it comes back", || (terminal.bytes().len() >= all_bytes().len()).then_some(()));
    back.with_context(|| format!("{} bytes: {}", terminal.bytes().len(), terminal.text().escape_debug()))?;
    assert!(terminal.bytes() == all_bytes());
    // One at a time, as keys are: an engine looks for ^P ^Q.
    terminal.clear();
    for (n, key) in (1..).zip(b"\x10\x11\x10\x11\0x\0\0x\x03\x1c") {
        terminal.press(&[*key])?;
        let held_back = *key == 0;
        eventually("the key comes back", || (held_back || terminal.bytes().len() == n).then_some(()))?;
    }
    assert_eq!(terminal.bytes(), b"\x10\x11\x10\x11\0x\0\0x\x03\x1c");
    assert!(bottle.exec(&["pkill", "-x", "cat"])?.code == Some(0) && terminal.wait()? == Some(128 + 15));

    let terminal = bottle.on_terminal(&[], "printf 'a\\033]52;c;aGk=\\007b\\033[21tc\\033[1md'; read")?;
    terminal.until("abc\x1b[1md")?;
    drop(terminal);
    bottle.end()
}

#[test]
fn a_command_runs_as_the_agent_would_and_its_code_is_passed_on() -> Result<()> {
    let bottle = Running::start()?;
    let run = bottle.exec(&["bash", "-c", "id -u; pwd; env"])?;
    assert!(run.stdout.starts_with("1000\n/workspace\n"), "{run:?}");
    for line in [
        format!("AGENT_SECRET={ENV_SECRET}"),
        "CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-placeholder".into(),
        "TERM=xterm-256color".into(),
        "HTTPS_PROXY=http://bottle:".into(),
    ] {
        assert!(run.stdout.contains(&line), "{line}: {run:?}");
    }
    let output = bottle.command(&[], &["printenv", "TERM"]).env("TERM", "dumb").output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "dumb\n");
    for (command, code, said) in [
        (&["true"][..], 0, ""),
        (&["bash", "-c", "exit 7"], 7, ""),
        (&["bash", "-c", "kill -9 $$"], 128 + 9, ""),
        (&["nosuch"], 127, "nosuch: not found in the bottle"),
        (&["/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (&["--", "x"], 127, "--: not found"),
        (&[], 2, "Usage:"),
    ] {
        let run = bottle.exec(command)?;
        assert!(run.code == Some(code) && run.stderr.contains(said), "{command:?}: {run:?}");
    }
    // The engine is the one that the bottle was started on.
    let output = bottle.command(&[], &["true"]).env("DOCKER_HOST", "unix:///nowhere/docker.sock").output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // None of it is on disk.
    for file in ["metadata.json", "ledger.jsonl", "egress.jsonl"] {
        let text = std::fs::read(bottle.home.state().join(&bottle.identity).join(file))?;
        assert!(!contains(&text, ENV_SECRET.as_bytes()), "{file}");
    }

    for identity in ["dev-nosuch", "../state", ""] {
        let run = bottle.home.run(&["exec", identity, "--", "true"])?;
        assert_eq!(run.code, Some(125), "{run:?}");
        assert!(run.stderr.contains("no bottle `") && run.stderr.contains("in ~/.claude-bottle/state"), "{run:?}");
        assert!(run.stderr.contains(&format!("These are running: {}.", bottle.identity)), "{run:?}");
    }
    let mut bottle = bottle;
    bottle.stop(&[Signal::KILL])?;
    let run = bottle.exec(&["true"])?;
    assert!(run.code == Some(125) && run.stderr.contains("is dead") && run.stderr.contains("`bottle cleanup`"));
    assert_eq!(bottle.home.run(&["cleanup", "--yes"])?.code, Some(0));
    assert_only_log_left(Lab::get(), &bottle.home, &bottle.identity)
}

#[test]
fn a_command_that_is_given_up_does_not_go_on_in_the_bottle() -> Result<()> {
    let bottle = Running::start()?;
    let begun = |child: &mut KillOnDrop| -> Result<()> {
        let mut said = [0; 6];
        Ok(child.stdout.as_mut().context("stdout")?.read_exact(&mut said)?)
    };
    for (script, signal, code) in [
        ("echo begun; sleep 1001 & wait", Signal::TERM, 128 + 15),
        ("trap 'exit 4' INT; echo begun; while :; do sleep 1001; done", Signal::INT, 4),
        ("trap '' TERM; echo begun; while :; do sleep 1001; done", Signal::TERM, 128 + 9),
    ] {
        let mut child = KillOnDrop(bottle.command(&[], &["bash", "-c", script]).stdin(Stdio::piped()).spawn()?);
        begun(&mut child)?;
        kill_process(Pid::from_child(&child), signal)?;
        let run = child.finish()?;
        assert_eq!(run.code, Some(code), "{script}: {run:?}");
        assert_eq!(bottle.count("sleep 1001")?, 0, "{script}");
    }
    // `bottle exec … | head`
    let mut child = KillOnDrop(bottle.command(&[], &["yes", "begun and read"]).spawn()?);
    begun(&mut child)?;
    drop(child.stdout.take());
    let run = child.finish()?;
    assert_eq!((run.code, run.stderr.as_str()), (Some(128 + 13), ""));
    assert_eq!(bottle.count("begun and read")?, 0);
    bottle.end()
}

#[test]
fn the_size_holds_before_the_program_runs_and_follows_the_terminal() -> Result<()> {
    let bottle = Running::start()?;
    let script = "stty size; trap 'stty size' WINCH; echo trapped; while :; do read -t 0.1; done";
    let terminal = bottle.on_terminal(&[], script)?;
    terminal.until("trapped")?;
    assert!(terminal.text().starts_with("24 80\r\n"), "{}", terminal.text());
    terminal.resize(200, 60)?;
    terminal.until("60 200\r\n")?;
    drop(terminal);
    // Also where it changes while the command is being started, at whatever moment: none is lost.
    for moment in (0..300).step_by(20) {
        let mut terminal =
            bottle.on_terminal(&[], "until [ \"$(stty size)\" = '50 100' ]; do read -t 0.05; done; exit 0")?;
        thread::sleep(Duration::from_millis(moment));
        terminal.resize(100, 50)?;
        assert_eq!(terminal.wait()?, Some(0), "{moment} ms: {}", terminal.text());
    }
    bottle.end()
}

#[test]
fn a_program_has_the_terminal_from_its_first_instruction() -> Result<()> {
    let bottle = Running::start()?;
    for _ in 0..20 {
        let mut terminal = Pty::start(&bottle.command(&[], &["cat", "/proc/self/stat"]), 80, 24)?;
        assert_eq!(terminal.wait()?, Some(0));
        let (shown, group_and_front) = (terminal.text(), [4, 7]); // their columns
        let fields: Vec<_> = shown.split_whitespace().collect();
        let [group, front] = group_and_front.map(|column| fields.get(column));
        assert!(group.is_some() && group == front, "{shown}");
    }
    bottle.end()
}

#[test]
fn interrupt_and_stop_keys_go_to_the_program_and_the_bottle_lives_on() -> Result<()> {
    let bottle = Running::start()?;
    let mut terminal =
        bottle.on_terminal(&[], "trap 'echo caught; exit 3' INT; echo trapped; while :; do read -t 0.1; done")?;
    let before = terminal.modes()?;
    terminal.until("trapped")?;
    assert_ne!(terminal.modes()?, before, "the terminal is not raw");
    terminal.press(b"\x03")?;
    terminal.until("caught")?;
    assert_eq!((terminal.wait()?, terminal.modes()?), (Some(3), before.clone()));

    // Nobody in the bottle would continue a program that stops.
    let mut terminal = bottle.on_terminal(&[], "kill -STOP $$; echo went on; exit 4")?;
    assert_eq!((terminal.wait()?, terminal.text().as_str()), (Some(4), "went on\r\n"));

    let mut shell = Pty::start(&bottle.command(&[], &["bash", "--norc", "-i"]), 80, 24)?;
    shell.press(b"sleep 1002\r")?;
    eventually("it sleeps", || (bottle.count("sleep 1002").ok()? == 1).then_some(()))?;
    shell.press(b"\x1a")?;
    shell.until("Stopped")?;
    shell.press(b"kill %1; exit 5\r")?;
    shell.until("exit")?;
    shell.press(b"exit 5\r")?; // bash asks once more where there are stopped jobs
    assert_eq!((shell.wait()?, shell.modes()?), (Some(5), before), "{}", shell.text());
    bottle.end()
}

#[test]
fn a_burst_arrives_whole_and_nothing_piles_up_before_a_terminal_that_does_not_read() -> Result<()> {
    const BURST: usize = 10_000_000;
    let bottle = Running::start()?;
    let script =
        format!("stty raw -echo; echo ready; read; seq 1 2000000 | head -c {BURST}; echo; echo 'it is over'; read");
    let mut terminal = bottle.on_terminal(&[], &script)?;
    terminal.until("ready\n")?;
    let wanted: Vec<u8> = (1..=2_000_000).flat_map(|n: u32| format!("{n}\n").into_bytes()).take(BURST).collect();
    terminal.clear();
    terminal.read_no_more();
    let kilobytes =
        |pty: &Pty| -> Result<u64> { Ok(pty.status("VmRSS")?.split(' ').next().context("a size")?.parse()?) };
    let before = kilobytes(&terminal)?;
    terminal.press(b"\n")?;
    // Once the whole way is full, the writer in the bottle sleeps.
    let blocked = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = head ] && grep -q 'S (sleeping)' $p/status && cat $p/io; done";
    let written = |from: &str| from.lines().find(|l| l.starts_with("wchar")).map(str::to_owned);
    let mut last = None;
    let stands = eventually("the writer waits", || {
        let now = written(&bottle.exec(&["bash", "-c", blocked]).ok()?.stdout);
        if now.is_some() && now == last {
            now
        } else {
            last = now;
            None
        }
    })?;
    let after = kilobytes(&terminal)?;
    assert!(after < before + 8_000, "{before} kB before, {after} kB after");
    let began = Instant::now();
    terminal.read_on()?;
    terminal.until("it is over")?;
    let took = began.elapsed();
    report(format!("the writer stood at {stands} of {BURST}; memory {before} → {after} kB; the burst took {took:?}"));
    let shown = terminal.bytes();
    assert!(shown.len() > BURST && shown[..BURST] == wanted, "{} bytes", shown.len());
    terminal.press(b"\n")?;
    assert_eq!(terminal.wait()?, Some(0));
    bottle.end()
}

#[test]
fn an_agent_that_is_killed_leaves_the_terminal_as_it_was() -> Result<()> {
    let home = home()?;
    let mut terminal = Pty::start(&home.command(&["start", "dev", "--yes"]), 80, 24)?;
    let before = terminal.modes()?;
    terminal.until("bypass permissions on")?;
    let identity = identity_in(&terminal.text())?;
    let run = home.run(&["exec", &identity, "--", "pkill", "-9", "-x", "claude"])?;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!((terminal.wait()?, terminal.modes()?), (Some(128 + 9), before), "{}", terminal.text());
    terminal.until("egress: ")?;
    assert_put_back(&terminal.bytes());
    assert_only_log_left(Lab::get(), &home, &identity)
}

/// The last word on each mode that Claude Code switches on is the one that switches it off.
fn assert_put_back(shown: &[u8]) {
    let last = |needle: &[u8]| shown.windows(needle.len()).rposition(|window| window == needle);
    let mut switched = 0;
    for (on, off) in [
        (&b"\x1b[?25l"[..], &b"\x1b[?25h"[..]),
        (b"\x1b[?1000h", b"\x1b[?1000l"),
        (b"\x1b[?1002h", b"\x1b[?1002l"),
        (b"\x1b[?1003h", b"\x1b[?1003l"),
        (b"\x1b[?1006h", b"\x1b[?1006l"),
        (b"\x1b[?1004h", b"\x1b[?1004l"),
        (b"\x1b[?1049h", b"\x1b[?1049l"),
        (b"\x1b[?2004h", b"\x1b[?2004l"),
        (b"\x1b[?2026h", b"\x1b[?2026l"),
        (b"\x1b[>4;2m", b"\x1b[>4m"),
    ] {
        if let Some(at) = last(on) {
            switched += 1;
            assert!(last(off).is_some_and(|off| off > at), "{} is still on", on.escape_ascii());
        }
    }
    assert!(switched >= 2, "Claude Code has switched only {switched} modes");
}

#[test]
fn a_terminal_that_goes_away_takes_the_bottle_with_it() -> Result<()> {
    // With SIGHUP, and with nothing but the end of what can be read.
    for ignored in ["--ignore-signal=USR1", "--ignore-signal=HUP"] {
        let home = home()?;
        let mut terminal = Pty::start_by(&["env", ignored], &home.command(&["start", "dev", "--yes"]), 80, 24)?;
        terminal.until("bypass permissions on")?;
        let identity = identity_in(&terminal.text())?;
        terminal.hang_up();
        assert_eq!(terminal.wait()?, Some(128 + 1), "{ignored}");
        assert_only_log_left(Lab::get(), &home, &identity)?;
    }
    Ok(())
}

#[test]
fn a_session_that_is_stopped_gives_the_terminal_back_and_goes_on() -> Result<()> {
    let bottle = Running::start()?;
    // bash forgets a signal that comes while it handles the one before: so its handler does nothing that takes time.
    let script = "printf '\\033[?1049h\\033[?25lfull screen'; trap 'changed=1' WINCH; until [ \"$key\" = q ]; do \
                  read -rs -n1 -t 0.1 key; [ \"$changed\" ] && changed= && stty size; done; printf '\\033[?1049l'; exit 6";
    let mut terminal = bottle.on_terminal(&[], script)?;
    let before = terminal.modes()?;
    terminal.until("full screen")?;
    let raw = terminal.modes()?;
    terminal.clear();
    terminal.signal(Signal::TSTP)?;
    eventually("it is stopped", || terminal.status("State").ok()?.starts_with('T').then_some(()))?;
    assert_eq!(terminal.modes()?, before);
    terminal.until("\x1b[?1049l")?;
    assert_eq!(terminal.text(), "\x1b[?25h\x1b[?1049l");
    terminal.clear();
    terminal.resize(90, 30)?;
    terminal.signal(Signal::CONT)?;
    // The program draws again, at the size that the terminal has now.
    terminal.until("30 90")?;
    assert!(terminal.text().starts_with("\x1b[?1049h\x1b[?25l"), "{}", terminal.text());
    assert_eq!(terminal.modes()?, raw);
    terminal.press(b"q")?;
    assert_eq!((terminal.wait()?, terminal.modes()?), (Some(6), before));
    assert!(terminal.text().ends_with("\x1b[?1049l\x1b[?25h"), "{}", terminal.text().escape_debug());
    bottle.end()
}

#[test]
fn a_panic_in_the_pump_or_a_signal_puts_the_terminal_back() -> Result<()> {
    let bottle = Running::start()?;
    let script = "printf '\\033[?1049hfull screen'; read; echo more; sleep 1003";
    for (fault, signal, code, said) in [
        ("panic@pump:2", None, 125, "this is a bug in bottle"),
        ("", Some(Signal::TERM), 128 + 15, ""),
        ("", Some(Signal::HUP), 128 + 1, ""),
        ("", Some(Signal::QUIT), 128 + 9, ""), // bash never ends by it, and so is killed
    ] {
        let mut command = bottle.command(&[], &["bash", "-c", script]);
        let mut terminal = Pty::start(command.env("CLAUDE_BOTTLE_FAULT", fault), 80, 24)?;
        let before = terminal.modes()?;
        terminal.until("full screen")?;
        match signal {
            Some(signal) => terminal.signal(signal)?,
            None => terminal.press(b"\r")?,
        }
        assert_eq!((terminal.wait()?, terminal.modes()?), (Some(code), before.clone()), "{}", terminal.text());
        terminal.until("\x1b[?1049l")?;
        terminal.until(said)?;
    }
    bottle.end()
}

#[test]
fn a_signal_while_a_secret_is_asked_for_ends_it_and_echo_is_back() -> Result<()> {
    let home = home()?;
    home.write(".claude-bottle/bottles/box.md", "---\nenv: {ASKED: '?what is it'}\n---\n")?;
    for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129)] {
        let mut terminal = Pty::start(&home.command(&["start", "dev", "--yes"]), 80, 24)?;
        let before = terminal.modes()?;
        terminal.until("what is it (ASKED): ")?;
        eventually("echo is off", || terminal.modes().is_ok_and(|modes| modes != before).then_some(()))?;
        terminal.signal(Signal::TSTP)?;
        eventually("it is stopped", || terminal.status("State").ok()?.starts_with('T').then_some(()))?;
        assert_eq!(terminal.modes()?, before);
        terminal.signal(Signal::CONT)?;
        eventually("echo is off", || terminal.modes().is_ok_and(|modes| modes != before).then_some(()))?;
        terminal.signal(signal)?;
        assert_eq!((terminal.wait()?, terminal.modes()?), (Some(code), before), "{}", terminal.text());
        assert_nothing_left(Lab::get(), &home, &identity_in(&terminal.text())?)?;
    }
    Ok(())
}

#[test]
fn two_signals_at_once_are_one_and_the_third_gives_up() -> Result<()> {
    for (signals, codes, given_up) in [
        (&[Signal::INT, Signal::TERM][..], &[130, 143][..], false),
        (&[Signal::INT, Signal::TERM, Signal::HUP], &[129, 130, 143], true),
    ] {
        let mut bottle = Running::start()?;
        let run = bottle.stop(signals)?;
        assert!(run.code.is_some_and(|code| codes.contains(&code)), "{run:?}");
        assert_eq!(run.stderr.contains("given up; `bottle cleanup` takes away"), given_up, "{run:?}");
        if given_up {
            assert_eq!(bottle.home.run(&["cleanup", "--yes"])?.code, Some(0));
        }
        assert_only_log_left(Lab::get(), &bottle.home, &bottle.identity)?;
    }
    Ok(())
}

#[test]
fn a_session_that_waits_costs_nothing() -> Result<()> {
    let bottle = Running::start()?;
    let terminal = bottle.on_terminal(&[], "echo ready; read")?;
    terminal.until("ready")?;
    let switches = |pty: &Pty| -> Result<u64> { Ok(pty.status("voluntary_ctxt_switches")?.parse()?) };
    let ticks = |pty: &Pty| -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pty.pid().as_raw_nonzero()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().context("stat")?.split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let before = (switches(&terminal)?, ticks(&terminal)?);
    thread::sleep(Duration::from_secs(3)); // the thing measured is time in which nothing happens
    let after = (switches(&terminal)?, ticks(&terminal)?);
    report(format!(
        "idle for 3 s: {} wake-ups of the main thread, {} ms of CPU",
        after.0 - before.0,
        (after.1 - before.1) * 10
    ));
    assert!(after.1 - before.1 <= 2 && after.0 - before.0 < 10, "{before:?} {after:?}");
    bottle.end()
}
