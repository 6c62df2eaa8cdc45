//! What comes up the sidecar's control channel: each request becomes a line of the bottle's egress log.

use anyhow::{Context, Result};
use bottle_api::control::read_frame;
use bottle_policy::message::{CHALLENGE_RULE, LogLine, Up};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt, unix::net::UnixStream},
    path::Path,
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

/// Of the different refusals, named at the end of a session.
const SHOWN: usize = 5;

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
        let mut file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("open the egress log {}", path.display()))?;
        let channel = UnixStream::from(channel);
        let from = BufReader::new(channel.try_clone()?);
        let (done, summary) = sync_channel(1);
        thread::Builder::new().name("egress-log".into()).spawn(move || drop(done.send(write_all(from, &mut file))))?;
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

fn write_all(mut from: impl Read, to: &mut impl Write) -> Summary {
    let mut summary = Summary::default();
    loop {
        match read_frame::<Up>(&mut from) {
            Ok(Some(Up::Log(line))) => {
                summary.count(&line);
                if let Ok(mut json) = serde_json::to_vec(&line) {
                    json.push(b'\n');
                    let _ = to.write_all(&json);
                }
            }
            Ok(Some(Up::DaemonEnded { daemon, status })) => {
                summary.ended = Some(format!("its daemon {daemon} ended ({status})"));
            }
            Ok(None) | Err(_) => return summary,
        }
    }
}

impl Summary {
    fn count(&mut self, line: &LogLine) {
        if line.decision == "allow" {
            self.allowed += 1;
            return;
        }
        if line.rule == CHALLENGE_RULE {
            return; // asked for its password, as some clients want to be
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
