//! The operator's screen while a guest draws on it. All that a guest writes goes through here, one chunk after another,
//! so that the screen can be taken away from it and put back at any moment, by any thread.

use super::filter::Filter;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::write,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How long a screen that does not take what was written to it is waited for when it is to be put back.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No guest draws.
    Idle,
    Drawing,
    /// The process is about to stop, or has stopped: whoever wants to draw waits.
    Paused,
}

struct Screen {
    phase: Phase,
    filter: Filter,
    /// Where a guest draws.
    terminal: Option<OwnedFd>,
    /// A chunk is on its way.
    writing: bool,
}

static SCREEN: Mutex<Screen> =
    Mutex::new(Screen { phase: Phase::Idle, filter: Filter::new(false), terminal: None, writing: false });
/// The chunk has been written, or the phase has changed.
static CHANGED: Condvar = Condvar::new();

/// Whoever draws, a guest or our own screen, may do so on this terminal. `unfiltered`: whatever it likes.
pub(crate) fn open(terminal: OwnedFd, unfiltered: bool) {
    let (phase, filter) = (Phase::Drawing, Filter::new(unfiltered));
    *lock() = Screen { phase, filter, terminal: Some(terminal), writing: false };
}

/// Shows what a guest has written. An error where the terminal is gone, or is no guest's any more.
pub(crate) fn draw(to: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let busy = |screen: &mut Screen| screen.writing || screen.phase == Phase::Paused;
    let mut screen = CHANGED.wait_while(lock(), busy).unwrap_or_else(PoisonError::into_inner);
    if screen.phase == Phase::Idle {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let shown = screen.filter.pass(bytes);
    screen.writing = true;
    drop(screen); // a screen that is full must not keep anybody from looking at it
    let written = write_all(&to, &shown);
    lock().writing = false;
    CHANGED.notify_all();
    written
}

/// Takes the screen away from its guest and puts its modes back.
pub(super) fn close() {
    put_back(Phase::Idle);
}

/// The same for as long as the process is stopped.
pub(super) fn pause() {
    put_back(Phase::Paused);
}

/// The guest may go on: its modes are switched on again.
pub(super) fn go_on() {
    let mut screen = lock();
    if screen.phase == Phase::Paused {
        say(&screen, &screen.filter.modes.redo());
        screen.phase = Phase::Drawing;
        CHANGED.notify_all();
    }
}

fn put_back(next: Phase) {
    let Some(screen) = lock_patiently() else { return };
    let (mut screen, _) =
        CHANGED.wait_timeout_while(screen, PATIENCE, |screen| screen.writing).unwrap_or_else(PoisonError::into_inner);
    if screen.phase == Phase::Drawing {
        say(&screen, &screen.filter.undo());
    }
    if screen.phase != Phase::Idle {
        screen.phase = next;
        CHANGED.notify_all();
    }
}

fn say(screen: &Screen, bytes: &[u8]) {
    if let Some(terminal) = screen.terminal.as_ref().filter(|_| !bytes.is_empty()) {
        write_soon(terminal, bytes);
    }
}

/// Writes, or gives up soon: a terminal that reads nothing needs nothing put back that it would see.
pub(super) fn write_soon(to: impl AsFd, bytes: &[u8]) {
    let patience = Timespec { tv_sec: 0, tv_nsec: PATIENCE.subsec_nanos().into() };
    if matches!(poll(&mut [PollFd::new(&to, PollFlags::OUT)], Some(&patience)), Ok(1)) {
        let _ = write(to, bytes);
    }
}

/// Writes all of it, past the screen.
pub(super) fn write_all(to: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(&to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn lock() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that panicked while it held the lock comes here by the panic hook, and must not wait for itself.
fn lock_patiently() -> Option<MutexGuard<'static, Screen>> {
    use std::sync::TryLockError::{Poisoned, WouldBlock};
    for _ in 0..10 {
        match SCREEN.try_lock() {
            Ok(screen) => return Some(screen),
            Err(Poisoned(screen)) => return Some(screen.into_inner()),
            Err(WouldBlock) => thread::sleep(PATIENCE / 10),
        }
    }
    None
}
