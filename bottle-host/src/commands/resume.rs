//! `resume`: an agent goes on where an earlier session of its left off: state, conversation, saved work, image.

use super::{forbid_core_files, start};
use crate::{
    cli::{Format, Resume, Start},
    paths::Paths,
    signals::Cancellation,
    state::{self, kept},
};
use anyhow::Result;

/// Runs `resume`; the exit code is the agent's.
pub(super) fn run(backend: Option<&str>, args: &Resume) -> Result<u8> {
    // Secrets pass through this process: a crash must not write them to a core file.
    forbid_core_files()?;
    let cancel = Cancellation::install()?;
    cancel.conclude(resume(backend, args, &cancel))
}

fn resume(backend: Option<&str>, args: &Resume, cancel: &Cancellation) -> Result<u8> {
    let paths = Paths::from_env()?;
    if state::find(&paths, &args.identity).is_none() {
        return Err(kept::unknown(&paths, &args.identity));
    }
    let mut earlier = state::metadata(&paths, &args.identity)?;
    if args.forget_image {
        // It is nobody's then, and goes with the next cleanup.
        earlier.image = None;
    }
    let again = Start {
        agent: earlier.agent.clone(),
        full: args.full,
        yes: args.yes,
        prompt: args.prompt.clone(),
        raw_terminal: args.raw_terminal,
        arguments: args.arguments.clone(),
        // What came along comes back with the state.
        cwd: false,
        cwd_all: false,
        worktree: None,
        dry_run: false,
        format: Format::Text,
    };
    start::start(backend.or(Some(&earlier.backend)), &again, Some(&earlier), cancel)
}
