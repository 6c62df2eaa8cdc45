//! The way home: what an agent left, offered to the directory that it came from.
//!
//! ```text
//! work/commits.bundle ─ fetched into a scratch repository, fsck ─┐
//! work/changes.tar, deleted ─────────────────────────────────────┴─▶ gate ─▶ asked ─▶ refs/bottle/<identity>/, files
//! ```
//!
//! All of it was written by a guest that may be hostile. Git of the host reads it in a repository of ours, with a
//! configuration of ours; nothing is checked out, and files are written one by one, through no link.

pub mod commits;
pub mod files;

use crate::{
    gate::{self, Made, Verdict},
    signals::Cancellation,
    state::Abandoned,
    work::Left,
    workspace::Budget,
};
use anyhow::{Context, Result};
use commits::Commits;
use files::Change;
use std::path::Path;

/// All that there is to take.
pub struct Offer<'a> {
    /// Commits, where there are any.
    pub commits: Option<Commits<'a>>,
    /// Changes that are in no commit.
    pub changes: Vec<Change>,
    /// What the gate says of each file of the commits.
    pub of_commits: Vec<(Made, Verdict)>,
    /// What it says of each change, in their order.
    pub of_changes: Vec<Verdict>,
}

impl<'a> Offer<'a> {
    /// Reads what is kept of a bottle, for the directory `to`; `scratch` is for this alone.
    pub fn read(kept: &Abandoned, to: &Path, scratch: &'a Path, cancel: &'a Cancellation) -> Result<Self> {
        let budget = Budget::new(cancel);
        let left = Left::find(kept.dir())?;
        let read = || format!("read the work of {}", kept.identity);
        let commits = match left.commits() {
            Some(bundle) => Some(Commits::read(&bundle, &kept.identity, &left.came.bases, to, scratch, budget)?),
            None => None,
        };
        let changes = files::changes(&left).with_context(read)?;
        let made: Vec<Made> = changes.iter().map(Change::made).collect();
        let there = files::there(to)?;
        let of_changes = gate::judge(&made, there.iter().map(Vec::as_slice));
        let made = commits.as_ref().map_or(Ok(vec![]), Commits::made).with_context(read)?;
        let verdicts = gate::judge(&made, []);
        Ok(Self { commits, changes, of_commits: made.into_iter().zip(verdicts).collect(), of_changes })
    }

    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.commits.is_none() && self.changes.is_empty()
    }
}
