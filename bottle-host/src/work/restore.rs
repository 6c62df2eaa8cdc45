//! What an earlier session left, put into the bottle of a resumed one.
//!
//! ```text
//! workspace.tar (what it began with) ─ the backend ─▶ commits ─ head ─▶ what is gone ─ changes ─▶ as it was left
//! ```
//!
//! All but the first is unpacked in the bottle, as the agent and with the bottle's own programs: it is the guest's word,
//! and reaches nothing that the guest did not reach before. What was staged is not told from what was not.

use super::{CHANGES, COMMITS, DELETED, HEAD, SAVE_TIME, TRANSCRIPT, WHOLE, inside::Inside, store};
use crate::{
    plugin::Bottle,
    state::{BASE, CAME},
    ui,
    workspace::{self, Came},
};
use anyhow::{Context, Result, bail};
use bottle_api::BottleSpec;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

const FETCH: &str = r#"
[ -e .git ] || git init -q . || exit 1
bundle=$(mktemp) && cat >"$bundle" && git fetch -q --no-tags --update-head-ok "$bundle" '+refs/*:refs/*' && rm -f "$bundle"
"#;
/// What is tracked becomes what it is in that commit: what differed from it comes after.
const STAND_AT: &str = r#"
read -r head
case $head in
    refs/*) git symbolic-ref HEAD "$head" ;;
    *) git update-ref --no-deref HEAD "$head" ;;
esac && git reset -q --hard
"#;
const REMOVE: &str = "xargs -0r rm -rf --";
const UNPACK: &str = "tar --extract --file=- --preserve-permissions --recursive-unlink";
const UNPACK_WHOLE: &str = "tar --extract --file=- --preserve-permissions --directory=/ workspace";
const UNPACK_TRANSCRIPT: &str = r#"mkdir -p "$HOME/.claude" && tar --extract --file=- --directory="$HOME/.claude""#;
/// Is there a conversation in the workspace to go on with?
const CONTINUES: &str = r#"ls -d "$HOME"/.claude/projects/-workspace/*.jsonl >/dev/null"#;

/// What there is of an earlier session.
pub struct Left {
    work: PathBuf,
    /// What the workspace began with.
    base: Option<PathBuf>,
    transcript: Option<PathBuf>,
    /// How each file of it came.
    pub came: Came,
}

impl Left {
    /// Looks into a state directory.
    pub fn find(state: &Path) -> Result<Self> {
        let there = |path: PathBuf| path.exists().then_some(path);
        let came = match fs::read(state.join(CAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Came::default(),
            bytes => Came::decode(&bytes?).with_context(|| format!("read {}", state.join(CAME).display()))?,
        };
        Ok(Self {
            work: store::of(state),
            base: there(state.join(BASE)),
            transcript: there(state.join(TRANSCRIPT).join("projects.tar")),
            came,
        })
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.work.join(name)).filter(|path| path.exists())
    }

    /// The bundle of commits.
    pub fn commits(&self) -> Option<PathBuf> {
        self.file(COMMITS)
    }

    /// The archive of what is in no commit; where git did not answer, of everything.
    pub fn archive(&self) -> Option<PathBuf> {
        self.file(CHANGES).or_else(|| self.file(WHOLE))
    }

    /// The names of what is gone.
    pub fn deleted(&self) -> Result<Vec<Vec<u8>>> {
        let names = self.file(DELETED).map(fs::read).transpose()?.unwrap_or_default();
        Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// What of it comes back, in words.
    pub fn shown(&self) -> String {
        let has = |name, what| self.file(name).map(|_| what);
        let there = [
            has(COMMITS, "commits"),
            has(CHANGES, "changes"),
            has(DELETED, "what is gone"),
            has(WHOLE, "all of its files"),
            self.transcript.as_ref().map(|_| "the conversation"),
        ];
        let there: Vec<&str> = there.into_iter().flatten().collect();
        if there.is_empty() { "nothing".into() } else { there.join(", ") }
    }

    /// Has the bottle begin with what the first one began with.
    pub fn stage(&self, stage: &Path, spec: &mut BottleSpec) -> Result<()> {
        let Some(base) = self.base.as_ref().filter(|_| self.file(WHOLE).is_none()) else { return Ok(()) };
        let to = workspace::claim(stage, spec);
        // The same bytes, where the file system can say so.
        fs::hard_link(base, &to).or_else(|_| fs::copy(base, &to).map(drop)).context("bring its workspace back")
    }

    /// Puts everything else into a bottle. `true`: there is a conversation to go on with.
    pub fn restore(&self, bottle: &Bottle) -> Result<bool> {
        ui::progress("restore what the agent left", "");
        let restore = Restore { bottle, ignored: self.came.ignored };
        if let Some(whole) = self.file(WHOLE) {
            restore.run("its workspace", UNPACK_WHOLE, File::open(whole)?)?;
        } else {
            self.restore_work(&restore)?;
        }
        if let Some(transcript) = &self.transcript {
            restore.run("its conversation", UNPACK_TRANSCRIPT, File::open(transcript)?)?;
        }
        restore.ask(CONTINUES, io::empty())
    }

    fn restore_work(&self, restore: &Restore<'_>) -> Result<()> {
        let (commits, changes) = (self.file(COMMITS), self.file(CHANGES));
        if let Some(commits) = &commits {
            restore.run("its commits", FETCH, File::open(commits)?)?;
        }
        let mut gone = vec![];
        if let Some(head) = self.file(HEAD).filter(|_| commits.is_some() || changes.is_some()) {
            restore.run("where its repository stood", STAND_AT, File::open(head)?.chain(&b"\n"[..]))?;
            gone = self.came.missing.iter().flat_map(|name| [name, &b"\0"[..]].concat()).collect();
        }
        if let Some(deleted) = self.file(DELETED) {
            File::open(deleted)?.read_to_end(&mut gone)?;
        }
        restore.run("what it removed", REMOVE, io::Cursor::new(gone))?;
        match changes {
            Some(changes) => restore.run("its changes", UNPACK, File::open(changes)?),
            None => Ok(()),
        }
    }
}

struct Restore<'a> {
    bottle: &'a Bottle,
    ignored: bool,
}

impl Restore<'_> {
    fn run(&self, what: &str, script: &str, input: impl Read + Send + 'static) -> Result<()> {
        if !self.ask(script, input).with_context(|| format!("restore {what}"))? {
            bail!("restore {what}: git or tar fails in the bottle");
        }
        Ok(())
    }

    fn ask(&self, script: &str, input: impl Read + Send + 'static) -> Result<bool> {
        Inside::new(self.bottle, self.ignored, SAVE_TIME)?.run(script, input, &mut io::sink(), u64::MAX)
    }
}
