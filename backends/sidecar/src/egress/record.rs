//! One line of the egress log per request, written when its response has ended, however it ends.

use super::{guard::Noted, pool::Busy, upload::Findings};
use crate::feed::Feed;
use bottle_api::{control::EGRESS_DAEMON, secret::Secrets};
use bottle_policy::{Denial, message::LogLine};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

const MAX_HOST: usize = 300;
const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 2000;

/// The line of a request under way. Dropping it writes the line.
pub(super) struct Record {
    feed: Feed,
    line: LogLine,
    began: Instant,
    /// Bytes of the request's body so far.
    pub(super) sent: Arc<AtomicU64>,
    /// Bytes of the response's body so far.
    pub(super) received: u64,
    /// The connection that it came on is in use for as long as this is under way.
    pub(super) busy: Option<Busy>,
    /// What the scanner says of the request's body.
    pub(super) upload: Findings,
}

impl Record {
    /// Begins the line of a request. Known secrets are taken out of the path.
    pub(super) fn begin(feed: &Feed, secrets: &Secrets, host: &str, method: &str, path: &str) -> Self {
        let line = LogLine {
            daemon: EGRESS_DAEMON.into(),
            host: cut(plain(host), MAX_HOST),
            method: cut(method.to_owned(), MAX_METHOD),
            path: cut(scrubbed(path, secrets), MAX_PATH),
            ..LogLine::default()
        };
        Self {
            feed: feed.clone(),
            line,
            began: Instant::now(),
            sent: Arc::default(),
            received: 0,
            busy: None,
            upload: Findings::default(),
        }
    }

    /// It is refused.
    pub(super) fn denied(&mut self, denial: &Denial) {
        self.decide("deny", denial.rule, denial.status);
    }

    /// It was sent on by this route, and answered.
    pub(super) fn allowed(&mut self, route: &str, status: u16) {
        self.decide("allow", route, status);
    }

    /// It would have been refused by this rule; it was sent on, and answered.
    pub(super) fn audited(&mut self, rule: &str, status: u16) {
        self.decide("audit", rule, status);
    }

    /// The scanner found this, and it went on.
    pub(super) fn found(&mut self, noted: Noted) {
        self.line.found.extend(noted);
    }

    fn decide(&mut self, decision: &str, rule: &str, status: u16) {
        self.line.decision = decision.into();
        self.line.rule = rule.into();
        self.line.status = status;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.found(self.upload.noted());
        self.upload.refusal().iter().for_each(|denial| self.denied(denial));
        self.line.sent = self.sent.load(Ordering::Relaxed);
        self.line.received = self.received;
        self.line.ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.feed.log(std::mem::take(&mut self.line));
    }
}

/// A guest decides how long its hosts and paths are; not how long a line of the log is.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max
        && let Some((end, _)) = text.char_indices().nth(max)
    {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Text that stays one readable line.
fn plain(text: &str) -> String {
    if text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"' | b'\'')) {
        return text.to_owned();
    }
    text.escape_default().to_string()
}

/// A path without the value of any secret that the sidecar knows.
fn scrubbed(path: &str, secrets: &Secrets) -> String {
    let mut path = plain(path);
    for (name, secret) in secrets.iter() {
        if let Some(value) = secret.expose_str().filter(|v| !v.is_empty())
            && path.contains(value)
        {
            path = path.replace(value, &format!("[{name}]"));
        }
    }
    path
}
