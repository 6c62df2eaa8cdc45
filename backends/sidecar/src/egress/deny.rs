//! What a bottle is told when a request is refused: JSON that an agent can read and act on.

use super::body::Body;
use bottle_policy::Denial;
use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, PROXY_AUTHENTICATE},
};
use serde_json::json;

/// The answer to a refused request.
pub(super) fn response(denial: &Denial, host: &str) -> Response<Body> {
    let body = json!({
        "error": {
            "type": "bottle_egress_denied",
            "rule": denial.rule,
            "host": host,
            "message": format!("bottle refused this request: {}", denial.reason),
            "next": "If you have the tool `egress-block`, ask for the route with it; else tell the user which host \
                     and path you need. Retrying does not help.",
        }
    });
    let status = StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = plain(status, format!("{body}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        response.headers_mut().insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"bottle\""));
    }
    response
}

/// An answer with a body that is already whole.
pub(super) fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let body = Some(body.into()).filter(|bytes: &Bytes| !bytes.is_empty());
    let mut response = Response::new(Body::Whole(body));
    *response.status_mut() = status;
    response
}
