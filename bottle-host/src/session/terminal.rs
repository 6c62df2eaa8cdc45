//! This process's terminal: put into other modes for a session or a secret, and back however that ends; also for as
//! long as the process is stopped.

use super::screen;
use anyhow::Result;
use rustix::{
    stdio::{stderr, stdin, stdout},
    termios::{
        LocalModes, OptionalActions, QueueSelector, Termios, isatty, tcflush, tcgetattr, tcgetwinsize, tcsetattr,
    },
};
use signal_hook::{
    consts::{SIGCONT, SIGSTOP, SIGTSTP},
    iterator::Signals,
    low_level::raise,
};
use std::{
    panic,
    sync::{Mutex, Once, PoisonError},
    thread,
};

/// The terminal's own modes and those it is in, where somebody has changed them.
static MODES: Mutex<Option<Modes>> = Mutex::new(None);

struct Modes {
    before: Termios,
    now: Termios,
}

/// The terminal in other modes than it was found in, for as long as this lives.
pub struct Terminal(());

/// Puts the terminal back, should anything have changed it: also on the way out of a process that gives up.
pub fn restore() {
    screen::close();
    if let Some(modes) = MODES.lock().unwrap_or_else(PoisonError::into_inner).take() {
        put_back(&modes);
    }
}

/// A last line on standard error, past locks that a thread may hold that will never go on.
pub fn say_at_once(line: &str) {
    screen::write_soon(stderr(), line.as_bytes());
}

impl Terminal {
    /// Are standard input and output both a terminal?
    pub fn is_there() -> bool {
        isatty(stdin()) && isatty(stdout())
    }

    /// Puts it into raw mode: every key goes to the agent, ^C and ^Z too.
    pub fn raw() -> Result<Self> {
        Self::change(Termios::make_raw)
    }

    /// Takes its echo away, for a secret. What was typed before is no secret.
    pub fn silent() -> Result<Self> {
        let terminal = Self::change(|modes| modes.local_modes.remove(LocalModes::ECHO))?;
        tcflush(stdin(), QueueSelector::IFlush)?;
        Ok(terminal)
    }

    fn change(how: impl FnOnce(&mut Termios)) -> Result<Self> {
        watch()?;
        let before = tcgetattr(stdin())?;
        let mut now = before.clone();
        how(&mut now);
        let mut slot = MODES.lock().unwrap_or_else(PoisonError::into_inner);
        let modes = slot.insert(Modes { before, now });
        let terminal = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &modes.now)?;
        Ok(terminal)
    }

    /// Columns and rows. A terminal that does not know says 80 by 24.
    pub fn size() -> Result<(u16, u16)> {
        let size = tcgetwinsize(stdout())?;
        Ok(if size.ws_col == 0 || size.ws_row == 0 { (80, 24) } else { (size.ws_col, size.ws_row) })
    }

    /// The terminal's type, for the agent's `TERM`.
    pub fn kind() -> String {
        std::env::var("TERM").ok().filter(|term| !term.is_empty()).unwrap_or_else(|| "xterm-256color".into())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Does not wait for output that nobody reads, and throws away the answers that the guest did not wait for.
fn put_back(modes: &Modes) {
    let _ = tcsetattr(stdin(), OptionalActions::Now, &modes.before);
    let _ = tcflush(stdin(), QueueSelector::IFlush);
}

/// From now on a process that stops or panics leaves the terminal as it was found.
pub(super) fn watch() -> Result<()> {
    static WATCHED: Once = Once::new();
    if WATCHED.is_completed() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGTSTP, SIGCONT])?;
    WATCHED.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            report(info);
        }));
        thread::spawn(move || {
            for signal in &mut signals {
                if signal == SIGTSTP { stop() } else { go_on() }
            }
        });
    });
    Ok(())
}

fn stop() {
    screen::pause();
    if let Some(modes) = &*MODES.lock().unwrap_or_else(PoisonError::into_inner) {
        put_back(modes);
    }
    let _ = raise(SIGSTOP);
}

/// After any stop, also one that nobody could prepare for.
fn go_on() {
    if let Some(modes) = &*MODES.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes.now);
    }
    screen::go_on();
}
