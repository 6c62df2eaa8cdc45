//! Bodies on their way through, counted as they pass.

use super::{download::Download, headers, pool::Lease, record::Record, upload::Upload};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use std::{
    fmt,
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
    /// A request's that is judged while it is sent.
    Upload(Box<Upload>),
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
    /// What looks at it.
    pub(super) download: Option<Box<Download>>,
    pub(super) record: Record,
    /// The connection that it comes on, if that serves one request at a time.
    pub(super) lease: Option<Lease>,
    pub(super) ended: bool,
}

/// Why a body breaks off.
#[derive(Debug)]
pub(super) enum Broken {
    /// Its sender broke.
    Sender(hyper::Error),
    /// The rest of it is refused.
    Refused,
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        Self::Sender(error)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sender(error) => error.fmt(f),
            Self::Refused => f.write_str("the rest of the body is refused"),
        }
    }
}

impl std::error::Error for Broken {}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose()?;
        if let Some(frame) = &mut frame {
            if let Some(data) = frame.data_ref() {
                self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            } else if let Some(trailers) = frame.trailers_mut() {
                headers::clean_trailers(trailers, self.strip);
            }
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Sent(body) => Pin::new(body).poll_frame(cx).map_err(Broken::Sender),
            Self::Upload(upload) => upload.poll(cx),
            Self::Received(body) => {
                let Received { inner, download, .. } = &mut **body;
                let frame = ready!(match download {
                    Some(download) => download.poll(inner, cx),
                    None => Pin::new(inner).poll_frame(cx).map_err(Broken::Sender),
                });
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
            Self::Sent(body) => body.is_end_stream(),
            Self::Upload(upload) => upload.is_end_stream(),
            Self::Received(body) => match &body.download {
                Some(download) => download.is_end_stream(),
                None => body.inner.is_end_stream(),
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Sent(body) => body.size_hint(),
            Self::Upload(upload) => upload.size_hint(),
            Self::Received(body) => match &body.download {
                Some(download) => download.size_hint(),
                None => body.inner.size_hint(),
            },
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(download) = &mut self.download {
            self.record.found(std::mem::take(&mut download.noted));
            download.refusal.iter().for_each(|denial| self.record.denied(denial));
        }
        // A connection whose response was not read to its end is of no use to the next request.
        if (self.ended || self.inner.is_end_stream())
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}
