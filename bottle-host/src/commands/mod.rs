//! The commands, one file each.

mod backends;
mod cleanup;
mod list;
mod start;

use crate::cli::{Cli, Command};
use anyhow::Result;

/// Runs a command. Returns its exit code.
pub fn run(cli: Cli) -> Result<u8> {
    let backend = cli.backend.as_deref();
    match cli.command {
        Command::Start(args) => start::run(backend, &args),
        Command::List(args) => list::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Backends(args) => backends::run(&args),
        Command::Probe { path } => backends::probe(&path),
    }
}
