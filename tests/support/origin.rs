//! A server that everybody reaches, and that writes down every connection and every byte of it: what a proxy let through.
//!
//! It listens on every address of its network namespace, speaks TLS as every host that a test names, HTTP/1.1, HTTP/2
//! and WebSocket. Requests say how they want to be answered:
//!
//! ```text
//! x-answer-status: 302          with this status
//! x-answer-NAME: VALUE          with this header
//! GET /bytes?N                  with so many bytes
//! POST /length                  with the length of its body
//! GET /events                   with a server-sent event, and another one once `go_on` was called
//! Upgrade: websocket            with an echo of each message
//! ```

use crate::{standin::Seen, wire::Authority};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{
        CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
    },
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Task, Poll, ready},
    thread,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// Where it listens.
pub const PORTS: [u16; 3] = [443, 80, 8443];
/// First byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// How much of a connection, and of a body, is kept.
const KEPT: usize = 4 << 20;
const CHUNK: usize = 64 << 10;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A connection as it arrived.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The address that was dialled.
    pub at: SocketAddr,
    /// The name in its TLS handshake; `None` without TLS, or where the handshake failed.
    pub sni: Option<String>,
    /// HTTP/2 was agreed on.
    pub h2: bool,
    /// Its bytes, decrypted.
    pub bytes: Vec<u8>,
}

/// The server.
#[derive(Clone)]
pub struct Origin(Arc<Shared>);

struct Shared {
    connections: Mutex<Vec<Arc<Mutex<Connection>>>>,
    requests: Mutex<Vec<Seen>>,
    pages: Mutex<BTreeMap<String, (&'static str, Bytes)>>,
    script: Mutex<VecDeque<Scripted>>,
    go_on: Semaphore,
    forgets: AtomicBool,
}

/// An answer, whatever is asked.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    /// HTTP status; 0: 200.
    pub status: u16,
    /// Headers beside those of the framing.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
}

impl Origin {
    /// Serves as these hosts from the calling thread's network namespace.
    pub fn start(authority: &Authority, hosts: &[&str]) -> Result<Self> {
        let mut config = ServerConfig::clone(&*authority.server_config(hosts)?);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::new(Shared {
            connections: Mutex::default(),
            requests: Mutex::default(),
            pages: Mutex::default(),
            script: Mutex::default(),
            go_on: Semaphore::new(0),
            forgets: AtomicBool::new(false),
        });
        for port in PORTS {
            let listener = StdListener::bind(("::", port)).with_context(|| format!("listen on port {port}"))?;
            listener.set_nonblocking(true)?;
            let (acceptor, shared) = (acceptor.clone(), shared.clone());
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(accept(listener, &acceptor, &shared))
            });
        }
        Ok(Self(shared))
    }

    /// Answers GET of that path with these bytes.
    pub fn page(&self, path: &str, bytes: impl Into<Bytes>) {
        self.typed(path, "application/octet-stream", bytes);
    }

    /// The same, and says what they are.
    pub fn typed(&self, path: &str, kind: &'static str, bytes: impl Into<Bytes>) {
        lock(&self.0.pages).insert(path.to_owned(), (kind, bytes.into()));
    }

    /// Answers the next requests with these, in their order.
    pub fn script(&self, answers: impl IntoIterator<Item = Scripted>) {
        *lock(&self.0.script) = answers.into_iter().collect();
    }

    /// Forgets every request and connection so far, and what was left of the script.
    pub fn begin_anew(&self) {
        lock(&self.0.requests).clear();
        lock(&self.0.connections).clear();
        lock(&self.0.script).clear();
    }

    /// Has one `/events` send its second event.
    pub fn go_on(&self) {
        self.0.go_on.add_permits(1);
    }

    /// Every connection so far.
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.0.connections).iter().map(|connection| lock(connection).clone()).collect()
    }

    /// Writes nothing down any more: where there is so much that nobody would read it.
    pub fn forget(&self) {
        self.0.forgets.store(true, Ordering::Relaxed);
        lock(&self.0.requests).clear();
        lock(&self.0.connections).clear();
    }

    /// Every request so far that could be read as one.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.0.requests).clone()
    }
}

impl Shared {
    /// Below the same first segment: what is missing there is missing.
    fn holds_a_page_beside(&self, path: &str) -> bool {
        let first = |path: &str| path.split('/').nth(1).map(str::to_owned);
        lock(&self.pages).keys().any(|page| first(page) == first(path))
    }
}

async fn accept(listener: StdListener, acceptor: &TlsAcceptor, shared: &Arc<Shared>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let mut at = stream.local_addr()?;
        at.set_ip(at.ip().to_canonical());
        let connection = Arc::new(Mutex::new(Connection { at, sni: None, h2: false, bytes: vec![] }));
        if !shared.forgets.load(Ordering::Relaxed) {
            lock(&shared.connections).push(connection.clone());
        }
        tokio::spawn(converse(stream, acceptor.clone(), connection, shared.clone()));
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, connection: Arc<Mutex<Connection>>, shared: Arc<Shared>) {
    let mut first = [0];
    let _ = stream.set_nodelay(true);
    if stream.peek(&mut first).await.is_ok() && first[0] == TLS_HANDSHAKE {
        let Ok(tls) = acceptor.accept(stream).await else { return };
        let h2 = {
            let session = tls.get_ref().1;
            let mut connection = lock(&connection);
            connection.sni = session.server_name().map(str::to_owned);
            connection.h2 = session.alpn_protocol() == Some(b"h2");
            connection.h2
        };
        speak(Tee { io: tls, to: connection }, h2, shared).await;
    } else {
        speak(Tee { io: stream, to: connection }, false, shared).await;
    }
}

async fn speak(io: Tee<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>, h2: bool, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    if h2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).with_upgrades().await;
    }
}

async fn answer(mut request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let socket =
        request.headers().get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let upgrade = socket.then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let (body, length) = collect(body).await;
    let mut headers = headers(&head.headers);
    // HTTP/2's word for it.
    headers.extend(head.uri.authority().map(|authority| ("host".to_owned(), authority.to_string())));
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    if !shared.forgets.load(Ordering::Relaxed) {
        lock(&shared.requests).push(Seen { method: head.method.to_string(), path, headers, body });
    }
    if let Some(upgrade) = upgrade {
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                echo(TokioIo::new(upgraded)).await;
            }
        });
        return with_answers(switching(&head.headers), &head.headers);
    }
    if let Some(scripted) = lock(&shared.script).pop_front() {
        return played(scripted);
    }
    let page = lock(&shared.pages).get(head.uri.path()).cloned();
    let response = match (head.uri.path(), page) {
        (_, Some((kind, page))) => {
            let mut response = full(page);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        ("/bytes", None) => counted(head.uri.query().and_then(|n| n.parse().ok()).unwrap_or(0)),
        ("/events", None) => events(shared.clone()),
        ("/length", None) => full(length.to_string()),
        (path, None) if shared.holds_a_page_beside(path) => not_found(),
        _ => full(format!("{} {}\n", head.method, head.uri.path())),
    };
    with_answers(response, &head.headers)
}

fn played(scripted: Scripted) -> Answer {
    let mut response = full(scripted.body);
    *response.status_mut() = StatusCode::from_u16(scripted.status).unwrap_or_default();
    for (name, value) in scripted.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// As its request wants it.
fn with_answers(mut response: Answer, asked: &HeaderMap) -> Answer {
    for (name, value) in asked {
        match name.as_str().strip_prefix("x-answer-") {
            Some("status") => *response.status_mut() = StatusCode::from_bytes(value.as_bytes()).unwrap_or_default(),
            Some(name) => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            None => {}
        }
    }
    response
}

/// A body's beginning, and its whole length.
async fn collect(mut body: Incoming) -> (Bytes, usize) {
    let (mut kept, mut length) = (vec![], 0);
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.into_data().unwrap_or_default();
        length += data.len();
        kept.extend_from_slice(&data[..data.len().min(KEPT.saturating_sub(kept.len()))]);
    }
    (kept.into(), length)
}

fn not_found() -> Answer {
    let mut response = full("");
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn headers(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

fn full(bytes: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(bytes.into()).boxed_unsync())
}

fn counted(bytes: usize) -> Answer {
    static ZEROS: [u8; CHUNK] = [b'z'; CHUNK];
    let lengths = (0..bytes).step_by(CHUNK).map(move |at| CHUNK.min(bytes - at));
    let frames = lengths.map(|length| Ok(Frame::data(Bytes::from_static(&ZEROS[..length]))));
    Response::new(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())).boxed_unsync())
}

fn events(shared: Arc<Shared>) -> Answer {
    let event = |data: &'static str| Ok(Frame::data(Bytes::from_static(data.as_bytes())));
    let second = stream::once(async move {
        if let Ok(permit) = shared.go_on.acquire().await {
            permit.forget();
        }
        event("data: second\n\n")
    });
    let mut response =
        Response::new(StreamBody::new(stream::iter([event("data: first\n\n")]).chain(second)).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn switching(asked: &HeaderMap) -> Answer {
    let mut response = full("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let key = asked.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes())).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.extend(HeaderValue::from_str(&key).map(|key| (SEC_WEBSOCKET_ACCEPT, key)));
    response
}

async fn echo(io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// Writes down what is read.
struct Tee<T> {
    io: T,
    to: Arc<Mutex<Connection>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Tee<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Task<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let mut connection = lock(&self.to);
        let room = KEPT.saturating_sub(connection.bytes.len());
        let read = &buf.filled()[before..];
        connection.bytes.extend_from_slice(&read[..read.len().min(room)]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tee<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Task<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
