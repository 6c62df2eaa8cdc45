//! What an agent has made is saved before its bottle is removed, and now and then before that: new commits as a git
//! bundle, other changes as an archive, the conversation beside them.
//!
//! ```text
//! state/<identity>/.preserve                what is here goes by no cleanup
//! state/<identity>/work/commits.bundle      commits that did not come along, made by git in the bottle
//! state/<identity>/work/changes.tar         files that differ from the last commit, or that git does not track
//! state/<identity>/work/deleted             names, each ended by NUL, of files that are gone
//! state/<identity>/work/head                the branch or commit that its repository stood at
//! state/<identity>/work/workspace.tar       instead of these, all of it, where nothing runs in the bottle any more
//! state/<identity>/transcript/projects.tar  what Claude Code keeps of its conversations
//! ```
//!
//! All of it is written by a guest that may be hostile: it is stored under names of our own, up to a bound in bytes and
//! in time, and never unpacked here.

mod changes;
mod home;
mod inside;
mod restore;
mod store;

pub use changes::{Item, items};
pub use restore::Left;

use crate::{fault, plugin::Bottle, state, ui, workspace::Came};
use anyhow::{Context, Result, bail};
use bottle_api::{HOME, WORKSPACE};
use inside::{Deadline, Inside};
use std::{
    fs::File,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};
use store::{Draft, Store};

/// To find out what there is; and then for each of commits, changes and the whole. While the session goes on, each has
/// the shorter one: who ends it waits for that.
const SURVEY_TIME: Duration = Duration::from_secs(20);
const SAVE_TIME: Duration = Duration::from_secs(60);
/// How long a session goes on between two saves; and how many times as long as the last one took, so that a large
/// workspace is not saved all the time.
const EVERY: Duration = Duration::from_secs(60);
const AT_LEAST: u32 = 20;
/// Bytes of a bundle, and of an archive.
const MAX_WORK: u64 = 1 << 30;
const MAX_TRANSCRIPT: u64 = 64 << 20;
const MAX_SURVEY: u64 = 4 << 20;

/// What became of an agent's work.
#[derive(Default)]
pub struct Saved {
    commits: bool,
    /// The archive that it has.
    archive: Option<&'static str>,
    deleted: bool,
    /// Something may not have been saved.
    pub failed: bool,
    /// The conversation is kept.
    conversation: bool,
}

impl Saved {
    /// Is any of it there?
    pub fn any(&self) -> bool {
        self.commits || self.archive.is_some() || self.deleted
    }
}

/// Saves what differs from what came along into a state directory; nothing where nothing does. A failure is a warning:
/// the bottle goes all the same, and what was saved before stays. `whole`: the session has not ended well, so that the
/// conversation is kept in any case.
pub fn save(bottle: &Bottle, state: &Path, came: &Came, whole: bool) -> Saved {
    let mut saved = Saved::default();
    let done = Store::open(state).and_then(|store| {
        let saver = Saver { bottle, state, came, store, session: false };
        let saving = saver.work(&mut saved).and_then(|()| saver.store.complete());
        saving.with_context(|| format!("what could be saved is in {}", saver.store.dir.display()))
    });
    if let Err(error) = done {
        ui::warn_of("not all of the agent's work could be saved", &error);
        saved.failed = true;
    }
    if whole || saved.any() || saved.failed {
        match transcript(bottle, state) {
            Ok(kept) => saved.conversation = kept,
            Err(error) => ui::warn_of("the conversation could not be saved", &error),
        }
    }
    saved
}

/// Saves now and then while a session goes on, until the other end of `over` is dropped: where a bottle dies with its
/// owner (namespaces, a power cut), that is what `cleanup` finds. Says nothing, for the terminal is the agent's; a save
/// that fails leaves the one before.
pub fn keep_saving(bottle: &Bottle, state: &Path, came: &Came, over: &Receiver<()>) {
    let mut wait = fault::patience(EVERY);
    while over.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let began = Instant::now();
        let _ = Store::open(state).and_then(|store| {
            let saver = Saver { bottle, state, came, store, session: true };
            saver.work(&mut Saved::default())?;
            saver.store.complete()?;
            transcript(bottle, state)
        });
        wait = fault::patience(EVERY.max(began.elapsed() * AT_LEAST));
    }
}

/// What Claude Code keeps of its conversations; `false` where there is none.
fn transcript(bottle: &Bottle, state: &Path) -> Result<bool> {
    let mut draft = Draft::create(&state.join(TRANSCRIPT), "projects.tar")?;
    let path = format!("{HOME}/.claude/projects");
    let inside = Inside::new(bottle, false, SURVEY_TIME)?;
    match inside.get(&path, &draft.file, draft.room(MAX_TRANSCRIPT)?) {
        Ok(true) => {}
        Ok(false) => bail!("it is more than {} MiB", MAX_TRANSCRIPT >> 20),
        // None was held.
        Err(_) => return Ok(false),
    }
    let found = changes::read(&mut draft.file, &Came::default(), &Deadline::after(SURVEY_TIME)?)?;
    let is_held = found.names.iter().any(|name| name.ends_with(b".jsonl"));
    if is_held {
        state::preserve(state)?;
        draft.keep()?;
    }
    Ok(is_held)
}

struct Saver<'a> {
    bottle: &'a Bottle,
    state: &'a Path,
    came: &'a Came,
    store: Store,
    /// The session goes on: nothing is said, and only what git and tar make of the workspace is saved.
    session: bool,
}

impl Saver<'_> {
    fn time(&self) -> Duration {
        if self.session { SURVEY_TIME } else { SAVE_TIME }
    }

    fn progress(&self, step: &str) {
        if !self.session {
            ui::progress(step, "");
        }
    }

    fn inside(&self, time: Duration) -> Result<Inside<'_>> {
        Inside::new(self.bottle, self.came.ignored, time)
    }

    /// By the bottle's own git and tar; where these fail at any step, the workspace as it is.
    fn work(&self, saved: &mut Saved) -> Result<()> {
        fault::point("save").map_err(bottle_api::Error::into_std)?;
        let bases: String = self.came.bases.iter().map(|id| format!("^{id}\n")).collect();
        match self.by_git(saved, bases.as_bytes()) {
            Ok(true) => return Ok(()),
            failed if self.session => bail!("git or tar fails in the bottle: {:?}", failed.err()),
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
            self.write(DELETED, &names)?;
            saved.deleted = true;
        }
        if saved.any() && !survey.head.is_empty() {
            self.write(HEAD, survey.head.as_bytes())?;
        }
        Ok(true)
    }

    fn commits(&self, saved: &mut Saved, bases: &[u8]) -> Result<bool> {
        self.progress("save the agent's commits");
        let draft = Draft::create(&self.store.dir, COMMITS)?;
        let whole = self.inside(self.time())?.commits(bases, &draft.file, draft.room(MAX_WORK)?)?;
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
        self.progress("save the agent's changes");
        let mut draft = Draft::create(&self.store.dir, name)?;
        let whole = fetch(&self.inside(self.time())?, &draft.file, draft.room(MAX_WORK)?)?;
        let mut found = changes::read(&mut draft.file, self.came, &Deadline::after(self.time())?)?;
        found.cut |= !whole;
        if found.cut && self.session {
            bail!("not all of it in {} seconds: the save before is the better one", self.time().as_secs());
        }
        if found.cut && (found.any || name == WHOLE) {
            let what = "the agent's changes are too many or too large, and were cut off: what is large is lost first";
            ui::warn(what);
        }
        // Beside commits the whole difference is kept, the user's own changes too: a resumed bottle goes back to them.
        if found.any || (saved.commits && !found.names.is_empty()) {
            self.keep(draft)?;
            saved.archive = Some(name);
        }
        Ok(found)
    }

    fn keep(&self, draft: Draft) -> Result<()> {
        state::preserve(self.state)?;
        draft.keep()
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        state::preserve(self.state)?;
        state::private_dirs(&self.store.dir)?;
        state::write_atomically(&self.store.dir.join(name), content)
    }
}

const COMMITS: &str = "commits.bundle";
const CHANGES: &str = "changes.tar";
const WHOLE: &str = "workspace.tar";
const DELETED: &str = "deleted";
const HEAD: &str = "head";
const TRANSCRIPT: &str = "transcript";
