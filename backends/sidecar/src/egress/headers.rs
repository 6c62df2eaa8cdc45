//! Which headers and query parameters pass, and how a credential is put in.

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::secret::Secret;
use bottle_policy::{AuthScheme, path};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, HOST,
    HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use zeroize::Zeroizing;

/// Of one connection only, never passed on (RFC 9110, 7.6.1), and what only a proxy is told.
static HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    TE,
    UPGRADE,
    EXPECT,
    HeaderName::from_static("http2-settings"),
];
/// Would make a server treat a judged method as another.
static METHOD_OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];
/// Credentials that a bottle may have brought along.
static CREDENTIALS: [HeaderName; 7] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("private-token"),
    HeaderName::from_static("job-token"),
    HeaderName::from_static("deploy-token"),
];
/// Say what a message is, so they come before its body or not at all (RFC 9110, 6.5.1).
static NEVER_TRAILERS: [HeaderName; 9] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    HOST,
    SET_COOKIE,
    TRAILER,
    TRANSFER_ENCODING,
];
/// Invites the client past the proxy.
static ALT_SVC: HeaderName = HeaderName::from_static("alt-svc");

/// Query parameters that carry credentials, with `_` for `-` too.
const CREDENTIAL_PARAMETERS: [&str; 12] = [
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "authorization",
    "client_secret",
    "job_token",
    "key",
    "password",
    "private_token",
    "token",
    "x_api_key",
];

/// Removes what must not be passed on in a request. That its sender understands trailers is said by us in its stead.
pub(super) fn clean_request(headers: &mut HeaderMap) {
    let trailers = names(headers, &TE, "trailers");
    remove_hop_by_hop(headers);
    remove(headers, &METHOD_OVERRIDES);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
}

/// Removes what must not be passed back. What frames the message towards the client is said anew.
pub(super) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(&ALT_SVC);
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Removes from trailers what may stand before a body only.
pub(super) fn clean_trailers(trailers: &mut HeaderMap, strip: bool) {
    remove_hop_by_hop(trailers);
    remove(trailers, &METHOD_OVERRIDES);
    remove(trailers, &NEVER_TRAILERS);
    trailers.remove(&ALT_SVC);
    if strip {
        strip_credentials(trailers);
    }
}

fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        headers.remove(name);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|name| name.parse().ok())
            // What frames the message: nobody may have it dropped by naming it.
            .filter(|name| ![CONTENT_LENGTH, TRANSFER_ENCODING, HOST].contains(name))
            .collect();
        remove(headers, &named);
    }
    remove(headers, &HOP_BY_HOP);
}

/// The members of a list header.
pub(super) fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// Is this a member of a list header?
pub(super) fn names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// HTTP/2 may send cookies one by one, HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut all = first.as_bytes().to_vec();
        for crumb in std::iter::once(second).chain(crumbs) {
            all.extend_from_slice(b"; ");
            all.extend_from_slice(crumb.as_bytes());
        }
        match HeaderValue::from_bytes(&all) {
            Ok(joined) => drop(headers.insert(COOKIE, joined)),
            Err(_) => drop(headers.remove(COOKIE)),
        }
    }
}

/// Removes every credential that came with a request.
pub(super) fn strip_credentials(headers: &mut HeaderMap) {
    remove(headers, &CREDENTIALS);
}

/// The query without credential-like parameters; `None` where nothing is left.
pub(super) fn strip_query(query: &str) -> Option<String> {
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let name = path::percent_decoded(pair.split('=').next().unwrap_or_default());
            let name = name.to_ascii_lowercase().replace('-', "_");
            !CREDENTIAL_PARAMETERS.contains(&name.as_str())
        })
        .collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// Puts the credential in. The value is marked sensitive, so that no debug output shows it.
pub(super) fn inject(headers: &mut HeaderMap, scheme: AuthScheme, secret: &Secret) -> Result<()> {
    let text = secret.expose_str().context("the credential is not text")?.trim();
    let (name, value) = match scheme {
        AuthScheme::Bearer => (AUTHORIZATION, format!("Bearer {text}")),
        AuthScheme::Token => (AUTHORIZATION, format!("token {text}")),
        AuthScheme::Basic if text.contains(':') => (AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(text))),
        AuthScheme::Basic => (AUTHORIZATION, format!("Basic {text}")),
        AuthScheme::XApiKey => (HeaderName::from_static("x-api-key"), text.to_owned()),
    };
    let value = Zeroizing::new(value);
    let mut value = HeaderValue::from_str(&value).context("the credential cannot be sent in a header")?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn hop_by_hop_and_named_headers_stay_here() {
        let mut map = headers(&[
            ("connection", "close, X-Secret, content-length"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("x-http-method-override", "DELETE"),
            ("accept", "*/*"),
        ]);
        clean_request(&mut map);
        assert_eq!(map, headers(&[("content-length", "3"), ("te", "trailers"), ("accept", "*/*")]));
    }

    #[test]
    fn cookies_are_one_header() {
        let mut map = headers(&[("accept", "*/*")]);
        for crumb in ["a=1", "b=2", "c=3"] {
            map.append(COOKIE, HeaderValue::from_static(crumb));
        }
        clean_request(&mut map);
        assert_eq!(map, headers(&[("accept", "*/*"), ("cookie", "a=1; b=2; c=3")]));
    }

    #[test]
    fn a_response_is_framed_by_us_and_names_no_other_way() {
        let pairs = [
            ("transfer-encoding", "gzip, chunked"),
            ("content-length", "3"),
            ("alt-svc", "h3=\":443\""),
            ("upgrade", "h2c"),
            ("trailer", "x-sum"),
        ];
        let mut map = headers(&pairs);
        clean_response(&mut map);
        assert_eq!(map, headers(&[("trailer", "x-sum")]));
        let mut map = headers(&[("content-length", "3")]);
        clean_response(&mut map);
        assert_eq!(map, headers(&[("content-length", "3")]));
    }

    #[test]
    fn trailers_hold_no_credential_and_no_framing() {
        let pairs = [
            ("x-sum", "1"),
            ("authorization", "Bearer x"),
            ("transfer-encoding", "chunked"),
            ("content-length", "9"),
            ("host", "other"),
            ("connection", "close"),
            ("x-http-method", "PUT"),
        ];
        let mut map = headers(&pairs);
        clean_trailers(&mut map, true);
        assert_eq!(map, headers(&[("x-sum", "1")]));
    }

    #[test]
    fn the_bottles_own_credential_is_replaced() {
        let mut map = headers(&[("authorization", "Bearer placeholder"), ("x-api-key", "placeholder")]);
        strip_credentials(&mut map);
        inject(&mut map, AuthScheme::Bearer, &Secret::new("real\n")).unwrap();
        assert_eq!(map, headers(&[("authorization", "Bearer real")]));
        inject(&mut map, AuthScheme::Basic, &Secret::new("u:p")).unwrap();
        assert_eq!(map, headers(&[("authorization", "Basic dTpw")]));
        assert!(inject(&mut map, AuthScheme::XApiKey, &Secret::new("a\nb")).is_err());
    }

    #[test]
    fn credential_parameters_go_and_others_stay() {
        assert_eq!(strip_query("beta=true&API_KEY=x&key=y").as_deref(), Some("beta=true"));
        assert_eq!(strip_query("access%5Ftoken=x&%61pi-key=y&Private-Token=z"), None);
        assert_eq!(strip_query("monkey=1").as_deref(), Some("monkey=1"));
    }
}
