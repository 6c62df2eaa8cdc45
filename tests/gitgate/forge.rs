//! A real git over HTTPS: `git http-backend` behind a small server with TLS, which asks for its token and, where a test
//! says so, answers as no honest one would.

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::wire::Authority;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{IpAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What opens it.
pub(crate) const TOKEN: &str = "forge-8Kd2WmPq7TzXv4Rc";
const CHUNK: usize = 64 << 10;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// How it answers from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Sends everybody elsewhere.
    Redirects,
    /// A page for people.
    Page,
    /// Branches without end.
    Endless,
    /// Breaks off in the middle of what a fetch brings.
    BreaksOff,
    /// Squeezed, without being asked.
    Squeezed,
    Busy,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Forge(Arc<Shared>);

struct Shared {
    root: PathBuf,
    manner: Mutex<Manner>,
    asked: Mutex<Vec<String>>,
}

impl Forge {
    /// Serves what is below `root` on port 443 of that address, as that host, in the calling thread's network.
    pub(crate) fn start(authority: &Authority, root: &Path, address: IpAddr, host: &str) -> Result<Self> {
        let acceptor = TlsAcceptor::from(authority.server_config(&[host])?);
        let shared =
            Arc::new(Shared { root: root.into(), manner: Mutex::new(Manner::Honest), asked: Mutex::default() });
        let listener = StdListener::bind((address, 443)).context("listen as a forge")?;
        listener.set_nonblocking(true)?;
        let own = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(accept(listener, acceptor, own))
        });
        Ok(Self(shared))
    }

    pub(crate) fn answers(&self, manner: Manner) {
        *self.0.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Methods and paths of all that asked, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: StdListener, acceptor: TlsAcceptor, shared: Arc<Shared>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { answer(request, shared).await }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Answer, std::io::Error> {
    let (head, body) = request.into_parts();
    let manner = *shared.manner.lock().unwrap_or_else(PoisonError::into_inner);
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {}", head.method, head.uri));
    let header =
        |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}")));
    if header(AUTHORIZATION) != expected {
        let mut response = whole(401, "who are you?\n");
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Basic realm=\"forge\""));
        return Ok(response);
    }
    match manner {
        Manner::Redirects => {
            let mut response = whole(302, "");
            response
                .headers_mut()
                .insert(LOCATION, HeaderValue::from_static("https://evil.example/o/web.git/info/refs"));
            return Ok(response);
        }
        Manner::Page => return Ok(whole(200, "<html>please log in</html>")),
        Manner::Busy => return Ok(whole(503, "later")),
        _ => {}
    }
    let asks = head.method == "POST" && head.uri.path().ends_with("/git-upload-pack");
    if manner == Manner::Endless && asks {
        let line = format!("0043{} refs/heads/0123456789\n", "1a".repeat(20));
        let lines = Bytes::from(line.repeat(1024));
        let frames = std::iter::repeat_with(move || Ok(Frame::data(lines.clone())));
        return Ok(of_upload_pack(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()));
    }
    let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let wants_pack = asks && bytes.windows(13).any(|word| word == b"command=fetch");
    let variables = vec![
        ("GIT_PROJECT_ROOT", shared.root.to_string_lossy().into_owned()),
        ("GIT_HTTP_EXPORT_ALL", "1".to_owned()),
        ("PATH_INFO", head.uri.path().to_owned()),
        ("QUERY_STRING", head.uri.query().unwrap_or_default().to_owned()),
        ("REQUEST_METHOD", head.method.to_string()),
        ("CONTENT_TYPE", header(CONTENT_TYPE)),
        ("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING)),
        ("HTTP_GIT_PROTOCOL", header(HeaderName::from_static("git-protocol"))),
        ("REMOTE_USER", "agent".to_owned()),
        ("CONTENT_LENGTH", bytes.len().to_string()),
    ];
    let said =
        tokio::task::spawn_blocking(move || backend(variables, &bytes)).await.map_err(std::io::Error::other)??;
    let mut response = read(said);
    if manner == Manner::Squeezed {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if manner == Manner::BreaksOff && wants_pack {
        let half = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        response = of_upload_pack(Full::new(half.slice(..half.len() / 2)).boxed_unsync());
    }
    Ok(response)
}

fn of_upload_pack(body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/x-git-upload-pack-result");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn backend(variables: Vec<(&str, String)>, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut command = Command::new("git");
    command.arg("http-backend").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(variables);
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut said = vec![];
    thread::scope(|scope| {
        // It may answer before it has read all.
        scope.spawn(move || stdin.write_all(body));
        stdout.read_to_end(&mut said)
    })?;
    child.wait()?;
    Ok(said)
}

/// What a program of CGI's has said.
fn read(said: Vec<u8>) -> Answer {
    let end = said.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(said.len().saturating_sub(4));
    let mut response =
        Response::new(StreamBody::new(futures_util::stream::iter(chunks(&said[end + 4..]))).boxed_unsync());
    for line in String::from_utf8_lossy(&said[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if name == "Status" {
            *response.status_mut() = StatusCode::from_bytes(&value.as_bytes()[..3]).unwrap();
        } else {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
    }
    response
}

fn chunks(bytes: &[u8]) -> Vec<Result<Frame<Bytes>, Infallible>> {
    bytes.chunks(CHUNK).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect()
}

fn whole(status: u16, text: &'static str) -> Answer {
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}
