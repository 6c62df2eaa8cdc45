//! Inside a CONNECT: nothing but TLS, for the name that was asked for, opened with a certificate of ours.

use super::{
    Place, State,
    body::Body,
    connection, deny, forward, passthrough,
    pool::{InUse, Pool, Target},
    record::Record,
};
use anyhow::{Context as _, Result, bail};
use bottle_policy::{Denial, Verdict, decide_tunnel};
use bytes::Bytes;
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};

/// How long a client may take for its TLS handshake.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(20);
/// First byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Answers a CONNECT and serves what comes inside it.
///
/// A host without a route is answered too: the client's request inside then gets a refusal that an agent can read,
/// which no client shows of a refused CONNECT. Nothing is dialled for it.
pub(super) fn open(state: Arc<State>, request: Request<Incoming>, target: Target, place: Place) -> Response<Body> {
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let io = TokioIo::new(upgraded);
        let live = state.live();
        match decide_tunnel(&live.policy, &target.host, target.port) {
            Verdict::Allow(route) if route.tls_passthrough => {
                passthrough::pass(&state, &live, route, &target, io).await
            }
            // Where there is no route the refusal is said inside.
            Verdict::Allow(_) | Verdict::Deny(_) => intercept(state, io, target, place).await,
        }
    });
    deny::plain(StatusCode::OK, Bytes::new())
}

async fn intercept(
    state: Arc<State>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: Target,
    place: Place,
) {
    let pool = Pool::new(state, target, InUse::default());
    let spoke = AtomicBool::new(false);
    let result = serve_inside(&pool, io, &place, &spoke).await;
    if !spoke.into_inner() {
        log_silent(&pool, result);
    }
}

async fn serve_inside(
    pool: &Arc<Pool>,
    mut io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: &Place,
    spoke: &AtomicBool,
) -> Result<()> {
    let host = pool.target.host.as_str();
    let tls = timeout(HANDSHAKE_TIME, async {
        let first = io.read_u8().await?;
        if first != TLS_HANDSHAKE {
            bail!("not TLS");
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), Again { first: Some(first), io }).await?;
        let named = start.client_hello().server_name().map(str::to_ascii_lowercase);
        if named.is_some_and(|name| name != host) {
            bail!("the TLS handshake names another host than the CONNECT");
        }
        Ok(start.into_stream(pool.state.leaves.config(host)?).await?)
    })
    .await
    .context("the TLS handshake took too long")??;

    let speaks_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(|request| {
        spoke.store(true, Ordering::Relaxed);
        let response = forward::forward(pool.clone(), place.clone(), request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let io = TokioIo::new(tls);
    let unreadable = if speaks_http2 {
        let served = connection::http2().serve_connection(io, service);
        connection::attend(&pool.state, &pool.in_use, served, connection::SETTLED_WITHIN, |c| c.graceful_shutdown())
            .await
    } else {
        let served = connection::http1().serve_connection(io, service).with_upgrades();
        connection::attend(&pool.state, &pool.in_use, served, connection::SETTLED_WITHIN, |c| c.graceful_shutdown())
            .await
    };
    if let Some(denial) = unreadable {
        spoke.store(true, Ordering::Relaxed);
        let State { feed, secrets, .. } = &*pool.state;
        Record::begin(feed, secrets, &pool.target.name, "", "").denied(&denial);
    }
    Ok(())
}

/// A tunnel in which no request was made still leaves its line.
fn log_silent(pool: &Pool, result: Result<()>) {
    let (state, target) = (&pool.state, &pool.target);
    let mut record = Record::begin(&state.feed, &state.secrets, &target.name, "CONNECT", "");
    match (decide_tunnel(&state.live().policy, &target.host, target.port), result) {
        (Verdict::Deny(denial), _) => record.denied(&denial),
        (Verdict::Allow(_), Err(error)) => record.denied(&Denial::bad_request("tunnel", format!("{error:#}"))),
        (Verdict::Allow(route), Ok(())) => record.allowed(&route.host, 200),
    }
}

/// A stream whose first byte was read already.
struct Again<T> {
    first: Option<u8>,
    io: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Again<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.first.take() {
            Some(byte) => {
                buf.put_slice(&[byte]);
                Poll::Ready(Ok(()))
            }
            None => Pin::new(&mut self.io).poll_read(cx, buf),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Again<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
