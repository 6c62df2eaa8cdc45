//! The proposals of a bottle: `~/.claude-bottle/queue/<identity>/<id>.json`, mode 0700.
//!
//! Its owner alone writes here, each file as a whole or not at all; anybody of this user's may read. What cannot be read
//! as a proposal is counted and left alone: no file that stands here stops anybody.

use crate::{
    paths::Paths,
    state::{private_dirs, write_atomically},
};
use anyhow::{Context, Result, bail, ensure};
use bottle_policy::{Proposal, ProposedRoute, message::Answer, proposal::is_id};
use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::Read,
    path::PathBuf,
};

/// Proposals of one bottle that may wait.
pub const MAX_PENDING: usize = 100;
/// Proposals that were decided and are remembered: an agent may still ask how they stand.
const MAX_DECIDED: usize = 200;
/// The longest file: a proposal whose every character is escaped, and what was said to it.
const MAX_BYTES: u64 = 512 << 10;

/// A proposal and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The proposal's id.
    pub id: String,
    /// When it came, RFC 3339.
    pub asked: String,
    /// What for.
    pub proposal: Proposal,
    /// What might be reached of its hosts when it came: of the policy that then held.
    #[serde(default)]
    pub known: Vec<ProposedRoute>,
    /// How it stands.
    pub standing: Standing,
    /// Why it could not be applied, when it was approved last.
    pub error: Option<String>,
}

/// How a proposal stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// Nobody has decided.
    Pending,
    /// It was approved, and is applied.
    Approved {
        /// When, RFC 3339.
        at: String,
        /// For this session only.
        once: bool,
        /// What the agent was told with it.
        note: String,
    },
    /// It was not.
    Rejected {
        /// When, RFC 3339.
        at: String,
        /// Why not.
        reason: String,
    },
}

impl Entry {
    /// One that came at that time.
    pub fn pending(id: &str, asked: String, proposal: Proposal) -> Self {
        Self { id: id.into(), asked, proposal, known: vec![], standing: Standing::Pending, error: None }
    }
}

impl Standing {
    /// What the agent is told.
    pub fn answer(&self) -> Answer {
        match self {
            Self::Pending => Answer::Pending,
            Self::Approved { note, .. } => Answer::Approved { note: note.clone() },
            Self::Rejected { reason, .. } => Answer::Rejected { reason: reason.clone() },
        }
    }

    /// When it was decided.
    fn decided(&self) -> Option<&str> {
        match self {
            Self::Pending => None,
            Self::Approved { at, .. } | Self::Rejected { at, .. } => Some(at),
        }
    }
}

/// One bottle's.
pub struct Queue(PathBuf);

impl Queue {
    /// The queue of that bottle, whether it is there or not.
    pub fn of(paths: &Paths, identity: &str) -> Self {
        Self(paths.queue().join(identity))
    }

    /// Every proposal, the oldest first, and how many files cannot be read.
    pub fn entries(&self) -> Result<(Vec<Entry>, usize)> {
        let names = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((vec![], 0)),
            names => names.with_context(|| format!("read {}", self.0.display()))?,
        };
        let (mut entries, mut unreadable) = (vec![], 0);
        for name in names {
            let name = name?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
                // A draft that a crash has left is nobody's proposal yet.
                unreadable += usize::from(name.to_str().is_none_or(|name| !name.ends_with(".new")));
                continue;
            };
            match self.get(id) {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => {}
                Err(_) => unreadable += 1,
            }
        }
        entries.sort_by(|a, b| (&a.asked, &a.id).cmp(&(&b.asked, &b.id)));
        Ok((entries, unreadable))
    }

    /// The proposal of that id.
    pub fn get(&self, id: &str) -> Result<Option<Entry>> {
        ensure!(is_id(id), "no proposal's id");
        let path = self.0.join(format!("{id}.json"));
        // Nothing is waited for: neither a pipe's writer nor a link's aim.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match open(&path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            file => File::from(file.with_context(|| format!("open {}", path.display()))?),
        };
        let read = || -> Result<Entry> {
            let metadata = file.metadata()?;
            ensure!(metadata.is_file() && metadata.len() <= MAX_BYTES, "it is no file of a proposal");
            let mut text = vec![];
            (&file).take(MAX_BYTES).read_to_end(&mut text)?;
            let entry: Entry = serde_json::from_slice(&text)?;
            ensure!(entry.id == id, "it has another's name");
            entry.proposal.check().map_err(anyhow::Error::msg)?;
            Ok(entry)
        };
        read().map(Some).with_context(|| format!("read {}", path.display()))
    }

    /// Writes a proposal down; it has reached the disk when this returns.
    pub fn put(&self, entry: &Entry) -> Result<()> {
        ensure!(is_id(&entry.id), "no proposal's id");
        private_dirs(&self.0)?;
        write_atomically(&self.0.join(format!("{}.json", entry.id)), &serde_json::to_vec_pretty(entry)?)
    }

    /// How many wait.
    pub fn waiting(&self) -> Result<usize> {
        Ok(self.entries()?.0.iter().filter(|entry| entry.standing == Standing::Pending).count())
    }

    /// Makes room for another proposal; an error where too many wait already.
    pub fn make_room(&self) -> Result<()> {
        let (mut entries, _) = self.entries()?;
        entries.sort_by(|a, b| a.standing.decided().cmp(&b.standing.decided()));
        let pending = entries.iter().take_while(|entry| entry.standing == Standing::Pending).count();
        if pending >= MAX_PENDING {
            bail!("{pending} proposals wait already, as many as may");
        }
        let old = entries.len().saturating_sub(pending).saturating_sub(MAX_DECIDED);
        for entry in &entries[pending..pending + old] {
            fs::remove_file(self.0.join(format!("{}.json", entry.id)))?;
        }
        Ok(())
    }
}

/// The identities that have a queue.
pub fn identities(paths: &Paths) -> Vec<String> {
    let entries = fs::read_dir(paths.queue()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_one = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !name.is_empty();
    let mut names: Vec<String> = names.filter(is_one).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn place() -> (tempfile::TempDir, Queue) {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        let queue = Queue::of(&paths, "dev-12345");
        (home, queue)
    }

    fn entry(n: usize, standing: Standing) -> Entry {
        let proposal = Proposal::PipelockBlock { url: "https://a.example/".into(), justification: "x".into() };
        let (id, asked) = (format!("{n:016x}"), format!("2026-01-01T00:00:{n:04}Z"));
        Entry { id, asked, proposal, known: vec![], standing, error: None }
    }

    #[test]
    fn what_is_no_proposal_is_counted_and_stops_nobody() {
        let (home, queue) = place();
        assert_eq!(queue.entries().unwrap(), (vec![], 0));
        let good = entry(1, Standing::Pending);
        queue.put(&good).unwrap();
        let at = |n: usize| queue.0.join(format!("{n:016x}.json"));
        let whole = serde_json::to_string(&good).unwrap();
        fs::write(at(2), &whole[..whole.len() / 2]).unwrap();
        fs::write(at(3), &whole).unwrap(); // another's name
        fs::write(at(4), vec![b' '; MAX_BYTES as usize + 1]).unwrap();
        symlink(home.path().join("elsewhere"), at(5)).unwrap();
        symlink(at(1), at(6)).unwrap();
        fs::create_dir(at(7)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at(8), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::write(at(9), whole.replace("a.example", "10.0.0.1").replace(&good.id, &format!("{:016x}", 9))).unwrap();
        fs::write(queue.0.join("..json"), &whole).unwrap();
        fs::write(queue.0.join("0000000000000010.new"), "{").unwrap();
        assert_eq!(queue.entries().unwrap(), (vec![good.clone()], 9));
        assert_eq!(queue.get(&good.id).unwrap(), Some(good));
        assert!(queue.get("../../x").is_err() && queue.get("00000000000000ff").unwrap().is_none());
        queue.make_room().unwrap();
    }

    #[test]
    fn so_many_wait_and_the_oldest_that_were_decided_go() {
        let (_home, queue) = place();
        let decided = |n: usize| Standing::Rejected { at: format!("2026-01-02T00:00:{n:04}Z"), reason: String::new() };
        (0..MAX_DECIDED + 3).for_each(|n| queue.put(&entry(n, decided(n))).unwrap());
        queue.make_room().unwrap();
        let (left, _) = queue.entries().unwrap();
        assert_eq!((left.len(), left[0].id.as_str()), (MAX_DECIDED, entry(3, Standing::Pending).id.as_str()));
        (1000..1000 + MAX_PENDING).for_each(|n| queue.put(&entry(n, Standing::Pending)).unwrap());
        assert!(queue.make_room().unwrap_err().to_string().contains("100 proposals wait"));
    }
}
