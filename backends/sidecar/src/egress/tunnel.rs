//! Inside a CONNECT: nothing but TLS, for the name that was asked for, opened with a certificate of ours.

use super::{Body, Place, State, deny, forward, proxy::HEAD_TIME, record::Record};
use anyhow::{Context as _, Result, bail};
use bottle_policy::{Denial, Scheme, Verdict, decide_tunnel};
use bytes::Bytes;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
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
    sync::Mutex,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(20);
/// First byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Answers a CONNECT and serves what comes inside it.
///
/// A host without a route is answered too: the client's request inside then gets a refusal that an agent can read,
/// which no client shows of a refused CONNECT. Nothing is dialled for it.
pub(super) fn open(
    state: Arc<State>,
    request: Request<Incoming>,
    host: String,
    port: u16,
    place: Place,
) -> Response<Body> {
    tokio::spawn(async move {
        let _place = place;
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let spoke = Arc::new(AtomicBool::new(false));
        let result = serve(&state, TokioIo::new(upgraded), &host, port, &spoke).await;
        if !spoke.load(Ordering::Relaxed) {
            log_silent(&state, &host, port, result);
        }
    });
    deny::plain(StatusCode::OK, Bytes::new())
}

async fn serve(
    state: &Arc<State>,
    mut io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    port: u16,
    spoke: &Arc<AtomicBool>,
) -> Result<()> {
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
        Ok(start.into_stream(state.leaves.config(host)?).await?)
    })
    .await
    .context("the TLS handshake took too long")??;

    let upstream = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let (state, upstream) = (state.clone(), upstream.clone());
        spoke.store(true, Ordering::Relaxed);
        async move {
            let mut upstream = upstream.lock().await;
            Ok::<_, Infallible>(forward::forward(&state, Scheme::Https, host, port, request, &mut upstream).await)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(tls), service)
        .await?;
    Ok(())
}

/// A tunnel in which no request was made still leaves its line.
fn log_silent(state: &State, host: &str, port: u16, result: Result<()>) {
    let mut record = Record::begin(&state.feed, &state.secrets, &format!("{host}:{port}"), "CONNECT", "");
    match (decide_tunnel(&state.live().policy, host, port), result) {
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
