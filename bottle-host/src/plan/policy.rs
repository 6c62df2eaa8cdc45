//! The policy document: the manifest's routes and the default one to the model.

use super::{
    credential::{self, ModelCredential},
    rules, upstream,
};
use crate::{
    manifest::{self, Bottle, EnvValue, Step, egress},
    paths::Paths,
    ui::hinted,
};
use anyhow::Result;
use bottle_policy::{Auth, EnvSecret, Mode, Policy, Responses, Route, Scan};
use bottle_scan::is_listed;
use std::net::{IpAddr, Ipv6Addr};

/// Renders the document, and says what in it is weaker than the default.
pub fn render(paths: &Paths, bottle: &Bottle, model: &ModelCredential) -> Result<(Policy, Vec<String>)> {
    let (mut routes, mut warnings): (Vec<Route>, Vec<String>) = (vec![], vec![]);
    let mode = match bottle.egress.mode {
        egress::Mode::Enforce => Mode::Enforce,
        egress::Mode::Audit => {
            warnings.push(
                "AUDIT: what is not granted is written down and sent; only what would reach this machine or a \
                           private address, and a push, is refused"
                    .into(),
            );
            Mode::Audit
        }
    };
    for route in &bottle.egress.routes {
        if route.tls_passthrough {
            warnings.push(format!("TLS to {} goes through unseen: nothing in it is judged", route.host));
        }
        if let Some(address) = route.address {
            warnings.push(format!("{} is dialled at {address}, whatever its name says", route.host));
        }
        if route.allow_private {
            warnings.push(format!("{} may be at a private address", route.host));
        }
        routes.push(to_policy(route));
    }
    check_blocklist(paths, bottle)?;
    let blocklist = bottle.egress.blocklist.clone();
    for preset in &bottle.egress.presets {
        let wanted = |host: &&str| {
            routes.iter().all(|r| r.host != **host) && !blocklist.iter().any(|listed| is_listed(host, listed))
        };
        let new: Vec<&str> = preset.hosts().iter().copied().filter(wanted).collect();
        if !new.is_empty() {
            let (name, count) = (preset.name(), new.len());
            warnings.push(format!("the preset {name} lets the agent send anything to {count} more hosts"));
        }
        routes.extend(new.into_iter().map(to_preset));
    }
    match routes.iter_mut().find(|r| r.host == credential::HOST) {
        // The manifest may say more about the model's host; the credential stays the host's.
        Some(route) => {
            if !route.paths.is_empty() || route.ports.iter().any(|port| ![80, 443].contains(port)) {
                warnings.push(format!(
                    "{} is reached otherwise than the client needs, with the model's credential",
                    credential::HOST
                ));
            }
            complete(route, *model);
        }
        None => {
            let mut route = Route::to(credential::HOST);
            complete(&mut route, *model);
            routes.insert(0, route);
        }
    }
    let (upstream_ca_pem, upstream_proxy) = (upstream::authorities()?, upstream::proxy()?);
    if upstream_ca_pem.is_some() {
        warnings.push(format!("certificates signed by {} are trusted for every host", upstream::CA_ENV));
    }
    if let Some(proxy) = &upstream_proxy {
        warnings.push(format!(
            "hosts are reached through the proxy {}:{}: it resolves their names, so nobody here judges their addresses",
            proxy.host, proxy.port
        ));
    }
    let scan = Scan { env: env_secrets(bottle), packs: rules::packs(paths)?, blocklist };
    let own_addresses = own_addresses();
    Ok((Policy { mode, routes, own_addresses, upstream_ca_pem, upstream_proxy, scan, ..Policy::default() }, warnings))
}

/// What has a route of its own is not blocked besides. Hosts of a preset are: that is how one of them is taken out.
fn check_blocklist(paths: &Paths, bottle: &Bottle) -> Result<()> {
    for (i, listed) in bottle.egress.blocklist.iter().enumerate() {
        let route = bottle.egress.routes.iter().find(|route| is_listed(&route.host, listed));
        let remote = bottle.git.iter().find(|remote| is_listed(&remote.upstream.host, listed));
        let (what, hint) = match (route, remote) {
            (Some(route), _) => (format!("{} has a route", route.host), "Take one of the two out."),
            (None, Some(remote)) => {
                (format!("the git remote {} is at {}", remote.name, remote.upstream.host), "Take one of the two out.")
            }
            (None, None) if is_listed(credential::HOST, listed) => {
                (format!("no agent works without {}", credential::HOST), "Take it out of the blocklist.")
            }
            (None, None) => continue,
        };
        let place = bottle.place(paths, &[Step::Key("egress"), Step::Key("blocklist"), Step::Index(i)]);
        return Err(hinted(format!("{place}: the blocklist names `{listed}`, and {what}"), hint));
    }
    Ok(())
}

fn complete(route: &mut Route, model: ModelCredential) {
    if route.paths.is_empty() {
        route.paths = credential::PATHS.iter().map(|p| (*p).to_owned()).collect();
    }
    route.ports.retain(|port| *port != 80);
    if route.ports.is_empty() {
        route.ports.push(443);
    }
    route.strip_credentials = true;
    route.conversation = true;
    route.auth = Some(model.auth());
}

/// The name, among the sidecar's secrets, of the credential that a variable holds: of a kind of its own, so that no
/// variable's name can take another secret's place.
pub fn route_secret(variable: &str) -> String {
    format!("${variable}")
}

/// The same of a variable of the agent's that is secret.
pub fn env_secret(variable: &str) -> String {
    format!("env:{variable}")
}

fn env_secrets(bottle: &Bottle) -> Vec<EnvSecret> {
    let secret = |(name, value): (&String, &EnvValue)| match value {
        EnvValue::Literal(_) => None,
        EnvValue::Secret { hosts, .. } => {
            Some(EnvSecret { name: name.clone(), secret: env_secret(name), hosts: hosts.clone() })
        }
    };
    bottle.env.0.iter().filter_map(secret).collect()
}

fn to_policy(route: &manifest::Route) -> Route {
    let auth = route.auth.as_ref().map(|a| Auth { scheme: a.scheme, secret: route_secret(&a.token_ref) });
    let ports = match &route.ports[..] {
        [] if auth.is_some() || route.tls_passthrough => vec![443],
        [] => vec![443, 80],
        ports => ports.to_vec(),
    };
    Route {
        host: route.host.clone(),
        ports,
        paths: route.path_allowlist.clone(),
        methods: route.methods.clone(),
        address: route.address,
        allow_private: route.allow_private,
        strip_credentials: auth.is_some(),
        auth,
        tls_passthrough: route.tls_passthrough,
        responses: match route.responses {
            Some(egress::Responses::Block) => Responses::Block,
            Some(egress::Responses::Warn) | None => Responses::Warn,
        },
        conversation: false,
    }
}

/// A preset's hosts are reached over TLS, and like the default one with no credential that the agent brings.
fn to_preset(host: &str) -> Route {
    Route { ports: vec![443], strip_credentials: true, ..Route::to(host) }
}

/// The preset that grants a host, where no route of the manifest does.
pub fn preset_of(bottle: &Bottle, host: &str) -> Option<&'static str> {
    let egress = &bottle.egress;
    let own = egress.routes.iter().any(|route| route.host == host);
    let preset = egress.presets.iter().find(|preset| !own && preset.hosts().contains(&host));
    preset.map(|preset| preset.name())
}

/// This machine's addresses, as the kernel lists them: the sidecar is on it, and a host's name may lead back to it.
pub fn own_addresses() -> Vec<IpAddr> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::bottle_from;

    fn nowhere() -> Paths {
        Paths { home: "/nowhere".into(), cwd: "/".into() }
    }

    #[test]
    fn the_model_is_there_by_default_with_its_credential_over_tls_only() {
        let (policy, warnings) = render(&nowhere(), &bottle_from("{}"), &ModelCredential::ApiKey).unwrap();
        assert_eq!((policy.routes.len(), warnings.len()), (1, 0));
        let route = &policy.routes[0];
        assert_eq!((route.host.as_str(), route.ports.as_slice()), (credential::HOST, &[443][..]));
        assert!(route.auth.is_some() && route.strip_credentials && !route.paths.is_empty());
        policy.check().unwrap();
    }

    #[test]
    fn a_route_to_the_model_adds_to_the_default_and_is_shown() {
        let yaml = "egress: {routes: [{host: API.anthropic.com, address: 203.0.113.1}]}";
        let (policy, warnings) = render(&nowhere(), &bottle_from(yaml), &ModelCredential::OauthToken).unwrap();
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
    fn audit_and_what_passes_unseen_are_in_the_document_and_shown() {
        let yaml = "egress: {mode: audit, routes: [{host: unseen.example, tls_passthrough: true}]}";
        let (policy, warnings) = render(&nowhere(), &bottle_from(yaml), &ModelCredential::ApiKey).unwrap();
        policy.check().unwrap();
        assert_eq!(policy.mode, Mode::Audit);
        let route = policy.routes.iter().find(|r| r.host == "unseen.example").unwrap();
        assert!(route.tls_passthrough && route.ports == [443]);
        assert!(warnings[0].starts_with("AUDIT") && warnings[1].contains("unseen"), "{warnings:?}");
    }

    #[test]
    fn a_secret_of_the_agents_is_known_to_the_scanner_with_the_hosts_that_it_may_go_to() {
        let yaml = "env: {A: '?', B: {secret: '${HOME}', hosts: [Db.example]}, C: plain}\n\
                    egress: {routes: [{host: a.example, responses: block}]}";
        let (policy, _) = render(&nowhere(), &bottle_from(yaml), &ModelCredential::ApiKey).unwrap();
        let secret = |name: &str, hosts: &[&str]| EnvSecret {
            name: name.into(),
            secret: format!("env:{name}"),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        assert_eq!(policy.scan.env, [secret("A", &[]), secret("B", &["db.example"])]);
        let of = |host: &str| policy.routes.iter().find(|r| r.host == host).unwrap();
        assert_eq!((of("a.example").responses, of(credential::HOST).conversation), (Responses::Block, true));
    }

    #[test]
    fn a_preset_adds_its_hosts_and_a_route_of_the_manifest_stays_what_it_is() {
        let bottle = bottle_from("egress: {presets: [claude-full], routes: [{host: sentry.io, methods: [POST]}]}");
        let (policy, warnings) = render(&nowhere(), &bottle, &ModelCredential::ApiKey).unwrap();
        policy.check().unwrap();
        let of = |host: &str| policy.routes.iter().find(|r| r.host == host).unwrap();
        assert_eq!((policy.routes.len(), warnings.len()), (7, 1));
        assert_eq!(
            (of("sentry.io").methods.as_slice(), preset_of(&bottle, "sentry.io")),
            (&["POST".to_owned()][..], None)
        );
        assert_eq!(preset_of(&bottle, "claude.ai"), Some("claude-full"));
        assert!(of("claude.ai").strip_credentials && of("claude.ai").ports == [443]);
        assert_eq!(of(credential::HOST).paths, credential::PATHS);
    }

    #[test]
    fn a_blocklist_is_in_the_document_and_takes_hosts_out_of_a_preset() {
        let bottle = bottle_from("egress: {presets: [claude-full], blocklist: [Sentry.io, '*.claude.ai', a.example]}");
        let (policy, warnings) = render(&nowhere(), &bottle, &ModelCredential::ApiKey).unwrap();
        policy.check().unwrap();
        assert_eq!(policy.scan.blocklist, ["sentry.io", "*.claude.ai", "a.example"]);
        assert!(policy.routes.iter().all(|r| !["sentry.io", "claude.ai"].contains(&r.host.as_str())));
        assert_eq!(policy.routes.len(), 4);
        assert!(warnings[0].contains("to 3 more hosts"), "{warnings:?}");
    }
}
