//! An agent that comes with a working directory was written by whoever wrote that directory: somebody has to have read
//! and approved it before it may start without being asked about.
//!
//! `~/.claude-bottle/approved.json`, mode 0600, holds for each such file the SHA-256 of its canonical path, its whole
//! content and the bottle that it lives in. A file that cannot be read approves nothing, and is kept.

use super::{Agent, Bottle, ProjectAgents};
use crate::{
    paths::Paths,
    state::{alone, private_dirs, write_atomically},
    ui::{self, UsageError, hinted, layout},
};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    version: u32,
    /// Canonical path → SHA-256.
    approved: BTreeMap<PathBuf, String>,
}

/// Whether an agent may start, and what has to be approved for it.
#[derive(Debug)]
pub struct Approval<'a> {
    agent: &'a Agent,
    state: State,
    book: PathBuf,
}

/// How an agent stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is the user's own.
    NotNeeded,
    /// Its bottle lets in none that comes with a working directory.
    Denied,
    /// Somebody approved just this content.
    Approved,
    /// Nobody has, or it has changed since.
    Needed,
}

impl<'a> Approval<'a> {
    /// How the agent stands. Warns where the record cannot be read.
    pub fn of(paths: &Paths, agent: &'a Agent, bottle: &Bottle) -> Result<Self> {
        let book = paths.root().join("approved.json");
        let state = if !agent.from_project {
            State::NotNeeded
        } else if bottle.project_agents == ProjectAgents::Deny {
            State::Denied
        } else {
            let approved = read(&book).unwrap_or_else(|error| {
                ui::warn(format!("{error:#}; no agent of a working directory counts as approved"));
                BTreeMap::new()
            });
            let (path, sha256) = mark(agent)?;
            if approved.get(&path) == Some(&sha256) { State::Approved } else { State::Needed }
        };
        Ok(Self { agent, state, book })
    }

    /// How it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Refuses an agent that its bottle keeps out, and one that would start without anybody having read it.
    pub fn check(&self, paths: &Paths, yes: bool) -> Result<()> {
        let shown = self.agent.source.shown(paths);
        match self.state {
            State::Denied => Err(hinted(
                format!("{shown} comes with the working directory, and its bottle says `project_agents: deny`"),
                format!("Copy what you trust to {}.", paths.short(&paths.root().join("agents"))),
            )),
            State::Needed if yes => Err(UsageError(format!(
                "{shown} comes with the working directory, and what it says was not approved yet; start it once \
                 without --yes"
            ))
            .into()),
            _ => Ok(()),
        }
    }

    /// Shows the whole content that a yes would approve, if one is needed.
    pub fn show(&self, paths: &Paths) {
        if self.state != State::Needed {
            return;
        }
        ui::say(format!("{} is not approved yet. This is all it says:", self.agent.source.shown(paths)));
        // Broken here and not by the terminal, so that no row of it can pass for one of ours.
        let rows = self.agent.text.lines().flat_map(|line| layout::folded(line, ui::WIDTH - 4));
        rows.for_each(|row| ui::say(format!("  | {row}")));
        ui::stand_out(
            "It comes with the working directory. A yes lets it start from now on without being asked about.",
        );
    }

    /// Somebody has read it and said yes.
    pub fn record(&self, paths: &Paths) -> Result<()> {
        if self.state != State::Needed {
            return Ok(());
        }
        let _alone = alone(paths)?;
        let mut approved = match read(&self.book) {
            Ok(approved) => approved,
            Err(_) => {
                put_aside(&self.book)?;
                BTreeMap::new()
            }
        };
        let (path, sha256) = mark(self.agent)?;
        approved.insert(path, sha256);
        private_dirs(self.book.parent().context("a file has a directory")?)?;
        let book = Book { version: VERSION, approved };
        write_atomically(&self.book, &serde_json::to_vec_pretty(&book)?).context("record the approval")
    }
}

/// What is approved: the file by its canonical path, and a hash of that, all it says, and its bottle's name.
fn mark(agent: &Agent) -> Result<(PathBuf, String)> {
    let path = agent.source.path.canonicalize().context("resolve the agent's file")?;
    let mut hash = Sha256::new();
    for part in [path.as_os_str().as_encoded_bytes(), agent.text.as_bytes(), agent.fields.bottle.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Ok((path, format!("{:x}", hash.finalize())))
}

fn read(path: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let what = || format!("{} cannot be read", path.display());
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text.with_context(what)?,
    };
    let book: Book = serde_json::from_slice(&text).with_context(what)?;
    if book.version != VERSION {
        bail!("{}: version {}, this bottle knows {VERSION}", what(), book.version);
    }
    Ok(book.approved)
}

/// What cannot be read may still be of use to a person.
fn put_aside(path: &Path) -> Result<()> {
    let aside = (1..).map(|n| path.with_extension(format!("json.unreadable-{n}"))).find(|aside| !aside.exists());
    let aside = aside.context("a free name")?;
    fs::rename(path, &aside).with_context(|| format!("put {} aside", path.display()))?;
    ui::warn(format!("the old {} is {} now", path.display(), aside.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use std::os::unix::fs::PermissionsExt;

    const AGENT: &str = ".claude-bottle/agents/a.md";

    fn set_up() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { home: dir.path().join("home"), cwd: dir.path().join("work") };
        for (file, text) in [
            (paths.root().join("bottles/b.md"), "---\n---\n"),
            (paths.root().join("bottles/c.md"), "---\n---\n"),
            (paths.root().join("bottles/closed.md"), "---\nproject_agents: deny\n---\n"),
            (paths.root().join("agents/own.md"), "---\nbottle: b\n---\n"),
            (paths.cwd.join(AGENT), "---\nbottle: b\n---\nDo this.\n"),
        ] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        (dir, paths)
    }

    /// How the agent stands, recording a yes where `yes`.
    fn stands(paths: &Paths, name: &str, yes: bool) -> State {
        let manifest = Manifest::load(paths).unwrap();
        let (agent, bottle, _) = manifest.resolve(paths, name).unwrap();
        let approval = Approval::of(paths, agent, &bottle).unwrap();
        let may_start = approval.check(paths, true).is_ok();
        assert_eq!(may_start, matches!(approval.state(), State::NotNeeded | State::Approved));
        if yes {
            approval.record(paths).unwrap();
        }
        approval.state.clone()
    }

    #[test]
    fn what_was_approved_starts_until_it_changes() {
        let (_dir, paths) = set_up();
        assert_eq!(stands(&paths, "own", true), State::NotNeeded);
        assert!(!paths.root().join("approved.json").exists());
        for text in
            ["---\nbottle: b\n---\nDo this.\n", "---\nbottle: b\n---\nDo that.\n", "---\nbottle: c\n---\nDo that.\n"]
        {
            fs::write(paths.cwd.join(AGENT), text).unwrap();
            assert_eq!(stands(&paths, "a", false), State::Needed, "{text}");
            assert_eq!(stands(&paths, "a", true), State::Needed, "{text}");
            assert_eq!(stands(&paths, "a", false), State::Approved, "{text}");
        }
        let mode = fs::metadata(paths.root().join("approved.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The same content elsewhere is another agent.
        let elsewhere = Paths { cwd: paths.home.join("other"), ..paths.clone() };
        fs::create_dir_all(elsewhere.cwd.join(".claude-bottle/agents")).unwrap();
        fs::copy(paths.cwd.join(AGENT), elsewhere.cwd.join(AGENT)).unwrap();
        assert_eq!(stands(&elsewhere, "a", false), State::Needed);
    }

    #[test]
    fn a_bottle_that_keeps_them_out_wins_and_a_directory_below_the_state_is_no_home() {
        let (_dir, paths) = set_up();
        fs::write(paths.cwd.join(AGENT), "---\nbottle: closed\n---\n").unwrap();
        assert_eq!(stands(&paths, "a", true), State::Denied);
        // An agent's saved work lies below ~/.claude-bottle too.
        let work = Paths { cwd: paths.state().join("x-11111/work"), ..paths.clone() };
        fs::create_dir_all(work.cwd.join(".claude-bottle/agents")).unwrap();
        fs::write(work.cwd.join(AGENT), "---\nbottle: b\n---\n").unwrap();
        assert_eq!(stands(&work, "a", false), State::Needed);
    }

    #[test]
    fn an_unreadable_record_approves_nothing_and_is_kept() {
        for broken in ["", "not json", "{\"version\": 2, \"approved\": {}}", "{\"version\": 1, \"approved\": [1]}"] {
            let (_dir, paths) = set_up();
            let book = paths.root().join("approved.json");
            assert_eq!(stands(&paths, "a", true), State::Needed);
            fs::write(&book, broken).unwrap();
            assert_eq!(stands(&paths, "a", true), State::Needed, "{broken}");
            assert_eq!(stands(&paths, "a", false), State::Approved, "{broken}");
            assert_eq!(fs::read_to_string(book.with_extension("json.unreadable-1")).unwrap(), broken);
        }
    }
}
