//! The commands, one file each.

mod apply;
mod audit;
mod backends;
mod cleanup;
mod diff;
mod doctor;
mod exec;
mod image;
mod info;
mod list;
mod logs;
mod rescue;
mod resume;
mod schema;
mod start;
mod state;
mod supervise;

use crate::cli::{Cli, Command, command};
use anyhow::Result;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io::{self, Write};

/// Secrets pass through this process: a crash must not write them to a core file.
pub(crate) fn forbid_core_files() -> Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// A program's own exit code as ours.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Runs a command. Returns its exit code.
pub fn run(cli: Cli) -> Result<u8> {
    let backend = cli.backend.as_deref();
    match cli.command {
        Command::Start(args) => start::run(backend, &args),
        Command::Resume(args) => resume::run(backend, &args),
        Command::Diff(args) => diff::run(&args),
        Command::Apply(args) => apply::run(&args),
        Command::State(what) => state::run(&what),
        Command::Exec(args) => exec::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Supervise(args) => supervise::run(&args),
        Command::Audit(what) => audit::run(&what),
        Command::List(args) => list::run(backend, &args),
        Command::Cleanup(args) => cleanup::run(backend, &args),
        Command::Backends(args) => backends::run(backend, &args),
        Command::Image(what) => image::run(backend, &what),
        Command::Info(args) => info::run(&args),
        Command::Schema { kind } => schema::run(kind),
        Command::Doctor(args) => doctor::run(backend, &args),
        Command::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut command(), "bottle", &mut script);
            io::stdout().write_all(&script)?;
            Ok(0)
        }
        Command::Man => {
            io::stdout().write_all(&man()?)?;
            Ok(0)
        }
    }
}

/// One page with every command: nobody installs a page for each.
fn man() -> Result<Vec<u8>> {
    let (mut page, own) = (vec![], clap_mangen::Man::new(command()));
    own.render_title(&mut page)?;
    own.render_name_section(&mut page)?;
    own.render_synopsis_section(&mut page)?;
    own.render_options_section(&mut page)?;
    for subcommand in command().get_subcommands() {
        let name = format!("bottle {}", subcommand.get_name());
        let part = clap_mangen::Man::new(subcommand.clone().bin_name(&name));
        let mut text = vec![];
        part.render_description_section(&mut text)?;
        part.render_synopsis_section(&mut text)?;
        part.render_options_section(&mut text)?;
        // Sections of the page become parts of the command's own.
        page.extend(format!(".SH {}\n", name.to_uppercase()).bytes());
        page.extend(String::from_utf8(text)?.replace(".SH ", ".SS ").bytes());
    }
    Ok(page)
}
