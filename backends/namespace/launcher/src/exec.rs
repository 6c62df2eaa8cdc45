//! The processes of a bottle: each is a child of PID 1, which has given up everything that they must not have.
//!
//! A process gets pipes, whose far ends are the backend's, or a terminal of the bottle's own, whose far end the backend
//! gets. Nothing that it holds leads to a file, a directory or a socket of the machine.

use crate::{sys, wire::Exec};
use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Pid, Resource, Rlimit, Signal, chdir, ioctl_tiocsctty, kill_process_group, setrlimit, setsid},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    stdio::{stderr, stdin},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use std::{
    io::{self, ErrorKind},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
};

/// What a shell ends with where a program is not there, or cannot be run; errors of our own.
const NOT_FOUND: i32 = 127;
const NOT_RUN: i32 = 126;
const FAILED: i32 = 125;

/// A process, and its group, whose first it is.
pub(crate) struct Process {
    pub(crate) pid: Pid,
    terminal: Option<OwnedFd>,
}

/// Starts a process with its three streams, or with a terminal: its other end is returned, too. `pids`: how many
/// processes and threads there may be, of which PID 1 keeps some more for itself.
pub(crate) fn start(what: &Exec, streams: &[OwnedFd], pids: u64) -> Result<(Process, Option<OwnedFd>)> {
    ensure!(!what.argv.is_empty(), "no program is named");
    let (terminal, theirs) = match what.tty {
        None => {
            ensure!(streams.len() == 3, "{} streams came along", streams.len());
            (None, None)
        }
        Some((cols, rows)) => {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let ours = openpt(flags).context("open a terminal")?;
            unlockpt(&ours)?;
            tcsetwinsize(&ours, Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })?;
            let theirs = ioctl_tiocgptpeer(&ours, flags).context("open the terminal's end")?;
            (Some(ours), Some(theirs))
        }
    };
    let Some(pid) = sys::fork().context("start a process")? else {
        let error = match become_it(what, streams, theirs.as_ref(), pids) {
            Ok(error) => error,
            Err(error) => (FAILED, format!("{error:#}")),
        };
        let _ = rustix::io::write(stderr(), format!("bottle: {}\n", error.1).as_bytes());
        sys::exit(error.0)
    };
    let lent = terminal.as_ref().map(OwnedFd::try_clone).transpose()?;
    Ok((Process { pid, terminal }, lent))
}

/// In the copy: returns only where the program cannot be run, with the exit code and why.
fn become_it(what: &Exec, streams: &[OwnedFd], terminal: Option<&OwnedFd>, pids: u64) -> Result<(i32, String)> {
    setsid()?;
    sys::unblock_signals()?;
    for number in 0..3 {
        match terminal {
            Some(terminal) => sys::place(terminal, number)?,
            None => sys::place(&streams[number as usize], number)?,
        }
    }
    if terminal.is_some() {
        ioctl_tiocsctty(stdin()).context("take the terminal")?;
    }
    sys::close_from(3)?;
    setrlimit(Resource::Nproc, Rlimit { current: Some(pids), maximum: Some(pids) })?;
    chdir(&*what.cwd).with_context(|| format!("go to {}", what.cwd))?;
    let error: io::Error = Command::new(&what.argv[0]).args(&what.argv[1..]).env_clear().envs(&what.env).exec();
    Ok(match error.kind() {
        ErrorKind::NotFound => (NOT_FOUND, format!("{}: not found in the bottle", what.argv[0])),
        _ => (NOT_RUN, format!("{}: {error}", what.argv[0])),
    })
}

impl Process {
    /// To the process and its group; on a terminal, to whoever is in its foreground. The keeper on a terminal is no aim by
    /// itself: it ends when its program does.
    pub(crate) fn signal(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else { return };
        let front = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        let groups = match front {
            Some(front) if front != self.pid && signal != Signal::KILL => vec![front],
            Some(front) if front != self.pid => vec![front, self.pid],
            _ => vec![self.pid],
        };
        for group in groups {
            let _ = kill_process_group(group, signal);
        }
    }
}
