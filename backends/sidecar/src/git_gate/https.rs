//! A remote over https: git speaks plain HTTP to a port of the loopback, and this speaks verified TLS to the host.
//!
//! Only what git's smart protocol asks for passes, and only what it answers comes back: no redirect, no credential, no
//! coding, no other kind of page. Git proves itself by a header that its environment tells it: an address would stand on
//! its command line, where in namespaces everybody on the machine may read it.

use super::carrier::{Carrier, too_much};
use anyhow::{Context as _, Result, anyhow};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::secret::Secret;
use bottle_gate::{Trouble, Upstream};
use bottle_policy::{GitRemote, Scheme};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    client, header,
    header::{HeaderMap, HeaderName, HeaderValue},
    http::request,
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    convert::Infallible,
    net::{Ipv4Addr, TcpListener as StdListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinSet};

/// What git proves itself by.
const PROOF: &str = "x-bottle-gate";
/// The user that a token stands for; forges do not look at it.
const USER: &str = "x-access-token";
/// Of a request of git's, what upstream hears.
const PASSED: [HeaderName; 5] = [
    header::ACCEPT,
    header::USER_AGENT,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    HeaderName::from_static("git-protocol"),
];
const SERVICES: [&str; 2] = ["git-upload-pack", "git-receive-pack"];
const MAX_HEAD: usize = 64 << 10;
const HEAD_TIME: Duration = Duration::from_secs(60);

type Answer = Response<Either<Counted, Full<Bytes>>>;

/// One remote's.
struct Bridge {
    carrier: Arc<Carrier>,
    entry: Arc<GitRemote>,
    proof: String,
    /// `Authorization`, if there is a token.
    credential: Option<HeaderValue>,
    trouble: Trouble,
}

/// Listens on the loopback for git, as long as `listens` lives. Returns how git is told of it.
pub(super) fn listen(
    carrier: Arc<Carrier>,
    entry: Arc<GitRemote>,
    token: Option<&Secret>,
    trouble: &Trouble,
    listens: &mut JoinSet<()>,
) -> Result<Upstream> {
    let proof = random()?;
    let credential = token.map(credential).transpose()?;
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on the loopback")?;
    listener.set_nonblocking(true)?;
    let url = format!("http://{}{}", listener.local_addr()?, entry.upstream.path());
    let listener = TcpListener::from_std(listener)?;
    let (limit, pack) = (Duration::from_secs(entry.limits.seconds.into()), entry.limits.push_bytes);
    let variables = [
        ("GIT_CONFIG_COUNT", "1".to_owned()),
        ("GIT_CONFIG_KEY_0", "http.extraHeader".into()),
        ("GIT_CONFIG_VALUE_0", format!("{PROOF}: {proof}")),
    ];
    let bridge = Arc::new(Bridge { carrier, entry, proof, credential, trouble: trouble.clone() });
    listens.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let bridge = bridge.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let bridge = bridge.clone();
                    async move { Ok::<_, Infallible>(bridge.answer(request).await) }
                });
                let mut builder = server::conn::http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(Upstream {
        url,
        protocol: "http".into(),
        settings: vec!["http.proxy=".into()],
        environment: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        limit,
        pack,
        trouble: trouble.clone(),
    })
}

fn random() -> Result<String> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the kernel gave no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn credential(token: &Secret) -> Result<HeaderValue> {
    let token = token.expose_str().map(str::trim).context("the token is no text")?;
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{token}"))))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Bridge {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let proof = head.headers.get(PROOF).map(HeaderValue::as_bytes).unwrap_or_default();
        // Whoever does not have it is not git, and no conversation with upstream is under way for it.
        if !same(proof, self.proof.as_bytes()) {
            return said(StatusCode::FORBIDDEN, "this is not for you");
        }
        let Some(kind) = asked(&head, self.entry.upstream.path()) else {
            return self.failed("git asked for what is no fetch and no push");
        };
        match self.forward(&head, body, &kind).await {
            Ok(answer) => answer,
            Err(error) => self.failed(&format!("{error:#}")),
        }
    }

    /// Git stops asking, and the gate says why.
    fn failed(&self, why: &str) -> Answer {
        self.trouble.tell(why);
        said(StatusCode::BAD_GATEWAY, why)
    }

    async fn forward(&self, head: &request::Parts, body: Incoming, kind: &str) -> Result<Answer> {
        let stream = self.carrier.connect(&self.entry, Scheme::Https).await;
        let stream = stream.map_err(|denial| anyhow!(denial.reason))?;
        let mut builder = client::conn::http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let (mut upstream, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let response = upstream.send_request(self.outgoing(head, body)?).await.context("upstream broke off")?;
        let (head, body) = response.into_parts();
        if let Some(why) = wrong(head.status, &head.headers, kind) {
            return Err(anyhow!(why));
        }
        let mut answer = Response::new(Either::Left(Counted {
            inner: body,
            left: self.entry.limits.fetch_bytes,
            most: self.entry.limits.fetch_bytes,
            trouble: self.trouble.clone(),
        }));
        answer
            .headers_mut()
            .extend(head.headers.get(header::CONTENT_TYPE).cloned().map(|is| (header::CONTENT_TYPE, is)));
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(answer)
    }

    fn outgoing(&self, head: &request::Parts, body: Incoming) -> Result<Request<Incoming>> {
        let (host, port) = (self.entry.upstream.host(), self.entry.upstream.port());
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let host = if port == 443 { host } else { format!("{host}:{port}") };
        let path = head.uri.path_and_query().context("no path")?.clone();
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut()) = (head.method.clone(), Uri::from(path));
        let headers = request.headers_mut();
        for name in PASSED {
            headers.extend(head.headers.get(&name).cloned().map(|value| (name, value)));
        }
        headers.insert(header::HOST, HeaderValue::try_from(host)?);
        headers.extend(self.credential.clone().map(|value| (header::AUTHORIZATION, value)));
        Ok(request)
    }
}

/// The kind of answer that a request of git's wants, if it is one.
fn asked(head: &request::Parts, base: &str) -> Option<String> {
    let rest = head.uri.path().strip_prefix(base)?.strip_prefix('/')?;
    match (&head.method, head.uri.query()) {
        (&Method::GET, Some(query)) if rest == "info/refs" => {
            let service = query.strip_prefix("service=").filter(|service| SERVICES.contains(service))?;
            Some(format!("application/x-{service}-advertisement"))
        }
        (&Method::POST, None) if SERVICES.contains(&rest) => Some(format!("application/x-{rest}-result")),
        _ => None,
    }
}

/// Why an answer is none that git may have.
fn wrong(status: StatusCode, headers: &HeaderMap, kind: &str) -> Option<String> {
    let why = match status.as_u16() {
        200 => {
            let coding = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
            let is = headers.get(header::CONTENT_TYPE).and_then(|is| is.to_str().ok()).unwrap_or_default();
            let fits = is.split(';').next().is_some_and(|is| is.trim().eq_ignore_ascii_case(kind));
            return (coding || !fits).then(|| "upstream does not answer as a server of git's does".into());
        }
        300..=399 => {
            "upstream redirects elsewhere, and redirects are not followed: the manifest names the repository itself"
        }
        401 => "upstream does not take the token: it is wrong, has expired, or there is none",
        403 => "upstream forbids this to the token",
        404 => "upstream has no such repository, or hides it from the token",
        429 => "upstream is asked too often; try again later",
        _ => return Some(format!("upstream answered {}", status.as_u16())),
    };
    Some(format!("{why} ({})", status.as_u16()))
}

fn said(status: StatusCode, why: &str) -> Answer {
    let mut answer = Response::new(Either::Right(Full::from(format!("{why}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// Are they the same? In a time that does not tell how much of them is.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

/// What upstream answers, up to so many bytes.
struct Counted {
    inner: Incoming,
    left: u64,
    most: u64,
    trouble: Trouble,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = anyhow::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.trouble.tell("upstream broke off");
                return Poll::Ready(Some(Err(error.into())));
            }
            None => return Poll::Ready(None),
        };
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => {
                let why = too_much(self.most);
                self.trouble.tell(why.clone());
                return Poll::Ready(Some(Err(anyhow!(why))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
