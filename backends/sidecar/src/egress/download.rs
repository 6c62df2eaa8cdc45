//! A response's body on its way back: no credential that was put in comes back to the agent, and what gives orders to an
//! agent is written down, or refused where the route says so.
//!
//! Nothing waits for long: a stream that falls silent is judged as far as it has come, so events pass as they arrive. What
//! is held back this way is a little less than what leaves is: a host would have to send a credential in pieces.

use super::{
    Live,
    body::Broken,
    guard::{Noted, denial, note},
};
use bottle_policy::{Denial, Responses, Route};
use bottle_scan::{Context, Finding, Kind, Redactor, Stream};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response,
    body::{Body as _, Frame, Incoming},
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// A body of this length is judged before anything of it is passed on.
const FIRST: usize = 256 << 10;
/// How much of a text is looked at for orders where they are only written down.
const LISTENED: u64 = 1 << 20;
/// How long what was read may be held back while nothing more comes.
const PATIENCE: Duration = Duration::from_millis(20);
/// Kinds of content that an agent reads as words.
const WORDS: [&str; 7] = ["text/", "json", "xml", "javascript", "yaml", "markdown", "x-www-form-urlencoded"];

/// What looks at a response.
pub(super) struct Download {
    live: Arc<Live>,
    context: Context,
    /// Its coding, if it has one.
    encoding: String,
    by: By,
    blocks: bool,
    /// Events: each is passed on when it is whole.
    events: bool,
    ready: VecDeque<Frame<Bytes>>,
    held: bool,
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
    pub(super) noted: Noted,
    pub(super) refusal: Option<Denial>,
}

enum By {
    /// Takes credentials out.
    Redactor(Option<Box<Redactor>>),
    /// Breaks off.
    Stream(Option<Box<Stream>>),
    /// Passes everything on at once, and listens.
    Listener(Option<Box<Stream>>, u64),
}

impl Download {
    /// `None` where nobody has to look. Takes the length out where it may change.
    pub(super) fn of(live: &Arc<Live>, route: &Route, host: &str, response: &mut Response<Incoming>) -> Option<Self> {
        if response.body().is_end_stream() {
            return None;
        }
        let text = |headers: &HeaderMap, name| {
            headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
        };
        let headers = response.headers();
        let (kind, encoding) = (text(headers, CONTENT_TYPE), text(headers, CONTENT_ENCODING));
        let encoding = if encoding == "identity" { String::new() } else { encoding };
        let words = kind.is_empty() || WORDS.iter().any(|word| kind.contains(word));
        let (secret, blocks) = (route.auth.is_some(), route.responses == Responses::Block && words);
        let events = kind.starts_with("text/event-stream");
        let context = Context::incoming(host, &kind);
        let scanner = live.guard.back();
        let stream = || Some(Box::new(scanner.stream(context.clone(), &encoding)));
        let known = response.body().size_hint().exact();
        let short = known.is_none_or(|length| length <= FIRST as u64);
        let by = match (secret, blocks) {
            (true, false) if encoding.is_empty() && short => {
                response.headers_mut().remove(CONTENT_LENGTH);
                By::Redactor(Some(Box::new(scanner.redactor(context.clone()))))
            }
            (true, _) | (_, true) => By::Stream(stream()),
            (false, false) if words && !route.conversation => By::Listener(stream(), 0),
            (false, false) => return None,
        };
        let (live, ready) = (live.clone(), VecDeque::new());
        let (noted, refusal) = (vec![], None);
        Some(Self {
            live,
            context,
            encoding,
            by,
            blocks,
            events,
            ready,
            held: false,
            timer: None,
            ended: false,
            noted,
            refusal,
        })
    }

    /// Judges the beginning, where something would be refused: what is short is refused before it is answered.
    pub(super) async fn begin(&mut self, response: &mut Response<Incoming>) -> Result<(), Denial> {
        if matches!(self.by, By::Listener(..))
            || self.events
            || response.body().size_hint().exact().is_none() && !self.blocks
        {
            return Ok(());
        }
        let mut read = 0;
        while !self.ended && read < FIRST {
            match response.body_mut().frame().await {
                Some(Err(error)) => {
                    return Err(Denial {
                        rule: "upstream",
                        status: 502,
                        reason: format!("the response breaks off: {error}"),
                    });
                }
                Some(Ok(frame)) => {
                    read += frame.data_ref().map_or(0, Bytes::len);
                    self.take(Some(frame));
                }
                None => self.take(None),
            }
            if let Some(denial) = self.refusal.take() {
                return Err(denial);
            }
        }
        if self.ended && matches!(self.by, By::Redactor(_)) && self.ready.iter().all(Frame::is_data) {
            let length: usize = self.ready.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(())
    }

    /// The length of all of it, where it was read already.
    pub(super) fn exact(&self) -> Option<u64> {
        let data = self.ended && self.ready.iter().all(Frame::is_data);
        data.then(|| self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
    }

    /// Does nothing more come?
    pub(super) fn is_over(&self) -> bool {
        self.ended && self.ready.is_empty()
    }

    /// Does its length stay what it is?
    pub(super) fn keeps_length(&self) -> bool {
        !matches!(self.by, By::Redactor(_))
    }

    pub(super) fn poll(
        &mut self,
        inner: &mut Incoming,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.refusal.is_some() {
                self.ended = true;
                return Poll::Ready(Some(Err(Broken::Refused)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut *inner).poll_frame(cx) {
                Poll::Ready(frame) => self.take(frame.transpose()?),
                Poll::Pending => {
                    if !self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
                        return Poll::Pending;
                    }
                    self.flush();
                }
            }
        }
    }

    /// A frame of the body, or its end.
    fn take(&mut self, frame: Option<Frame<Bytes>>) {
        match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                let whole = self.events && self.encoding.is_empty() && data.ends_with(b"\n\n");
                self.push(data);
                if whole {
                    self.flush();
                } else if self.held && self.timer.is_none() && self.encoding.is_empty() {
                    self.timer = Some(Box::pin(sleep(PATIENCE)));
                }
            }
            Some(Err(trailers)) => {
                self.flush();
                self.ready.push_back(trailers);
                self.ended = true;
            }
            None => {
                self.flush();
                self.ended = true;
            }
        }
    }

    fn push(&mut self, data: Bytes) {
        let (released, findings) = match &mut self.by {
            By::Redactor(redactor) => {
                let redacted = redactor.as_mut().map(|redactor| redactor.push(&data)).unwrap_or_default();
                (redacted.bytes, redacted.findings)
            }
            By::Stream(stream) => {
                let verdict = stream.as_mut().map(|stream| stream.push(&data)).unwrap_or_default();
                (verdict.released, verdict.findings)
            }
            By::Listener(stream, heard) => {
                *heard += data.len() as u64;
                let verdict = stream.as_mut().map(|stream| stream.push(&data)).unwrap_or_default();
                let ended = if *heard > LISTENED { stream.take().map(|stream| stream.finish()) } else { None };
                self.ready.push_back(Frame::data(data));
                let late = ended.map(|ended| ended.findings).unwrap_or_default();
                return self.decide([verdict.findings, late].concat());
            }
        };
        self.held = true;
        self.decide(findings);
        self.pass(released);
    }

    /// What is held back passes, as far as it has come.
    fn flush(&mut self) {
        (self.held, self.timer) = (false, None);
        let scanner = self.live.guard.back();
        let (released, findings) = match &mut self.by {
            By::Redactor(redactor) => {
                let fresh = Box::new(scanner.redactor(self.context.clone()));
                let redacted = redactor.replace(fresh).map(|redactor| redactor.finish()).unwrap_or_default();
                (redacted.bytes, redacted.findings)
            }
            By::Stream(stream) => {
                let fresh = Box::new(scanner.stream(self.context.clone(), &self.encoding));
                let verdict = stream.replace(fresh).map(|stream| stream.finish()).unwrap_or_default();
                (verdict.released, verdict.findings)
            }
            By::Listener(stream, _) => {
                let findings = stream.take().map(|stream| stream.finish().findings).unwrap_or_default();
                return self.decide(findings);
            }
        };
        self.decide(findings);
        self.pass(released);
    }

    fn pass(&mut self, released: Vec<u8>) {
        if self.refusal.is_none() && !released.is_empty() {
            self.ready.push_back(Frame::data(released.into()));
        }
    }

    fn decide(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            let stops = match finding.kind {
                Kind::Exact | Kind::Split if matches!(self.by, By::Redactor(_)) => false,
                Kind::Exact | Kind::Split => !matches!(self.by, By::Listener(..)),
                Kind::Opaque => continue,
                _ => self.blocks && finding.blocks(),
            };
            if stops && self.refusal.is_none() {
                self.refusal = Some(denial(&finding));
            }
            note(&mut self.noted, &finding);
        }
    }
}
