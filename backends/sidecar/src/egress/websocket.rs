//! WebSocket (RFC 6455): judged as the request that it begins as; after the host's 101 nothing but its frames pass.

use super::{
    Live, Place,
    body::{Body, Received},
    deny,
    forward::{Judged, cleaned, passed_back, refused},
    frames::Side,
    headers::{names, tokens},
    messages::Messages,
    pool::Pool,
    record::Record,
    relay::relay,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_policy::Denial;
use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    header::{
        CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use std::sync::Arc;

/// What a server proves with that it speaks the protocol (RFC 6455, 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Does the request ask for a WebSocket? One that asks for anything else to be spoken from here on is refused.
pub(super) fn is_asked_for(request: &Request<Incoming>) -> Result<bool, Denial> {
    let headers = request.headers();
    if !headers.contains_key(UPGRADE) && !names(headers, &CONNECTION, "upgrade") {
        return Ok(false);
    }
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let key = one(SEC_WEBSOCKET_KEY).and_then(|key| BASE64_STANDARD.decode(key).ok());
    let whole = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && one(UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
        && names(headers, &CONNECTION, "upgrade")
        && one(SEC_WEBSOCKET_VERSION) == Some("13")
        && key.is_some_and(|key| key.len() == 16);
    match whole {
        true => Ok(true),
        false => Err(Denial::forbidden("upgrade", "a connection is upgraded to WebSocket (RFC 6455) only")),
    }
}

/// Opens a WebSocket to the pool's host, or passes back what the host says instead.
pub(super) async fn open(
    pool: &Arc<Pool>,
    place: &Place,
    live: &Arc<Live>,
    judged: &Judged<'_>,
    mut request: Request<Incoming>,
    mut record: Record,
) -> Response<Body> {
    let client = hyper::upgrade::on(&mut request);
    let offered = request.headers().clone();
    let response = match send(pool, live, judged, request, &mut record).await {
        Ok(response) => response,
        Err(denial) => return refused(pool, record, &denial),
    };
    judged.note(&mut record, response.status().as_u16());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return passed_back(response, |inner| Received { inner, download: None, record, lease: None, ended: false });
    }
    if let Err(what) = check(&offered, response.headers()) {
        let reason = format!("{} answers a WebSocket's handshake with {what}", pool.target.host);
        return refused(pool, record, &Denial { rule: "upstream", status: 502, reason });
    }
    let mut answer = deny::plain(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    *answer.headers_mut() = response.headers().clone();
    super::headers::clean_response(answer.headers_mut());
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    let host = hyper::upgrade::on(response);
    let place = place.clone();
    let gate = |side| Messages::of(side, live, &judged.route, &pool.target.host);
    let gates = (gate(Side::Client), gate(Side::Server));
    tokio::spawn(async move {
        let _place = place;
        if let (Ok(client), Ok(host)) = tokio::join!(client, host) {
            relay(TokioIo::new(client), TokioIo::new(host), gates, record).await;
        }
    });
    answer
}

async fn send(
    pool: &Arc<Pool>,
    live: &Arc<Live>,
    judged: &Judged<'_>,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<Incoming>, Denial> {
    let mut request = cleaned(pool, live, &judged.route, request, record)?;
    pool.target.dress_http1(&mut request)?;
    let headers = request.headers_mut();
    // Frames of an extension could not be read by anybody but the two that negotiated it.
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let mut upstream = live.upstream.connect_for_upgrade(&pool.state.secrets, &judged.route, &pool.target).await?;
    upstream.send_request(request).await.map_err(|e| pool.broken(&e))
}

/// Does the host's 101 answer this client's handshake?
fn check(offered: &HeaderMap, answer: &HeaderMap) -> Result<(), &'static str> {
    let text = |headers: &HeaderMap, name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let key = text(offered, SEC_WEBSOCKET_KEY).unwrap_or_default();
    let accept = BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()));
    if !names(answer, &UPGRADE, "websocket") || tokens(answer, &UPGRADE).count() != 1 {
        return Err("another protocol");
    }
    if !names(answer, &CONNECTION, "upgrade") || text(answer, SEC_WEBSOCKET_ACCEPT) != Some(accept) {
        return Err("a 101 that does not answer it");
    }
    if answer.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return Err("an extension that was not offered");
    }
    let protocol = text(answer, SEC_WEBSOCKET_PROTOCOL);
    if protocol.is_some_and(|chosen| !names(offered, &SEC_WEBSOCKET_PROTOCOL, &chosen)) {
        return Err("a protocol that was not offered");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;

    fn headers(text: &str) -> HeaderMap {
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs.map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_101_must_answer_the_handshake() {
        // The example of RFC 6455, 1.3.
        let offered = headers("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: chat, superchat");
        let good = "upgrade: websocket\nconnection: Upgrade\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n";
        for (answer, passes) in [
            (good.to_owned(), true),
            (format!("{good}sec-websocket-protocol: superchat"), true),
            (format!("{good}sec-websocket-protocol: other"), false),
            (format!("{good}sec-websocket-extensions: permessage-deflate"), false),
            (good.replace("xOo", "xOp"), false),
            (good.replace(": websocket", ": h2c"), false),
            (good.replace("Upgrade", "close"), false),
            (String::new(), false),
        ] {
            assert_eq!(check(&offered, &headers(&answer)).is_ok(), passes, "{answer}");
        }
    }
}
