//! `exec`: a command in a running bottle, surrounded as its agent is, while the agent goes on.

use super::{exit_code, forbid_core_files};
use crate::{
    cli::Exec,
    paths::Paths,
    plugin::{self, Services},
    session::{self, Input, Program, Streams, owner, terminal::Terminal},
    signals::Cancellation,
    state::{self, Metadata},
    ui::hinted,
};
use anyhow::Result;
use bottle_api::{AttachRequest, Secret};

/// Runs `exec`; the exit code is the command's.
pub(super) fn run(args: &Exec) -> Result<u8> {
    // The agent's secrets pass through this process: a crash must not write them to a core file.
    forbid_core_files()?;
    let cancel = Cancellation::install()?;
    cancel.conclude(exec(args, &cancel))
}

fn exec(args: &Exec, cancel: &Cancellation) -> Result<u8> {
    let paths = Paths::from_env()?;
    let metadata = metadata(&paths, &args.identity)?;
    let mut surroundings = owner::surroundings(&paths, &args.identity)?;
    surroundings.env.insert("TERM".into(), Secret::new(Terminal::kind()));
    let backend = plugin::select(&metadata.backend, &Services::from_env())?;
    // On the engine that the bottle was started on, whatever this process's environment says.
    let req = AttachRequest { identity: metadata.identity, owner: paths.owner(), env: metadata.env };
    let bottle = backend.attach(&req, cancel.fd())?;
    let program = Program { argv: args.command.clone(), surroundings };
    let input = if Terminal::is_there() { Input::Terminal } else { Input::Pipe };
    let streams = Streams { input, unfiltered: args.raw_terminal };
    let code = session::run_beside(&bottle, &program, streams, cancel)?;
    Ok(exit_code(code))
}

/// What was recorded when the bottle was started.
fn metadata(paths: &Paths, identity: &str) -> Result<Metadata> {
    if state::find(paths, identity).is_none() {
        let running = owner::running(paths);
        let hint = match running.is_empty() {
            true => "No bottle is running; start one: `bottle start AGENT`.".to_owned(),
            false => format!("These are running: {}.", running.join(", ")),
        };
        return Err(hinted(format!("no bottle `{identity}` in {}", paths.short(&paths.state())), hint));
    }
    state::metadata(paths, identity)
}
