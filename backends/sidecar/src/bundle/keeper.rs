//! A daemon's keeper: a process of the daemon's own user that starts it, as often as the bundle says, and tells how it
//! ended.
//!
//! ```text
//! bundle ══ orders, the daemon's pipes ══▶ keeper ── starts, signals, waits ──▶ daemon
//!        ◀══════ how it ended ═══════════
//! ```
//!
//! The bundle gives up the privilege to hand out users before it reads anything, so it could never start a daemon again
//! as the user that it had. A keeper is started before that, once, as that user, and needs no privilege. It holds
//! nothing worth having: policy and secrets go from the bundle to the daemon by a pipe that the keeper only passes on.

use crate::{daemon, rights, users::Users};
use anyhow::{Context, Result, bail};
use rustix::{
    io::{FdFlags, fcntl_setfd, retry_on_intr},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper,
        set_parent_process_death_signal, waitid, waitpid,
    },
    stdio,
};
use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// The first byte of an order: start the daemon with the descriptors that come along.
const START: u8 = b'S';
/// Send it the signal whose number is the second byte.
const SIGNAL: u8 = b'K';
/// Of what is told of an end.
const LONGEST_WORD: usize = 200;
/// One heap for all threads of a daemon, and what is large outside of it. The C library never gives back what is free in
/// the middle of a heap, and what is free in one is of no use to the other thread: after a crowd of clients nine tenths of
/// a daemon's memory were free, in each of them.
const HEAP: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=131072");

/// The bundle's end.
pub(super) struct Keeper {
    socket: OwnedFd,
}

impl Keeper {
    /// Starts the keeper of a daemon, as the user of that place in the list.
    pub(super) fn start(name: &str, place: usize, users: &Users) -> Result<Self> {
        let (socket, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        users.assign(&mut command, place)?;
        command.args(["keep", name]).env_clear().stdin(far).stdout(Stdio::null());
        command.spawn().with_context(|| format!("start the keeper of the daemon {name}"))?;
        Ok(Self { socket })
    }

    /// Has the daemon started, with what it is lent beside its pipes. Returns what leads to its standard input, and comes
    /// from its output.
    pub(super) fn begin<'a>(&self, lent: impl Iterator<Item = &'a OwnedFd>) -> Result<(File, File)> {
        let (stdin, to) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut all = vec![stdin.as_fd(), stdout.as_fd()];
        all.extend(lent.map(|descriptor| descriptor.as_fd()));
        rights::send(&self.socket, &[START], &all)?;
        Ok((to.into(), from.into()))
    }

    /// Sends the daemon a signal, if it runs.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let number = u8::try_from(signal.as_raw())?;
        send(&self.socket, &[SIGNAL, number], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the daemon to end; how it did. `None`: the keeper has ended.
    pub(super) fn next_end(&self) -> Option<String> {
        let mut word = [0; LONGEST_WORD];
        match retry_on_intr(|| recv(&self.socket, &mut word, RecvFlags::empty())) {
            Ok((len, _)) if len > 0 => Some(String::from_utf8_lossy(&word[..len]).into_owned()),
            _ => None,
        }
    }
}

/// `keep NAME`: until the bundle is gone.
pub(crate) fn run(name: &str) -> Result<()> {
    daemon::harden()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // What a daemon's programs have started comes to us when they end.
    set_child_subreaper(Some(getpid()))?;
    let socket = stdio::stdin();
    let running: Arc<Mutex<Option<Child>>> = Arc::default();
    while let Some((order, lent)) = rights::receive(socket)? {
        let mut slot = running.lock().unwrap_or_else(PoisonError::into_inner);
        match (&order[..], slot.as_ref()) {
            ([START], None) => {
                let child = start(name, lent)?;
                let pid = Pid::from_child(&child);
                *slot = Some(child);
                let running = running.clone();
                thread::spawn(move || watch(pid, &running));
            }
            ([SIGNAL, number], Some(child)) => {
                let signal = Signal::from_named_raw(i32::from(*number)).context("no signal has that number")?;
                kill_process(Pid::from_child(child), signal)?;
            }
            ([SIGNAL, _], None) => {} // it was quicker
            _ => bail!("an order that no keeper knows"),
        }
    }
    Ok(())
}

fn start(name: &str, lent: Vec<OwnedFd>) -> Result<Child> {
    let mut lent = lent.into_iter();
    let (Some(stdin), Some(stdout)) = (lent.next(), lent.next()) else { bail!("a daemon without its pipes") };
    let mut command = Command::new("/proc/self/exe");
    command.args(["daemon", name]).env_clear().env(HEAP.0, HEAP.1).stdin(stdin).stdout(stdout);
    let lent: Vec<OwnedFd> = lent.collect();
    for descriptor in &lent {
        // The daemon finds it under the same number.
        fcntl_setfd(descriptor, FdFlags::empty())?;
        command.arg(descriptor.as_raw_fd().to_string());
    }
    command.spawn().with_context(|| format!("start the daemon {name}"))
}

/// Waits for the daemon, ends what it has left behind, and tells the bundle. Only under the lock is it reaped: a pid that
/// is signalled is the daemon's.
fn watch(daemon: Pid, running: &Mutex<Option<Child>>) {
    let word = loop {
        let _ = retry_on_intr(|| waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
        let mut slot = running.lock().unwrap_or_else(PoisonError::into_inner);
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some((pid, _))) if pid != daemon => {} // an orphan's end
            Ok(None) => {}
            ended => {
                *slot = None;
                break match ended {
                    Ok(ended) => {
                        ended.map_or_else(String::new, |(_, how)| ExitStatus::from_raw(how.as_raw()).to_string())
                    }
                    Err(error) => error.to_string(),
                };
            }
        }
    };
    end_orphans();

    let word = &word.as_bytes()[..word.len().min(LONGEST_WORD)];
    let _ = send(stdio::stdin(), word, SendFlags::NOSIGNAL);
}

/// A program that changes its group when it starts (OpenSSH's agent does) does not end with its parent by itself.
fn end_orphans() {
    loop {
        let orphans = children();
        if orphans.is_empty() {
            return;
        }
        for orphan in orphans {
            let _ = kill_process(orphan, Signal::KILL);
            let _ = retry_on_intr(|| waitpid(Some(orphan), WaitOptions::empty()));
        }
    }
}

/// Of every thread of ours; none where the kernel does not list them.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let numbers = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    numbers.filter_map(|number| Pid::from_raw(number.parse().ok()?)).collect()
}
