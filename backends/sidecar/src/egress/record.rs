//! One line of the egress log per request, written when its response has ended, however it ends.

use super::Body;
use crate::feed::Feed;
use bottle_api::{control::EGRESS_DAEMON, secret::Secrets};
use bottle_policy::{Denial, message::LogLine};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
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
    sent: Arc<AtomicU64>,
}

impl Record {
    /// Begins the line of a request. Known secrets are taken out of the path.
    pub(super) fn begin(feed: &Feed, secrets: &Secrets, host: &str, method: &str, path: &str) -> Self {
        let line = LogLine {
            daemon: EGRESS_DAEMON.into(),
            host: cut(&host.escape_default().to_string(), MAX_HOST),
            method: cut(method, MAX_METHOD),
            path: cut(&scrubbed(path, secrets), MAX_PATH),
            ..LogLine::default()
        };
        Self { feed: feed.clone(), line, began: Instant::now(), sent: Arc::default() }
    }

    /// It is refused.
    pub(super) fn denied(&mut self, denial: &Denial) {
        self.line.decision = "deny".into();
        self.line.rule = denial.rule.into();
        self.line.status = denial.status;
    }

    /// It was sent on by this route, and answered.
    pub(super) fn allowed(&mut self, route: &str, status: u16) {
        self.line.decision = "allow".into();
        self.line.rule = route.to_owned();
        self.line.status = status;
    }

    /// The request's body, counted as it is read.
    pub(super) fn count_sent(
        &self,
        body: impl HttpBody<Data = Bytes, Error = hyper::Error> + Send + Sync + 'static,
    ) -> Body {
        Counted { inner: body.boxed(), bytes: self.sent.clone(), record: None }.boxed()
    }

    /// The response's body; the line is written when it has ended or was given up.
    pub(super) fn follow(
        self,
        body: impl HttpBody<Data = Bytes, Error = hyper::Error> + Send + Sync + 'static,
    ) -> Body {
        Counted { inner: body.boxed(), bytes: Arc::default(), record: Some(self) }.boxed()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.line.sent = self.sent.load(Ordering::Relaxed);
        self.line.ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.feed.log(std::mem::take(&mut self.line));
    }
}

/// A guest decides how long its hosts and paths are; not how long a line of the log is.
fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A path without the value of any secret that the sidecar knows.
fn scrubbed(path: &str, secrets: &Secrets) -> String {
    let mut path = path.escape_default().to_string();
    for (name, secret) in secrets.iter() {
        if let Some(value) = secret.expose_str().filter(|v| !v.is_empty()) {
            path = path.replace(value, &format!("[{name}]"));
        }
    }
    path
}

struct Counted {
    inner: Body,
    bytes: Arc<AtomicU64>,
    record: Option<Record>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(record) = &mut self.record {
            record.line.received = self.bytes.load(Ordering::Relaxed);
        }
    }
}
