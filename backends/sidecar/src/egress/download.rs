//! A response's body on its way back: no credential that was put in comes back to the agent, and what gives orders to an
//! agent is written down, or refused where the route says so.
//!
//! Nothing waits for long: a stream that falls silent is judged as far as it has come, so events pass as they arrive. What
//! was passed on then is not taken back. So what a response has said of a credential is remembered over its pauses. A
//! credential that comes back whole is taken out. Of one that comes with pauses, however short its parts, or in parts of
//! eight letters and digits or more with other text between them, less than three fifths are passed on, and then nothing
//! more. Shorter parts with other text between them, and parts in several responses, are not found: a host that sends
//! those could as well encrypt them, and a user's name that is part of a credential comes in many a response.

use super::{
    Live,
    body::Broken,
    guard::{Noted, denial, note},
    inspect::{Inspected, Inspector},
};
use bottle_policy::{Denial, Responses, Route};
use bottle_scan::{Context, Finding, Kind, Session};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response,
    body::{Body as _, Frame, Incoming, SizeHint},
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use std::{
    collections::VecDeque,
    pin::Pin,
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
/// How much of what was passed on is looked at again with what comes after it.
const TAIL: usize = 96;
/// Kinds of content that an agent reads as words.
const WORDS: [&str; 7] = ["text/", "json", "xml", "javascript", "yaml", "markdown", "x-www-form-urlencoded"];

/// What looks at a response.
pub(super) struct Download {
    host: String,
    by: By,
    /// What would give an agent orders is refused.
    blocks: bool,
    /// Events: each is passed on when it is whole.
    events: bool,
    /// Compressed: it can be judged at its end alone.
    coded: bool,
    /// How long it is, as far as that is known.
    length: Option<u64>,
    ready: VecDeque<Frame<Bytes>>,
    /// What was released of a credential.
    came_back: Session,
    /// The end of what was released.
    tail: Vec<u8>,
    /// Something was released because nothing followed.
    paused: bool,
    held: bool,
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
    pub(super) noted: Noted,
    pub(super) refusal: Option<Denial>,
}

enum By {
    /// Holds back what is not judged yet.
    Inspector(Inspector),
    /// Passes everything on at once, and listens to so many bytes more.
    Listener(Inspector, u64),
}

/// Has a response looked at, where somebody has to look. What is short is refused before it is answered.
pub(super) async fn judged(
    live: &Live,
    route: &Route,
    host: &str,
    response: &mut Response<Incoming>,
) -> Result<Option<Box<Download>>, Denial> {
    let Some(mut download) = Download::of(live, route, host, response) else { return Ok(None) };
    if download.waits(response.body()) {
        download.begin(response.body_mut()).await?;
    }
    match download.length {
        Some(length) => response.headers_mut().insert(CONTENT_LENGTH, length.into()),
        None => response.headers_mut().remove(CONTENT_LENGTH),
    };
    Ok(Some(Box::new(download)))
}

impl Download {
    /// `None` where nobody has to look.
    fn of(live: &Live, route: &Route, host: &str, response: &Response<Incoming>) -> Option<Self> {
        if response.body().is_end_stream() {
            return None;
        }
        let text = |name| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_ascii_lowercase()
        };
        let (kind, encoding) = (text(CONTENT_TYPE), text(CONTENT_ENCODING));
        let encoding = if encoding == "identity" { String::new() } else { encoding };
        let words = kind.is_empty() || WORDS.iter().any(|word| kind.contains(word));
        let (secret, blocks) = (route.auth.is_some(), route.responses == Responses::Block && words);
        let context = Context::incoming(host, &kind);
        let scanner = live.guard.back();
        let known = response.body().size_hint().exact();
        let short = known.is_none_or(|length| length <= FIRST as u64);
        let by = match (secret, blocks) {
            (true, false) if encoding.is_empty() && short => By::Inspector(Inspector::redacting(scanner, context)),
            (true, _) | (_, true) => By::Inspector(Inspector::judging(scanner, context, &encoding)),
            (false, false) if words && !route.conversation => {
                By::Listener(Inspector::judging(scanner, context, &encoding), LISTENED)
            }
            (false, false) => return None,
        };
        let changes = matches!(&by, By::Inspector(inspector) if inspector.redacts());
        Some(Self {
            host: host.into(),
            by,
            blocks,
            events: kind.starts_with("text/event-stream"),
            coded: !encoding.is_empty(),
            length: known.filter(|_| !changes),
            ready: VecDeque::new(),
            came_back: scanner.session(),
            tail: vec![],
            paused: false,
            held: false,
            timer: None,
            ended: false,
            noted: vec![],
            refusal: None,
        })
    }

    /// Is the beginning judged before the response is answered? Not where somebody waits for what comes bit by bit.
    fn waits(&self, body: &Incoming) -> bool {
        let comes_whole = body.size_hint().exact().is_some() || self.blocks;
        matches!(self.by, By::Inspector(_)) && !self.events && comes_whole
    }

    /// Judges the beginning.
    async fn begin(&mut self, body: &mut Incoming) -> Result<(), Denial> {
        let mut read = 0;
        while !self.ended && read < FIRST {
            let frame = body.frame().await.transpose().map_err(|error| Denial {
                rule: "upstream",
                status: 502,
                reason: format!("the response breaks off: {error}"),
            })?;
            read += frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
            self.take(frame);
            if let Some(denial) = self.refusal.take() {
                return Err(denial);
            }
        }
        if self.ended {
            // Trailers come after a body of unknown length alone.
            let lengths = self.ready.iter().map(|frame| frame.data_ref().map(|data| data.len() as u64));
            self.length = lengths.sum();
        }
        Ok(())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Does nothing more come?
    pub(super) fn is_end_stream(&self) -> bool {
        self.ended && self.ready.is_empty()
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
                let whole = self.events && !self.coded && data.ends_with(b"\n\n");
                self.push(data);
                if whole {
                    self.flush();
                } else if self.held && self.timer.is_none() && !self.coded {
                    self.timer = Some(Box::pin(sleep(PATIENCE)));
                }
            }
            end => {
                self.flush();
                self.ready.extend(end.and_then(Result::err));
                self.ended = true;
            }
        }
    }

    fn push(&mut self, data: Bytes) {
        match &mut self.by {
            By::Inspector(inspector) => {
                let inspected = inspector.push(&data);
                self.held = true;
                self.judge(inspected);
            }
            By::Listener(_, 0) => self.ready.push_back(Frame::data(data)),
            By::Listener(inspector, left) => {
                let mut findings = inspector.push(&data).findings;
                *left = left.saturating_sub(data.len() as u64);
                if *left == 0 {
                    findings.extend(inspector.finish().findings);
                }
                self.ready.push_back(Frame::data(data));
                self.decide(findings);
            }
        }
    }

    /// What is held back passes, as far as it has come.
    fn flush(&mut self) {
        (self.held, self.timer) = (false, None);
        match &mut self.by {
            By::Inspector(inspector) => {
                let inspected = inspector.finish();
                self.judge(inspected);
                self.paused = true;
            }
            By::Listener(_, 0) => {}
            By::Listener(inspector, _) => {
                let findings = inspector.finish().findings;
                self.decide(findings);
            }
        }
    }

    fn judge(&mut self, inspected: Inspected) {
        let Inspected { released, mut findings } = inspected;
        self.tail.extend(&released);
        let pieces = self.came_back.observe(&self.host, "response", &self.tail);
        // Before the first pause everything was judged together.
        findings.extend(pieces.into_iter().filter(|_| self.paused));
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        self.decide(findings);
        if self.refusal.is_none() && !released.is_empty() {
            self.ready.push_back(Frame::data(released.into()));
        }
    }

    fn decide(&mut self, findings: Vec<Finding>) {
        let (holds, redacts) = match &self.by {
            By::Inspector(inspector) => (true, inspector.redacts()),
            By::Listener(..) => (false, false),
        };
        for finding in findings {
            let stops = match finding.kind {
                Kind::Exact => holds && !redacts,
                Kind::Split => holds,
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
