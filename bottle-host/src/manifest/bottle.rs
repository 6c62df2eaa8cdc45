//! A bottle's frontmatter: what may be reached, with which credential, and what the agent finds in its environment.

use bottle_policy::AuthScheme;
use serde::{Deserialize, Deserializer, de::Error};
use std::{collections::BTreeMap, net::IpAddr};

/// A bottle.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bottle {
    /// The agent's environment.
    pub env: BTreeMap<String, EnvValue>,
    /// What may be reached.
    pub egress: Egress,
}

/// `egress:`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Beside the defaults.
    pub routes: Vec<Route>,
}

/// One host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Exact, no wildcard.
    #[serde(deserialize_with = "host_name")]
    pub host: String,
    /// Path prefixes; empty: every path.
    #[serde(default, deserialize_with = "paths")]
    pub path_allowlist: Vec<String>,
    /// Methods; empty: every method.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Ports; empty: 443, and 80 where there is no `auth`.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// The credential to inject.
    #[serde(default)]
    pub auth: Option<RouteAuth>,
    /// Dial this address and no other.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Private addresses may be dialled.
    #[serde(default)]
    pub allow_private: bool,
}

/// `auth:` of a route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteAuth {
    /// How it is sent.
    pub scheme: AuthScheme,
    /// The host's variable that holds it.
    #[serde(deserialize_with = "variable_name")]
    pub token_ref: String,
}

/// A value of `env:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// As written.
    Literal(String),
    /// `${NAME}`: the host's variable.
    Host(String),
    /// `?` or `?text`: asked for on the terminal, after the y/N.
    Asked(String),
}

impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = match serde_yaml::Value::deserialize(d)? {
            serde_yaml::Value::String(text) => text,
            serde_yaml::Value::Number(number) => number.to_string(),
            serde_yaml::Value::Bool(flag) => flag.to_string(),
            _ => {
                return Err(D::Error::custom("a value of `env` is text, a number, or true or false"));
            }
        };
        if text.contains('\0') {
            return Err(D::Error::custom("a value of `env` cannot hold a NUL character"));
        }
        if let Some(question) = text.strip_prefix('?') {
            return Ok(Self::Asked(question.trim().to_owned()));
        }
        match text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
            Some(name) if is_variable(name) => Ok(Self::Host(name.to_owned())),
            Some(name) => Err(D::Error::custom(format!("`{name}` is no name of a variable"))),
            None => Ok(Self::Literal(text)),
        }
    }
}

/// `^[A-Za-z_][A-Za-z0-9_]*$`
pub fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn variable_name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let name = String::deserialize(d)?;
    if is_variable(&name) {
        return Ok(name);
    }
    Err(D::Error::custom(format!("`{name}` is no name of a variable (the value itself never stands in a manifest)")))
}

/// A DNS name or an address, in lower case. No wildcard, scheme, port or path.
fn host_name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let host = String::deserialize(d)?.to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() {
        return Ok(host);
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(label) {
        return Ok(host);
    }
    Err(D::Error::custom(format!("`{host}` is no host name (exact, without wildcard, scheme, port or path)")))
}

fn paths<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let paths = Vec::<String>::deserialize(d)?;
    for path in &paths {
        if let Some(why) = bottle_policy::path::ambiguity(path) {
            return Err(D::Error::custom(format!("path prefix `{path}`: {why}")));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use crate::manifest::bottle_from;

    #[test]
    fn values_of_env_are_told_apart() {
        use super::EnvValue::{Asked, Host, Literal};
        let bottle = bottle_from("env:\n  A: plain\n  B: ${HOST_B}\n  C: '?'\n  D: ?your key\n  E: 8080\n  F: $x\n");
        let values: Vec<_> = bottle.env.into_values().collect();
        let text = |t: &str| t.to_owned();
        assert_eq!(
            values,
            [
                Literal(text("plain")),
                Host(text("HOST_B")),
                Asked(text("")),
                Asked(text("your key")),
                Literal(text("8080")),
                Literal(text("$x")),
            ]
        );
    }

    #[test]
    fn mistakes_are_errors() {
        for yaml in [
            "egres: {}",
            "egress: {routes: [{host: '*.example'}]}",
            "egress: {routes: [{host: 'https://a.example'}]}",
            "egress: {routes: [{host: a.example, auth: {}}]}",
            "egress: {routes: [{host: a.example, auth: {scheme: Bearer}}]}",
            "egress: {routes: [{host: a.example, auth: {scheme: Digest, token_ref: T}}]}",
            "egress: {routes: [{host: a.example, auth: {scheme: Bearer, token_ref: 'ghp x'}}]}",
            "egress: {routes: [{host: a.example, path_allowlist: [a/../b]}]}",
            "env: {A: [1]}",
            "env: {A: '${a-b}'}",
        ] {
            assert!(serde_yaml::from_str::<super::Bottle>(yaml).is_err(), "{yaml}");
        }
    }
}
