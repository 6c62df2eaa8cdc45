//! The real Claude Code in a bottle, on a real terminal: tmux.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, assert_nothing_left, contains, eventually, identity_in, processes_of},
    lab::{Lab, output},
    standin::Standin,
    tmux::Tmux,
    wire::Authority,
};

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
