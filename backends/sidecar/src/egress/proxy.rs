//! A client's connection: who may use the proxy, and whether it asks for a tunnel or sends a plain request.

use super::{
    IDLE_TIME, Place, State,
    body::Body,
    connection, deny, forward,
    idle::Idle,
    pool::{InUse, Pool, Target},
    record::Record,
    tunnel,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_policy::{Denial, Scheme, message::CHALLENGE_RULE, target};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, PROXY_AUTHORIZATION},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::net::TcpStream;

/// Answers inside the proxy with the live routes.
const INTROSPECTION: (&str, &str) = ("_egress.local", "/allowlist");

/// One client, before any tunnel.
struct Client {
    state: Arc<State>,
    place: Place,
    in_use: InUse,
    /// Towards the place that its last plain request named.
    pool: Mutex<Option<Arc<Pool>>>,
}

/// Serves one client until it goes.
pub(super) async fn serve(state: Arc<State>, stream: TcpStream, place: Place) {
    let _ = stream.set_nodelay(true);
    let in_use = InUse::default();
    let client = Arc::new(Client { state: state.clone(), place, in_use: in_use.clone(), pool: Mutex::default() });
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { Ok::<_, Infallible>(client.answer(request).await) }
    });
    let io = TokioIo::new(Idle::new(stream, IDLE_TIME));
    let served = connection::http1().serve_connection(io, service).with_upgrades();
    let unreadable = connection::attend(&state, &in_use, served, connection::SETTLED, |c| c.graceful_shutdown()).await;
    unreadable.iter().for_each(|denial| Record::begin(&state.feed, &state.secrets, "", "", "").denied(denial));
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let state = &self.state;
        let target = request.uri().authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
        if !knows_capability(request.headers(), state.capability.expose()) {
            // Some clients ask without a password first, to learn that one is wanted.
            let challenge = !request.headers().contains_key(PROXY_AUTHORIZATION);
            let denial = Denial {
                rule: if challenge { CHALLENGE_RULE } else { "capability" },
                status: 407,
                reason: "this proxy wants its bottle's password, which is in the proxy variables".into(),
            };
            return refuse(state, &request, &target, &denial);
        }
        if request.method() == Method::CONNECT {
            let named = match request.uri().scheme() {
                None => target::of_tunnel(&target),
                Some(_) => Err("a CONNECT names no URL"),
            };
            let named = named.map(|named| Target::new(Scheme::Https, named.host, named.port));
            return match named {
                Ok(Some(target)) => tunnel::open(state.clone(), request, target, self.place.clone()),
                Ok(None) => refuse(state, &request, &target, &bad_target("no request could name it")),
                Err(why) => refuse(state, &request, &target, &bad_target(why)),
            };
        }
        if request.uri().scheme_str() != Some("http") {
            return refuse(state, &request, &target, &bad_target("this is neither"));
        }
        match target::of_url(Scheme::Http, &target) {
            Ok(named) if (named.host.as_str(), named.port) == (INTROSPECTION.0, 80) => introspect(state, &request),
            Ok(named) => match self.pool(named.host, named.port) {
                Some(pool) => forward::forward(pool, self.place.clone(), request).await,
                None => refuse(state, &request, &target, &bad_target("no request could name it")),
            },
            Err(why) => refuse(state, &request, &target, &bad_target(why)),
        }
    }

    /// The connections to a place; those to another place are closed by and by.
    fn pool(&self, host: String, port: u16) -> Option<Arc<Pool>> {
        let mut last = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = last.as_ref().filter(|pool| pool.target.host == host && pool.target.port == port) {
            return Some(pool.clone());
        }
        let target = Target::new(Scheme::Http, host, port)?;
        let pool = Pool::new(self.state.clone(), target, self.in_use.clone());
        *last = Some(pool.clone());
        Some(pool)
    }
}

fn bad_target(why: &str) -> Denial {
    Denial::bad_request("target", format!("a proxy is asked for an http:// URL, or for host:port by CONNECT; {why}"))
}

fn refuse(state: &State, request: &Request<Incoming>, target: &str, denial: &Denial) -> Response<Body> {
    let path = request.uri().path();
    Record::begin(&state.feed, &state.secrets, target, request.method().as_str(), path).denied(denial);
    deny::response(denial, target)
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
}
