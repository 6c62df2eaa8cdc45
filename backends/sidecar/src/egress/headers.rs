//! Which headers and query parameters pass, and how a credential is put in.

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::secret::Secret;
use bottle_policy::{AuthScheme, path};
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

/// Of one connection only, never passed on (RFC 9110, 7.6.1), and what only a proxy is told.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "expect",
];
/// Would make a server treat a judged method as another.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// Credentials that a bottle may have brought along.
const CREDENTIALS: [&str; 7] = [
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "x-goog-api-key",
    "private-token",
    "job-token",
    "deploy-token",
];
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

/// Removes what must not be passed on in a request.
pub(super) fn clean_request(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    METHOD_OVERRIDES.iter().for_each(|name| drop(headers.remove(*name)));
}

/// Removes what must not be passed back.
pub(super) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove("alt-svc"); // would invite the client past the proxy
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Content-Length and Transfer-Encoding frame the message: nobody may have them dropped by naming them.
        .filter(|name: &HeaderName| !matches!(name.as_str(), "content-length" | "transfer-encoding" | "host"))
        .collect();
    named.iter().for_each(|name| drop(headers.remove(name)));
    HOP_BY_HOP.iter().for_each(|name| drop(headers.remove(*name)));
}

/// Removes every credential that came with a request.
pub(super) fn strip_credentials(headers: &mut HeaderMap) {
    CREDENTIALS.iter().for_each(|name| drop(headers.remove(*name)));
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
        assert_eq!(map, headers(&[("content-length", "3"), ("accept", "*/*")]));
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
