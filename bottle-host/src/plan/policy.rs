//! The policy document: the manifest's routes and the default one to the model.

use super::credential::{self, ModelCredential};
use crate::manifest::{self, Bottle};
use anyhow::{Context, Result, bail};
use bottle_policy::{Auth, Policy, Route, SCHEMA};
use std::net::{IpAddr, Ipv6Addr};

/// The host's variable that names a PEM file of further trust anchors for upstream certificates.
const UPSTREAM_CA_ENV: &str = "CLAUDE_BOTTLE_UPSTREAM_CA";

/// Renders the document, and says what in it is weaker than the default.
pub fn render(bottle: &Bottle, model: &ModelCredential) -> Result<(Policy, Vec<String>)> {
    let (mut routes, mut warnings): (Vec<Route>, Vec<String>) = (vec![], vec![]);
    for route in &bottle.egress.routes {
        if routes.iter().any(|r| r.host == route.host) {
            bail!("egress: the host {} has two routes", route.host);
        }
        if let Some(address) = route.address {
            warnings.push(format!("{} is dialled at {address}, whatever its name says", route.host));
        }
        if route.allow_private {
            warnings.push(format!("{} may be at a private address", route.host));
        }
        routes.push(to_policy(route)?);
    }
    match routes.iter_mut().find(|r| r.host == credential::HOST) {
        // The manifest may say more about the model's host; the credential stays the host's.
        Some(route) if route.auth.is_some() => {
            bail!("egress: the credential of {} comes from the host's environment; take `auth` out", credential::HOST)
        }
        Some(route) => complete(route, *model),
        None => {
            let mut route = Route::to(credential::HOST);
            complete(&mut route, *model);
            routes.insert(0, route);
        }
    }
    let upstream_ca_pem = upstream_ca()?;
    if upstream_ca_pem.is_some() {
        warnings.push(format!("certificates signed by {UPSTREAM_CA_ENV} are trusted for every host"));
    }
    Ok((Policy { schema: SCHEMA, routes, own_addresses: own_addresses(), upstream_ca_pem }, warnings))
}

fn complete(route: &mut Route, model: ModelCredential) {
    if route.paths.is_empty() {
        route.paths = credential::PATHS.iter().map(|p| (*p).to_owned()).collect();
    }
    route.ports.retain(|port| *port != 80);
    route.strip_credentials = true;
    route.auth = Some(model.auth());
}

/// The name, among the sidecar's secrets, of the credential that a variable holds: of a kind of its own, so that no
/// variable's name can take another secret's place.
pub fn route_secret(variable: &str) -> String {
    format!("${variable}")
}

fn to_policy(route: &manifest::Route) -> Result<Route> {
    let auth = route.auth.as_ref().map(|a| Auth { scheme: a.scheme, secret: route_secret(&a.token_ref) });
    let ports = match (route.ports.is_empty(), auth.is_some()) {
        (false, _) => route.ports.clone(),
        (true, true) => vec![443],
        (true, false) => vec![443, 80],
    };
    if auth.is_some() && ports.contains(&80) {
        bail!("egress: {} would send its credential in the clear over port 80", route.host);
    }
    Ok(Route {
        host: route.host.clone(),
        ports,
        paths: route.path_allowlist.clone(),
        methods: route.methods.iter().map(|m| m.to_ascii_uppercase()).collect(),
        address: route.address,
        allow_private: route.allow_private,
        strip_credentials: auth.is_some(),
        auth,
    })
}

/// This machine's addresses, as the kernel lists them: the sidecar is on it, and a host's name may lead back to it.
fn own_addresses() -> Vec<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = local_v4(&read("/proc/net/fib_trie"));
    found.extend(local_v6(&read("/proc/net/if_inet6")));
    found.sort_unstable();
    found.dedup();
    found
}

/// `/proc/net/fib_trie`: an address stands on the line before its `/32 host LOCAL`.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let lines: Vec<&str> = trie.lines().map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| pair[1] == "/32 host LOCAL")
        .filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse().ok())
        .collect()
}

/// `/proc/net/if_inet6`: thirty-two hexadecimal digits begin each line.
fn local_v6(table: &str) -> Vec<IpAddr> {
    let digits = table.lines().filter_map(|line| line.split_whitespace().next());
    digits.filter_map(|hex| Some(Ipv6Addr::from(u128::from_str_radix(hex, 16).ok()?).into())).collect()
}

fn upstream_ca() -> Result<Option<String>> {
    let Some(path) = std::env::var_os(UPSTREAM_CA_ENV).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let pem = std::fs::read_to_string(&path)
        .with_context(|| format!("{UPSTREAM_CA_ENV}: read {}", path.to_string_lossy()))?;
    if !pem.contains("BEGIN CERTIFICATE") {
        bail!("{UPSTREAM_CA_ENV}: {} holds no certificate in PEM", path.to_string_lossy());
    }
    Ok(Some(pem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::bottle_from;

    #[test]
    fn the_model_is_there_by_default_with_its_credential_over_tls_only() {
        let (policy, warnings) = render(&bottle_from("{}"), &ModelCredential::ApiKey).unwrap();
        assert_eq!((policy.routes.len(), warnings.len()), (1, 0));
        let route = &policy.routes[0];
        assert_eq!((route.host.as_str(), route.ports.as_slice()), (credential::HOST, &[443][..]));
        assert!(route.auth.is_some() && route.strip_credentials && !route.paths.is_empty());
        policy.check().unwrap();
    }

    #[test]
    fn a_route_to_the_model_adds_to_the_default_and_is_shown() {
        let yaml = "egress: {routes: [{host: API.anthropic.com, address: 203.0.113.1}]}";
        let (policy, warnings) = render(&bottle_from(yaml), &ModelCredential::OauthToken).unwrap();
        assert_eq!((policy.routes.len(), warnings.len()), (1, 1));
        assert!(policy.routes[0].auth.is_some() && policy.routes[0].address.is_some());
    }

    #[test]
    fn the_machines_own_addresses_are_read_from_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.0\n        /24 link UNICAST\n";
        assert_eq!(local_v4(trie), ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        let table = "20010db8000000000000000000000001 02 40 00 80 eth0\n";
        assert_eq!(local_v6(table), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert!(own_addresses().contains(&"127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn credentials_never_go_in_the_clear() {
        for yaml in [
            "egress: {routes: [{host: a.example, ports: [80], auth: {scheme: Bearer, token_ref: T}}]}",
            "egress: {routes: [{host: a.example}, {host: A.example}]}",
            "egress: {routes: [{host: api.anthropic.com, auth: {scheme: Bearer, token_ref: T}}]}",
        ] {
            assert!(render(&bottle_from(yaml), &ModelCredential::ApiKey).is_err(), "{yaml}");
        }
    }
}
