//! SIGINT, SIGTERM, SIGHUP and SIGQUIT become the cancellation of whatever call is under way.
//!
//! The host alone has handlers. A call to a backend is lent the read end of a pipe, which becomes readable at the
//! first signal; the teardown that follows is lent none, so a signal cannot cut it short. The third signal gives up.
//! A signal that whoever started this process has it ignore (`nohup`) stays ignored.

use crate::{session::terminal, ui};
use anyhow::{Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM},
    iterator::Signals,
};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::Duration,
};

/// Signals after which even the teardown is given up.
const PATIENCE: u32 = 3;

/// The process's cancellation. Cheap to clone.
#[derive(Clone)]
pub struct Cancellation(Arc<Inner>);

struct Inner {
    readable: OwnedFd,
    /// Never closed before the process ends.
    writable: OwnedFd,
    signal: AtomicI32,
}

impl Cancellation {
    /// Installs the handlers. Once per process.
    pub fn install() -> Result<Self> {
        let (readable, writable) = pipe_with(PipeFlags::CLOEXEC)?;
        let cancellation = Self(Arc::new(Inner { readable, writable, signal: AtomicI32::new(0) }));
        let ignored = ignored();
        let heeded = [SIGINT, SIGTERM, SIGHUP, SIGQUIT].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let mut signals = Signals::new(heeded)?;
        let own = cancellation.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for (count, signal) in (1..).zip(&mut signals) {
                own.cancel(signal);
                if count >= PATIENCE {
                    terminal::restore();
                    terminal::say_at_once("bottle: given up; `bottle cleanup` takes away what is left\n");
                    std::process::exit(128 + signal);
                }
            }
        })?;
        Ok(cancellation)
    }

    /// Cancels as `signal` would.
    pub fn cancel(&self, signal: i32) {
        if self.0.signal.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.give_up();
        }
    }

    /// Cancels without a signal: what is under way has failed in another thread.
    pub fn give_up(&self) {
        let _ = rustix::io::write(&self.0.writable, &[1]);
    }

    /// The exit code of a command that passes one on: 128 + n where signal n has ended it.
    pub fn conclude(&self, result: Result<u8>) -> Result<u8> {
        match (self.signal(), result) {
            (Some(signal), Err(error)) => {
                // Whatever went wrong went wrong because of the signal. `bottle … | head`: nobody needs to be told.
                if signal != SIGPIPE {
                    ui::say(format!("stopped by signal {signal}: {error:#}"));
                }
                Ok(u8::try_from(128 + signal).unwrap_or(125))
            }
            (_, result) => result,
        }
    }

    /// The signal that cancelled, if one did.
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Waits until there is something to read; an error where it is cancelled first.
    pub fn wait_readable(&self, from: impl AsFd) -> Result<()> {
        self.wait(from.as_fd(), None).map(drop)
    }

    /// The same for so long at most; is there something to read?
    pub fn wait_readable_within(&self, from: impl AsFd, limit: Duration) -> Result<bool> {
        self.wait(from.as_fd(), Some(&limit.try_into()?))
    }

    /// Waits until there is something to read from any of them; an error where it is cancelled first.
    pub fn wait_any_readable<'a>(&'a self, from: impl Iterator<Item = BorrowedFd<'a>>) -> Result<()> {
        self.wait_any(from, None)
    }

    /// The same for so long at most.
    pub fn wait_any_readable_within<'a>(
        &'a self,
        from: impl Iterator<Item = BorrowedFd<'a>>,
        limit: Duration,
    ) -> Result<()> {
        self.wait_any(from, Some(&limit.try_into()?))
    }

    fn wait_any<'a>(&'a self, from: impl Iterator<Item = BorrowedFd<'a>>, limit: Option<&Timespec>) -> Result<()> {
        let own = self.0.readable.as_fd();
        let mut fds: Vec<PollFd<'_>> =
            from.chain([own]).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        while let Err(error) = poll(&mut fds, limit) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        match fds.last().is_some_and(|own| !own.revents().is_empty()) {
            true => bail!("cancelled"),
            false => Ok(()),
        }
    }

    fn wait(&self, from: BorrowedFd<'_>, limit: Option<&Timespec>) -> Result<bool> {
        loop {
            let mut fds = [PollFd::new(&from, PollFlags::IN), PollFd::new(&self.0.readable, PollFlags::IN)];
            match poll(&mut fds, limit) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            if !fds[1].revents().is_empty() {
                bail!("cancelled");
            }
            return Ok(!fds[0].revents().is_empty());
        }
    }

    /// The descriptor that calls to a backend are lent.
    pub fn fd(&self) -> i32 {
        self.0.readable.as_raw_fd()
    }
}

/// The signals that this process ignores, signal n as bit n - 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
