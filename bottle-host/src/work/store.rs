//! Where saved work lies. What is there is never written over: a file appears when it is whole, and the work of an
//! earlier session stays until that of the next one is complete.
//!
//! ```text
//! work                       the first session's
//! work  work.new             a resumed one is being saved; where that fails both stay
//! work.before  work.new      ─┐ a crash in between loses nothing: `of` finds the newest that is complete
//! work.before  work          ─┘
//! work
//! ```

use crate::{fault, state};
use anyhow::{Context, Result};
use rustix::fs::statvfs;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const NEW: &str = "work.new";
const BEFORE: &str = "work.before";

/// The saved work in a bottle's state directory.
pub(super) fn of(state: &Path) -> PathBuf {
    [state::WORK, BEFORE]
        .map(|name| state.join(name))
        .into_iter()
        .find(|dir| dir.exists())
        .unwrap_or(state.join(state::WORK))
}

/// A save.
pub(super) struct Store {
    work: PathBuf,
    /// Where this save goes: `work` itself where there is nothing to lose.
    pub(super) dir: PathBuf,
}

impl Store {
    pub(super) fn open(state: &Path) -> Result<Self> {
        let work = state.join(state::WORK);
        let before = state.join(BEFORE);
        match (work.exists(), before.exists()) {
            (false, true) => fs::rename(&before, &work)?,
            (true, true) => fs::remove_dir_all(&before)?,
            _ => {}
        }
        let dir = if work.exists() { state.join(NEW) } else { work.clone() };
        if dir != work {
            // Of a save that has failed: its bottle went on from what was saved before.
            gone(fs::remove_dir_all(&dir))?;
        }
        Ok(Self { work, dir })
    }

    /// The save is complete: it takes the place of the earlier one, be there anything in it or not.
    pub(super) fn complete(&self) -> Result<()> {
        if self.dir == self.work {
            return Ok(());
        }
        let before = self.work.with_file_name(BEFORE);
        step()?;
        fs::rename(&self.work, &before)?;
        step()?;
        gone(fs::rename(&self.dir, &self.work))?;
        step()?;
        fs::remove_dir_all(&before).context("remove what was saved before")
    }
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn step() -> Result<()> {
    fault::point("write").map_err(|error| error.into_std().into())
}

/// A file that is not there before it is whole.
pub(super) struct Draft {
    pub(super) file: File,
    path: PathBuf,
    draft: PathBuf,
}

impl Draft {
    pub(super) fn create(dir: &Path, name: &str) -> Result<Self> {
        step()?;
        state::private_dirs(dir)?;
        let (path, draft) = (dir.join(name), dir.join(format!("{name}.new")));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft);
        Ok(Self { file: file.with_context(|| format!("create {}", draft.display()))?, path, draft })
    }

    /// How much may be written: a guest must not fill the disk.
    pub(super) fn room(&self, max: u64) -> Result<u64> {
        let disk = statvfs(&self.draft)?;
        Ok(max.min(disk.f_bavail.saturating_mul(disk.f_frsize) / 2))
    }

    pub(super) fn keep(self) -> Result<()> {
        step()?;
        self.file.sync_all()?;
        step()?;
        Ok(fs::rename(&self.draft, &self.path)?)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.draft);
        // Only where nothing else is in it.
        let _ = self.draft.parent().map(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(state: &Path, text: &str) -> Store {
        let store = Store::open(state).unwrap();
        if !text.is_empty() {
            let draft = Draft::create(&store.dir, "f").unwrap();
            io::Write::write_all(&mut &draft.file, text.as_bytes()).unwrap();
            draft.keep().unwrap();
        }
        store
    }

    fn saved(state: &Path) -> Option<String> {
        fs::read_to_string(of(state).join("f")).ok()
    }

    #[test]
    fn what_was_saved_before_stays_until_the_next_save_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path();
        save(state, "one").complete().unwrap();
        let second = save(state, "two");
        assert_eq!(saved(state).as_deref(), Some("one"), "not complete yet");
        second.complete().unwrap();
        assert_eq!(saved(state).as_deref(), Some("two"));
        save(state, "three"); // it fails, and the next one is whole
        save(state, "four").complete().unwrap();
        assert_eq!(saved(state).as_deref(), Some("four"));
        // All was taken back by the agent.
        save(state, "").complete().unwrap();
        assert_eq!((saved(state), fs::read_dir(state).unwrap().count()), (None, 0));
    }

    #[test]
    fn a_crash_while_one_takes_the_others_place_loses_neither() {
        for crashed in [&[("work", BEFORE)][..], &[("work", BEFORE), (NEW, "work")]] {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path();
            save(state, "one").complete().unwrap();
            save(state, "two");
            for (from, to) in crashed {
                fs::rename(state.join(from), state.join(to)).unwrap();
            }
            let expected = if crashed.len() == 1 { "one" } else { "two" };
            assert_eq!(saved(state).as_deref(), Some(expected));
            save(state, "three").complete().unwrap();
            assert_eq!(saved(state).as_deref(), Some("three"));
            assert_eq!(fs::read_dir(state).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_draft_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        drop(Draft::create(&store.dir, "f").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
