//! The helper inside a bottle: its first process, and the one that becomes the agent.

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::control::{ExecFrame, HELPER_READY, read_frame};
use rustix::{
    process::{WaitOptions, wait},
    stdio,
    termios::{OptionalActions, isatty, tcgetattr, tcsetattr},
};
use signal_hook::{
    consts::{SIGCHLD, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    os::unix::{ffi::OsStringExt, process::CommandExt},
    process::Command,
};

/// The bottle's first process: reaps whatever is orphaned, ends when it is asked to.
pub(crate) fn init() -> Result<()> {
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT])?;
    for signal in &mut signals {
        if signal != SIGCHLD {
            break;
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
    Ok(())
}

/// Reads what to become from standard input, and becomes it.
///
/// A terminal is silenced first, so that no value of the environment is ever echoed; the byte [`HELPER_READY`]
/// tells the host that it may write. Whatever follows the frame is the program's own input.
pub(crate) fn run() -> Result<()> {
    let terminal = if isatty(stdio::stdin()) { Some(tcgetattr(stdio::stdin())?) } else { None };
    if let Some(modes) = &terminal {
        let mut raw = modes.clone();
        raw.make_raw();
        tcsetattr(stdio::stdin(), OptionalActions::Now, &raw)?;
    }
    // Unbuffered on purpose: not one byte beyond the frame may be taken.
    let mut stdin = File::from(rustix::io::dup(stdio::stdin())?);
    let mut stdout = File::from(rustix::io::dup(stdio::stdout())?);
    stdout.write_all(&[HELPER_READY])?;
    let frame: Option<ExecFrame> = read_frame(&mut stdin)?;
    if let Some(modes) = &terminal {
        tcsetattr(stdio::stdin(), OptionalActions::Now, modes)?;
    }
    let frame = frame.context("the host closed the stream before it said what to run")?;
    let (program, arguments) = frame.argv.split_first().context("the host named no program")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir(&frame.cwd);
    for (name, value) in &frame.env {
        let value = BASE64_STANDARD.decode(value).with_context(|| format!("value of {name}"))?;
        command.env(name, OsString::from_vec(value));
    }
    Err(command.exec()).with_context(|| format!("run {program} in {}", frame.cwd))
}
