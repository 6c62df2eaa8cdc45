//! `tied MEMORY PROGRAM WORDS`: becomes another's program, which ends with its parent, gets no rights by how it is
//! installed, and has a bound to its own memory.

use anyhow::{Context, Result};
use rustix::{
    process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit},
    thread::set_no_new_privs,
};
use std::{os::unix::process::CommandExt, process::Command};

/// Stands for no bound.
pub(crate) const UNBOUNDED: &str = "unbounded";

/// Does it. `memory`: of data and heap, in bytes, and with it of all that the program starts.
pub(crate) fn become_program(memory: &str, program: &str, words: &[&str]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A program that would change its user or group loses the signal above.
    set_no_new_privs(true)?;
    if memory != UNBOUNDED {
        let most = memory.parse().context("a bound in bytes")?;
        setrlimit(Resource::Data, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Err(Command::new(program).args(words).exec()).with_context(|| format!("run {program}"))
}
