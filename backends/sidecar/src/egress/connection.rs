//! A client's connection, on the outside and within a tunnel: its protocol's bounds, and when it must make room.

use super::{State, pool::InUse};
use bottle_policy::Denial;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::{pin::Pin, time::Duration};

/// How long a client may take to send the head of a request, from the end of the one before it.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// What a client may say before a body.
const MAX_HEAD: usize = 64 << 10;
/// The same in HTTP/2, where heads of many requests wait beside each other.
const MAX_HEAD_HTTP2: u32 = 32 << 10;
/// Requests of one connection at once.
const MAX_STREAMS: u32 = 100;
/// Unread bytes of a request that a client may send ahead over HTTP/2, and of all that come over one connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Unsent bytes of a response that are kept for a client.
const SEND_BUFFER: usize = 64 << 10;
/// A connection is at least so old before it makes room for another: at the proxy, where whoever had to wait for a place has
/// said what it wants before it has one; and within a tunnel, whose client may think first.
pub(super) const SETTLED: Duration = Duration::from_millis(250);
pub(super) const SETTLED_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    builder
}

pub(super) fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_HTTP2)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// Serves a connection to its end. While others wait for its place it ends with what is under way; with nothing under
/// way it ends at once, however little of a request it has sent so far. Why the last request was none, if it was none:
/// nobody was asked about that one.
pub(super) async fn attend<C: Future<Output = hyper::Result<()>>>(
    state: &State,
    in_use: &InUse,
    connection: C,
    settled: Duration,
    finish: fn(Pin<&mut C>),
) -> Option<Denial> {
    let mut connection = Box::pin(connection);
    let mut finishing = false;
    let young = tokio::time::sleep(settled);
    tokio::select! {
        ended = &mut connection => return unreadable(ended),
        () = young => {}
    }
    loop {
        tokio::select! {
            ended = &mut connection => return unreadable(ended),
            () = state.pressure.notified() => {
                if finishing && in_use.is_idle() {
                    return None;
                }
                finish(connection.as_mut());
                finishing = true;
            }
        }
    }
}

fn unreadable(ended: hyper::Result<()>) -> Option<Denial> {
    let error = ended.err().filter(hyper::Error::is_parse)?;
    let what = std::error::Error::source(&error).map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
    Some(Denial::bad_request("unreadable", what))
}
