//! What this machine remembers of a bottle: `~/.claude-bottle/state/<identity>/`, mode 0700.
//!
//! ```text
//! lock            held for as long as the owning process lives
//! metadata.json   agent, backend, when
//! ledger.jsonl    what was created and must be removed
//! stage/          scratch files of the launch
//! egress.jsonl    what left the bottle, and what was refused
//! control.sock    where the owner answers other commands
//! ```
//!
//! The directory appears under its name only once its lock is held, so that nobody ever takes it for abandoned.

use crate::{ledger::Ledger, paths::Paths, ui};
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;

const RANDOM_SUFFIX: usize = 5;
const MAX_SLUG: usize = 40;
/// Directories that are still being made, or being removed; never an identity.
const HIDDEN: char = '.';

/// The agent's name made safe: lower-case letters, digits and single dashes, 40 characters at most.
pub fn slug(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out.truncate(MAX_SLUG);
    let out = out.trim_end_matches('-');
    if out.is_empty() { "agent".into() } else { out.to_owned() }
}

/// `<slug>-<5 random base36>`.
pub fn new_identity(slug: &str) -> Result<String> {
    let mut bytes = [0; RANDOM_SUFFIX];
    getrandom::fill(&mut bytes).context("random bytes")?;
    let suffix: String =
        bytes.iter().map(|b| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[(b % 36) as usize])).collect();
    Ok(format!("{slug}-{suffix}"))
}

/// `metadata.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// The bottle's identity.
    pub identity: String,
    /// The agent.
    pub agent: String,
    /// The backend it runs on.
    pub backend: String,
    /// When it was started, RFC 3339.
    pub started: String,
    /// The host's variables that the backend was given: they say on which engine it was.
    pub env: BTreeMap<String, String>,
    /// The owning process.
    pub pid: u32,
}

/// The state directory of a bottle that this process owns.
pub struct State {
    dir: PathBuf,
    /// Its ledger.
    pub ledger: Arc<Ledger>,
    _lock: File,
}

impl State {
    /// Makes the directory, locked.
    pub fn create(paths: &Paths, metadata: &Metadata) -> Result<Self> {
        let parent = paths.state();
        private_dirs(&parent)?;
        let (dir, draft) = (parent.join(&metadata.identity), parent.join(format!("{HIDDEN}{}", metadata.identity)));
        if dir.exists() {
            bail!("{} exists already", dir.display());
        }
        DirBuilder::new().mode(0o700).create(&draft).with_context(|| format!("create {}", draft.display()))?;
        let made = Self::fill(&draft, metadata).and_then(|lock| {
            fs::rename(&draft, &dir)?;
            Ok(Self { ledger: Arc::new(Ledger::open(&dir.join("ledger.jsonl"))?), dir: dir.clone(), _lock: lock })
        });
        made.inspect_err(|_| drop(fs::remove_dir_all(&draft)))
    }

    fn fill(draft: &Path, metadata: &Metadata) -> Result<File> {
        let lock = File::options().write(true).create_new(true).mode(0o600).open(draft.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        write_atomically(&draft.join("metadata.json"), &serde_json::to_vec_pretty(metadata)?)?;
        DirBuilder::new().mode(0o700).create(draft.join("stage"))?;
        Ok(lock)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The scratch directory of the launch.
    pub fn stage(&self) -> PathBuf {
        self.dir.join("stage")
    }

    /// The bottle's egress log.
    pub fn egress_log(&self) -> PathBuf {
        self.dir.join("egress.jsonl")
    }

    /// Keeps log and metadata, and removes the rest. Only when the ledger is empty.
    pub fn keep_log(self) -> Result<PathBuf> {
        fs::remove_dir_all(self.stage())?;
        fs::remove_file(self.dir.join("ledger.jsonl"))?;
        Ok(self.egress_log())
    }

    /// Removes everything.
    pub fn remove(self) -> Result<()> {
        remove_dir(&self.dir)
    }
}

/// A directory of which nobody is the owner any more; nobody becomes it while this is held.
pub struct Abandoned {
    /// Its identity.
    pub identity: String,
    /// What was recorded, as far as it can be read.
    pub metadata: Metadata,
    /// What it must still take away.
    pub ledger: Arc<Ledger>,
    dir: PathBuf,
    _lock: File,
}

impl Abandoned {
    /// Takes an ownerless directory over; `None` where somebody holds it or it is gone.
    fn claim(dir: &Path, identity: &str) -> Result<Option<Self>> {
        let what = || format!("look at the state of {identity}");
        let lock = match File::options().write(true).open(dir.join("lock")) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(what),
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || !dir.exists() {
            return Ok(None);
        }
        let metadata = fs::read(dir.join("metadata.json")).unwrap_or_default();
        Ok(Some(Self {
            metadata: serde_json::from_slice(&metadata).unwrap_or_default(),
            ledger: Arc::new(Ledger::open(&dir.join("ledger.jsonl")).with_context(what)?),
            identity: identity.to_owned(),
            dir: dir.to_owned(),
            _lock: lock,
        }))
    }

    /// Removes everything.
    pub fn remove(self) -> Result<()> {
        remove_dir(&self.dir)
    }
}

/// All state directories: the identities whose owner is alive, and what is abandoned.
///
/// In doubt a bottle is alive: a directory that cannot be read, has no lock yet, or vanishes under our eyes (it is just
/// getting its name, or being removed by its owner) is not for anybody else to take away.
pub fn survey(paths: &Paths) -> Result<(Vec<String>, Vec<Abandoned>)> {
    let (mut live, mut abandoned) = (vec![], vec![]);
    let Ok(entries) = fs::read_dir(paths.state()) else { return Ok((live, abandoned)) };
    for entry in entries {
        let dir = entry?.path();
        let Some(name) = dir.file_name().and_then(|n| n.to_str()) else { continue };
        let identity = name.trim_start_matches(HIDDEN).to_owned();
        match Abandoned::claim(&dir, &identity) {
            Ok(Some(bottle)) => abandoned.push(bottle),
            Ok(None) => live.push(identity),
            Err(error) => {
                ui::warn(format!("{error:#}; the bottle is taken to be alive"));
                live.push(identity);
            }
        }
    }
    abandoned.sort_by(|a, b| a.identity.cmp(&b.identity));
    Ok((live, abandoned))
}

/// First out of sight, then away: a crash in between leaves nothing that looks like a bottle's state.
fn remove_dir(dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hidden = dir.with_file_name(format!("{HIDDEN}{}", name.trim_start_matches(HIDDEN)));
    if hidden != dir {
        fs::rename(dir, &hidden).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::remove_dir_all(&hidden).with_context(|| format!("remove {}", hidden.display()))
}

/// Makes sure that this user's bottles on this machine have an owner that nobody else has.
pub fn make_owner(paths: &Paths) -> Result<()> {
    private_dirs(&paths.state())?;
    let path = paths.owner_file();
    if path.exists() {
        return Ok(());
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    let mut file = NamedTempFile::new_in(paths.root())?;
    bytes.iter().try_for_each(|byte| write!(file, "{byte:02x}"))?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(&path) {
        Err(error) if error.error.kind() != ErrorKind::AlreadyExists => Err(error.error).context("write the owner"),
        _ => Ok(()), // somebody else was first: theirs it is
    }
}

/// Makes a directory and its parents, for the user alone.
pub fn private_dirs(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| format!("create {}", dir.display()))
}

/// Writes a file as a whole or not at all.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().context("a file has a directory")?)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_safe_and_short() {
        for (name, expected) in [
            ("dev", "dev"),
            ("My Agent!", "my-agent"),
            ("--x--y--", "x-y"),
            ("\u{e9}\u{e9}", "agent"),
            ("a".repeat(60).as_str(), &"a".repeat(40)),
        ] {
            assert_eq!(slug(name), expected);
        }
    }

    #[test]
    fn a_locked_directory_is_live_and_an_unlocked_one_abandoned() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        let metadata = Metadata { identity: "a-11111".into(), ..Metadata::default() };
        let state = State::create(&paths, &metadata).unwrap();
        assert!(State::create(&paths, &metadata).is_err());
        let (live, abandoned) = survey(&paths).unwrap();
        assert_eq!((live.as_slice(), abandoned.len()), (&["a-11111".to_owned()][..], 0));
        drop(state);
        let (live, mut abandoned) = survey(&paths).unwrap();
        assert_eq!((live.len(), abandoned.len()), (0, 1));
        abandoned.remove(0).remove().unwrap();
        assert_eq!(fs::read_dir(paths.state()).unwrap().count(), 0);
        make_owner(&paths).unwrap();
        let owner = paths.owner();
        make_owner(&paths).unwrap();
        assert_eq!((paths.owner(), survey(&paths).unwrap().0.len()), (owner, 0));
    }
}
