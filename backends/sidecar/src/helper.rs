//! The helper inside a bottle: its first process, and the one that becomes the agent.

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::control::{ExecFrame, HELPER_READY, MARK_ENV, read_frame};
use rustix::{
    process::{Pid, Signal, WaitOptions, getpgid, getpid, kill_process, kill_process_group, wait, waitpid},
    stdio,
    termios::{OptionalActions, isatty, tcgetattr, tcsetattr, tcsetpgrp},
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
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

/// What a shell ends with where a program is not there, or cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
/// Errors of our own.
const FAILED: u8 = 125;
/// How long a program stays stopped.
const STOPPED: Duration = Duration::from_millis(100);

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

/// Reads what to become from standard input, and becomes it; on a terminal, becomes its keeper.
pub(crate) fn run() -> ExitCode {
    let ended = command().and_then(|mut command| match isatty(stdio::stdin()) {
        true => keep(command),
        false => Ok(become_it(&mut command)),
    });
    ended.unwrap_or_else(|error| refuse(FAILED, &format!("{error:#}")))
}

/// Stops until [`keep`] has given it the terminal, and becomes the program: one that ran before it had the terminal could
/// neither read from it nor be interrupted.
pub(crate) fn front(program: &str, arguments: &[&str]) -> ExitCode {
    match kill_process(getpid(), Signal::STOP) {
        Ok(()) => become_it(Command::new(program).args(arguments)),
        Err(error) => refuse(FAILED, &format!("wait for the terminal: {error}")),
    }
}

/// Returns only where the program cannot be run.
fn become_it(command: &mut Command) -> ExitCode {
    let error = command.exec();
    let program = command.get_program().to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => refuse(NOT_FOUND, &format!("{program}: not found in the bottle")),
        _ => refuse(NOT_RUN, &format!("{program}: {error}")),
    }
}

fn refuse(code: u8, why: &str) -> ExitCode {
    eprintln!("bottle-helper: {why}");
    ExitCode::from(code)
}

/// Runs a program in the terminal's foreground, and has it go on whenever it stops: ^Z makes Claude Code stop itself,
/// and no shell is there to continue it.
fn keep(command: Command) -> Result<ExitCode> {
    let mut front = Command::new(env::current_exe()?);
    front.arg("front").arg(command.get_program()).args(command.get_args()).env_clear().process_group(0);
    front.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let pid = Pid::from_child(&front.spawn().context("start a process")?);
    let mut has_terminal = false;
    loop {
        let Some((_, status)) = waitpid(Some(pid), WaitOptions::UNTRACED)? else { continue };
        if status.stopped() {
            if has_terminal {
                thread::sleep(STOPPED); // one that stops again at once must not keep a processor busy
            } else {
                tcsetpgrp(stdio::stdin(), pid).context("hand the terminal over")?;
                has_terminal = true;
            }
            kill_process_group(pid, Signal::CONT)?;
        } else {
            let killed = status.terminating_signal().map(|signal| 128 + signal);
            return Ok(ExitCode::from(
                status.exit_status().or(killed).and_then(|c| u8::try_from(c).ok()).unwrap_or(FAILED),
            ));
        }
    }
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
    let variable = format!("{MARK_ENV}={mark}");
    let root = marked(&variable, 0).with_context(|| format!("no program has the mark {mark}"))?;
    let is_keeper = exe(root) == exe(getpid());
    let pid = if is_keeper { marked(&variable, root.as_raw_pid()).unwrap_or(root) } else { root };
    match getpgid(Some(pid))? == pid {
        true => kill_process_group(pid, signal)?,
        false => kill_process(pid, signal)?,
    }
    Ok(())
}

/// The process that has the variable and that parent; 0 is outside the bottle.
fn marked(variable: &str, parent: i32) -> Option<Pid> {
    let parent = format!("PPid:\t{parent}");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let dir = entry.path();
        let pid = Pid::from_raw(dir.file_name()?.to_str()?.parse().ok()?)?;
        let status = fs::read_to_string(dir.join("status")).ok()?;
        let environ = fs::read(dir.join("environ")).ok()?;
        let is_it =
            status.lines().any(|line| line == parent) && environ.split(|b| *b == 0).any(|v| v == variable.as_bytes());
        is_it.then_some(pid)
    })
}

fn exe(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{}/exe", pid.as_raw_pid())).ok()
}
