//! What an agent has made is saved before its bottle is removed: new commits as a git bundle, other changes as an
//! archive, the conversation beside them.
//!
//! ```text
//! state/<identity>/.preserve                what is here goes by no cleanup
//! state/<identity>/work/commits.bundle      commits that did not come along, made by git in the bottle
//! state/<identity>/work/changes.tar         files that differ from the last commit, or that git does not track
//! state/<identity>/work/deleted             names, each ended by NUL, of files that are gone
//! state/<identity>/work/workspace.tar       instead of these, all of it, where nothing runs in the bottle any more
//! state/<identity>/transcript/projects.tar  what Claude Code keeps of its conversations
//! ```
//!
//! All of it is written by a guest that may be hostile: it is stored under names of our own, up to a bound in bytes and
//! in time, and never unpacked here.

mod changes;
mod home;
mod inside;

use crate::{
    fault,
    plugin::Bottle,
    state::{self, State},
    ui,
    workspace::Came,
};
use anyhow::{Context, Result};
use bottle_api::{HOME, WORKSPACE};
use inside::{Deadline, Inside};
use rustix::fs::statvfs;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// To find out what there is; and then for each of commits, changes and the whole.
const SURVEY_TIME: Duration = Duration::from_secs(20);
const SAVE_TIME: Duration = Duration::from_secs(60);
/// Bytes of a bundle, and of an archive.
const MAX_WORK: u64 = 1 << 30;
const MAX_TRANSCRIPT: u64 = 64 << 20;
const MAX_SURVEY: u64 = 4 << 20;

/// What became of an agent's work.
pub struct Saved {
    /// The state directory's `work`.
    dir: PathBuf,
    commits: bool,
    /// The archive that it has.
    archive: Option<&'static str>,
    deleted: bool,
    /// Something may not have been saved.
    pub failed: bool,
}

impl Saved {
    /// Is any of it there?
    pub fn any(&self) -> bool {
        self.commits || self.archive.is_some() || self.deleted
    }
}

/// Saves what differs from what came along; nothing where nothing does. A failure is a warning: the bottle goes all the
/// same. `whole`: the session has not ended well, so that the conversation is kept in any case.
pub fn save(bottle: &Bottle, state: &State, came: &Came, whole: bool) -> Saved {
    let saver = Saver { bottle, state: state.dir(), came };
    let mut saved =
        Saved { dir: state.dir().join("work"), commits: false, archive: None, deleted: false, failed: false };
    if let Err(error) = saver.work(&mut saved) {
        ui::warn_of("not all of the agent's work could be saved", &error);
        saved.failed = true;
    }
    if (whole || saved.any() || saved.failed)
        && let Err(error) = saver.transcript()
    {
        ui::warn_of("the conversation could not be saved", &error);
    }
    saved
}

struct Saver<'a> {
    bottle: &'a Bottle,
    state: &'a Path,
    came: &'a Came,
}

impl Saver<'_> {
    fn inside(&self, time: Duration) -> Result<Inside<'_>> {
        Inside::new(self.bottle, self.came.ignored, time)
    }

    /// By the bottle's own git and tar; where these fail at any step, the workspace as it is.
    fn work(&self, saved: &mut Saved) -> Result<()> {
        fault::point("save").map_err(bottle_api::Error::into_std)?;
        let bases: String = self.came.bases.iter().map(|id| format!("^{id}\n")).collect();
        match self.by_git(saved, bases.as_bytes()) {
            Ok(true) => return Ok(()),
            Ok(false) => ui::warn("git or tar fails in the bottle; its workspace is saved as it is"),
            Err(error) => {
                ui::warn_of("git or a shell does not answer in the bottle; its workspace is saved as it is", &error);
            }
        }
        let found = self.archive(saved, WHOLE, |inside, file, max| inside.get(WORKSPACE, file, max))?;
        saved.failed |= found.cut;
        Ok(())
    }

    /// `false`: a step has failed, and what it should have saved is not.
    fn by_git(&self, saved: &mut Saved, bases: &[u8]) -> Result<bool> {
        let survey = self.inside(SURVEY_TIME)?.survey(bases, MAX_SURVEY)?;
        if survey.commits && !self.commits(saved, bases)? {
            return Ok(false);
        }
        let mut deleted = survey.deleted;
        if survey.changes {
            let found = self.archive(saved, CHANGES, |inside, file, max| inside.changes(file, max))?;
            if found.cut && !found.any {
                return Ok(false);
            }
            saved.failed |= found.cut;
            if !survey.has_git && !found.cut {
                deleted = self.came.prints.keys().filter(|name| !found.names.contains(*name)).cloned().collect();
            }
        } else if !survey.has_git {
            deleted = self.came.prints.keys().cloned().collect();
        }
        deleted.retain(|name| !self.came.missing.contains(name));
        if !deleted.is_empty() {
            let names: Vec<u8> = deleted.into_iter().flat_map(|name| [name, vec![0]].concat()).collect();
            state::private_dirs(&saved.dir)?;
            self.preserve()?;
            state::write_atomically(&saved.dir.join(DELETED), &names)?;
            saved.deleted = true;
        }
        Ok(true)
    }

    fn commits(&self, saved: &mut Saved, bases: &[u8]) -> Result<bool> {
        ui::progress("save the agent's commits", "");
        let draft = Draft::create(&saved.dir, COMMITS)?;
        let whole = self.inside(SAVE_TIME)?.commits(bases, &draft.file, draft.room(MAX_WORK)?)?;
        if whole {
            self.keep(draft)?;
            saved.commits = true;
        }
        Ok(whole)
    }

    /// Fetches an archive, and drops it where everything in it is as it came.
    fn archive(
        &self,
        saved: &mut Saved,
        name: &'static str,
        fetch: impl FnOnce(&Inside<'_>, &File, u64) -> Result<bool>,
    ) -> Result<changes::Found> {
        ui::progress("save the agent's changes", "");
        let mut draft = Draft::create(&saved.dir, name)?;
        let whole = fetch(&self.inside(SAVE_TIME)?, &draft.file, draft.room(MAX_WORK)?)?;
        let mut found = changes::read(&mut draft.file, self.came, &Deadline::after(SAVE_TIME)?)?;
        found.cut |= !whole;
        if found.cut && (found.any || name == WHOLE) {
            let what = "the agent's changes are too many or too large, and were cut off: what is large is lost first";
            ui::warn(what);
        }
        if found.any {
            self.keep(draft)?;
            saved.archive = Some(name);
        }
        Ok(found)
    }

    /// From here on no cleanup takes the state: marked before there is anything to lose.
    fn preserve(&self) -> Result<()> {
        state::write_atomically(&self.state.join(state::PRESERVE), b"")
    }

    fn keep(&self, draft: Draft) -> Result<()> {
        self.preserve()?;
        draft.keep()
    }

    fn transcript(&self) -> Result<()> {
        let draft = Draft::create(&self.state.join("transcript"), "projects.tar")?;
        let path = format!("{HOME}/.claude/projects");
        match self.inside(SURVEY_TIME)?.get(&path, &draft.file, draft.room(MAX_TRANSCRIPT)?) {
            Ok(true) => draft.keep(),
            Ok(false) => {
                ui::warn(format!("the conversation is more than {} MiB: it is lost", MAX_TRANSCRIPT >> 20));
                Ok(())
            }
            // None was held.
            Err(_) => Ok(()),
        }
    }
}

const COMMITS: &str = "commits.bundle";
const CHANGES: &str = "changes.tar";
const WHOLE: &str = "workspace.tar";
const DELETED: &str = "deleted";

/// A file that is not there before it is whole.
struct Draft {
    file: File,
    path: PathBuf,
    draft: PathBuf,
}

impl Draft {
    fn create(dir: &Path, name: &str) -> Result<Self> {
        state::private_dirs(dir)?;
        let (path, draft) = (dir.join(name), dir.join(format!("{name}.new")));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&draft);
        Ok(Self { file: file.with_context(|| format!("create {}", draft.display()))?, path, draft })
    }

    /// How much may be written: a guest must not fill the disk.
    fn room(&self, max: u64) -> Result<u64> {
        let disk = statvfs(&self.draft)?;
        Ok(max.min(disk.f_bavail.saturating_mul(disk.f_frsize) / 2))
    }

    fn keep(self) -> Result<()> {
        self.file.sync_all()?;
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
