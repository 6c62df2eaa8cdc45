//! The agent's session in a running bottle, and commands beside it.
//!
//! ```text
//!  start the helper ─ it says it is ready, the bottle is found closed ─▶ send it program and environment ─▶ pump until it ends ─▶ exit code
//! ```
//!
//! The program and its environment go to the in-bottle helper over its standard input, so that no engine ever stores
//! them. With a terminal, the helper has silenced it before it says that it is ready, and the terminal's size holds
//! before the program runs: changes of it are followed from before it is read.

pub mod egress_log;
mod filter;
mod modes;
pub mod owner;
mod pump;
pub(crate) mod screen;
pub mod sidecar;
pub mod summary;
pub mod tail;
pub mod terminal;

#[doc(hidden)]
pub use filter::filtered;

use crate::{
    plugin::{Bottle, Process},
    signals::Cancellation,
    ui,
};
use anyhow::{Context, Result, anyhow, bail};
use bottle_api::{
    AGENT_UID, ErrorKind, HELPER_PATH, StartRequest,
    control::{ExecFrame, HELPER_READY, write_frame},
    error::StdError,
};
use owner::Surroundings;
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::{
    consts::{SIGCONT, SIGKILL, SIGWINCH},
    iterator::{Handle, Signals},
};
use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
    time::Duration,
};
use terminal::Terminal;
use zeroize::Zeroize;

/// How long a command that is told to end may take before it is made to.
const GRACE: Duration = Duration::from_secs(5);

/// What to run in a bottle.
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its environment and working directory.
    pub surroundings: Surroundings,
}

/// Where the session's streams go.
#[derive(Clone, Copy)]
pub struct Streams {
    /// What comes in.
    pub input: Input,
    /// What reaches a terminal is not filtered.
    pub unfiltered: bool,
}

/// What comes in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// This process's terminal, in raw mode; the program has one of its own.
    Terminal,
    /// This process's standard input.
    Pipe,
    /// Nothing.
    Nothing,
}

/// Runs a program in the bottle as the agent, to its end, or up to a cancellation. Returns its exit code. The helper is
/// started meanwhile, but is told what to run only once `admit` has agreed.
pub fn run(
    bottle: &Bottle,
    program: &Program,
    streams: Streams,
    cancel: &Cancellation,
    admit: impl FnOnce() -> Result<()>,
) -> Result<i32> {
    play(bottle, program, streams, cancel, admit, |process| Ok(process.wait(cancel.fd())?.code))
}

/// The same in a bottle that lives on: a signal goes to the program, which is not left behind.
pub fn run_beside(bottle: &Bottle, program: &Program, streams: Streams, cancel: &Cancellation) -> Result<i32> {
    play(
        bottle,
        program,
        streams,
        cancel,
        || Ok(()),
        |process| match (process.wait(cancel.fd()), cancel.signal()) {
            (Err(_), Some(signal)) => end(process, signal),
            (ended, _) => Ok(ended?.code),
        },
    )
}

fn play(
    bottle: &Bottle,
    program: &Program,
    streams: Streams,
    cancel: &Cancellation,
    admit: impl FnOnce() -> Result<()>,
    wait: impl FnOnce(&Process) -> Result<i32>,
) -> Result<i32> {
    let has_terminal = streams.input == Input::Terminal;
    let changes = has_terminal.then(|| Signals::new([SIGWINCH, SIGCONT])).transpose()?;
    let req = StartRequest {
        argv: vec![HELPER_PATH.into(), "run".into()],
        uid: AGENT_UID,
        gid: AGENT_UID,
        tty: has_terminal.then(Terminal::size).transpose()?,
        ..StartRequest::default()
    };
    let (stdin, to_process) = pipe()?;
    let (from_process, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    let stderr = (!has_terminal).then_some(stderr);
    let process = bottle.start(&req, stdin.as_fd(), stdout.as_fd(), stderr.as_ref().map(AsFd::as_fd), cancel.fd())?;
    // The backend has its own copies: with these open no stream would ever end.
    drop((stdin, stdout, stderr));
    let _sizes = changes.map(|changes| Sizes::follow(changes, process.clone()));

    let mut output = File::from(from_process);
    let mut input = File::from(to_process);
    await_helper(&mut output, cancel)?;
    admit()?;
    // Up to here ^C still stops us.
    let _terminal = has_terminal.then(Terminal::raw).transpose()?;
    write_program(&mut input, program)?;
    let errors = (!has_terminal).then(|| File::from(errors));
    let pump = pump::Pump::start(pump::Ends { input, output, errors }, streams, cancel)?;
    let ended = wait(&process);
    pump.finish(ended.is_ok())?;
    ended
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// The process's terminal has the size of ours, until this is dropped.
struct Sizes(Handle);

impl Sizes {
    fn follow(mut changes: Signals, process: Process) -> Self {
        let handle = changes.handle();
        thread::spawn(move || {
            for signal in &mut changes {
                let Ok((cols, rows)) = Terminal::size() else { continue };
                if signal == SIGCONT {
                    // The screen is not what the program has drawn any more. Only another size makes it draw again.
                    let _ = process.resize(cols, rows.saturating_sub(1).max(1));
                }
                let _ = process.resize(cols, rows);
            }
        });
        Self(handle)
    }
}

impl Drop for Sizes {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Passes a signal on to a process; one that does not end by it in time is killed. Returns its exit code.
fn end(process: &Process, signal: i32) -> Result<i32> {
    for signal in [signal, SIGKILL] {
        if let Err(error) = process.signal(signal) {
            ui::warn_of("the command may still run in the bottle: it cannot be sent a signal", &error);
            return Err(error);
        }
        let (late, timer) = pipe()?;
        thread::spawn(move || {
            thread::sleep(GRACE);
            rustix::io::write(&timer, &[1])
        });
        match process.wait(late.as_raw_fd()) {
            Ok(ended) => return Ok(ended.code),
            Err(error) if error.downcast_ref::<StdError>().is_some_and(|e| e.0.kind == ErrorKind::CANCELLED) => {}
            Err(error) => return Err(error),
        }
    }
    bail!("the command does not end, not even by SIGKILL")
}

/// Reads the one byte that the helper begins with. Anything else is what the engine says instead of running it.
fn await_helper(from: &mut File, cancel: &Cancellation) -> Result<()> {
    cancel.wait_readable(&*from)?;
    let mut first = [0];
    if from.read(&mut first).context("wait for the bottle's helper")? == 1 && first[0] == HELPER_READY {
        return Ok(());
    }
    let mut said = first.to_vec();
    let _ = from.take(1000).read_to_end(&mut said);
    bail!("the bottle's helper did not start: {}", String::from_utf8_lossy(&said).trim().escape_debug())
}

fn write_program(to: &mut File, program: &Program) -> Result<()> {
    let Surroundings { env, cwd } = &program.surroundings;
    let mut frame = ExecFrame { argv: program.argv.clone(), env: owner::encode_env(env), cwd: cwd.clone() };
    let written = write_frame(to, &frame);
    frame.env.values_mut().for_each(Zeroize::zeroize);
    // As text: a broken pipe here is not the reader of our own output who has read enough.
    written.map_err(|error| anyhow!("tell the bottle's helper what to run: {error}"))
}
