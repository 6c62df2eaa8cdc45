//! The connections of one client to one host. Nothing is shared with another host, nor with another client: what one
//! was granted cannot reach the other by a kept connection.

use super::{Live, State, body::Body, upstream::Upstream};
use bottle_policy::{Denial, Route, Scheme};
use hyper::{
    Request, Response, Uri, Version,
    body::{Body as _, Incoming},
    client::conn::{http1, http2},
    header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING},
    http::uri::{self, Authority, PathAndQuery},
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Connections of a client to a host that speaks HTTP/1.1, which serve one request each.
const MAX_CONNECTIONS: usize = 8;
/// How often a request is begun anew because its connection closed before a byte of it went out.
const MAX_ATTEMPTS: usize = 3;
/// How long a connection has to settle after its last response; an upload that nobody waits for may go on and on.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Where requests go: what was asked for with CONNECT, or the place in an absolute URL.
pub(crate) struct Target {
    pub(super) scheme: Scheme,
    /// In lower case, an IPv6 address in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// `host:port`.
    pub(super) name: String,
    /// As it is written in a request: without the scheme's own port.
    authority: Authority,
    host_header: HeaderValue,
}

impl Target {
    /// `None` where no request could name it.
    pub(crate) fn new(scheme: Scheme, host: String, port: u16) -> Option<Self> {
        let name = format!("{host}:{port}");
        let default_port = if scheme == Scheme::Https { 443 } else { 80 };
        let written = if port == default_port { &host } else { &name };
        let authority = written.parse().ok()?;
        let host_header = HeaderValue::from_str(written).ok()?;
        Some(Self { scheme, host, port, name, authority, host_header })
    }
}

/// How many requests are under way.
#[derive(Clone, Default)]
pub(super) struct InUse(Arc<AtomicUsize>);

/// One of them.
pub(super) struct Busy(Arc<AtomicUsize>);

impl InUse {
    pub(super) fn enter(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(self.0.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections.
pub(super) struct Pool {
    pub(super) state: Arc<State>,
    pub(super) target: Target,
    pub(super) in_use: InUse,
    kept: Mutex<Kept>,
    /// Held by the first to connect: only then is known which protocol the host speaks.
    opening: AsyncMutex<()>,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Kept {
    /// The table under which they were made. None outlives it.
    table: Option<Arc<Live>>,
    shared: Option<http2::SendRequest<Body>>,
    idle: Vec<http1::SendRequest<Body>>,
    speaks_http1: bool,
}

/// A connection that serves one request at a time, on loan to a response.
pub(super) struct Lease {
    pool: Arc<Pool>,
    table: Arc<Live>,
    upstream: http1::SendRequest<Body>,
    _place: OwnedSemaphorePermit,
}

impl Lease {
    /// The response was read to its end.
    pub(super) fn give_back(self) {
        let mut kept = self.pool.kept();
        if kept.table.as_ref().is_some_and(|table| Arc::ptr_eq(table, &self.table)) {
            kept.idle.push(self.upstream);
        }
    }
}

impl Pool {
    pub(super) fn new(state: Arc<State>, target: Target, in_use: InUse) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Arc::new(Self { state, target, in_use, kept: Mutex::default(), opening: AsyncMutex::default(), places })
    }

    /// Sends a request over a kept connection, or over a new one.
    pub(super) async fn send(
        self: &Arc<Self>,
        live: &Arc<Live>,
        route: &Route,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Option<Lease>), Denial> {
        self.adopt(live);
        for _ in 0..MAX_ATTEMPTS {
            if let Some(mut shared) = self.shared() {
                self.target.dress_http2(&mut request)?;
                match shared.try_send_request(request).await {
                    Ok(response) => return Ok((response, None)),
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(self.broken(&error.into_error())),
                    },
                }
                self.kept().shared = None;
            }
            let place = self.places.clone().acquire_owned().await.map_err(|_| self.gone())?;
            self.target.dress_http1(&mut request)?;
            while let Some(mut upstream) = self.idle() {
                if !upstream.is_ready() && !matches!(timeout(SETTLE_TIME, upstream.ready()).await, Ok(Ok(()))) {
                    continue;
                }
                match upstream.try_send_request(request).await {
                    Ok(response) => return Ok((response, Some(self.lease(live, upstream, place)))),
                    // The host closed the idle connection before a byte of the request went out.
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(self.broken(&error.into_error())),
                    },
                }
            }
            let mut opening = None;
            if !self.kept().speaks_http1 {
                opening = Some(self.opening.lock().await);
                if self.shared().is_some() {
                    continue;
                }
                if self.kept().speaks_http1 {
                    opening = None;
                }
            }
            let made = live.upstream.connect(&self.state.secrets, route, &self.target).await?;
            match made {
                Upstream::Http2(upstream) => self.kept().shared = Some(upstream),
                Upstream::Http1(mut upstream) => {
                    self.kept().speaks_http1 = true;
                    drop(opening);
                    let response = upstream.send_request(request).await.map_err(|e| self.broken(&e))?;
                    return Ok((response, Some(self.lease(live, upstream, place))));
                }
            }
        }
        Err(self.gone())
    }

    fn lease(
        self: &Arc<Self>,
        live: &Arc<Live>,
        upstream: http1::SendRequest<Body>,
        place: OwnedSemaphorePermit,
    ) -> Lease {
        Lease { pool: self.clone(), table: live.clone(), upstream, _place: place }
    }

    /// What was made under another table is let go.
    fn adopt(&self, live: &Arc<Live>) {
        let mut kept = self.kept();
        if !kept.table.as_ref().is_some_and(|table| Arc::ptr_eq(table, live)) {
            *kept = Kept { table: Some(live.clone()), ..Kept::default() };
        }
    }

    fn shared(&self) -> Option<http2::SendRequest<Body>> {
        self.kept().shared.as_ref().filter(|shared| !shared.is_closed()).cloned()
    }

    fn idle(&self) -> Option<http1::SendRequest<Body>> {
        let mut kept = self.kept();
        while let Some(upstream) = kept.idle.pop() {
            if !upstream.is_closed() {
                return Some(upstream);
            }
        }
        None
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host closed the connection, or spoke no HTTP.
    pub(super) fn broken(&self, error: &hyper::Error) -> Denial {
        let mut reason = format!("{} broke the connection: {error}", self.target.host);
        if let Some(source) = std::error::Error::source(error) {
            reason += &format!(": {source}");
        }
        Denial { rule: "upstream", status: 502, reason }
    }

    fn gone(&self) -> Denial {
        let reason = format!("{} closes every connection before a request", self.target.host);
        Denial { rule: "upstream", status: 502, reason }
    }
}

impl Target {
    /// A request as HTTP/1.1 has it.
    pub(super) fn dress_http1(&self, request: &mut Request<Body>) -> Result<(), Denial> {
        *request.version_mut() = Version::HTTP_11;
        self.set_uri(request, None)?;
        let unknown_length = request.body().size_hint().exact().is_none();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host_header.clone());
        headers.remove(TRANSFER_ENCODING);
        if unknown_length {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if headers.contains_key(TE) {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        Ok(())
    }

    /// A request as HTTP/2 has it.
    fn dress_http2(&self, request: &mut Request<Body>) -> Result<(), Denial> {
        *request.version_mut() = Version::HTTP_2;
        self.set_uri(request, Some(uri::Scheme::HTTPS))?;
        let headers = request.headers_mut();
        headers.remove(HOST);
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONNECTION);
        Ok(())
    }

    fn set_uri(&self, request: &mut Request<Body>, scheme: Option<uri::Scheme>) -> Result<(), Denial> {
        let uri = request.uri_mut();
        if scheme.is_none() && uri.scheme().is_none() && uri.authority().is_none() {
            return Ok(());
        }
        let mut parts = std::mem::take(uri).into_parts();
        parts.authority = scheme.as_ref().map(|_| self.authority.clone());
        parts.scheme = scheme;
        parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        *uri = Uri::from_parts(parts)
            .map_err(|_| Denial::bad_request("target", "the request cannot be sent on as it is"))?;
        Ok(())
    }
}
