//! A request's body on its way to the scanner: held back until it is judged.
//!
//! What fits into one window is judged before anything of the request is sent: its host never hears of a refused one. Of
//! a longer body the beginning has been sent when a later window is refused: then the request breaks off, and its secret
//! has not left.

use super::{
    Live,
    body::{Body, Broken, Sent},
    guard::{Guard, Noted},
    inspect::{Inspected, Inspector},
};
use bottle_policy::{Denial, Route};
use bottle_scan::{Finding, Kind};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body as HttpBody, Frame, SizeHint},
    header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue},
};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is judged before anything is sent: more than the scanner holds back.
const FIRST: usize = 256 << 10;
/// The same of a conversation, whose length changes where a secret is taken out: a server wants to know it beforehand.
const CONVERSATION: usize = 8 << 20;
/// Bodies that are looked at at the same time, by what each of them holds at most.
const PLACES: usize = 96 << 20;

/// What the scanner has said of a body so far.
#[derive(Clone, Default)]
pub(super) struct Findings(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    refusal: Option<Denial>,
    noted: Noted,
}

impl Findings {
    /// Why the body breaks off, if it does.
    pub(super) fn refusal(&self) -> Option<Denial> {
        self.said().refusal.clone()
    }

    /// What was found in it and went on.
    pub(super) fn noted(&self) -> Noted {
        self.said().noted.clone()
    }

    fn add(&self, decided: Result<Noted, Denial>) -> Result<(), Denial> {
        match decided {
            Ok(noted) => {
                self.said().noted.extend(noted);
                Ok(())
            }
            Err(denial) => {
                self.said().refusal = Some(denial.clone());
                Err(denial)
            }
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is judged while it is sent.
pub(super) struct Upload {
    inner: Sent,
    judge: Judge,
    ready: VecDeque<Frame<Bytes>>,
    ended: bool,
    length: Option<u64>,
}

/// Who judges it.
struct Judge {
    live: Arc<Live>,
    route: Route,
    host: String,
    inspector: Inspector,
    findings: Findings,
    _place: OwnedSemaphorePermit,
}

/// Judges the beginning of a request's body, and has the rest judged while it is sent.
pub(super) async fn judged(
    live: &Arc<Live>,
    route: &Route,
    host: &str,
    request: Request<Body>,
) -> Result<(Request<Body>, Findings), Denial> {
    let findings = Findings::default();
    let (mut head, body) = request.into_parts();
    let inner = match body {
        Body::Sent(inner) if !inner.is_end_stream() => inner,
        body => return Ok((Request::from_parts(head, body), findings)),
    };
    let encoding = head.headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("unreadable").to_owned());
    let encoding = encoding.filter(|name| !name.eq_ignore_ascii_case("identity")).unwrap_or_default();
    let context = Guard::context(host, &head.headers);
    // Nothing can be taken out of what is compressed: there a secret refuses the request, as everywhere else.
    let redacts = route.conversation && encoding.is_empty();
    let (inspector, first) = match redacts {
        true => (Inspector::redacting(live.guard.out(), context), CONVERSATION),
        false => (Inspector::judging(live.guard.out(), context, &encoding), FIRST),
    };
    let known = inner.size_hint().upper().and_then(|length| usize::try_from(length).ok());
    let place = place(known.unwrap_or(first).min(first)).await;
    let (live, route, host) = (live.clone(), route.clone(), host.to_owned());
    let judge = Judge { live, route, host, inspector, findings: findings.clone(), _place: place };
    let length = (!redacts).then(|| inner.size_hint().exact()).flatten();
    let mut upload = Upload { inner, judge, ready: VecDeque::new(), ended: false, length };

    let mut read = 0;
    while !upload.ended && read < first {
        match upload.inner.frame().await {
            Some(Err(error)) => return Err(Denial::bad_request("body", format!("the request breaks off: {error}"))),
            Some(Ok(frame)) => {
                read += frame.data_ref().map_or(0, Bytes::len);
                upload.take(Some(frame))?;
            }
            None => upload.take(None)?,
        }
    }
    if upload.ended && upload.ready.iter().all(Frame::is_data) {
        let parts: Vec<Bytes> = upload.ready.into_iter().filter_map(|frame| frame.into_data().ok()).collect();
        let whole = Bytes::from(parts.concat());
        if head.headers.contains_key(CONTENT_LENGTH) {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
        }
        return Ok((Request::from_parts(head, Body::Whole(Some(whole))), findings));
    }
    if upload.length.is_none() {
        head.headers.remove(CONTENT_LENGTH);
    }
    Ok((Request::from_parts(head, Body::Upload(Box::new(upload))), findings))
}

/// Waits until there is room for as many bytes.
async fn place(bytes: usize) -> OwnedSemaphorePermit {
    const UNIT: usize = 64 << 10;
    static ROOM: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(PLACES / UNIT)));
    let units = u32::try_from(bytes.div_ceil(UNIT).max(1)).unwrap_or(u32::MAX);
    match ROOM.clone().acquire_many_owned(units).await {
        Ok(place) => place,
        // Nobody closes it.
        Err(_) => std::future::pending().await,
    }
}

impl Judge {
    /// What of a piece may go on; `None` is the end.
    fn judge(&mut self, piece: Option<&[u8]>) -> Result<Vec<u8>, Denial> {
        let Inspected { released, mut findings } = match piece {
            Some(piece) => self.inspector.push(piece),
            None => self.inspector.finish(),
        };
        if self.inspector.redacts() {
            findings = self.taken_out(findings);
        }
        if let Some(piece) = piece.filter(|_| !self.route.conversation) {
            findings.extend(self.live.guard.pieces(&self.host, "body", piece));
        }
        self.findings.add(self.live.guard.decide(&self.route, &self.host, findings))?;
        Ok(released)
    }

    /// Of what was found in a conversation, what is still in it. The rest is written down.
    fn taken_out(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let (out, left): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.kind == Kind::Exact);
        let mut noted = vec![];
        out.iter().for_each(|finding| super::guard::note(&mut noted, finding));
        let _ = self.findings.add(Ok(noted.into_iter().map(|what| format!("redacted: {what}")).collect()));
        left
    }
}

impl Upload {
    /// Judges a frame of the body, or its end, and queues what may go on.
    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), Denial> {
        let (data, trailers) = match frame.map(Frame::into_data) {
            Some(Ok(data)) => (Some(data), None),
            Some(Err(frame)) => (None, frame.into_trailers().ok()),
            None => (None, None),
        };
        let released = self.judge.judge(data.as_deref())?;
        if !released.is_empty() {
            self.ready.push_back(Frame::data(released.into()));
        }
        if data.is_none() {
            self.ended = true;
            self.ready.extend(self.last(trailers)?);
        }
        Ok(())
    }

    fn last(&self, trailers: Option<HeaderMap>) -> Result<Option<Frame<Bytes>>, Denial> {
        let Some(trailers) = trailers else { return Ok(None) };
        let Judge { live, route, host, findings, .. } = &self.judge;
        findings.add(live.guard.trailers(route, host, &trailers))?;
        Ok(Some(Frame::trailers(trailers)))
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose()?;
            if self.take(frame).is_err() {
                self.ended = true;
                return Poll::Ready(Some(Err(Broken::Refused)));
            }
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended && self.ready.is_empty()
    }
}
