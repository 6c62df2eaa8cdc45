//! The byte pump between this process's streams and a process in a bottle: the same for every backend.

use super::{filter::Filter, terminal::Terminal};
use crate::plugin::Process;
use anyhow::Result;
use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
    stdio::stdin,
};
use signal_hook::{
    consts::SIGWINCH,
    iterator::{Handle, Signals},
};
use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
};

const CHUNK: usize = 64 << 10;

/// A pump at work.
pub(super) struct Pump {
    /// Ends when the process's streams do.
    outward: Vec<JoinHandle<()>>,
    /// Ends when told to, or when the terminal goes away.
    inward: Option<(OwnedFd, JoinHandle<()>)>,
    resizes: Option<(Handle, JoinHandle<()>)>,
    /// Restored last, once nothing is written any more.
    terminal: Option<Arc<Terminal>>,
}

impl Pump {
    /// Between a terminal and a process that has one of its own.
    pub(super) fn terminal(
        terminal: Terminal,
        unfiltered: bool,
        process: &Process,
        to: File,
        from: File,
    ) -> Result<Self> {
        let terminal = Arc::new(terminal);
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let inward = thread::spawn(move || feed(to, &stopped));
        let mut signals = Signals::new([SIGWINCH])?;
        let handle = signals.handle();
        let (resized, sized) = (process.clone(), terminal.clone());
        let resizes = thread::spawn(move || {
            for _ in &mut signals {
                if let Ok((cols, rows)) = sized.size() {
                    let _ = resized.resize(cols, rows);
                }
            }
        });
        Ok(Self {
            outward: vec![thread::spawn(move || copy(from, io::stdout(), !unfiltered))],
            inward: Some((stop, inward)),
            resizes: Some((handle, resizes)),
            terminal: Some(terminal),
        })
    }

    /// From a process without a terminal; nothing goes in.
    pub(super) fn headless(to: File, from: File, errors: File) -> Self {
        drop(to);
        let outward = vec![
            thread::spawn(move || copy(from, io::stdout(), io::stdout().is_terminal())),
            thread::spawn(move || copy(errors, io::stderr(), io::stderr().is_terminal())),
        ];
        Self { outward, inward: None, resizes: None, terminal: None }
    }

    /// Puts the terminal back: once everything that the process said is written if it has `ended`, else at once, for
    /// its streams end only when the bottle does.
    pub(super) fn finish(self, ended: bool) {
        if ended {
            self.outward.into_iter().for_each(|thread| drop(thread.join()));
        }
        if let Some((stop, thread)) = self.inward {
            drop(stop);
            // One that waits for a process that reads no more ends with the bottle.
            if ended {
                let _ = thread.join();
            }
        }
        if let Some((handle, thread)) = self.resizes {
            handle.close();
            let _ = thread.join();
        }
        drop(self.terminal);
    }
}

fn copy(mut from: File, mut to: impl Write, filtered: bool) {
    let (mut chunk, mut filter) = (vec![0; CHUNK], Filter::new());
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        let written = match filtered {
            true => to.write_all(&filter.pass(&chunk[..n])),
            false => to.write_all(&chunk[..n]),
        };
        if written.and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// Keys to the process, until `stopped` hangs up.
fn feed(mut to: File, stopped: &OwnedFd) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let keys = stdin();
        let mut fds = [PollFd::new(&keys, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) if !fds[1].revents().is_empty() => return,
            Ok(_) => {}
        }
        match rustix::io::read(stdin(), &mut chunk[..]) {
            Ok(n @ 1..) => {
                if to.write_all(&chunk[..n]).is_err() {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => return, // the terminal went away: its end closes the process's input
        }
    }
}
