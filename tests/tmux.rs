//! The real Claude Code in a bottle, on a real terminal: tmux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, assert_nothing_left, contains, eventually, identity_in, processes_of},
    lab::{Lab, output},
    standin::Standin,
    wire::Authority,
};
use std::process::Command;

/// A tmux of this test's own, with one window.
struct Tmux {
    dir: tempfile::TempDir,
}

impl Tmux {
    fn start(command: &Command, cols: u16, rows: u16) -> Result<Self> {
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

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.dir.path().join("socket")).args(["-f", "/dev/null"]).args(args);
        command
    }

    fn screen(&self) -> Result<String> {
        output(&mut self.command(&["capture-pane", "-p"]))
    }

    fn until(&self, what: &str) -> Result<String> {
        let found = eventually(what, || self.screen().ok().filter(|screen| screen.contains(what)));
        found.with_context(|| self.screen().unwrap_or_default())
    }

    fn keys(&self, keys: &[&str]) -> Result<()> {
        output(&mut self.command(&[&["send-keys"], keys].concat())).map(drop)
    }

    /// A tmux format, for the one pane.
    fn pane(&self, format: &str) -> Result<String> {
        Ok(output(&mut self.command(&["display-message", "-p", format]))?.trim().to_owned())
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}

#[test]
fn claude_in_tmux_answers_follows_the_size_and_gives_the_terminal_back() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    let tmux = Tmux::start(&home.command(&["start", "dev"]), 80, 24)?;
    let preflight = tmux.until("[y/N]")?;
    show("preflight", &preflight);
    let identity = identity_in(&output(&mut tmux.command(&["capture-pane", "-p", "-S", "-"]))?)?;
    tmux.keys(&["y", "Enter"])?;
    show("prompt", &tmux.until("bypass permissions on")?);
    let in_session = tmux.pane("#{mouse_any_flag} #{cursor_flag} #{alternate_on} #{keypad_cursor_flag}")?;

    tmux.keys(&["-l", "knock knock"])?;
    tmux.until("knock knock")?;
    tmux.keys(&["Enter"])?;
    let asked = || standin.seen().iter().any(|s| contains(&s.body, b"knock knock"));
    eventually("the question arrives at the model", || asked().then_some(()))?;
    show("answer", &tmux.until("stand-in: knock knock")?);

    // It stops itself, and says on the screen below its own how a shell would bring it back.
    tmux.keys(&["C-z"])?;
    let below = || output(&mut tmux.command(&["capture-pane", "-apq"])).ok();
    eventually("it has stopped and goes on", || below()?.contains("Claude Code is suspended").then_some(()))?;
    tmux.until("bypass permissions on")?;
    tmux.keys(&["-l", "still here"])?;
    show("^Z", &tmux.until("still here")?);
    tmux.keys(&["C-c"])?;
    let cleared = || tmux.screen().ok().filter(|screen| !screen.contains("still here"));
    eventually("^C clears the line", cleared)?;

    output(&mut tmux.command(&["resize-window", "-x", "120", "-y", "40"]))?;
    // The rules above and below the prompt are as wide as the terminal.
    let wide = |screen: &String| screen.lines().any(|line| line.chars().filter(|c| *c == '─').count() >= 118);
    let screen = eventually("it is drawn 120 columns wide", || tmux.screen().ok().filter(wide));
    show("resized", &screen.with_context(|| tmux.screen().unwrap_or_default())?);

    // Another ^C would end it, too, if it comes in time: on a busy machine that is a matter of luck.
    tmux.keys(&["-l", "/exit"])?;
    tmux.until("/exit")?;
    tmux.keys(&["Enter"])?;
    let end = tmux.until("ended with 0")?;
    show("end", &end);
    assert!(end.contains("bottle: egress: "), "{end}");
    let (before, after) = (home.path().join("before"), home.path().join("after"));
    eventually("the terminal was looked at", || after.exists().then_some(()))?;
    let settings = |path| std::fs::read_to_string(path).map(|text| text.split_once('\n').unwrap().1.to_owned());
    assert_eq!(settings(before)?, settings(after)?);
    println!("mouse, cursor, alternate screen, cursor keys: {in_session} in the session");
    assert_eq!(tmux.pane("#{mouse_any_flag} #{cursor_flag} #{alternate_on} #{keypad_cursor_flag}")?, "0 1 0 0");
    drop(tmux);
    eventually("tmux itself is gone", || processes_of(&home).is_empty().then_some(()))?;
    assert_nothing_left(lab, &home, &identity)
}

fn show(what: &str, screen: &str) {
    println!("── {what} ──\n{}", screen.trim_end());
}
