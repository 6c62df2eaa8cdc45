//! `egress:` of a bottle: what may be reached, and with which credential.

use super::{
    names::{VARIABLE, host_name, ip_address, listed_host, token_variable},
    read::{Checked, is_default, items, parse_word, quoted, some_texts, some_word, text, texts, word, wrong},
};
use bottle_policy::AuthScheme;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::net::IpAddr;

/// The model's own host: its credential is the host's, whatever a manifest says.
pub const MODEL_HOST: &str = "api.anthropic.com";

/// `egress:`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a mapping with `routes`, `presets` or `mode`")]
pub struct Egress {
    /// `enforce`: what is not granted is refused. `audit`: everything is judged and nothing refused.
    #[serde(deserialize_with = "word", skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// Sets of hosts that are known by name.
    #[serde(deserialize_with = "presets", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub presets: Vec<Preset>,
    /// The hosts that may be reached, beside the model's own.
    #[serde(deserialize_with = "routes", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Hosts that nothing goes to, in `audit` either; `*.` before a name: that name and everything below it.
    #[serde(deserialize_with = "blocklist", skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        inner(length(min = 1, max = 255), regex(pattern = r"^(\*\.)?[A-Za-z0-9._:-]+$")),
        extend("uniqueItems" = true)
    )]
    pub blocklist: Vec<String>,
}

/// `egress.mode`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What is not granted is refused.
    #[default]
    Enforce,
    /// Everything is judged, and nothing refused.
    Audit,
}

/// `egress.presets`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Every host that Claude Code talks to by itself.
    ClaudeFull,
}

impl Preset {
    /// As a manifest writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClaudeFull => "claude-full",
        }
    }

    /// Its hosts, beside the model's own.
    pub fn hosts(self) -> &'static [&'static str] {
        match self {
            Self::ClaudeFull => &[
                "statsig.anthropic.com",
                "sentry.io",
                "claude.ai",
                "platform.claude.com",
                "downloads.claude.ai",
                "raw.githubusercontent.com",
            ],
        }
    }
}

/// A host that may be reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping with `host`")]
pub struct Route {
    /// Exact: no wildcard, scheme, port or path.
    #[serde(deserialize_with = "host")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._:-]+$"))]
    pub host: String,
    /// Path prefixes, on segment boundaries; without them every path.
    #[serde(default, deserialize_with = "paths", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = "^/")), extend("uniqueItems" = true))]
    pub path_allowlist: Vec<String>,
    /// Methods; without them every method.
    #[serde(default, deserialize_with = "methods", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")), extend("uniqueItems" = true))]
    pub methods: Vec<String>,
    /// Ports; without them 443, and 80 where there is no `auth`.
    #[serde(default, deserialize_with = "ports", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1), inner(range(min = 1, max = 65535)), extend("uniqueItems" = true))]
    pub ports: Vec<u16>,
    /// The credential to put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RouteAuth>,
    /// Let TLS through unseen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls_passthrough: bool,
    /// What a secret or an attack in a response leads to.
    #[serde(default, deserialize_with = "some_word", skip_serializing_if = "Option::is_none")]
    pub responses: Option<Responses>,
    /// Dial this address and no other.
    #[serde(default, deserialize_with = "address", skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Private addresses may be dialled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_private: bool,
}

/// `responses:` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Responses {
    /// It is logged.
    Warn,
    /// It is refused.
    Block,
}

/// `auth:` of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping with `scheme` and `token_ref`")]
pub struct RouteAuth {
    /// How it is sent.
    #[serde(deserialize_with = "scheme")]
    #[schemars(extend("enum" = ["Bearer", "token", "Basic", "x-api-key"]), with = "String")]
    pub scheme: AuthScheme,
    /// The host's variable that holds it.
    #[serde(deserialize_with = "token_ref")]
    #[schemars(regex(pattern = VARIABLE))]
    pub token_ref: String,
}

/// What cannot be said of one route, or beside those before it.
fn check(route: &Route, earlier: &[Route]) -> Checked<()> {
    let host = &route.host;
    if earlier.iter().any(|other| other.host == *host) {
        return wrong(format!("the host {host} has two routes"), "Put what both say into one of them.");
    }
    if *host == MODEL_HOST && route.auth.is_some() {
        return wrong(
            format!("the credential of {MODEL_HOST} comes from the host's environment"),
            "Take `auth` out: CLAUDE_BOTTLE_OAUTH_TOKEN or ANTHROPIC_API_KEY is used.",
        );
    }
    if route.auth.is_some() && route.ports.contains(&80) {
        return wrong(
            format!("{host} would get its credential in the clear, over port 80"),
            "Take 80 out of `ports`, or `auth` out of the route.",
        );
    }
    if route.tls_passthrough {
        let needs_sight = [
            ("auth", route.auth.is_some()),
            ("path_allowlist", !route.path_allowlist.is_empty()),
            ("methods", !route.methods.is_empty()),
            ("responses", route.responses.is_some()),
        ];
        if let Some((key, _)) = needs_sight.iter().find(|(_, set)| *set) {
            return wrong(
                format!("`{key}` cannot be held on {host}: with `tls_passthrough` nobody sees inside the connection"),
                format!("Take `{key}` or `tls_passthrough` out."),
            );
        }
        if *host == MODEL_HOST {
            return wrong(
                format!("{MODEL_HOST} cannot have `tls_passthrough`: its credential is put in on the way"),
                "Take `tls_passthrough` out.",
            );
        }
    }
    Ok(())
}

fn routes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Route>, D::Error> {
    items(d, "a mapping with `host`", check)
}

fn presets<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Preset>, D::Error> {
    texts(d, parse_word)
}

fn blocklist<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    texts(d, listed_host)
}

fn host<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    text(d, host_name)
}

fn token_ref<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    text(d, token_variable)
}

fn scheme<'de, D: Deserializer<'de>>(d: D) -> Result<AuthScheme, D::Error> {
    word(d)
}

fn paths<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let parse = |path: &str| {
        if path.ends_with('*') {
            return wrong(
                format!("{} ends with a wildcard, and there are none", quoted(path)),
                "Write the path itself: `/api` covers `/api` and everything below `/api/`.",
            );
        }
        if path.contains(['?', '#']) {
            return wrong(format!("{} is more than a path", quoted(path)), "Write it without `?` and `#`.");
        }
        match bottle_policy::path::ambiguity(path) {
            Some(why) => wrong(
                format!("{}: {why}", quoted(path)),
                "A request's path is compared as it is sent: write a plain one, `/api/v1` say.",
            ),
            None => Ok(path.to_owned()),
        }
    };
    some_texts(d, parse, "Without the key every path is allowed: take it out, or name a path.")
}

fn methods<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let parse = |method: &str| {
        let upper = method.to_ascii_uppercase();
        let is_token = !upper.is_empty()
            && upper.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
            && upper != "*";
        if !is_token {
            return wrong(format!("{} is no HTTP method", quoted(method)), "Write GET, POST or another word.");
        }
        if bottle_policy::decide::NEVER.contains(&upper.as_str()) {
            return wrong(format!("{upper} is never allowed"), "Take it out; no route can allow it.");
        }
        Ok(upper)
    };
    some_texts(d, parse, "Without the key every method is allowed: take it out, or name a method.")
}

fn ports<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u16>, D::Error> {
    let parse = |port: &str| match port.parse() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        _ => wrong(format!("{} is no port", quoted(port)), "A port is a number from 1 to 65535."),
    };
    some_texts(d, parse, "Without the key the ports are 443, and 80 where there is no `auth`: take it out.")
}

fn address<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpAddr>, D::Error> {
    text(d, ip_address).map(Some)
}
