//! The byte pump between this process's streams and a process in a bottle: the same for every backend. It waits in the
//! kernel, holds one chunk at a time, and so goes no faster than whoever reads.

use super::{Input, Streams, screen, terminal};
use crate::{fault, signals::Cancellation};
use anyhow::{Result, bail};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read},
    pipe::{PipeFlags, pipe_with},
    stdio::{stderr, stdin, stdout},
    termios::isatty,
};
use signal_hook::consts::{SIGHUP, SIGPIPE};
use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

const CHUNK: usize = 64 << 10;

/// The host's ends of a process's streams.
pub(super) struct Ends {
    pub(super) input: File,
    pub(super) output: File,
    /// `None` where the process has a terminal.
    pub(super) errors: Option<File>,
}

/// A pump at work.
pub(super) struct Pump {
    /// End when the process's streams do, or when told to.
    outward: Vec<JoinHandle<()>>,
    /// Ends when there is no more input, or when told to.
    inward: Option<JoinHandle<()>>,
    /// Tells them to, when dropped.
    stop: OwnedFd,
    session: Session,
}

/// What this process's streams have come to, for the whole session.
#[derive(Clone)]
struct Session {
    stopped: Arc<OwnedFd>,
    cancel: Cancellation,
    /// A part of the pump has panicked.
    failed: Arc<AtomicBool>,
}

impl Pump {
    /// Begins. Without input, the process sees the end of its own at once.
    pub(super) fn start(ends: Ends, streams: Streams, cancel: &Cancellation) -> Result<Self> {
        let Ends { input, output, errors } = ends;
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let session = Session { stopped: Arc::new(stopped), cancel: cancel.clone(), failed: Arc::default() };
        if let Some(screen) = [stdout(), stderr()].into_iter().find(|stream| isatty(stream)) {
            terminal::watch()?;
            screen::open(screen.try_clone_to_owned()?, streams.unfiltered);
        }
        let mut outward = vec![session.spawn(move |session| session.show(&output, stdout(), SIGPIPE))];
        // Nobody has to read the errors: without a reader they are lost, and the process goes on.
        outward.extend(errors.map(|errors| session.spawn(move |session| session.show(&errors, stderr(), 0))));
        let inward = match streams.input {
            Input::Nothing => None,
            from => Some(session.spawn(move |session| session.feed(from, input))),
        };
        Ok(Self { outward, inward, stop, session })
    }

    /// Ends it: once everything that the process said is written if it has `ended`, else at once, for its streams end
    /// only when the bottle does. The screen is put back. An error where a part of the pump has failed.
    pub(super) fn finish(self, ended: bool) -> Result<()> {
        if ended {
            self.outward.into_iter().for_each(|thread| drop(thread.join()));
        }
        drop(self.stop);
        screen::close();
        // One that waits for a process that reads no more ends with the bottle.
        if let Some(thread) = self.inward.filter(|_| ended) {
            let _ = thread.join();
        }
        if self.session.failed.load(Ordering::SeqCst) {
            bail!("the session's byte pump failed: this is a bug in bottle");
        }
        Ok(())
    }
}

impl Session {
    /// A panic in one part ends the session: the terminal is not the guest's any more.
    fn spawn(&self, part: impl FnOnce(&Self) + Send + 'static) -> JoinHandle<()> {
        let session = self.clone();
        thread::spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| part(&session))).is_err() {
                session.failed.store(true, Ordering::SeqCst);
                session.cancel.give_up();
            }
        })
    }

    /// Bytes from the process, until they end. `unread`: the signal that stands for a reader that has gone away, if
    /// that ends the session.
    fn show(&self, from: &File, to: BorrowedFd<'static>, unread: i32) {
        let is_terminal = isatty(to);
        let mut chunk = vec![0; CHUNK];
        while self.is_readable(from) {
            let Ok(n @ 1..) = read(from, &mut chunk[..]) else { return };
            let _ = fault::point("pump");
            let shown = match is_terminal {
                true => screen::draw(to, &chunk[..n]),
                false => screen::write_all(to, &chunk[..n]),
            };
            match shown {
                Ok(()) => {}
                Err(error) if is_terminal && error.kind() == ErrorKind::BrokenPipe => return self.cancel.give_up(),
                Err(_) if is_terminal => return self.cancel.cancel(SIGHUP),
                Err(_) if unread != 0 => return self.cancel.cancel(unread),
                Err(_) => {}
            }
        }
    }

    /// Bytes to the process, until they end. A terminal has no end: there it means that the terminal went away.
    fn feed(&self, from: Input, mut to: File) {
        let mut chunk = vec![0; CHUNK];
        while self.is_readable(stdin()) {
            match read(stdin(), &mut chunk[..]) {
                Ok(n @ 1..) => {
                    if to.write_all(&chunk[..n]).is_err() {
                        return; // the process reads no more
                    }
                }
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => {
                    if from == Input::Terminal {
                        self.cancel.cancel(SIGHUP);
                    }
                    return;
                }
            }
        }
    }

    /// Waits until there is something to read, or an end. `false` where it is told to stop.
    fn is_readable(&self, from: impl AsFd) -> bool {
        let from = from.as_fd();
        loop {
            let mut fds = [PollFd::new(&from, PollFlags::IN), PollFd::new(&*self.stopped, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(_) => return fds[1].revents().is_empty(),
            }
        }
    }
}
