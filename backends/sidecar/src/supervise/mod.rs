//! The agent's questions to its operator: an MCP server on port 9100, for whoever knows the bottle's capability.
//!
//! ```text
//! agent ─ HTTP (capability, Host, Origin) ─ tools ─▶ pending ─▶ bundle ─▶ host: the queue, a person
//!                                                       ◀── answers ──┘
//! ```
//!
//! It decides nothing. A proposal is the host's as soon as the host has answered once: a life of this daemon that ends
//! loses none, because the agent may ask again by the proposal's id, and the host knows.
//!
//! Each request is served by itself (MCP's sessions are never made), so that no client leaves anything behind. Every
//! number of things is bounded here, not by rmcp: clients, bytes of a request, calls that wait.

mod pending;
mod tools;

use crate::{
    daemon::{Answers, DaemonStart, DaemonUp, Reloads},
    feed::Feed,
    listeners,
};
use anyhow::{Context, Result};
use bottle_api::{
    control::{CAPABILITY, SIDECAR_NAMES, SUPERVISE_PORT},
    secret::{Secret, Secrets},
};
use bottle_policy::{Auth, Policy, Route};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, HeaderMap},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use pending::Pending;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tools::Tools;

/// Clients at once; one more waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to send the head of a request, from the end of the one before it.
const HEAD_TIME: Duration = Duration::from_secs(60);
const MAX_HEAD: usize = 16 << 10;
/// The longest proposal, each of its characters escaped.
const MAX_BODY: usize = 256 << 10;
/// How often a silent stream shows that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Service = StreamableHttpService<Tools, NeverSessionManager>;

/// What this daemon is told of a policy: what an agent may know of it.
pub(crate) fn shown(policy: &Policy) -> Policy {
    let nameless = |auth: &Auth| Auth { secret: String::new(), ..auth.clone() };
    let route = |route: &Route| Route { auth: route.auth.as_ref().map(nameless), ..route.clone() };
    Policy { mode: policy.mode, routes: policy.routes.iter().map(route).collect(), ..Policy::default() }
}

/// Serves on `start.bind` for ever, or at the listener that it is lent.
pub(crate) async fn serve(
    start: DaemonStart,
    lent: &[&str],
    secrets: Secrets,
    reloads: Reloads,
    answers: Answers,
    feed: Feed,
) -> Result<()> {
    let capability = secrets.get(CAPABILITY).context("the host sent no capability")?.clone();
    let pending = Arc::new(Pending::new(start.policy, feed.clone()));
    let listener = listeners::supervise(start.bind, lent).await?;
    let service = service(start.bind, pending.clone());
    feed.report(DaemonUp::Listening);
    tokio::select! {
        () = accept(&listener, Arc::new(capability), service) => Ok(()),
        () = follow(&pending, reloads, answers) => Ok(()),
    }
}

fn service(bind: IpAddr, pending: Arc<Pending>) -> Service {
    // By any other name a request was not meant for this server: a page in a browser of the bottle's may have made it.
    let hosts = SIDECAR_NAMES.iter().map(|name| format!("{name}:{SUPERVISE_PORT}"));
    let address = std::net::SocketAddr::new(bind, SUPERVISE_PORT).to_string();
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_allowed_hosts(hosts.chain([address]))
        .enforce_origin_validation()
        .with_sse_keep_alive(Some(KEEP_ALIVE))
        .with_sse_retry(None)
        .with_max_request_body_bytes(MAX_BODY);
    StreamableHttpService::new(move || Ok(Tools::new(pending.clone())), Arc::default(), config)
}

/// Passes on what the bundle says.
async fn follow(pending: &Pending, mut reloads: Reloads, mut answers: Answers) {
    loop {
        tokio::select! {
            policy = reloads.recv() => match policy {
                Some(policy) => pending.replace(policy),
                None => return,
            },
            answer = answers.recv() => match answer {
                Some((id, answer)) => pending.answered(&id, answer),
                None => return,
            },
        }
    }
}

async fn accept(listener: &TcpListener, capability: Arc<Secret>, service: Service) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await; // out of descriptors: some will close
            continue;
        };
        let (capability, service) = (capability.clone(), service.clone());
        tokio::spawn(async move {
            converse(stream, &capability, &service).await;
            drop(permit);
        });
    }
}

async fn converse(stream: TcpStream, capability: &Secret, service: &Service) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(match knows_capability(request.headers(), capability.expose()) {
            true => service.handle(request).await,
            false => refused(),
        })
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

fn refused() -> Response<BoxBody<Bytes, Infallible>> {
    let body = "this server wants its bottle's capability as a bearer token\n";
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())).boxed());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

/// Compared in constant time.
fn knows_capability(headers: &HeaderMap, capability: &[u8]) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked("bearer ".len()));
    given.is_some_and(|(scheme, token)| {
        scheme.eq_ignore_ascii_case(b"bearer ")
            && token.len() == capability.len()
            && token.iter().zip(capability).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    })
}

#[cfg(test)]
mod tests;
