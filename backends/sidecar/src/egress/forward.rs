//! One request: judged, cleaned, given its credential, sent, and its response passed back as it arrives.

use super::{
    Live, Place,
    body::{Body, Received, Sent},
    deny, download, headers,
    pool::Pool,
    record::Record,
    upload, websocket,
};
use bottle_policy::{Denial, Mode, Route, Scheme, Verdict, decide};
use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{ACCEPT_ENCODING, HOST, HeaderValue, TRANSFER_ENCODING},
    http::uri,
};
use std::{borrow::Cow, sync::Arc};

/// A request that is sent on.
pub(super) struct Judged<'l> {
    pub(super) route: Cow<'l, Route>,
    /// The rule that would have refused it.
    audited: Option<Denial>,
}

impl Judged<'_> {
    pub(super) fn note(&self, record: &mut Record, status: u16) {
        match &self.audited {
            None => record.allowed(&self.route.host, status),
            Some(denial) => record.audited(denial.rule, status),
        }
    }
}

/// Forwards a request to the pool's host, or refuses it.
pub(super) async fn forward(pool: Arc<Pool>, place: Place, request: Request<Incoming>) -> Response<Body> {
    let (pool, place) = (&pool, &place);
    let state = &pool.state;
    let method = request.method().as_str();
    let mut record = Record::begin(&state.feed, &state.secrets, &pool.target.name, method, request.uri().path());
    record.busy = Some(pool.in_use.enter());
    let live = state.live();
    let judged = judge(&live, pool, &request);
    let bodiless = request.method() == Method::HEAD;
    // One that is given up before it is answered was sent all the same.
    judged.iter().for_each(|(judged, _)| judged.note(&mut record, 0));
    match judged {
        Ok((judged, true)) => websocket::open(pool, place, &live, &judged, request, record).await,
        Ok((judged, false)) => match send(pool, &live, &judged.route, request, &mut record).await {
            Ok((mut response, lease)) => {
                judged.note(&mut record, response.status().as_u16());
                // What answers HEAD has a body's headers and no body: there is nothing to wait for, and HTTP/2 breaks off.
                let looked_at = match bodiless {
                    true => Ok(None),
                    false => download::judged(&live, &judged.route, &pool.target.host, &mut response).await,
                };
                match looked_at {
                    Ok(download) => {
                        passed_back(response, |inner| Received { inner, download, record, lease, ended: false })
                    }
                    Err(denial) => refused(pool, record, &denial),
                }
            }
            Err(denial) => refused(pool, record, &denial),
        },
        Err(denial) => refused(pool, record, &denial),
    }
}

/// A response as the client gets it.
pub(super) fn passed_back(response: Response<Incoming>, follow: impl FnOnce(Incoming) -> Received) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    headers::clean_response(&mut head.headers);
    head.extensions.clear();
    head.version = Version::HTTP_11; // hyper says it in the client's protocol
    Response::from_parts(head, Body::Received(Box::new(follow(body))))
}

/// A refusal as the client gets it.
pub(super) fn refused(pool: &Pool, mut record: Record, denial: &Denial) -> Response<Body> {
    record.denied(denial);
    deny::response(denial, &pool.target.name)
}

/// The verdict, and whether the request asks for a WebSocket.
fn judge<'l>(live: &'l Live, pool: &Pool, request: &Request<Incoming>) -> Result<(Judged<'l>, bool), Denial> {
    let (uri, target) = (request.uri(), &pool.target);
    let host_header = named_host(request, target.scheme)?;
    framed(request)?;
    let judged = bottle_policy::Request {
        scheme: target.scheme,
        host: &target.host,
        port: target.port,
        host_header,
        method: request.method().as_str(),
        path: uri.path(),
        query: uri.query(),
    };
    let judged = match decide(&live.policy, &judged) {
        Verdict::Allow(route) => Judged { route: Cow::Borrowed(route), audited: None },
        Verdict::Deny(denial) if live.policy.mode == Mode::Audit && !denial.stands_in_audit() => {
            Judged { route: Cow::Owned(audit_route(live, &target.host)), audited: Some(denial) }
        }
        Verdict::Deny(denial) => return Err(denial),
    };
    Ok((judged, websocket::is_asked_for(request)?))
}

/// The place that the request itself names, if it names one and only one.
fn named_host(request: &Request<Incoming>, scheme: Scheme) -> Result<Option<&str>, Denial> {
    let uri = request.uri();
    if request.method() == Method::CONNECT {
        return Err(Denial::forbidden("method", "a tunnel within a connection is never allowed"));
    }
    let mut hosts = request.headers().get_all(HOST).iter().map(|value| value.to_str().unwrap_or_default());
    let host = match (hosts.next(), hosts.next()) {
        (host, None) => host,
        _ => return Err(Denial::bad_request("host-mismatch", "the request has two Host headers")),
    };
    if scheme == Scheme::Http {
        return Ok(host);
    }
    let Some(authority) = uri.authority().map(uri::Authority::as_str) else {
        // HTTP/2 has it always: what has none was translated badly.
        return if request.version() == Version::HTTP_2 { Ok(None) } else { Ok(host) };
    };
    if request.version() != Version::HTTP_2 {
        return Err(Denial::bad_request("target", "a request inside a tunnel names a path, not a URL"));
    }
    if uri.scheme_str() != Some("https") {
        return Err(Denial::bad_request("target", "a request inside a tunnel has the scheme https"));
    }
    if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority)) {
        return Err(Denial::bad_request("host-mismatch", "the Host header names another place than :authority"));
    }
    Ok(Some(authority))
}

/// What is not just chunked would reach the host as it was named here, and be framed by whoever believes it.
fn framed(request: &Request<Incoming>) -> Result<(), Denial> {
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Denial::bad_request("framing", "the request has another transfer encoding than chunked")),
    }
}

/// In audit mode, the way of a request that no route allows: its host's own rules for dialling hold, and no credential
/// is put in. What stands in for one is taken out where one would have been put in.
fn audit_route(live: &Live, host: &str) -> Route {
    let own = live.policy.routes.iter().find(|route| route.host.eq_ignore_ascii_case(host));
    let mut route = own.cloned().unwrap_or_else(|| Route::to(host));
    route.strip_credentials |= route.auth.is_some();
    route.auth = None;
    route
}

/// The request as it may leave.
pub(super) fn cleaned(
    pool: &Pool,
    live: &Live,
    route: &Route,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Request<Body>, Denial> {
    let (mut head, inner) = request.into_parts();
    head.extensions.clear();
    headers::clean_request(&mut head.headers);
    let strip = route.strip_credentials || route.auth.is_some();
    if strip {
        headers::strip_credentials(&mut head.headers);
        if let Some(query) = head.uri.query() {
            let target = match headers::strip_query(query) {
                Some(query) => format!("{}?{query}", head.uri.path()),
                None => head.uri.path().to_owned(),
            };
            head.uri = target
                .parse::<Uri>()
                .map_err(|_| Denial::bad_request("target", "the request cannot be sent on as it is"))?;
        }
    }
    record.found(live.guard.head(route, &pool.target.host, &head)?);
    if let Some(auth) = &route.auth {
        // What comes back has to be read: nothing of the credential may be in it.
        head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let missing = |why: String| Denial { rule: "credential", status: 502, reason: why };
        let secret = pool
            .state
            .secrets
            .get(&auth.secret)
            .ok_or_else(|| missing(format!("the credential {} of this route is missing", auth.secret)))?;
        headers::inject(&mut head.headers, auth.scheme, secret).map_err(|e| missing(format!("{e:#}")))?;
    }
    Ok(Request::from_parts(head, Body::Sent(Sent { inner, bytes: record.sent.clone(), strip })))
}

async fn send(
    pool: &Arc<Pool>,
    live: &Arc<Live>,
    route: &Route,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<(Response<Incoming>, Option<super::pool::Lease>), Denial> {
    let request = cleaned(pool, live, route, request, record)?;
    let (request, findings) = upload::judged(live, route, &pool.target.host, request).await?;
    record.upload = findings.clone();
    let sent = pool.send(live, route, request).await;
    // A connection that broke was broken off by us.
    let (response, lease) = sent.map_err(|denial| findings.refusal().unwrap_or(denial))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let reason = format!("{} changes to a protocol that was not asked for", pool.target.host);
        return Err(Denial { rule: "upstream", status: 502, reason });
    }
    Ok((response, lease))
}
