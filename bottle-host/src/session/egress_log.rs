//! What comes up the sidecar's control channel: each request becomes a line of the bottle's egress log.

use anyhow::{Context, Result};
use bottle_api::control::read_frame;
use bottle_policy::{
    message::{CHALLENGE_RULE, LogLine, Up},
    probe::PROBE_RULE,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

/// Of the different refusals, named at the end of a session.
const SHOWN: usize = 5;

/// A log of this size is put aside: two of them are kept.
const MAX_BYTES: u64 = 16 << 20;
/// How long the sidecar may take to end once its channel is closed, and to send its last lines.
const LAST_WORDS_TIME: Duration = Duration::from_secs(3);

/// The log while the bottle runs. Dropping it closes the channel, and with it the sidecar.
pub struct EgressLog {
    channel: UnixStream,
    summary: Receiver<Summary>,
}

/// What left a bottle, and what was refused.
#[derive(Debug, Default)]
pub struct Summary {
    allowed: u64,
    denied: u64,
    /// What was refused, with its rule, and how often.
    refusals: BTreeMap<String, u64>,
    /// Why the sidecar ended, if it did so by itself.
    ended: Option<String>,
}

impl EgressLog {
    /// Begins to write the log that comes up `channel`.
    pub fn follow(channel: OwnedFd, path: &Path) -> Result<Self> {
        let file = Rotating::open(path)?;
        let channel = UnixStream::from(channel);
        let from = channel.try_clone()?;
        let (done, summary) = sync_channel(1);
        thread::Builder::new().name("egress-log".into()).spawn(move || drop(done.send(write_all(&from, file))))?;
        Ok(Self { channel, summary })
    }

    /// Closes the channel, after which the sidecar serves nobody, and sums up.
    pub fn finish(self) -> Summary {
        let _ = self.channel.shutdown(Shutdown::Write);
        self.summary.recv_timeout(LAST_WORDS_TIME).unwrap_or_else(|_| {
            let _ = self.channel.shutdown(Shutdown::Both);
            self.summary.recv().unwrap_or_default()
        })
    }
}

/// Writes lines until the channel closes. What cannot be logged must not happen: an error closes the channel, and with
/// it the bottle's way out.
fn write_all(channel: &UnixStream, mut file: Rotating) -> Summary {
    let (mut summary, mut from) = (Summary::default(), BufReader::new(channel));
    loop {
        match read_frame::<Up>(&mut from) {
            Ok(Some(Up::Log(line))) => {
                summary.count(&line);
                if let Err(error) = file.write(&line) {
                    summary.ended = Some(format!("its log cannot be written ({error})"));
                    let _ = channel.shutdown(Shutdown::Both);
                    return summary;
                }
            }
            Ok(Some(Up::DaemonEnded { daemon, status })) => {
                summary.ended = Some(format!("its daemon {daemon} ended ({status})"));
            }
            Ok(Some(Up::Reloaded { .. })) => {}
            Ok(None) | Err(_) => return summary,
        }
    }
}

/// A file that is put aside, over the one put aside before, when it has grown to [`MAX_BYTES`].
struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Rotating {
    fn open(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("open the egress log {}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes: file.metadata()?.len(), file })
    }

    fn write(&mut self, line: &LogLine) -> io::Result<()> {
        let mut json = serde_json::to_vec(line)?;
        json.push(b'\n');
        if self.bytes + json.len() as u64 > MAX_BYTES {
            fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            *self = Self::open(&self.path).map_err(io::Error::other)?;
        }
        self.file.write_all(&json)?;
        self.bytes += json.len() as u64;
        Ok(())
    }
}

impl Summary {
    fn count(&mut self, line: &LogLine) {
        if line.decision == "allow" {
            self.allowed += 1;
            return;
        }
        // Asked for its password, as some clients want to be; or our own launch probe.
        if [CHALLENGE_RULE, PROBE_RULE].contains(&line.rule.as_str()) {
            return;
        }
        self.denied += 1;
        let what = format!("{} ({})", line.host, line.rule);
        // A bottle can ask for as many names as it likes; it does not fill our memory with them.
        if self.refusals.len() < 1000 || self.refusals.contains_key(&what) {
            *self.refusals.entry(what).or_default() += 1;
        }
    }

    /// A few lines for the end of a session.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("egress: {} allowed, {} denied", self.allowed, self.denied)];
        let mut refusals: Vec<_> = self.refusals.iter().collect();
        refusals.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        lines.extend(refusals.iter().take(SHOWN).map(|(what, count)| format!("  denied {count}x {what}")));
        if refusals.len() > SHOWN {
            lines.push(format!("  and {} other places", refusals.len() - SHOWN));
        }
        lines.extend(self.ended.iter().map(|why| format!("the sidecar ended during the session: {why}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_full_is_put_aside_and_two_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress.jsonl");
        let mut log = Rotating::open(&path).unwrap();
        let line = LogLine { path: "x".repeat(1000), ..LogLine::default() };
        for _ in 0..3 {
            log.bytes = MAX_BYTES;
            log.write(&line).unwrap();
            log.write(&line).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(fs::read_to_string(dir.path().join("egress.jsonl.1")).unwrap().lines().count(), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
