//! `--cwd`: the working directory comes along, as a copy.
//!
//! ```text
//! directory ─ list ─▶ files, links ───────────────┐
//!    .git ─ copy what is data ─▶ private .git ─ pack ┴─▶ stage/workspace.tar ─▶ the backend
//! ```
//!
//! The directory may be hostile: nothing in it is obeyed, nothing outside it is read. Git never sees the directory's own
//! `.git`, only a copy of what is data in it (`history.rs`), with a configuration that was written here; files are opened
//! below the directory, through no link (`tree.rs`).

mod archive;
pub(crate) mod came;
mod config;
pub(crate) mod git;
mod history;
mod scan;
pub(crate) mod tree;

pub use came::{Came, Print};

use crate::{
    paths::Paths,
    signals::Cancellation,
    ui::{self, hinted},
};
use anyhow::{Context, Result, bail};
use archive::Archive;
use bottle_api::{BottleSpec, WORKSPACE_FEATURE};
use history::History;
use scan::Scan;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tree::{Found, Tree};

/// The archive, in the stage directory.
pub const ARCHIVE: &str = "workspace.tar";
/// What a bottle's workspace may begin with.
const MAX_FILES: usize = 200_000;
const MAX_BYTES: u64 = 2 << 30;
const MAX_TIME: Duration = Duration::from_secs(120);
/// How often somebody who waits is told how far it is.
const PROGRESS_TIME: Duration = Duration::from_millis(200);

/// What is to come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// What git tracks, and what it does not ignore.
    Unignored,
    /// Everything but what belongs to git.
    All,
    /// The last commit alone, on a branch of this name.
    Worktree(&'a str),
}

/// What comes along, for the preflight.
#[derive(Debug, Default, Serialize)]
pub struct Shown {
    /// The directory.
    pub directory: String,
    /// Files and links.
    pub files: usize,
    /// Bytes of them and of the history.
    pub bytes: u64,
    /// The branch, or the commit where there is none. None: there is no history.
    pub branch: Option<String>,
    /// Tracked files that differ from the last commit.
    pub changed: usize,
    /// Files that git does not track.
    pub untracked: usize,
    /// What stays behind, by the reason why.
    pub skipped: BTreeMap<&'static str, Vec<String>>,
    /// Files with what looks like a credential, by the scanner's rule.
    pub found: BTreeMap<String, Vec<String>>,
    /// Files that were not scanned to their end.
    pub unseen: usize,
}

/// A working directory that is ready to go into a bottle.
#[derive(Default)]
pub struct Collected {
    /// What it is, to tell later what the agent has made.
    pub came: Came,
    /// For the preflight.
    pub shown: Shown,
}

/// Packs the working directory into the stage directory, and says so in the spec.
pub fn collect(
    paths: &Paths,
    which: Which<'_>,
    stage: &Path,
    spec: &mut BottleSpec,
    cancel: &Cancellation,
) -> Result<Collected> {
    let attempt = || format!("bring {} along", paths.short(&paths.cwd));
    let scratch = tempfile::tempdir_in(stage)?;
    let budget = Budget::new(cancel);
    git::copy_excludes(&paths.home, scratch.path(), &budget).with_context(attempt)?;
    let archive = claim(stage, spec);
    let mut collected = gather(&paths.cwd, which, scratch.path(), &archive, budget).with_context(attempt)?;
    collected.shown.directory = paths.short(&paths.cwd);
    Ok(collected)
}

/// Says in the spec that the workspace begins with an archive of the stage directory, and returns where that goes.
pub fn claim(stage: &Path, spec: &mut BottleSpec) -> PathBuf {
    spec.workspace = Some(ARCHIVE.into());
    spec.requires.push(WORKSPACE_FEATURE.into());
    stage.join(ARCHIVE)
}

fn gather(dir: &Path, which: Which<'_>, scratch: &Path, archive: &Path, budget: Budget<'_>) -> Result<Collected> {
    let mut tree = Tree::open(dir)?;
    let mut shown = Shown::default();
    let mut history = History::copy(dir, &tree, which, scratch, &mut budget.clone(), &mut shown)?;
    if let (Some(history), Which::Worktree(branch)) = (&mut history, which) {
        tree = Tree::open(history.branch_off(branch, &budget)?)?;
    }
    let names = match (&history, which) {
        (Some(history), Which::Unignored | Which::Worktree(_)) => history.list(&budget, &mut shown)?,
        _ => tree.walk(&budget, &mut shown)?,
    };
    let mut out = Archive::create(archive, budget)?;
    let mut came = Came { ignored: which == Which::All, ..Came::default() };
    let (mut scan, mut said) = (Scan::begin()?, Instant::now());
    for (at, name) in names.iter().enumerate() {
        if said.elapsed() > PROGRESS_TIME {
            ui::progress("copy the workspace", &format!("{at} of {} files", names.len()));
            said = Instant::now();
        }
        match tree.look(name)? {
            Found::Nothing => drop(came.missing.insert(name.clone())),
            Found::Directory(mode) => out.directory(name, mode)?,
            Found::File { mode, size, modified, mut file } => {
                out.parents(&tree, name)?;
                let head = scan.look(name, size, &mut file)?;
                let content = io::Cursor::new(head).chain(file);
                came.prints.insert(name.clone(), out.file(name, mode, size, modified, content)?);
            }
            Found::Link(target) => {
                out.parents(&tree, name)?;
                came.prints.insert(name.clone(), out.link(name, &target)?);
            }
            Found::Skipped(why) => shown.skip(why, name),
        }
    }
    shown.files = came.prints.len();
    (shown.found, shown.unseen) = scan.finish();
    if let Some(history) = history {
        came.bases = history.pack(out.budget())?;
        out.history(history.dir())?;
    }
    shown.bytes = out.finish()?;
    ui::clear_progress();
    Ok(Collected { came, shown })
}

impl Shown {
    fn skip(&mut self, why: &'static str, name: &[u8]) {
        self.skipped.entry(why).or_default().push(ui::printable(&String::from_utf8_lossy(name)));
    }

    /// What should not go into a bottle, and does.
    pub fn warnings(&self) -> Vec<String> {
        let found = self.found.iter().map(|(rule, files)| {
            let more = if files.len() > 1 { format!(" and {} more", files.len() - 1) } else { String::new() };
            format!("what looks like a credential ({rule}) goes into the bottle: {}{more}", files[0])
        });
        let unseen = (self.unseen > 0).then(|| {
            format!("{} are too large to be scanned for credentials to the end", ui::count(self.unseen, "file"))
        });
        found.chain(unseen).collect()
    }

    /// As a person reads it, line by line.
    pub fn lines(&self) -> Vec<String> {
        let (files, size) = (ui::count(self.files, "file"), ui::size(self.bytes));
        let mut lines = vec![format!("a copy of {}: {files}, {size}", self.directory)];
        lines.push(match &self.branch {
            Some(branch) => {
                let (changed, untracked) = (self.changed, self.untracked);
                format!("with its history, on {branch}: {changed} changed, {untracked} untracked")
            }
            None => "without history".into(),
        });
        lines.extend(self.skipped.iter().map(|(why, names)| match &names[..] {
            [one] => format!("left behind, {why}: {one}"),
            [first, rest @ ..] => format!("left behind, {why}: {first} and {} more", rest.len()),
            [] => String::new(),
        }));
        lines
    }
}

/// What is left of the bounds.
#[derive(Clone)]
pub(crate) struct Budget<'a> {
    cancel: &'a Cancellation,
    until: Instant,
    files: usize,
    bytes: u64,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(cancel: &'a Cancellation) -> Self {
        Self { cancel, until: Instant::now() + MAX_TIME, files: MAX_FILES, bytes: MAX_BYTES }
    }

    /// Time is left, and nobody wants it to stop.
    fn check(&self) -> Result<()> {
        if self.cancel.signal().is_some() {
            bail!("cancelled");
        }
        if Instant::now() > self.until {
            return Err(too_much(format!("it takes more than {} seconds", MAX_TIME.as_secs())));
        }
        Ok(())
    }

    /// One more file of that size.
    fn spend(&mut self, name: &[u8], bytes: u64) -> Result<()> {
        self.check()?;
        let files = self.files.checked_sub(1);
        self.files = files.ok_or_else(|| too_much(format!("there are more than {MAX_FILES} files")))?;
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| {
            let name = ui::printable(&String::from_utf8_lossy(name));
            too_much(format!("there is more than {}; {name} alone has {}", ui::size(MAX_BYTES), ui::size(bytes)))
        })?;
        Ok(())
    }

    fn spent(&self) -> u64 {
        MAX_BYTES - self.bytes
    }
}

fn too_much(what: String) -> anyhow::Error {
    hinted(what, "Have git ignore what the agent does not need (.gitignore), or start bottle in a smaller directory.")
}

#[cfg(test)]
mod tests;
