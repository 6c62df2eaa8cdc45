//! What was asked, decided and done, for good: `~/.claude-bottle/audit/log.jsonl`, a line each.
//!
//! ```text
//! {"seq":2,"prev":"<hash of line 1>",…,"hash":"<SHA-256 of this line up to here>"}
//! ```
//!
//! A line that is edited has another hash, one that is removed or moved breaks the chain, and how far the log goes stands
//! beside it (`head.json`), so that nothing is cut off its end unseen. Whoever can write both files can write another
//! log: this finds accidents, and hands that do not know of it. A write that a crash cuts short is nobody's line: it was
//! never acknowledged, and the next one takes its place.

use crate::{
    paths::Paths,
    state::{self, private_dirs, write_atomically},
};
use anyhow::{Context, Result, bail, ensure};
use bottle_policy::Proposal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

/// What stands between a line and its hash.
const SEAL: &str = ",\"hash\":\"";
/// The longest line: a proposal whose every character is escaped.
const MAX_LINE: u64 = 1 << 20;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An agent asked.
    Proposed {
        /// What for.
        proposal: Proposal,
    },
    /// A person changed it before saying yes.
    Modified {
        /// To what.
        proposal: Proposal,
    },
    /// A person said yes.
    Approved {
        /// For this session only.
        once: bool,
        /// What the agent is told with it.
        note: String,
    },
    /// It holds.
    Applied {
        /// The id of the image that was made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
    },
    /// It could not be applied, and waits on.
    Failed {
        /// Why.
        error: String,
    },
    /// A person said no.
    Rejected {
        /// Why.
        reason: String,
    },
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1.
    pub seq: u64,
    /// The hash of the line before it; empty in the first.
    pub prev: String,
    /// RFC 3339.
    pub time: String,
    /// The bottle's.
    pub identity: String,
    /// The proposal's.
    pub id: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// How far the log goes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    seq: u64,
    hash: String,
    bytes: u64,
}

/// This user's log.
pub struct Audit {
    paths: Paths,
    dir: PathBuf,
}

impl Audit {
    /// The one of this home, whether it is there or not.
    pub fn of(paths: &Paths) -> Self {
        Self { paths: paths.clone(), dir: paths.audit() }
    }

    /// Writes down what happened; it has reached the disk when this returns.
    pub fn append(&self, identity: &str, id: &str, event: Event) -> Result<()> {
        let append = || -> Result<()> {
            let _alone = state::alone(&self.paths)?;
            private_dirs(&self.dir)?;
            let path = self.dir.join("log.jsonl");
            let mut file =
                File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            let mut head = self.head()?;
            // What a crash let stand behind the head: whole lines are taken, the rest is taken away.
            ensure!(file.metadata()?.len() >= head.bytes, "lines were removed from its end");
            file.seek(SeekFrom::Start(head.bytes))?;
            let mut lines = Lines { from: BufReader::new(&file), head };
            while lines.next()?.is_some() {}
            head = lines.head;
            file.set_len(head.bytes)?;
            file.seek(SeekFrom::Start(head.bytes))?;
            let (seq, prev) = (head.seq + 1, head.hash);
            let record = Record { seq, prev, time: super::now()?, identity: identity.into(), id: id.into(), event };
            let (line, hash) = seal(&record)?;
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            let head = Head { seq, hash, bytes: head.bytes + line.len() as u64 };
            write_atomically(&self.dir.join("head.json"), &serde_json::to_vec(&head)?)
        };
        append().with_context(|| format!("write the audit log in {}", self.paths.short(&self.dir)))
    }

    /// Hands over every line, in their order, each once it is found to be what was written there. How many there are.
    pub fn read(&self, mut each: impl FnMut(&Record, &str) -> Result<()>) -> Result<u64> {
        // Read first: what is appended meanwhile stands behind it.
        let head = self.head()?;
        let file: Box<dyn Read> = match File::open(self.dir.join("log.jsonl")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Box::new(std::io::empty()),
            file => Box::new(file.with_context(|| format!("open the audit log in {}", self.paths.short(&self.dir)))?),
        };
        let mut reached = head.seq == 0;
        let mut lines = Lines { from: BufReader::new(file), head: Head::default() };
        while let Some((record, line)) = lines.next()? {
            if record.seq == head.seq {
                ensure!(lines.head == head, "line {} is not the one that was written last", record.seq);
                reached = true;
            }
            each(&record, &line)?;
        }
        let (seq, last) = (lines.head.seq, head.seq);
        ensure!(reached, "lines {} to {last} were removed from the end", seq + 1);
        Ok(seq)
    }

    fn head(&self) -> Result<Head> {
        match fs::read(self.dir.join("head.json")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Head::default()),
            text => Ok(serde_json::from_slice(&text?).context("read head.json")?),
        }
    }
}

/// Lines one after the other, each of them held to the chain.
struct Lines<R> {
    from: BufReader<R>,
    /// The last one that was.
    head: Head,
}

impl<R: Read> Lines<R> {
    /// The next one; none, where the log ends, or in the middle of a line.
    fn next(&mut self) -> Result<Option<(Record, String)>> {
        let number = self.head.seq + 1;
        let mut line = vec![];
        self.from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            ensure!((line.len() as u64) < MAX_LINE, "line {number} is longer than any");
            return Ok(None);
        }
        let changed = || format!("line {number} was changed");
        let text = std::str::from_utf8(&line).with_context(changed)?.trim_end_matches('\n');
        let (body, rest) = text.rsplit_once(SEAL).with_context(changed)?;
        let hash = digest(body);
        ensure!(rest.strip_suffix("\"}") == Some(&hash), changed());
        let record: Record = serde_json::from_str(text).with_context(changed)?;
        if record.prev != self.head.hash || record.seq != number {
            bail!("line {number} was written as line {}: lines were removed, or moved", record.seq);
        }
        self.head = Head { seq: number, hash, bytes: self.head.bytes + line.len() as u64 };
        Ok(Some((record, text.to_owned())))
    }
}

/// A record as a line, and its hash.
fn seal(record: &Record) -> Result<(String, String)> {
    let json = serde_json::to_string(record)?;
    let body = json.strip_suffix('}').context("a record is an object")?;
    let hash = digest(body);
    Ok((format!("{body}{SEAL}{hash}\"}}\n"), hash))
}

fn digest(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Audit) {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        (home, Audit::of(&paths))
    }

    fn append(audit: &Audit, n: usize) {
        let event = Event::Rejected { reason: format!("reason {n}, with \",\"hash\":\" in it") };
        audit.append("dev-12345", "0123456789abcdef", event).unwrap();
    }

    fn verify(audit: &Audit) -> Result<u64> {
        audit.read(|_, _| Ok(()))
    }

    #[test]
    fn what_was_changed_removed_or_moved_is_found_and_named() {
        let (_home, audit) = place();
        assert_eq!(verify(&audit).unwrap(), 0);
        (1..=4).for_each(|n| append(&audit, n));
        assert_eq!(verify(&audit).unwrap(), 4);
        let path = audit.dir.join("log.jsonl");
        let whole = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let of = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        for (text, word) in [
            (whole.replace("reason 3", "reason 9"), "line 3 was changed"),
            (whole.replace("\"seq\":2", "\"seq\":3"), "line 2 was changed"),
            (of(&[lines[0], lines[2], lines[3]]), "line 2 was written as line 3"),
            (of(&[lines[1], lines[2], lines[3]]), "line 1 was written as line 2"),
            (of(&[lines[0], lines[2], lines[1], lines[3]]), "line 2 was written as line 3"),
            (of(&[lines[0], lines[1], lines[1], lines[2], lines[3]]), "line 3 was written as line 2"),
            (of(&lines[..2]), "lines 3 to 4 were removed"),
            (whole[..whole.len() - 5].to_owned(), "lines 4 to 4 were removed"),
            (String::new(), "lines 1 to 4 were removed"),
            (whole.replacen('{', " {", 1), "line 1 was changed"),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", verify(&audit).unwrap_err());
            assert!(error.contains(word), "{word}: {error}");
        }
        // Nothing is written after lines that are gone.
        fs::write(&path, of(&lines[..2])).unwrap();
        assert!(audit.append("dev-12345", "0123456789abcdef", Event::Applied { image: None }).is_err());
        fs::write(&path, &whole).unwrap();
        append(&audit, 5);
        assert_eq!(verify(&audit).unwrap(), 5);
    }

    #[test]
    fn a_crash_between_any_two_writes_leaves_a_log_that_goes_on() {
        let (_home, audit) = place();
        (1..=2).for_each(|n| append(&audit, n));
        let (path, head) = (audit.dir.join("log.jsonl"), audit.dir.join("head.json"));
        let (before, head_before) = (fs::read_to_string(&path).unwrap(), fs::read(&head).unwrap());
        append(&audit, 3);
        let after = fs::read_to_string(&path).unwrap();
        for end in before.len()..=after.len() {
            fs::write(&path, &after[..end]).unwrap();
            fs::write(&head, &head_before).unwrap();
            let written = if end == after.len() { 3 } else { 2 };
            assert_eq!(verify(&audit).unwrap(), written, "{end}");
            append(&audit, 4);
            assert_eq!(verify(&audit).unwrap(), written + 1, "{end}");
        }
    }
}
