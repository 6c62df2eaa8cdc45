//! A real terminal with somebody at it: a tmux of a test's own.

use crate::{bottle::eventually, lab::output};
use anyhow::{Context, Result};
use std::{path::PathBuf, process::Command};

/// One with one window; gone when it is dropped.
pub struct Tmux {
    dir: tempfile::TempDir,
}

impl Tmux {
    /// A command in it, with its environment. In its working directory, `before` and `after` say how `stty` found
    /// the terminal; its exit code is the last line.
    ///
    /// # Errors
    /// Where tmux does not start.
    pub fn start(command: &Command, cols: u16, rows: u16) -> Result<Self> {
        let tmux = Self { dir: tempfile::tempdir()? };
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
        // The shell that comes after it shows in which state the terminal was left.
        let script = format!(
            "stty -a >before; {}; echo \"ended with $?\"; stty -a >after.new; mv after.new after; exec cat",
            words.join(" ")
        );
        let mut inner = tmux.command(&["new-session", "-d", "-x", &cols.to_string(), "-y", &rows.to_string(), &script]);
        inner.env_clear().envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        inner.current_dir(command.get_current_dir().context("a working directory")?);
        output(&mut inner).context("start tmux; where it is missing: apt-get install tmux")?;
        Ok(tmux)
    }

    /// A command to it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.dir.path().join("socket")).args(["-f", "/dev/null"]).args(args);
        command
    }

    /// What is seen.
    ///
    /// # Errors
    /// Where tmux is gone.
    pub fn screen(&self) -> Result<String> {
        output(&mut self.command(&["capture-pane", "-p"]))
    }

    /// The screen once that stands on it.
    ///
    /// # Errors
    /// Where it never does: the screen as it is.
    pub fn until(&self, what: &str) -> Result<String> {
        let found = eventually(what, || self.screen().ok().filter(|screen| screen.contains(what)));
        found.with_context(|| self.screen().unwrap_or_default())
    }

    /// Keys by tmux's names for them, or after `-l` as they are.
    ///
    /// # Errors
    /// Where tmux is gone.
    pub fn keys(&self, keys: &[&str]) -> Result<()> {
        output(&mut self.command(&[&["send-keys"], keys].concat())).map(drop)
    }

    /// A tmux format, for the one pane.
    ///
    /// # Errors
    /// Where tmux is gone.
    pub fn pane(&self, format: &str) -> Result<String> {
        Ok(output(&mut self.command(&["display-message", "-p", format]))?.trim().to_owned())
    }

    /// Keeps every byte from now on that the program writes, as it is written.
    ///
    /// # Errors
    /// Where tmux is gone.
    pub fn record(&self) -> Result<PathBuf> {
        let raw = self.dir.path().join("raw");
        output(&mut self.command(&["pipe-pane", "-O", &format!("cat >'{}'", raw.display())]))?;
        Ok(raw)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}
