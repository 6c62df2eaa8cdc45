//! A bottle's frontmatter: what may be reached, with which credential, and what the agent finds in its environment.

use bottle_policy::AuthScheme;
use serde::{Deserialize, Deserializer, de::Error};
use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU32};

/// A bottle's frontmatter, as one file says it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BottleFields {
    /// Bottles to begin with, folded from left to right.
    pub extends: Names,
    /// The agent's environment.
    pub env: BTreeMap<String, EnvValue>,
    /// What may be reached.
    pub egress: Option<Egress>,
    /// Resource limits.
    pub limits: Option<LimitFields>,
    /// The weakest boundary that will do.
    pub isolation: Option<Isolation>,
    /// May an agent that comes with a working directory live in it?
    pub project_agents: Option<ProjectAgents>,
}

/// A bottle, folded with what it extends.
#[derive(Debug, Clone, Default)]
pub struct Bottle {
    /// The agent's environment.
    pub env: BTreeMap<String, EnvValue>,
    /// What may be reached.
    pub egress: Egress,
    /// Resource limits.
    pub limits: LimitFields,
    /// The weakest boundary that will do.
    pub isolation: Isolation,
    /// May an agent that comes with a working directory live in it?
    pub project_agents: ProjectAgents,
}

impl BottleFields {
    /// These fields with another file's over them: `env` by name, everything else as a whole where it is declared.
    #[must_use]
    pub fn under(mut self, child: &Self) -> Self {
        self.env.extend(child.env.clone());
        self.egress = child.egress.clone().or(self.egress);
        self.limits = child.limits.clone().or(self.limits);
        self.isolation = child.isolation.or(self.isolation);
        self.project_agents = child.project_agents.or(self.project_agents);
        self
    }
}

impl From<BottleFields> for Bottle {
    fn from(fields: BottleFields) -> Self {
        Self {
            env: fields.env,
            egress: fields.egress.unwrap_or_default(),
            limits: fields.limits.unwrap_or_default(),
            isolation: fields.isolation.unwrap_or_default(),
            project_agents: fields.project_agents.unwrap_or_default(),
        }
    }
}

/// One name or a list of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Names(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a name or a list of names")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Names {
    fn from(names: OneOrMany) -> Self {
        match names {
            OneOrMany::One(name) => Self(vec![name]),
            OneOrMany::Many(names) => Self(names),
        }
    }
}

/// Strength of a boundary, weakest first. The namespace backend counts as `container`.
#[derive(Debug, Clone, Copy, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A process of the user's.
    Process,
    /// A container: the kernel is shared.
    #[default]
    Container,
    /// A machine of its own.
    Vm,
}

impl Isolation {
    /// What a backend calls it. An unknown word is the weakest.
    pub fn of_backend(word: &str) -> Self {
        match word {
            "vm" => Self::Vm,
            "container" => Self::Container,
            _ => Self::Process,
        }
    }
}

/// `project_agents:`
#[derive(Debug, Clone, Copy, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ProjectAgents {
    /// After somebody has seen the preflight.
    #[default]
    Ask,
    /// Never.
    Deny,
}

/// `limits:`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitFields {
    /// `512m`, `4g`: bytes, with k, m or g for powers of 1024.
    #[serde(deserialize_with = "bytes")]
    pub memory: Option<u64>,
    /// Processors: `1.5`.
    #[serde(deserialize_with = "milli_cpus")]
    pub cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<NonZeroU32>,
}

fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let text = match serde_yaml::Value::deserialize(d)? {
        serde_yaml::Value::String(text) => text.to_ascii_lowercase(),
        serde_yaml::Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let digits = text.trim_end_matches("ib").trim_end_matches('b');
    let (digits, unit) = match digits.chars().last() {
        Some('k') => (&digits[..digits.len() - 1], 10),
        Some('m') => (&digits[..digits.len() - 1], 20),
        Some('g') => (&digits[..digits.len() - 1], 30),
        _ => (digits, 0),
    };
    let wrong = || D::Error::custom(format!("`{text}` is no amount of memory; write 512m or 4g, 64m at least"));
    let amount = digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(1 << unit)).ok_or_else(wrong)?;
    if (64 << 20..1 << 50).contains(&amount) { Ok(Some(amount)) } else { Err(wrong()) }
}

fn milli_cpus<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let cpus = f64::deserialize(d)?;
    if (0.01..=1024.0).contains(&cpus) {
        return Ok(Some((cpus * 1000.0).round() as u64));
    }
    Err(D::Error::custom(format!("`{cpus}` is no number of processors; write 0.5 or 2")))
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
            "limits: {memory: lots}",
            "limits: {memory: 1k}",
            "limits: {cpus: 0}",
            "limits: {pids: 0}",
            "limits: {disk: 1g}",
            "isolation: strong",
            "project_agents: allow",
            "extends: {a: b}",
        ] {
            assert!(serde_yaml::from_str::<super::BottleFields>(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn limits_are_read_with_their_units() {
        let limits = |yaml: &str| {
            let l = bottle_from(&format!("limits: {yaml}")).limits;
            (l.memory, l.cpus, l.pids.map(u32::from))
        };
        assert_eq!(limits("{memory: 4g, cpus: 1.5, pids: 100}"), (Some(4 << 30), Some(1500), Some(100)));
        assert_eq!(limits("{memory: 512MiB, cpus: 2}"), (Some(512 << 20), Some(2000), None));
        assert_eq!(limits("{memory: 134217728}"), (Some(128 << 20), None, None));
    }
}
