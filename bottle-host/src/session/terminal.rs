//! This process's terminal: put into other modes for a session or a secret, and back however that ends.

use anyhow::Result;
use rustix::{
    stdio::{stdin, stdout},
    termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};
use std::sync::{Mutex, PoisonError};

/// The modes to go back to, where a session has changed them.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal in other modes than it was found in, for as long as this lives.
pub struct Terminal(());

/// Puts the terminal back, should a session have changed it: also on the way out of a process that gives up.
pub fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &before);
    }
}

impl Terminal {
    /// Are standard input and output both a terminal?
    pub fn is_there() -> bool {
        isatty(stdin()) && isatty(stdout())
    }

    /// Puts it into raw mode: every key goes to the agent, ^C too.
    pub fn raw() -> Result<Self> {
        Self::change(Termios::make_raw)
    }

    /// Takes its echo away, for a secret.
    pub fn silent() -> Result<Self> {
        Self::change(|modes| modes.local_modes.remove(LocalModes::ECHO))
    }

    fn change(how: impl FnOnce(&mut Termios)) -> Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut modes = before.clone();
        how(&mut modes);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let terminal = Self(());
        tcsetattr(stdin(), OptionalActions::Flush, &modes)?;
        Ok(terminal)
    }

    /// Columns and rows. A terminal that does not know says 80 by 24.
    pub fn size(&self) -> Result<(u16, u16)> {
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
