//! `diff`: what an agent left, and what of it the exit gate would ask for. Nothing is changed.

use super::apply::{destination, say_findings};
use crate::{
    apply::{Offer, files},
    cli::Diff,
    paths::Paths,
    signals::Cancellation,
    state::kept,
    ui,
    work::Left,
};
use anyhow::Result;
use std::io::{self, IsTerminal, Write};

/// Files whose content is shown; the others are named.
const SHOWN: u64 = 64 << 10;

/// Runs `diff`.
pub(super) fn run(args: &Diff) -> Result<u8> {
    let cancel = Cancellation::install()?;
    cancel.conclude(diff(args, &cancel))
}

fn diff(args: &Diff, cancel: &Cancellation) -> Result<u8> {
    let paths = Paths::from_env()?;
    let kept = kept::hold(&paths, &args.identity)?;
    let to = destination(&paths, &kept, args.into.as_deref())?;
    let scratch = tempfile::tempdir()?;
    let offer = Offer::read(&kept, &to, scratch.path(), cancel)?;
    if offer.is_empty() {
        ui::say(format!("the agent of {} left no work", args.identity));
        return Ok(0);
    }
    let mut out = Shown(io::stdout().is_terminal());
    if let Some(commits) = &offer.commits {
        for (name, id) in commits.refs()? {
            out.write(format!("commit {id} {name}\n").as_bytes())?;
        }
        for line in commits.log()? {
            out.write(format!("  {line}\n").as_bytes())?;
        }
        if !args.stat {
            out.write(&commits.patch()?)?;
        }
    }
    let left = Left::find(kept.dir())?;
    for change in &offer.changes {
        let name = ui::printable(&String::from_utf8_lossy(&change.name));
        out.write(format!("{} {name}\n", change.letter()).as_bytes())?;
        let mut content = vec![];
        if !args.stat && change.letter() != 'D' {
            files::content(&left, &change.name, SHOWN, &mut content)?;
            match std::str::from_utf8(&content) {
                Ok(text) if !text.contains('\0') => {
                    text.lines().try_for_each(|line| out.write(format!("+{line}\n").as_bytes()))?;
                }
                _ => out.write(b"  (no text, or cut off in a letter)\n")?,
            }
        }
    }
    say_findings(&offer);
    ui::say(format!("apply with: bottle apply {}", args.identity));
    Ok(0)
}

/// Standard output; on a terminal nothing of a guest's text is obeyed.
struct Shown(bool);

impl Shown {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        if !self.0 {
            return Ok(out.write_all(bytes)?);
        }
        let text = String::from_utf8_lossy(bytes);
        Ok(text.split_inclusive('\n').try_for_each(|line| {
            write!(out, "{}", ui::printable(line.trim_end_matches('\n')))?;
            if line.ends_with('\n') { writeln!(out) } else { Ok(()) }
        })?)
    }
}
