//! The policy document: what a bottle may reach, rendered by the host, held by the sidecar.

use crate::git::{self, GitRemote};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The document's version. A sidecar of another version refuses it.
pub const SCHEMA: u32 = 1;

/// What a bottle may reach. Everything that is not granted here is refused.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Is what is judged refused?
    pub mode: Mode,
    /// One per host; hosts are lower-case and differ.
    pub routes: Vec<Route>,
    /// Addresses of the machine that the bottle runs on: never dialled, by no route.
    pub own_addresses: Vec<IpAddr>,
    /// Further trust anchors for upstream certificates, PEM, beside the built-in ones.
    pub upstream_ca_pem: Option<String>,
    /// The proxy through which every host is reached. It is dialled wherever it is: the operator named it.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// What must not leave, whatever the routes say.
    pub scan: Scan,
    /// The repositories behind git-gate; their names differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub git: Vec<GitRemote>,
}

/// What the scanner looks for, beside every secret that the sidecar knows and its own rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// Secrets of the agent's environment.
    pub env: Vec<EnvSecret>,
    /// The user's own packs of rules.
    pub packs: Vec<Pack>,
    /// Hosts that nothing goes to, in audit mode either; lower-case, `*.example.net` is that name and every one below it.
    pub blocklist: Vec<String>,
}

/// A secret that the agent has, and that leaves its bottle for some hosts only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvSecret {
    /// The agent's variable.
    pub name: String,
    /// The name of its value among the sidecar's secrets.
    pub secret: String,
    /// Lower-case; none: it never leaves.
    pub hosts: Vec<String>,
}

/// A file of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// What errors call it.
    pub name: String,
    /// YAML.
    pub text: String,
}

impl Default for Policy {
    /// Grants nothing.
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            mode: Mode::Enforce,
            routes: vec![],
            own_addresses: vec![],
            upstream_ca_pem: None,
            upstream_proxy: None,
            scan: Scan::default(),
            git: vec![],
        }
    }
}

/// What becomes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is one.
    Enforce,
    /// It is written down, and the request is sent on as it came, without any credential of ours. Never so where the host
    /// would be reached, or a push: see [`crate::Denial::stands_in_audit`].
    Audit,
}

/// An HTTP proxy that answers CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamProxy {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// It is itself reached over TLS, verified like every host.
    pub tls: bool,
    /// The name of the secret that holds `user:password` for it, if it wants any.
    pub secret: Option<String>,
}

/// A host that the bottle may reach.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Exact, lower-case.
    pub host: String,
    /// Allowed ports.
    pub ports: Vec<u16>,
    /// Allowed path prefixes, on segment boundaries; empty: every path.
    pub paths: Vec<String>,
    /// Allowed methods, upper-case; empty: every method.
    pub methods: Vec<String>,
    /// Dial this address and no other.
    pub address: Option<IpAddr>,
    /// Private addresses may be dialled.
    pub allow_private: bool,
    /// Remove any credential that the bottle sends. Always so where there is `auth`.
    pub strip_credentials: bool,
    /// The credential to inject, over verified TLS only.
    pub auth: Option<Auth>,
    /// TLS goes through unseen: the name in its handshake is judged, and nothing else.
    pub tls_passthrough: bool,
    /// What an attack on the agent in a response leads to.
    pub responses: Responses,
    /// It is the model's own host: a conversation must survive, so a secret in it is taken out and the rest goes on.
    pub conversation: bool,
}

/// What an attack on the agent in a response leads to. A secret in one is taken out always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Responses {
    /// It is logged.
    #[default]
    Warn,
    /// The response is refused.
    Block,
}

impl Route {
    /// A route to every path of a host, on the default ports, with nothing injected.
    pub fn to(host: impl Into<String>) -> Self {
        Self {
            host: host.into().to_ascii_lowercase(),
            ports: vec![443, 80],
            paths: vec![],
            methods: vec![],
            address: None,
            allow_private: false,
            strip_credentials: false,
            auth: None,
            tls_passthrough: false,
            responses: Responses::Warn,
            conversation: false,
        }
    }
}

/// A credential to inject.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How it is sent.
    pub scheme: AuthScheme,
    /// The name of the secret; its value never stands in a document.
    pub secret: String,
}

/// How a credential is sent.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub enum AuthScheme {
    /// `Authorization: Bearer VALUE`
    Bearer,
    /// `Authorization: token VALUE`
    #[serde(rename = "token")]
    Token,
    /// `Authorization: Basic VALUE`, the value being `user:password` in base64 already or made so.
    Basic,
    /// `x-api-key: VALUE`
    #[serde(rename = "x-api-key")]
    XApiKey,
}

impl Policy {
    /// Why the document cannot be used, if it cannot: a wrong version, hosts written twice or not in lower case, remotes that are
    /// none.
    pub fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("policy document of schema {}, this sidecar knows {SCHEMA}", self.schema));
        }
        for (i, route) in self.routes.iter().enumerate() {
            if route.host != route.host.to_ascii_lowercase() || route.host.is_empty() {
                return Err(format!("route host `{}` is not in lower case", route.host));
            }
            if self.routes[..i].iter().any(|earlier| earlier.host == route.host) {
                return Err(format!("route host `{}` stands twice", route.host));
            }
            if route.auth.is_some() && route.ports.contains(&80) {
                return Err(format!("route `{}` would send its credential over port 80", route.host));
            }
            let needs_sight = route.auth.is_some() || !route.paths.is_empty() || !route.methods.is_empty();
            let needs_sight = needs_sight || route.conversation || route.responses == Responses::Block;
            if route.tls_passthrough && needs_sight {
                return Err(format!("route `{}` is passed through unseen and cannot be held to its rules", route.host));
            }
        }
        if let Some(listed) = self.scan.blocklist.iter().find(|l| l.is_empty() || **l != l.to_ascii_lowercase()) {
            return Err(format!("blocked host `{listed}` is not in lower case"));
        }
        git::check(&self.git)
    }
}
