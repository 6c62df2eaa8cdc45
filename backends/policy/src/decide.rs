//! The verdict over one request, in the order of the specification, failing closed.

use crate::{
    document::{Policy, Route},
    host, path, target,
};

/// How the request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Through an intercepted tunnel.
    Https,
    /// In the clear.
    Http,
}

impl Scheme {
    /// The port that a URL without one means.
    pub fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// What is judged: the bytes that would be sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// How it came.
    pub scheme: Scheme,
    /// Host of the tunnel, or of the absolute URL, without a port.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The `Host` header's value, which must name the same place.
    pub host_header: Option<&'a str>,
    /// As sent.
    pub method: &'a str,
    /// Path without query, as sent.
    pub path: &'a str,
    /// Query without `?`.
    pub query: Option<&'a str>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<'p> {
    /// Send it, by this route.
    Allow(&'p Route),
    /// Refuse it.
    Deny(Denial),
}

/// A refusal, in words that an agent can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Stable name of the rule, for logs and programs.
    pub rule: &'static str,
    /// HTTP status to answer with.
    pub status: u16,
    /// Why, in one sentence.
    pub reason: String,
}

impl Denial {
    /// A refusal with status 403.
    pub fn forbidden(rule: &'static str, reason: impl Into<String>) -> Self {
        Self { rule, status: 403, reason: reason.into() }
    }

    /// Is this a refusal in audit mode, too? What would reach the machine itself, push, or use a credential that is not
    /// there, is one always; so is what does not say in one way where it goes.
    pub fn stands_in_audit(&self) -> bool {
        const ALWAYS: [&str; 14] = [
            "address",
            "capability",
            "challenge",
            "credential",
            "dlp-blocklist",
            "dlp-secret",
            "framing",
            "git-push",
            "host-mismatch",
            "host-missing",
            "target",
            "tunnel",
            "upgrade",
            "upstream",
        ];
        ALWAYS.contains(&self.rule)
    }

    /// A refusal with status 400: the request cannot be judged.
    pub fn bad_request(rule: &'static str, reason: impl Into<String>) -> Self {
        Self { rule, status: 400, reason: reason.into() }
    }
}

/// Methods that no route can allow.
pub const NEVER: [&str; 3] = ["TRACE", "TRACK", "CONNECT"];

/// Judges a request. A pure function: what it allows depends on nothing but its arguments.
pub fn decide<'p>(policy: &'p Policy, request: &Request<'_>) -> Verdict<'p> {
    match judge(policy, request) {
        Ok(route) => Verdict::Allow(route),
        Err(denial) => Verdict::Deny(denial),
    }
}

/// Judges the target of a tunnel, before anything is said inside it.
pub fn decide_tunnel<'p>(policy: &'p Policy, host: &str, port: u16) -> Verdict<'p> {
    match route_to(policy, host, port) {
        Ok(route) => Verdict::Allow(route),
        Err(denial) => Verdict::Deny(denial),
    }
}

fn judge<'p>(policy: &'p Policy, request: &Request<'_>) -> Result<&'p Route, Denial> {
    if path::is_git_push(request.method, request.path, request.query) {
        return Err(Denial::forbidden("git-push", "pushing over HTTPS is never allowed"));
    }
    let route = route_to(policy, request.host, request.port)?;
    if request.scheme == Scheme::Http && (route.auth.is_some() || request.port == 443) {
        return Err(Denial::forbidden("plain-http", format!("{} is reached over TLS only", route.host)));
    }
    // TRACE answers with the request as it arrived: with the credential that was put in on the way.
    if NEVER.contains(&request.method.to_ascii_uppercase().as_str()) {
        return Err(Denial::forbidden("method", format!("{} is never allowed", request.method)));
    }
    if !route.methods.is_empty() && !route.methods.iter().any(|m| m == request.method) {
        let allowed = route.methods.join(", ");
        return Err(Denial::forbidden("method", format!("{} allows the methods {allowed}", route.host)));
    }
    if let Some(why) = path::ambiguity(request.path) {
        return Err(Denial::bad_request("path-ambiguous", why));
    }
    if !route.paths.is_empty() && !route.paths.iter().any(|prefix| path::covers(prefix, request.path)) {
        let allowed = route.paths.join(", ");
        return Err(Denial::forbidden("path", format!("{} allows paths below {allowed}", route.host)));
    }
    match request.host_header {
        Some(header) if same_authority(header, request) => Ok(route),
        Some(_) => Err(Denial::bad_request("host-mismatch", "the Host header names another place than the request")),
        None => Err(Denial::bad_request("host-missing", "the request has no Host header")),
    }
}

fn route_to<'p>(policy: &'p Policy, host: &str, port: u16) -> Result<&'p Route, Denial> {
    if let Some(why) = host::ambiguity(host) {
        return Err(Denial::bad_request("host-ambiguous", why));
    }
    let route = policy
        .routes
        .iter()
        .find(|route| host::same(&route.host, host))
        .ok_or_else(|| Denial::forbidden("host", "this bottle has no route to that host"))?;
    if !route.ports.contains(&port) {
        let allowed: Vec<_> = route.ports.iter().map(u16::to_string).collect();
        return Err(Denial::forbidden("port", format!("{} allows the ports {}", route.host, allowed.join(", "))));
    }
    Ok(route)
}

/// `host`, or `host:port`; without a port the scheme's own is meant.
fn same_authority(header: &str, request: &Request<'_>) -> bool {
    let named = target::of_url(request.scheme, header);
    named.is_ok_and(|named| host::same(&named.host, request.host) && named.port == request.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Auth, AuthScheme};

    fn policy() -> Policy {
        let mut api = Route::to("api.example");
        api.paths = vec!["/v1".into()];
        api.methods = vec!["POST".into()];
        api.ports = vec![443];
        api.auth = Some(Auth { scheme: AuthScheme::Bearer, secret: "t".into() });
        Policy { routes: vec![api, Route::to("open.example")], ..Policy::default() }
    }

    /// Judges `METHOD scheme://host:port/path?query`, with the Host header that a client would send.
    fn rule(line: &str) -> &'static str {
        let (method, url) = line.split_once(' ').unwrap();
        let (scheme, rest) = url.split_once("://").unwrap();
        let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = authority.rsplit_once(':').unwrap();
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let port = port.parse().unwrap();
        let request = Request { scheme, host, port, host_header: Some(authority), method, path, query };
        match decide(&policy(), &request) {
            Verdict::Allow(_) => "allow",
            Verdict::Deny(denial) => denial.rule,
        }
    }

    #[test]
    fn the_table() {
        for (line, expected) in [
            ("POST https://api.example:443/v1/messages?beta=true", "allow"),
            ("POST https://API.Example:443/v1", "allow"),
            ("GET https://open.example:443/x", "allow"),
            ("GET http://open.example:80/x", "allow"),
            ("GET https://open.example:443/r/info/refs?service=git-upload-pack", "allow"),
            ("GET https://other.example:443/", "host"),
            ("GET https://api.example.evil.example:443/", "host"),
            ("GET https://xapi.example:443/", "host"),
            ("GET https://api.example.:443/", "host-ambiguous"),
            ("POST https://api.example:8443/v1", "port"),
            ("POST http://api.example:80/v1", "port"),
            ("POST http://open.example:443/v1", "plain-http"),
            ("GET https://api.example:443/v1", "method"),
            ("post https://api.example:443/v1", "method"),
            ("TRACE https://open.example:443/x", "method"),
            ("track https://open.example:443/x", "method"),
            ("CONNECT https://open.example:443/x", "method"),
            ("POST https://api.example:443/v2", "path"),
            ("POST https://api.example:443/v1x", "path"),
            ("POST https://api.example:443/v1/../v2", "path-ambiguous"),
            ("POST https://api.example:443/v1/%2e%2e/v2", "path-ambiguous"),
            ("GET https://open.example:443//x", "path-ambiguous"),
            ("POST https://open.example:443/r.git/git-receive-pack", "git-push"),
            ("GET https://open.example:443/r.git/info/refs?service=git-receive-pack", "git-push"),
            ("POST https://nowhere.example:443/r.git/git-receive-pack", "git-push"),
        ] {
            assert_eq!(rule(line), expected, "{line}");
        }
    }

    #[test]
    fn the_host_header_must_agree() {
        let policy = policy();
        let base = Request {
            scheme: Scheme::Https,
            host: "open.example",
            port: 443,
            host_header: None,
            method: "GET",
            path: "/",
            query: None,
        };
        for (header, allowed) in [
            (None, false),
            (Some("open.example"), true),
            (Some("OPEN.example:443"), true),
            (Some("open.example:80"), false),
            (Some("api.example"), false),
            (Some("open.example:x"), false),
            (Some("open.example:+443"), false),
            (Some("[open.example]"), false),
            (Some(""), false),
        ] {
            let verdict = decide(&policy, &Request { host_header: header, ..base });
            assert_eq!(matches!(verdict, Verdict::Allow(_)), allowed, "{header:?}");
        }
    }

    #[test]
    fn a_document_with_an_unknown_field_or_version_is_refused() {
        let mut json = serde_json::to_value(policy()).unwrap();
        assert!(serde_json::from_value::<Policy>(json.clone()).unwrap().check().is_ok());
        json["schema"] = 2.into();
        assert!(serde_json::from_value::<Policy>(json.clone()).unwrap().check().is_err());
        json["routes"][0]["deny_all"] = true.into();
        assert!(serde_json::from_value::<Policy>(json).is_err());
    }
}
