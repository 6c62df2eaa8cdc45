//! Bodies on their way through: counted as they pass, never gathered.

use super::{headers, pool::Lease, record::Record};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

/// A body that is sent, either way.
pub(super) enum Body {
    /// Our own words.
    Whole(Option<Bytes>),
    /// A request's.
    Sent(Sent),
    /// A response's.
    Received(Box<Received>),
}

/// A request's body.
pub(super) struct Sent {
    pub(super) inner: Incoming,
    pub(super) bytes: Arc<AtomicU64>,
    /// Credentials do not pass in its trailers, either.
    pub(super) strip: bool,
}

/// A response's body. The line of the log is written when it has ended, or was given up.
pub(super) struct Received {
    pub(super) inner: Incoming,
    pub(super) record: Record,
    /// The connection that it comes on, if that serves one request at a time.
    pub(super) lease: Option<Lease>,
    pub(super) ended: bool,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Sent(body) => {
                let frame = ready!(Pin::new(&mut body.inner).poll_frame(cx));
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame?;
                    if let Some(data) = frame.data_ref() {
                        body.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                    } else if let Some(trailers) = frame.trailers_mut() {
                        headers::clean_trailers(trailers, body.strip);
                    }
                    Ok(frame)
                }))
            }
            Self::Received(body) => {
                let frame = ready!(Pin::new(&mut body.inner).poll_frame(cx));
                body.ended = frame.is_none();
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame?;
                    if let Some(data) = frame.data_ref() {
                        body.record.received += data.len() as u64;
                    } else if let Some(trailers) = frame.trailers_mut() {
                        headers::clean_trailers(trailers, false);
                    }
                    Ok(frame)
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Sent(body) => body.inner.is_end_stream(),
            Self::Received(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Sent(body) => body.inner.size_hint(),
            Self::Received(body) => body.inner.size_hint(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // A connection whose response was not read to its end is of no use to the next request.
        if (self.ended || self.inner.is_end_stream())
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}
