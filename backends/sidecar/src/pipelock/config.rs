//! Pipelock's configuration, made from the policy. It refuses a key that it does not know.

use bottle_api::control::PIPELOCK_PORT;
use bottle_policy::{AuthScheme, Mode, Policy};
use serde::Serialize;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

/// A limit of 0 is 60 to it, not none.
const UNLIMITED_PER_MINUTE: u32 = 10_000_000;
/// A request to a model with its whole context.
const MAX_BODY: u64 = 32 << 20;
const MAX_URL: u32 = 16_384;
/// A strict one must allow something.
const NOBODY: &str = "nobody.invalid";
/// What it takes for the neighbourhood: its own list.
const INTERNAL: [&str; 12] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// The file. What does not stand here is as pipelock has it.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Config {
    version: u32,
    mode: &'static str,
    enforce: bool,
    api_allowlist: Vec<String>,
    /// Hosts that may be at an internal address.
    trusted_domains: Vec<String>,
    ssrf: Ssrf,
    internal: Vec<String>,
    fetch_proxy: FetchProxy,
    forward_proxy: ForwardProxy,
    tls_interception: TlsInterception,
    request_body_scanning: RequestBodyScanning,
    logging: Logging,
    sentry: Switch,
}

#[derive(Debug, PartialEq, Serialize)]
struct Ssrf {
    ip_allowlist: Vec<String>,
}

/// Where all of it listens.
#[derive(Debug, PartialEq, Serialize)]
struct FetchProxy {
    listen: String,
    monitoring: Monitoring,
}

#[derive(Debug, PartialEq, Serialize)]
struct Monitoring {
    max_url_length: u32,
    max_requests_per_minute: u32,
}

#[derive(Debug, PartialEq, Serialize)]
struct ForwardProxy {
    enabled: bool,
    max_tunnel_seconds: u32,
    idle_timeout_seconds: u32,
    sni_verification: bool,
}

#[derive(Debug, PartialEq, Serialize)]
struct TlsInterception {
    enabled: bool,
    ca_cert: PathBuf,
    ca_key: PathBuf,
    passthrough_domains: Vec<String>,
    max_response_bytes: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct RequestBodyScanning {
    enabled: bool,
    action: &'static str,
    max_body_bytes: u64,
    scan_headers: bool,
    header_mode: &'static str,
    /// Those that the proxy itself puts a credential in.
    ignore_headers: Vec<&'static str>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Logging {
    format: &'static str,
    output: &'static str,
    include_allowed: bool,
    include_blocked: bool,
}

/// Crash reports would go to its maintainer.
#[derive(Debug, PartialEq, Serialize)]
struct Switch {
    enabled: bool,
}

impl Config {
    /// What the proxy routes, pipelock lets through, unless it finds something in it. `home` holds its authority.
    pub(super) fn of(policy: &Policy, home: &Path) -> Self {
        let hosts = |wanted: fn(&bottle_policy::Route) -> bool| -> Vec<String> {
            policy.routes.iter().filter(|route| wanted(route)).map(|route| bare(&route.host)).collect()
        };
        let (private_addresses, trusted_domains): (Vec<_>, Vec<_>) =
            hosts(|route| route.allow_private).into_iter().partition(|host| host.parse::<IpAddr>().is_ok());
        let mut api_allowlist = hosts(|_| true);
        if api_allowlist.is_empty() {
            api_allowlist.push(NOBODY.into());
        }
        let own = policy.own_addresses.iter().map(|address| single(*address));
        let mut internal: Vec<String> = INTERNAL.map(str::to_owned).into_iter().chain(own).collect();
        internal.dedup();
        Self {
            version: 1,
            mode: if policy.mode == Mode::Enforce { "strict" } else { "audit" },
            enforce: policy.mode == Mode::Enforce,
            api_allowlist,
            trusted_domains,
            ssrf: Ssrf {
                ip_allowlist: private_addresses.iter().filter_map(|host| Some(single(host.parse().ok()?))).collect(),
            },
            internal,
            fetch_proxy: FetchProxy {
                listen: format!("127.0.0.1:{PIPELOCK_PORT}"),
                monitoring: Monitoring { max_url_length: MAX_URL, max_requests_per_minute: UNLIMITED_PER_MINUTE },
            },
            forward_proxy: ForwardProxy {
                enabled: true,
                max_tunnel_seconds: 3600,
                idle_timeout_seconds: 600,
                sni_verification: true,
            },
            tls_interception: TlsInterception {
                enabled: true,
                ca_cert: home.join("ca/ca.pem"),
                ca_key: home.join("ca/ca-key.pem"),
                passthrough_domains: hosts(|route| route.tls_passthrough),
                max_response_bytes: MAX_BODY,
            },
            request_body_scanning: RequestBodyScanning {
                enabled: true,
                action: "block",
                max_body_bytes: MAX_BODY,
                scan_headers: true,
                header_mode: "all",
                ignore_headers: injected(policy),
            },
            logging: Logging { format: "json", output: "stdout", include_allowed: false, include_blocked: true },
            sentry: Switch { enabled: false },
        }
    }
}

/// An address as a host has brackets where it is one of IPv6.
fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).to_owned()
}

fn single(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// The headers in which the proxy sends credentials of its own.
fn injected(policy: &Policy) -> Vec<&'static str> {
    let schemes: Vec<_> =
        policy.routes.iter().filter_map(|route| route.auth.as_ref()).map(|auth| auth.scheme).collect();
    let headers = [
        ("Authorization", schemes.iter().any(|scheme| *scheme != AuthScheme::XApiKey)),
        ("X-Api-Key", schemes.contains(&AuthScheme::XApiKey)),
    ];
    headers.into_iter().filter_map(|(name, used)| used.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_policy::{Auth, Route};
    use serde_json::{Value, json};

    fn rendered(policy: &Policy) -> Value {
        serde_json::to_value(Config::of(policy, Path::new("/home"))).unwrap()
    }

    #[test]
    fn it_lets_through_what_the_policy_routes_and_nothing_leaves_by_itself() {
        let auth = Some(Auth { scheme: AuthScheme::XApiKey, secret: "x".into() });
        let policy = Policy {
            routes: vec![
                Route { auth, ports: vec![443], ..Route::to("api.example") },
                Route { allow_private: true, ..Route::to("forge.example") },
                Route { allow_private: true, ..Route::to("10.1.2.3") },
                Route { tls_passthrough: true, ..Route::to("pinned.example") },
            ],
            own_addresses: vec![[198, 51, 100, 1].into()],
            ..Policy::default()
        };
        let config = rendered(&policy);
        for (pointer, expected) in [
            ("/mode", json!("strict")),
            ("/api_allowlist", json!(["api.example", "forge.example", "10.1.2.3", "pinned.example"])),
            ("/trusted_domains", json!(["forge.example"])),
            ("/ssrf/ip_allowlist", json!(["10.1.2.3/32"])),
            ("/internal/12", json!("198.51.100.1/32")),
            ("/fetch_proxy/listen", json!("127.0.0.1:8888")),
            ("/tls_interception/ca_cert", json!("/home/ca/ca.pem")),
            ("/tls_interception/passthrough_domains", json!(["pinned.example"])),
            ("/request_body_scanning/ignore_headers", json!(["X-Api-Key"])),
            ("/sentry", json!({"enabled": false})),
        ] {
            assert_eq!(config.pointer(pointer), Some(&expected), "{pointer}");
        }
        let limit = config.pointer("/fetch_proxy/monitoring/max_requests_per_minute").and_then(Value::as_u64);
        assert!(limit.is_some_and(|limit| limit > 1_000_000));
    }

    #[test]
    fn a_policy_without_routes_allows_nobody_and_one_of_audit_blocks_nothing() {
        assert_eq!(rendered(&Policy::default())["api_allowlist"], json!([NOBODY]));
        let audit = rendered(&Policy { mode: Mode::Audit, ..Policy::default() });
        assert_eq!((&audit["mode"], &audit["enforce"]), (&json!("audit"), &json!(false)));
    }
}
