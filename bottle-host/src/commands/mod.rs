//! The commands, one file each.

mod backends;
mod cleanup;
mod doctor;
mod exec;
mod image;
mod info;
mod list;
mod schema;
mod start;

use crate::{
    cli::{Cli, Command, command},
    plugin,
};
use anyhow::Result;
use std::io::{self, Write};

/// Runs a command. Returns its exit code.
pub fn run(cli: Cli) -> Result<u8> {
    let backend = cli.backend.as_deref();
    match cli.command {
        Command::Start(args) => start::run(backend, &args),
        Command::Exec(args) => exec::run(&args),
        Command::List(args) => list::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Backends(args) => backends::run(&args),
        Command::Image(what) => image::run(backend, &what),
        Command::Info(args) => info::run(&args),
        Command::Schema { kind } => schema::run(kind),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut command(), "bottle", &mut script);
            io::stdout().write_all(&script)?;
            Ok(0)
        }
        Command::Man => {
            clap_mangen::Man::new(command()).render(&mut io::stdout())?;
            Ok(0)
        }
        Command::Probe { path } => plugin::probe::answer(&path).map(|()| 0),
    }
}
