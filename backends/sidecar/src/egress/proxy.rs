//! A client's connection: who may use the proxy, and whether it asks for a tunnel or sends a plain request.

use super::{Body, Place, State, deny, forward, record::Record, tunnel};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_policy::{Denial, Scheme, message::CHALLENGE_RULE};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, PROXY_AUTHORIZATION},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::net::TcpStream;

/// How long a client may take to send the head of a request.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(30);
/// Answers inside the proxy with the live routes.
const INTROSPECTION: (&str, &str) = ("_egress.local", "/allowlist");

/// Serves one client until it goes.
pub(super) async fn serve(state: Arc<State>, stream: TcpStream, place: Place) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let (state, place) = (state.clone(), place.clone());
        async move { Ok::<_, Infallible>(answer(state, request, place).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn answer(state: Arc<State>, request: Request<Incoming>, place: Place) -> Response<Body> {
    let target = request.uri().authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
    if !knows_capability(request.headers(), state.capability.expose()) {
        // Some clients ask without a password first, to learn that one is wanted.
        let challenge = !request.headers().contains_key(PROXY_AUTHORIZATION);
        let denial = Denial {
            rule: if challenge { CHALLENGE_RULE } else { "capability" },
            status: 407,
            reason: "this proxy wants its bottle's password, which is in the proxy variables".into(),
        };
        return refuse(&state, &request, &target, &denial);
    }
    if request.method() == Method::CONNECT {
        let bare = request.uri().scheme().is_none();
        return match split_authority(&target, None) {
            Some((host, port)) if bare => tunnel::open(state, request, host, port, place),
            _ => refuse(&state, &request, &target, &bad_target()),
        };
    }
    let scheme = request.uri().scheme_str().map(str::to_owned);
    match (scheme.as_deref(), split_authority(&target, Some(80))) {
        (Some("http"), Some((host, 80))) if host == INTROSPECTION.0 => introspect(&state, &request),
        (Some("http"), Some((host, port))) => {
            forward::forward(&state, Scheme::Http, &host, port, request, &mut None).await
        }
        _ => refuse(&state, &request, &target, &bad_target()),
    }
}

fn bad_target() -> Denial {
    Denial::bad_request("target", "a proxy request names an http:// URL, or host:port with CONNECT, without userinfo")
}

fn refuse(state: &State, request: &Request<Incoming>, target: &str, denial: &Denial) -> Response<Body> {
    let path = request.uri().path();
    Record::begin(&state.feed, &state.secrets, target, request.method().as_str(), path).denied(denial);
    deny::response(denial, target)
}

/// `host:port` apart, the host in lower case. `None` with userinfo, or without a port where there is no default.
fn split_authority(authority: &str, default_port: Option<u16>) -> Option<(String, u16)> {
    if authority.contains('@') {
        return None;
    }
    let parsed: hyper::http::uri::Authority = authority.parse().ok()?;
    let port = match parsed.port() {
        // `+443` is a number to the parser, and no port.
        Some(port) => port.as_str().parse().ok().filter(|_| !port.as_str().starts_with('+'))?,
        None => default_port?,
    };
    (!parsed.host().is_empty()).then(|| (parsed.host().to_ascii_lowercase(), port))
}

/// The routes, never a value of anything secret.
fn introspect(state: &State, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET || request.uri().path() != INTROSPECTION.1 {
        let denial = Denial { rule: "introspection", status: 404, reason: "only GET /allowlist answers here".into() };
        return refuse(state, request, INTROSPECTION.0, &denial);
    }
    let live = state.live();
    let routes: Vec<_> = live
        .policy
        .routes
        .iter()
        .map(|r| json!({"host": r.host, "ports": r.ports, "paths": r.paths, "methods": r.methods}))
        .collect();
    let mut response = deny::plain(StatusCode::OK, format!("{}\n", json!({ "routes": routes })));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Does the request carry the capability as its proxy password? Compared in constant time.
fn knows_capability(headers: &HeaderMap, capability: &[u8]) -> bool {
    let given = headers
        .get(PROXY_AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| BASE64_STANDARD.decode(encoded.trim()).ok())
        .and_then(|pair| pair.iter().position(|b| *b == b':').map(|i| pair[i + 1..].to_vec()));
    given.is_some_and(|password| {
        password.len() == capability.len()
            && password.iter().zip(capability).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_capability_opens_the_proxy() {
        let with = |value: &str| HeaderMap::from_iter([(PROXY_AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        let basic = |text: &str| with(&format!("Basic {}", BASE64_STANDARD.encode(text)));
        assert!(knows_capability(&basic("bottle:secret"), b"secret"));
        for headers in
            [basic("bottle:secre"), basic("bottle:"), basic("secret"), with("Bearer secret"), with("Basic x")]
        {
            assert!(!knows_capability(&headers, b"secret"));
        }
        assert!(!knows_capability(&HeaderMap::new(), b"secret"));
    }

    #[test]
    fn targets_are_split_strictly() {
        assert_eq!(split_authority("A.example:443", None), Some(("a.example".into(), 443)));
        assert_eq!(split_authority("[2001:db8::1]:443", None), Some(("[2001:db8::1]".into(), 443)));
        assert_eq!(split_authority("a.example", Some(80)), Some(("a.example".into(), 80)));
        for bad in
            ["a.example", "u@a.example:443", "a.example:70000", "a.example:", "a.example:+443", ":443", "", "a b:1"]
        {
            assert_eq!(split_authority(bad, None), None, "{bad}");
        }
    }
}
