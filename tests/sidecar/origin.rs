//! A host that speaks what it is told to, says what it saw, and a client of a tunnel that does the same.

use anyhow::{Context, Result};
use bottle_tests::{
    lab::Lab,
    wire::{Authority, ProxyClient},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, Version,
    body::{Body, Frame, Incoming},
    client::conn,
    header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, TRAILER, UPGRADE},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context as Waker, Poll},
    thread,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Barrier, Notify, mpsc},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring as provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How many requests for `/together` are answered, all at once.
pub(crate) const TOGETHER: usize = 8;

/// A body that is sent as a test says.
pub(crate) struct Parts(mpsc::Receiver<Frame<Bytes>>);

impl Parts {
    pub(crate) fn new() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (parts, body) = mpsc::channel(8);
        (parts, Self(body))
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Waker<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|part| part.map(Ok))
    }
}

/// The host.
pub(crate) struct Origin {
    pub(crate) address: Ipv4Addr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Value>>,
    together: Barrier,
    /// Lets the next event of `/events` out.
    next: Notify,
    /// What `/said` is answered with: a type, and pieces, each but the first let out by `next`.
    said: Mutex<(String, Vec<String>)>,
}

impl Origin {
    /// Serves as `hosts` with TLS on 443 in these protocols, and without it on 80.
    pub(crate) fn start(authority: &Authority, hosts: &[&str], protocols: &[&str]) -> Result<Self> {
        let address = Lab::address()?;
        let mut config = (*authority.server_config(hosts)?).clone();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            together: Barrier::new(TOGETHER),
            next: Notify::default(),
            said: Mutex::default(),
        });
        for (port, tls) in [(443, true), (80, false)] {
            let listener = Lab::listen((address, port).into())?;
            listener.set_nonblocking(true)?;
            let (shared, acceptor) = (shared.clone(), acceptor.clone());
            serve(listener, move |stream| {
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                async move {
                    if !tls {
                        return http(stream, false, shared).await;
                    }
                    if let Ok(tls) = acceptor.accept(stream).await {
                        let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                        http(tls, http2, shared).await;
                    }
                }
            });
        }
        Ok(Self { address, shared })
    }

    pub(crate) fn seen(&self) -> Vec<Value> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub(crate) fn say(&self, kind: &str, pieces: &[&str]) {
        let pieces = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        *self.shared.said.lock().unwrap() = (kind.to_owned(), pieces);
    }

    pub(crate) fn next_event(&self) {
        self.shared.next.notify_one();
    }
}

/// Serves a listener of the lab in a thread of its own.
pub(crate) fn serve<F: Future<Output = ()> + Send + 'static>(
    listener: std::net::TcpListener,
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
    });
}

async fn http(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    if http2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).with_upgrades().await;
    }
}

async fn answer(mut request: Request<Incoming>, shared: &Arc<Shared>) -> Response<Parts> {
    let upgrade = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let whole = body.collect().await;
    let trailers = whole.as_ref().ok().and_then(|b| b.trailers().cloned()).unwrap_or_default();
    let body = whole.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
    let seen = json!({
        "version": if head.version == Version::HTTP_2 { 2 } else { 1 },
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "authority": head.uri.authority().map(|a| a.as_str().to_owned()),
        "headers": fields(&head.headers),
        "trailers": fields(&trailers),
        "body": body,
    });
    shared.seen.lock().unwrap().push(seen.clone());
    let (parts, body) = Parts::new();
    let mut response = Response::new(body);
    if let Some(upgrade) = upgrade {
        *response.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
        let key = head.headers.get("sec-websocket-key").map(HeaderValue::as_bytes).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert("sec-websocket-accept", derive_accept_key(key).parse().unwrap());
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let rude = head.uri.path() == "/rude";
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            if rude {
                return drop(io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await);
            }
            // An echo of short frames: the client's are masked, ours are not.
            let mut frame = [0; 6];
            while io.read_exact(&mut frame).await.is_ok() {
                let mut payload = vec![0; usize::from(frame[1] & 0x7f)];
                io.read_exact(&mut payload).await.unwrap();
                payload.iter_mut().enumerate().for_each(|(i, b)| *b ^= frame[2 + i % 4]);
                io.write_all(&[&[frame[0], frame[1] & 0x7f][..], &payload].concat()).await.unwrap();
            }
        });
        return response;
    }
    let shared = shared.clone();
    let path = head.uri.path().to_owned();
    if path == "/switch" {
        *response.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
    }
    if path == "/said" {
        let (kind, pieces) = shared.said.lock().unwrap().clone();
        response.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
        tokio::spawn(async move {
            for (n, piece) in pieces.into_iter().enumerate() {
                if n > 0 {
                    shared.next.notified().await;
                }
                let _ = parts.send(Frame::data(piece.into())).await;
            }
        });
        return response;
    }
    response.headers_mut().insert(TRAILER, HeaderValue::from_static("x-sum"));
    response.headers_mut().insert("alt-svc", HeaderValue::from_static("h3=\":443\""));
    tokio::spawn(async move {
        match path.as_str() {
            "/events" => {
                let _ = parts.send(Frame::data("data: 1\n\n".into())).await;
                shared.next.notified().await;
            }
            "/together" => {
                shared.together.wait().await;
            }
            _ => {}
        }
        let _ = parts.send(Frame::data(seen.to_string().into())).await;
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("42"))]);
        let _ = parts.send(Frame::trailers(trailers)).await;
    });
    response
}

pub(crate) fn fields(headers: &HeaderMap) -> Value {
    let mut out = json!({});
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let before = out[name.as_str()].as_str().map(|before| format!("{before} | ")).unwrap_or_default();
        out[name.as_str()] = format!("{before}{value}").into();
    }
    out
}

/// A client inside a tunnel.
pub(crate) enum Client {
    Http1(conn::http1::SendRequest<Parts>),
    Http2(conn::http2::SendRequest<Parts>),
}

/// What it was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Value,
}

impl Answer {
    /// What the origin saw of the request.
    pub(crate) fn seen(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// TLS in a tunnel to `target`, as a client that trusts `pem`.
pub(crate) async fn tls(
    proxy: &ProxyClient,
    pem: &str,
    target: &str,
    sni: &str,
    protocol: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tunnel = proxy.tunnel(target)?;
    tunnel.set_nonblocking(true)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector.connect(ServerName::try_from(sni.to_owned())?, TcpStream::from_std(tunnel)?).await?;
    assert_eq!(tls.get_ref().1.alpn_protocol().unwrap_or(b"http/1.1"), protocol.as_bytes());
    Ok(tls)
}

impl Client {
    /// Inside a tunnel to `host:443`, speaking `protocol`.
    pub(crate) async fn open(proxy: &ProxyClient, host: &str, protocol: &str) -> Result<Self> {
        let tls = tls(proxy, &proxy.ca_pem, &format!("{host}:443"), host, protocol).await?;
        let io = TokioIo::new(tls);
        if protocol == "h2" {
            let (client, connection) = conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            return Ok(Self::Http2(client));
        }
        let (client, connection) = conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(Self::Http1(client))
    }

    /// The response's head, its body still to come.
    pub(crate) async fn begin(&self, request: Request<Parts>) -> Result<Response<Incoming>> {
        match self {
            Self::Http2(client) => Ok(client.clone().send_request(request).await?),
            Self::Http1(_) => anyhow::bail!("HTTP/1.1 is sent with `send`"),
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Parts>) -> Result<Answer> {
        let response = match self {
            Self::Http2(client) => client.send_request(request).await?,
            Self::Http1(client) => {
                client.ready().await?;
                client.send_request(request).await?
            }
        };
        collected(response).await
    }
}

pub(crate) async fn collected(response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.context("the response's body")?;
    let trailers = body.trailers().map(fields).unwrap_or_default();
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
}
