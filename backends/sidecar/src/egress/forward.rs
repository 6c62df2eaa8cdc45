//! One request: judged, cleaned, given its credential, sent, and its response passed back as it arrives.

use super::{Body, Live, State, deny, headers, record::Record, upstream::Upstream};
use bottle_policy::{Denial, Route, Scheme, Verdict, decide};
use hyper::{
    Request, Response, Uri, Version,
    body::Incoming,
    header::{HOST, HeaderValue, UPGRADE},
};

/// Forwards a request, or refuses it. `upstream` keeps the connection of this client to this host between requests.
pub(super) async fn forward(
    state: &State,
    scheme: Scheme,
    host: &str,
    port: u16,
    request: Request<Incoming>,
    upstream: &mut Option<Upstream>,
) -> Response<Body> {
    let place = format!("{host}:{port}");
    let method = request.method().as_str().to_owned();
    let mut record = Record::begin(&state.feed, &state.secrets, &place, &method, request.uri().path());
    let live = state.live();
    let result = match judge(&live, scheme, host, port, &request) {
        Ok(route) => {
            send(state, &live, route, scheme, host, port, request, upstream, &record).await.map(|r| (route, r))
        }
        Err(denial) => Err(denial),
    };
    match result {
        Ok((route, response)) => {
            let (mut head, body) = response.into_parts();
            headers::clean_response(&mut head.headers);
            record.allowed(&route.host, head.status.as_u16());
            Response::from_parts(head, record.follow(body))
        }
        Err(denial) => {
            record.denied(&denial);
            deny::response(&denial, &place)
        }
    }
}

fn judge<'s>(
    live: &'s Live,
    scheme: Scheme,
    host: &str,
    port: u16,
    request: &Request<Incoming>,
) -> Result<&'s Route, Denial> {
    let uri = request.uri();
    if scheme == Scheme::Https && uri.authority().is_some() {
        return Err(Denial::bad_request("target", "a request inside a tunnel names a path, not a URL"));
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host_header = match (hosts.next(), hosts.next()) {
        (Some(value), None) => Some(value.to_str().unwrap_or_default()),
        (None, _) => None,
        _ => {
            return Err(Denial::bad_request("host-mismatch", "the request has two Host headers"));
        }
    };
    let judged = bottle_policy::Request {
        scheme,
        host,
        port,
        host_header,
        method: request.method().as_str(),
        path: uri.path(),
        query: uri.query(),
    };
    match decide(&live.policy, &judged) {
        Verdict::Deny(denial) => Err(denial),
        Verdict::Allow(_) if request.headers().contains_key(UPGRADE) => {
            Err(Denial { rule: "upgrade", status: 501, reason: "protocol upgrades are not supported yet".into() })
        }
        Verdict::Allow(route) => Ok(route),
    }
}

#[allow(clippy::too_many_arguments)] // one call site; a struct would only name the same nine things again
async fn send(
    state: &State,
    live: &Live,
    route: &Route,
    scheme: Scheme,
    host: &str,
    port: u16,
    request: Request<Incoming>,
    upstream: &mut Option<Upstream>,
    record: &Record,
) -> Result<Response<Incoming>, Denial> {
    let (mut head, body) = request.into_parts();
    headers::clean_request(&mut head.headers);
    let mut query = head.uri.query().map(str::to_owned);
    if route.strip_credentials || route.auth.is_some() {
        headers::strip_credentials(&mut head.headers);
        query = query.and_then(|q| headers::strip_query(&q));
    }
    if let Some(auth) = &route.auth {
        let missing = |why: String| Denial { rule: "credential", status: 502, reason: why };
        let secret = state
            .secrets
            .get(&auth.secret)
            .ok_or_else(|| missing(format!("the credential {} of this route is missing", auth.secret)))?;
        headers::inject(&mut head.headers, auth.scheme, secret).map_err(|e| missing(format!("{e:#}")))?;
    }
    let target = match query {
        Some(query) => format!("{}?{query}", head.uri.path()),
        None => head.uri.path().to_owned(),
    };
    let unsendable = || Denial::bad_request("target", "the request cannot be sent on as it is");
    head.uri = target.parse::<Uri>().map_err(|_| unsendable())?;
    head.version = Version::HTTP_11;
    let default_port = if scheme == Scheme::Https { 443 } else { 80 };
    let name = if port == default_port { host.to_owned() } else { format!("{host}:{port}") };
    head.headers.insert(HOST, HeaderValue::from_str(&name).map_err(|_| unsendable())?);

    let request = Request::from_parts(head, record.count_sent(body));
    live.upstream.send(upstream, route, scheme, host, port, request).await
}
