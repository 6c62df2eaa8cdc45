//! The helper's frames, without a machine around it: what a backend whose engine is but a pipe relies on. As root, for the
//! helper hands out users.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result, ensure};
use bottle_api::{
    attend::{ATTEND_ARGUMENT, Attend, Down, Up, WINDOW},
    control::write_frame,
};
use bottle_tests::{bottle::KillOnDrop, bottle::eventually, lab::stage};
use rustix::process::{Pid, test_kill_process};
use std::{
    io::BufReader,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

/// A helper and the process that it attends.
struct Attended {
    helper: KillOnDrop,
    down: Option<ChildStdin>,
    up: BufReader<ChildStdout>,
}

impl Attended {
    fn start(argv: &[&str], change: impl FnOnce(&mut Attend)) -> Result<Self> {
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let program = stage().join(format!("libexec/bottle/bottle-sidecar-{arch}"));
        let mut command = Command::new(program);
        command.arg(ATTEND_ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut helper = KillOnDrop(command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").spawn()?);
        let (mut down, up) = (helper.stdin.take().context("stdin")?, helper.stdout.take().context("stdout")?);
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let mut start = Attend { argv, uid: 1000, gid: 1000, ..Attend::default() };
        change(&mut start);
        write_frame(&mut down, &start)?;
        Ok(Self { helper, down: Some(down), up: BufReader::new(up) })
    }

    fn bash(script: &str) -> Result<Self> {
        Self::start(&["bash", "-c", script], |_| {})
    }

    fn send(&mut self, frame: &Down) -> Result<()> {
        Ok(frame.write(self.down.as_mut().context("the way down")?)?)
    }

    fn next(&mut self) -> Result<Up> {
        Up::read(&mut self.up)?.context("the helper ended without a last word")
    }

    /// Reads until this was written; all that was.
    fn until(&mut self, what: &str) -> Result<String> {
        let mut said = String::new();
        while !said.contains(what) {
            match self.next()? {
                Up::Output(bytes) => said += &String::from_utf8_lossy(&bytes),
                Up::Taken(_) => {}
                other => ensure!(false, "{other:?} after {said:?}"),
            }
        }
        Ok(said)
    }

    /// Output, errors and exit code.
    fn finish(mut self) -> Result<(Vec<u8>, String, i32)> {
        let (mut output, mut errors) = (vec![], vec![]);
        loop {
            match self.next()? {
                Up::Output(bytes) => output.extend(bytes),
                Up::Errors(bytes) => errors.extend(bytes),
                Up::Taken(_) => {}
                Up::Ended(code) => return Ok((output, String::from_utf8_lossy(&errors).into_owned(), code)),
                Up::Failed(why) => ensure!(false, "{why}"),
            }
        }
    }
}

#[test]
fn output_errors_and_every_exit_code_arrive() -> Result<()> {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 42", 42),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
    ] {
        let ended = Attended::bash(&format!("echo out; echo err >&2; {script}"))?.finish()?;
        assert_eq!(ended, (b"out\n".to_vec(), "err\n".into(), code), "{script}");
    }
    let missing = Attended::start(&["/no/such/program"], |_| {})?.finish()?;
    assert!(missing.2 == 127 && missing.1.contains("/no/such/program: not found in the bottle"), "{missing:?}");
    Ok(())
}

#[test]
fn a_process_is_its_user_alone_without_capabilities_and_behind_a_filter() -> Result<()> {
    let attended = Attended::start(
        &["bash", "-c", "cat /proc/self/status; ulimit -u -c; unshare -Ur true; pwd; echo $A"],
        |start| {
            start.pids = Some(300);
            start.cwd = "/usr".into();
            start.env.insert("A".into(), "b".into());
        },
    )?;
    let (output, errors, _) = attended.finish()?;
    let status = String::from_utf8(output)?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    assert_eq!(
        (line("Uid:"), line("Gid:"), line("Groups:")),
        ("1000\t1000\t1000\t1000", "1000\t1000\t1000\t1000", "1000")
    );
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), ("1", "2"));
    assert!(status.contains(" 300\n") && status.ends_with("/usr\nb\n"), "{status}");
    assert!(errors.contains("unshare: unshare failed: Operation not permitted"), "{errors}");
    Ok(())
}

#[test]
fn input_arrives_whole_and_no_more_is_under_way_than_is_read() -> Result<()> {
    let mut cat = Attended::bash("sleep 0.5; exec cat")?;
    let bytes: Vec<u8> = (0..(2 * WINDOW) as u32).map(|n| (n % 251) as u8).collect();
    let (mut back, mut sent, mut taken) = (vec![], 0, 0);
    let mut chunks = bytes.chunks(32 << 10);
    while back.len() < bytes.len() {
        while sent - taken + (32 << 10) <= WINDOW
            && let Some(chunk) = chunks.next()
        {
            cat.send(&Down::Input(chunk.to_vec()))?;
            sent += chunk.len();
        }
        match cat.next()? {
            Up::Output(bytes) => back.extend(bytes),
            Up::Taken(bytes) => taken += bytes as usize,
            other => ensure!(false, "{other:?}"),
        }
    }
    cat.send(&Down::InputEnd)?;
    let (rest, _, code) = cat.finish()?;
    assert_eq!((back == bytes, rest.len(), code), (true, 0, 0));

    // A signal overtakes input that nobody reads.
    let mut deaf = Attended::bash("echo up; exec sleep 1000")?;
    deaf.until("up")?;
    for _ in 0..WINDOW / (32 << 10) {
        deaf.send(&Down::Input(vec![0; 32 << 10]))?;
    }
    deaf.send(&Down::Signal(15))?;
    assert_eq!(deaf.finish()?.2, 128 + 15);
    Ok(())
}

#[test]
fn a_terminal_has_a_size_before_the_program_runs_and_signals_reach_its_foreground() -> Result<()> {
    let script = "stty size; tty; trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut shell = Attended::start(&["bash", "-c", script], |start| start.tty = Some((101, 33)))?;
    let said = shell.until("ready")?;
    assert!(said.starts_with("33 101\r\n/dev/pts/"), "{said}");
    shell.send(&Down::Resize(80, 24))?;
    shell.until("24 80")?;
    shell.send(&Down::Input(b"\x03".to_vec()))?;
    assert_eq!(shell.finish()?.2, 128 + 2);
    let mut shell = Attended::start(&["bash", "-ic", "echo ready; sleep 1000"], |start| start.tty = Some((80, 24)))?;
    shell.until("ready")?;
    shell.send(&Down::Signal(9))?;
    assert_eq!(shell.finish()?.2, 128 + 9);
    Ok(())
}

#[test]
fn a_process_does_not_outlive_its_channel() -> Result<()> {
    for tty in [None, Some((80, 24))] {
        let mut process = Attended::start(&["bash", "-c", "echo \"pid $$.\"; sleep 1000"], |start| start.tty = tty)?;
        let said = process.until(".")?;
        let pid: i32 = said.trim().trim_start_matches("pid ").trim_end_matches('.').parse()?;
        process.down.take();
        let pid = Pid::from_raw(pid).context("a pid")?;
        eventually("the process is gone", || test_kill_process(pid).is_err().then_some(()))?;
        process.helper.wait()?;
    }
    Ok(())
}
