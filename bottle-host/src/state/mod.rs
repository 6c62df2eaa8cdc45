//! What this machine remembers of a bottle: `~/.claude-bottle/state/<identity>/`, mode 0700.
//!
//! ```text
//! lock            held for as long as the owning process lives
//! metadata.json   agent, backend, when
//! ledger.jsonl    what was created and must be removed
//! stage/          scratch files of the launch
//! egress.jsonl    what left the bottle, and what was refused
//! control.sock    where the owner answers other commands
//! work/           what the agent made; .preserve: it is not for a cleanup to take away
//! transcript/     its conversation
//! workspace.tar   what the workspace began with, and came: how each file of it was
//! ```
//!
//! The directory appears under its name only once its lock is held, so that nobody ever takes it for abandoned.

mod files;
mod holder;
pub mod kept;
pub mod ledger;
mod survey;

pub use files::{private_dirs, write_atomically};
pub use holder::Holder;
pub use survey::{Abandoned, Survey, survey};

use crate::{
    paths::Paths,
    random,
    ui::{self, hinted},
};
use anyhow::{Context, Result, bail};
use files::Kind;
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const RANDOM_SUFFIX: usize = 5;
const MAX_SLUG: usize = 40;
/// Directories that are still being made, or being removed; never an identity.
const HIDDEN: char = '.';
/// Held for as long as the owning process lives.
const LOCK: &str = "lock";
/// What was created and must be removed.
pub const LEDGER: &str = "ledger.jsonl";
const METADATA: &str = "metadata.json";
const STAGE: &str = "stage";
/// Beside the states: see [`crate::paths::Paths::queue`].
const QUEUE: &str = "queue";
/// Where the owner answers other commands.
pub const SOCKET: &str = "control.sock";
/// What a resumed bottle's workspace begins with again: its archive, and how each file of it came.
pub const BASE: &str = "workspace.tar";
/// See [`BASE`].
pub const CAME: &str = "came";
/// A resumed bottle has not got back yet what is saved of it: whatever is in it is no work.
pub const RESTORING: &str = "restoring";
/// What the agent made.
pub const WORK: &str = "work";
/// The mark of a directory that holds somebody's work.
pub const PRESERVE: &str = ".preserve";

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
    /// The process that holds it, and whose.
    pub holder: Holder,
    /// The directory that it was started in.
    pub directory: PathBuf,
    /// An image of the bottle's own, over the backend's.
    pub image: Option<OwnImage>,
}

/// An image that was made of what a bottle's agent proposed and its operator approved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnImage {
    /// The engine's id.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// Those proposals, in the order in which they were applied.
    pub proposals: Vec<String>,
    /// The variables that they leave to the agent.
    pub env: BTreeMap<String, String>,
}

impl OwnImage {
    /// In a line.
    pub fn shown(&self) -> String {
        let id = self.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let (of, name) = (self.proposals.join(", "), ui::printable(&self.name));
        format!("{name} ({}), with what was approved as {}", ui::printable(&id), ui::printable(&of))
    }
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
        let makers = makers(&parent)?;
        files::lock(&makers, Kind::Shared)?;
        files::make_dir(&draft)?;
        let made = Self::fill(&draft, metadata).and_then(|(ledger, lock)| {
            files::rename_dir(&draft, &dir)?;
            Ok(Self { ledger: Arc::new(ledger), dir: dir.clone(), _lock: lock })
        });
        made.inspect_err(|_| drop(fs::remove_dir_all(&draft)))
    }

    /// Takes up again what an earlier bottle has left, locked: one resume at a time.
    pub fn reopen(paths: &Paths, now: &Metadata) -> Result<Self> {
        let identity = now.identity.as_str();
        let Some(dir) = find(paths, identity) else { return Err(kept::unknown(paths, identity)) };
        let lock = File::options().read(true).write(true).open(dir.join(LOCK));
        let lock = lock.with_context(|| format!("open the lock of {identity}"))?;
        let metadata = metadata(paths, identity)?;
        if !files::try_lock(&lock, Kind::Exclusive) || metadata.holder.is_alive() {
            return Err(hinted(
                format!("{identity} is in use: it runs, or somebody resumes it or cleans it up just now"),
                "`bottle list active` shows the bottles that run.",
            ));
        }
        if metadata.holder.is_foreign() {
            bail!("{identity} is another machine's or user's: nothing here can say whether it lives");
        }
        let ledger = dir.join(LEDGER);
        if Ledger::read(&ledger)?.is_some_and(|ledger| !ledger.entries().is_empty()) {
            return Err(hinted(
                format!("{identity} did not end in order, and things of it are left"),
                "Save its work and take them away: `bottle cleanup`. Then resume it.",
            ));
        }
        if !dir.join(PRESERVE).exists() {
            return Err(hinted(
                format!("of {identity} only its log is kept: there is nothing to resume"),
                format!("Start its agent again: `bottle start {}`.", ui::printable(&metadata.agent)),
            ));
        }
        drop_launch(&dir)?;
        write_atomically(&dir.join(METADATA), &serde_json::to_vec_pretty(now)?)?;
        write_atomically(&dir.join(RESTORING), b"")?;
        files::make_dir(&dir.join(STAGE))?;
        let ledger = Arc::new(Ledger::begin(&ledger)?);
        Ok(Self { ledger, dir, _lock: lock })
    }

    fn fill(draft: &Path, metadata: &Metadata) -> Result<(Ledger, File)> {
        let lock = files::open_private(&draft.join(LOCK))?;
        if !files::try_lock(&lock, Kind::Exclusive) {
            bail!("somebody else holds {}", draft.display());
        }
        write_atomically(&draft.join(METADATA), &serde_json::to_vec_pretty(metadata)?)?;
        files::make_dir(&draft.join(STAGE))?;
        Ok((Ledger::begin(&draft.join(LEDGER))?, lock))
    }

    /// Records other variables than those at its start.
    pub fn remember(&self, env: &BTreeMap<String, String>) -> Result<()> {
        self.change(|metadata| metadata.env.clone_from(env))
    }

    /// The next session goes on from this image.
    pub fn go_on_from(&self, image: &OwnImage) -> Result<()> {
        self.change(|metadata| metadata.image = Some(image.clone()))
    }

    /// The image that the next session goes on from, where it is the bottle's own.
    pub fn image(&self) -> Result<Option<OwnImage>> {
        Ok(self.metadata()?.image)
    }

    fn metadata(&self) -> Result<Metadata> {
        let read = || Ok::<_, anyhow::Error>(serde_json::from_slice(&fs::read(self.dir.join(METADATA))?)?);
        read().context("read what was recorded of the bottle")
    }

    fn change(&self, change: impl FnOnce(&mut Metadata)) -> Result<()> {
        let mut metadata = self.metadata()?;
        change(&mut metadata);
        write_atomically(&self.dir.join(METADATA), &serde_json::to_vec_pretty(&metadata)?)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The scratch directory of the launch.
    pub fn stage(&self) -> PathBuf {
        self.dir.join(STAGE)
    }

    /// The bottle's egress log.
    pub fn egress_log(&self) -> PathBuf {
        egress_log(&self.dir)
    }

    /// What the workspace begins with: a resumed bottle's does so again.
    pub fn keep_base(&self, came: &[u8]) -> Result<()> {
        write_atomically(&self.dir.join(CAME), came)
    }

    /// The bottle has unpacked its workspace: the archive goes where a resumed one finds it.
    pub fn unpacked(&self, archive: &str) -> Result<()> {
        let from = self.stage().join(archive);
        if from.exists() { Ok(fs::rename(from, self.dir.join(BASE))?) } else { Ok(()) }
    }

    /// A resumed bottle has got back what was saved: from now on what is in it counts.
    pub fn restored(&self) -> Result<()> {
        remove_if_there(&self.dir.join(RESTORING))
    }

    /// Does it hold work, or a conversation?
    pub fn is_preserved(&self) -> bool {
        self.dir.join(PRESERVE).exists()
    }

    /// Keeps log, metadata, work and transcript, with these what the workspace began with, and removes the rest. Only
    /// when the ledger is empty.
    pub fn keep(self) -> Result<PathBuf> {
        if !self.is_preserved() {
            for name in [CAME, BASE] {
                remove_if_there(&self.dir.join(name))?;
            }
            remove_queue(&self.dir)?;
        }
        drop_launch(&self.dir)?;
        Ok(self.egress_log())
    }

    /// Removes everything.
    pub fn remove(self) -> Result<()> {
        remove_dir(&self.dir)
    }
}

/// From here on no cleanup takes this state: marked before there is anything to lose.
pub fn preserve(dir: &Path) -> Result<()> {
    write_atomically(&dir.join(PRESERVE), b"")
}

/// Removes what only a launch needs, the ledger last.
fn drop_launch(dir: &Path) -> Result<()> {
    if dir.join(STAGE).exists() {
        files::remove_tree(&dir.join(STAGE), "")?;
    }
    // Its owner is dead: nobody answers there.
    remove_if_there(&dir.join(SOCKET))?;
    remove_if_there(&dir.join(RESTORING))?;
    remove_if_there(&dir.join(LEDGER))
}

fn remove_if_there(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() { files::remove_file(path) } else { Ok(()) }
}

/// First out of sight, then away, its lock last: a crash in between leaves nothing that looks like a bottle's state, and
/// nobody takes it for abandoned meanwhile.
fn remove_dir(dir: &Path) -> Result<()> {
    let state = dir.parent().context("a bottle's state is in a directory")?;
    let makers = makers(state)?;
    files::lock(&makers, Kind::Shared)?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hidden = dir.with_file_name(format!("{HIDDEN}{}", name.trim_start_matches(HIDDEN)));
    if hidden != dir {
        files::rename_dir(dir, &hidden)?;
    }
    remove_queue(dir)?;
    match files::remove_tree(&hidden, LOCK) {
        Err(_) if !hidden.exists() => Ok(()), // somebody else was quicker
        removed => removed,
    }
}

/// Takes away what a bottle asked its operator for: nobody goes on from it.
fn remove_queue(dir: &Path) -> Result<()> {
    let identity = dir.file_name().unwrap_or_default().to_string_lossy();
    let root = dir.parent().and_then(Path::parent).context("a bottle's state is below a root")?;
    let queue = root.join(QUEUE).join(identity.trim_start_matches(HIDDEN));
    if queue.exists() { files::remove_tree(&queue, "") } else { Ok(()) }
}

/// The file whose lock whoever makes or removes a directory shares: one that has no lock of its own, while nobody holds
/// this one, is what a crash has left.
fn makers(state: &Path) -> Result<File> {
    let path = state.join(format!("{HIDDEN}makers"));
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    file.with_context(|| format!("open {}", path.display()))
}

/// Held by whoever changes a file that all of this user's processes share.
pub fn alone(paths: &Paths) -> Result<Alone> {
    private_dirs(&paths.state())?;
    let makers = makers(&paths.state())?;
    files::lock(&makers, Kind::Exclusive)?;
    Ok(Alone(makers))
}

/// Nobody else makes, removes or changes anything of this user's while this is held.
pub struct Alone(#[allow(dead_code)] File);

/// A bottle's state directory, if there is one.
pub fn find(paths: &Paths, identity: &str) -> Option<PathBuf> {
    let is_name = identity.starts_with(|c: char| c.is_ascii_alphanumeric())
        && identity.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    Some(paths.state().join(identity)).filter(|dir| is_name && dir.is_dir())
}

/// The ids of all images that a state goes on from. What is said of a state that cannot be read, `survey` says.
pub fn images(paths: &Paths) -> Vec<String> {
    let entries = fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let recorded = entries.filter_map(|entry| metadata(paths, &entry.file_name().to_string_lossy()).ok());
    recorded.filter_map(|metadata| Some(metadata.image?.id)).collect()
}

/// The egress log in a bottle's state directory.
pub fn egress_log(dir: &Path) -> PathBuf {
    dir.join("egress.jsonl")
}

/// What was recorded of a bottle.
pub fn metadata(paths: &Paths, identity: &str) -> Result<Metadata> {
    let file = paths.state().join(identity).join(METADATA);
    let text = fs::read(&file).with_context(|| format!("read {}", paths.short(&file)))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", paths.short(&file)))
}

/// Makes sure that this user's bottles on this machine have an owner that nobody else has.
pub fn make_owner(paths: &Paths) -> Result<()> {
    private_dirs(&paths.state())?;
    if paths.owner_file().exists() {
        return Ok(());
    }
    let _alone = alone(paths)?;
    if paths.owner_file().exists() {
        return Ok(()); // somebody else was first: theirs it is
    }
    write_atomically(&paths.owner_file(), random::hex::<16>()?.as_bytes())
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
        let counts = || survey(&paths, false).map(|s| (s.live.len(), s.abandoned.len(), s.foreign.len())).unwrap();
        assert_eq!(counts(), (1, 0, 0));
        drop(state);
        assert_eq!(counts(), (0, 1, 0));
        survey(&paths, false).unwrap().abandoned.remove(0).remove().unwrap();
        assert_eq!(counts(), (0, 0, 0));
        make_owner(&paths).unwrap();
        let owner = paths.owner();
        make_owner(&paths).unwrap();
        assert_eq!((paths.owner(), counts()), (owner, (0, 0, 0)));
    }

    #[test]
    fn whose_process_is_there_without_its_lock_lives_and_what_is_anothers_is_foreign() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        let own = Holder::own();
        let elsewhere = Holder { machine: "another".into(), ..own.clone() };
        let dead = Holder { started: 0, ..own.clone() };
        for (identity, holder) in [("live-1", own), ("foreign-1", elsewhere), ("dead-1", dead)] {
            let metadata = Metadata { identity: identity.into(), holder, ..Metadata::default() };
            drop(State::create(&paths, &metadata).unwrap());
        }
        let found = |foreign| {
            let found = survey(&paths, foreign).unwrap();
            let abandoned = found.abandoned.iter().map(|a| a.identity.clone()).collect::<Vec<_>>();
            (found.live, abandoned, found.foreign)
        };
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(found(false), (names(&["live-1"]), names(&["dead-1"]), names(&["foreign-1"])));
        assert_eq!(found(true), (names(&["live-1"]), names(&["dead-1", "foreign-1"]), names(&[])));
    }

    #[test]
    fn a_directory_without_a_lock_is_let_alone_while_somebody_makes_one() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        private_dirs(&paths.state().join(".draft-1")).unwrap();
        let makers = makers(&paths.state()).unwrap();
        files::lock(&makers, Kind::Shared).unwrap();
        assert_eq!(survey(&paths, false).unwrap().live, ["draft-1"]);
        drop(makers);
        let mut found = survey(&paths, false).unwrap();
        assert_eq!((found.live.len(), found.abandoned.len()), (0, 1));
        found.abandoned.remove(0).remove().unwrap();
        assert!(!paths.state().join(".draft-1").exists());
    }
}
