//! All state directories: whose owner is alive, what is abandoned, and what is another machine's or user's.
//!
//! ```text
//! lock is held ──────────────────────────────────────▶ live
//! lock is free ── of another machine or user ────────▶ foreign
//!              ── its process is there all the same ─▶ live
//!              ── work in it, and nothing else ──────▶ kept
//!              ── else ──────────────────────────────▶ abandoned
//! ```
//!
//! In doubt a bottle is alive: what cannot be read or vanishes under our eyes is not for anybody else to take away.

use super::{
    HIDDEN, LEDGER, LOCK, METADATA, Metadata, PRESERVE,
    files::{self, Kind},
    ledger::Ledger,
    makers,
};
use crate::{paths::Paths, ui};
use anyhow::{Context, Result};
use bottle_api::LedgerEntry;
use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What there is.
#[derive(Default)]
pub struct Survey {
    /// Identities whose owner is alive.
    pub live: Vec<String>,
    /// Bottles that nobody owns any more; nobody comes to own them while these are held.
    pub abandoned: Vec<Abandoned>,
    /// Identities of another machine's or user's bottles: nothing here can say whether they live.
    pub foreign: Vec<String>,
    /// Identities of bottles that are gone, and whose work is not.
    pub kept: Vec<String>,
}

/// A directory of which nobody is the owner any more; nobody becomes it while this is held.
pub struct Abandoned {
    /// Its identity.
    pub identity: String,
    /// What was recorded, as far as it can be read.
    pub metadata: Metadata,
    /// Its ledger; none where nothing was created yet, or only its log was kept.
    pub ledger: Option<Arc<Ledger>>,
    pub(super) dir: PathBuf,
    _lock: Option<File>,
}

impl Abandoned {
    /// What it must still take away.
    pub fn entries(&self) -> Vec<LedgerEntry> {
        self.ledger.as_ref().map(|ledger| ledger.entries()).unwrap_or_default()
    }

    /// Its state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Does it hold work? That is not for a cleanup to remove.
    pub fn is_preserved(&self) -> bool {
        self.dir.join(PRESERVE).exists()
    }

    /// Removes everything but work.
    pub fn remove(self) -> Result<()> {
        if self.is_preserved() { super::drop_launch(&self.dir) } else { super::remove_dir(&self.dir) }
    }
}

enum Verdict {
    Live,
    Foreign,
    Kept,
    Abandoned(Box<Abandoned>),
    /// It was one, and is gone.
    Nothing,
}

/// Looks at all of them. With `foreign`, another machine's or user's bottles count as abandoned.
pub fn survey(paths: &Paths, foreign: bool) -> Result<Survey> {
    look(paths, foreign, false)
}

fn look(paths: &Paths, foreign: bool, kept: bool) -> Result<Survey> {
    let mut survey = Survey::default();
    // What cannot be listed may be full of life.
    let entries = match fs::read_dir(paths.state()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(survey),
        entries => entries.with_context(|| format!("look into {}", paths.short(&paths.state())))?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) else { continue };
        let identity = name.trim_start_matches(HIDDEN).to_owned();
        match judge(&paths.state(), name, &identity, (foreign, kept)) {
            Ok(Verdict::Abandoned(bottle)) => survey.abandoned.push(*bottle),
            Ok(Verdict::Live) => survey.live.push(identity),
            Ok(Verdict::Foreign) => survey.foreign.push(identity),
            Ok(Verdict::Kept) => survey.kept.push(identity),
            Ok(Verdict::Nothing) => {}
            Err(error) => {
                ui::warn(format!("{error:#}; the bottle is taken to be alive"));
                survey.live.push(identity);
            }
        }
    }
    survey.abandoned.sort_by(|a, b| a.identity.cmp(&b.identity));
    survey.foreign.sort();
    survey.kept.sort();
    Ok(survey)
}

/// The same with the kept among the abandoned, and held like these: for whoever removes one.
pub(super) fn all(paths: &Paths) -> Result<Survey> {
    look(paths, false, true)
}

fn judge(state: &Path, name: &str, identity: &str, (foreign, kept): (bool, bool)) -> Result<Verdict> {
    let dir = state.join(name);
    let what = || format!("look at the state of {identity}");
    let lock = match File::options().read(true).write(true).open(dir.join(LOCK)) {
        Ok(lock) if !files::try_lock(&lock, Kind::Exclusive) => return Ok(Verdict::Live),
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Being made or removed, unless whoever did that is gone: then there is nothing in it.
            if !dir.exists() {
                return Ok(Verdict::Nothing);
            }
            match makers(state).is_ok_and(|makers| files::try_lock(&makers, Kind::Exclusive)) {
                true if !dir.join(LOCK).exists() => None,
                _ => return Ok(Verdict::Live),
            }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(Verdict::Foreign),
        Err(error) => return Err(error).with_context(what),
    };
    let Ok(metadata) = fs::metadata(&dir) else { return Ok(Verdict::Nothing) };
    let recorded: Metadata = match fs::read(dir.join(METADATA)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Metadata::default(), // nothing was created yet
        text => serde_json::from_slice(&text?).with_context(what)?,
    };
    let others = recorded.holder.is_foreign() || metadata.uid() != rustix::process::getuid().as_raw();
    if others && !foreign {
        return Ok(Verdict::Foreign);
    }
    if !others && recorded.holder.is_alive() {
        return Ok(Verdict::Live);
    }
    let ledger = Ledger::read(&dir.join(LEDGER)).with_context(what)?.map(Arc::new);
    if ledger.is_none() && !kept && dir.join(PRESERVE).exists() {
        return Ok(Verdict::Kept);
    }
    Ok(Verdict::Abandoned(Box::new(Abandoned {
        ledger,
        metadata: recorded,
        identity: identity.to_owned(),
        dir,
        _lock: lock,
    })))
}
