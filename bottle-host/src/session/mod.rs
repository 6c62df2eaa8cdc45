//! The agent's session in a running bottle.
//!
//! ```text
//!  start the helper ─ it says it is ready ─▶ send it program and environment ─▶ pump until it ends ─▶ exit code
//! ```
//!
//! The program and its environment go to the in-bottle helper over its standard input, so that no engine ever stores
//! them. With a terminal, the helper has silenced it before it says that it is ready, and the terminal's size holds
//! before the program runs.

pub mod egress_log;
mod filter;
mod pump;
pub mod terminal;

#[doc(hidden)]
pub use filter::filtered;

use crate::{plugin::Bottle, signals::Cancellation};
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::{
    AGENT_UID, HELPER_PATH, Secret, StartRequest,
    control::{ExecFrame, HELPER_READY, write_frame},
};
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
};
use terminal::Terminal;
use zeroize::Zeroize;

/// What to run in a bottle.
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, Secret>,
    /// Working directory.
    pub cwd: String,
}

/// Where the session's streams go.
pub enum Streams {
    /// This process's terminal; filtered, unless the operator wants it raw.
    Terminal {
        /// In raw mode.
        terminal: Terminal,
        /// Pass everything on.
        unfiltered: bool,
    },
    /// This process's standard output and error; nothing comes in.
    Headless,
}

/// Runs a program in the bottle as the agent, to its end. Returns its exit code.
pub fn run(bottle: &Bottle, program: &Program, streams: Streams, cancel: &Cancellation) -> Result<i32> {
    let tty = match &streams {
        Streams::Terminal { terminal, .. } => Some(terminal.size()?),
        Streams::Headless => None,
    };
    let req = StartRequest {
        argv: vec![HELPER_PATH.into(), "run".into()],
        uid: AGENT_UID,
        gid: AGENT_UID,
        tty,
        ..StartRequest::default()
    };
    let (stdin, to_process) = pipe()?;
    let (from_process, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    let stderr = tty.is_none().then_some(stderr);
    let process = bottle.start(&req, stdin.as_fd(), stdout.as_fd(), stderr.as_ref().map(AsFd::as_fd), cancel.fd())?;
    // The backend has its own copies: with these open no stream would ever end.
    drop((stdin, stdout, stderr));

    let mut from_process = File::from(from_process);
    let mut to_process = File::from(to_process);
    await_helper(&mut from_process, cancel)?;
    write_program(&mut to_process, program)?;
    let pump = match streams {
        Streams::Terminal { terminal, unfiltered } => {
            pump::Pump::terminal(terminal, unfiltered, &process, to_process, from_process)?
        }
        Streams::Headless => pump::Pump::headless(to_process, from_process, File::from(errors)),
    };
    let ended = process.wait(cancel.fd());
    pump.finish(ended.is_ok());
    Ok(ended?.code)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
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
    let encode = |value: &Secret| BASE64_STANDARD.encode(value.expose());
    let mut frame = ExecFrame {
        argv: program.argv.clone(),
        env: program.env.iter().map(|(name, value)| (name.clone(), encode(value))).collect(),
        cwd: program.cwd.clone(),
    };
    let written = write_frame(to, &frame).context("tell the bottle's helper what to run");
    frame.env.values_mut().for_each(Zeroize::zeroize);
    written
}
