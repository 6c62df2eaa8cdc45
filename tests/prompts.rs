//! What is asked on a terminal, and when: the y/N after the whole preflight, an approval with it, secrets after both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::Result;
use bottle_tests::{bottle::Run, pty::Pty, scripted::Scripted};
use std::{fs, os::unix::fs::PermissionsExt};

const QUESTION: &str = "launch this agent? [y/N] ";

#[test]
fn an_agent_of_the_working_directory_starts_without_being_asked_about_once_its_content_was_approved() -> Result<()> {
    let home = Scripted::new()?;
    let project = home.path().join("project");
    fs::create_dir_all(project.join(".claude-bottle/agents"))?;
    let agent = "project/.claude-bottle/agents/helper.md";
    home.write(agent, "---\nbottle: box\n---\nDo\x1b[31m as I say.\nAnd this.\n")?;
    let unasked = || -> Result<Run> {
        let mut command = home.command(&["start", "helper", "--yes", "--prompt", "hello"], "");
        Ok(command.current_dir(&project).output()?.into())
    };
    assert_eq!(unasked()?.code, Some(2), "it was started unseen");
    for (answer, code) in [("n\n", Some(2)), ("y\n", Some(0))] {
        let mut command = home.command(&["start", "helper", "--prompt", "hello"], "");
        let mut terminal = Pty::start(command.current_dir(&project), 100, 40)?;
        terminal.until(QUESTION)?;
        let shown = terminal.text();
        // All of it was on the screen, and did nothing there.
        for line in
            ["comes with the working directory", "  | bottle: box", "  | Do\u{fffd}[31m as I say.", "  | And this."]
        {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        terminal.press(answer.as_bytes())?;
        assert_eq!(terminal.wait()?, Some(0), "{}", terminal.text());
        assert_eq!(unasked()?.code, code, "after {answer:?}");
    }
    let book = home.path().join(".claude-bottle/approved.json");
    assert_eq!(fs::metadata(&book)?.permissions().mode() & 0o777, 0o600);
    home.write(agent, "---\nbottle: box\n---\nDo as I say, and more.\n")?;
    let run = unasked()?;
    assert!(run.code == Some(2) && run.stderr.contains("was not approved yet"), "{run:?}");
    Ok(())
}

#[test]
fn a_secret_is_asked_for_after_the_yes_and_never_shown() -> Result<()> {
    let home = Scripted::new()?;
    home.write(".claude-bottle/bottles/box.md", "---\nisolation: process\nenv:\n  PASSWORD: ?the staging one\n---\n")?;
    let mut terminal = Pty::start(&home.command(&["start", "dev", "--prompt", "hello"], ""), 80, 24)?;
    terminal.until(QUESTION)?;
    assert!(terminal.text().contains("PASSWORD (secret, asked for)") && !terminal.text().contains("the staging one"));
    let preflight = terminal.text();
    assert!(preflight.lines().all(|line| line.trim_end().chars().count() <= 80), "{preflight}");
    terminal.press(b"y\n")?;
    terminal.until("the staging one (PASSWORD): ")?;
    terminal.press(b"s3cret-of-mine\n")?;
    assert_eq!(terminal.wait()?, Some(0), "{}", terminal.text());
    assert!(!terminal.text().contains("s3cret-of-mine"), "{}", terminal.text());
    Ok(())
}

#[test]
fn only_a_yes_is_a_yes() -> Result<()> {
    let home = Scripted::new()?;
    for (answer, starts) in [
        ("y", true),
        ("Y", true),
        ("yes", true),
        ("YES", true),
        ("", false),
        ("n", false),
        ("Yes", false),
        ("yes!", false),
    ] {
        let mut terminal = Pty::start(&home.command(&["start", "dev", "--prompt", "hello"], ""), 80, 24)?;
        terminal.until(QUESTION)?;
        terminal.press(format!("{answer}\n").as_bytes())?;
        assert_eq!(terminal.wait()?, Some(0), "{answer:?}");
        assert_eq!(terminal.text().contains("told: hello"), starts, "{answer:?}: {}", terminal.text());
        assert_eq!(terminal.text().contains("aborted by user"), !starts, "{answer:?}");
    }
    assert!(home.state().is_empty() && home.things()?.is_empty());
    Ok(())
}
