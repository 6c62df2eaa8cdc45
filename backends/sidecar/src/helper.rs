//! The helper inside a bottle: its first process, and the one that becomes the agent.

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::control::{ExecFrame, HELPER_READY, MARK_ENV, read_frame};
use rustix::{
    process::{Pid, Signal, WaitOptions, getpgid, kill_process, kill_process_group, wait},
    stdio,
    termios::{OptionalActions, isatty, tcgetattr, tcsetattr},
};
use signal_hook::{
    consts::{SIGCHLD, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::{ffi::OsStringExt, process::CommandExt},
    path::Path,
    process::{Command, ExitCode},
};

/// What a shell ends with where a program is not there, or cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
/// Errors of our own.
const FAILED: u8 = 125;

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

/// Reads what to become from standard input, and becomes it. Returns only where that fails.
pub(crate) fn run() -> ExitCode {
    let (code, why) = match command() {
        Ok(mut command) => {
            let error = command.exec();
            let program = command.get_program().to_string_lossy();
            match error.kind() {
                ErrorKind::NotFound => (NOT_FOUND, format!("{program}: not found in the bottle")),
                _ => (NOT_RUN, format!("{program}: {error}")),
            }
        }
        Err(error) => (FAILED, format!("{error:#}")),
    };
    eprintln!("bottle-helper: {why}");
    ExitCode::from(code)
}

/// A terminal is silenced first, so that no value of the environment is ever echoed; the byte [`HELPER_READY`]
/// tells the host that it may write. Whatever follows the frame is the program's own input.
fn command() -> Result<Command> {
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
    env::set_current_dir(&frame.cwd).with_context(|| format!("go to {}", frame.cwd))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    for (name, value) in &frame.env {
        let value = BASE64_STANDARD.decode(value).with_context(|| format!("value of {name}"))?;
        command.env(name, OsString::from_vec(value));
    }
    command.envs(env::var_os(MARK_ENV).map(|mark| (MARK_ENV, mark)));
    Ok(command)
}

/// Sends a signal to the program that was started with that mark, and to its process group, as a terminal would.
pub(crate) fn signal(mark: &str, number: &str) -> Result<()> {
    let signal = number.parse().ok().and_then(Signal::from_named_raw);
    let signal = signal.with_context(|| format!("{number} is no signal"))?;
    let wanted = format!("{MARK_ENV}={mark}");
    let found = fs::read_dir("/proc")?.flatten().find_map(|entry| root_with(&wanted, &entry.path()));
    let pid = found.with_context(|| format!("no program has the mark {mark}"))?;
    match getpgid(Some(pid))? == pid {
        true => kill_process_group(pid, signal)?,
        false => kill_process(pid, signal)?,
    }
    Ok(())
}

/// The process of that directory, if it has the variable and its parent is not in the bottle: children have it too.
fn root_with(variable: &str, dir: &Path) -> Option<Pid> {
    let pid = Pid::from_raw(dir.file_name()?.to_str()?.parse().ok()?)?;
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let environ = fs::read(dir.join("environ")).ok()?;
    let is_root = status.lines().any(|line| line == "PPid:\t0");
    (is_root && environ.split(|b| *b == 0).any(|found| found == variable.as_bytes())).then_some(pid)
}
