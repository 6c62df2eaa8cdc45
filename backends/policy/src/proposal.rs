//! What an agent may ask its operator for, and what saying yes would change.
//!
//! A proposal is a guest's word, wherever it comes from: both ends of the control channel hold it to [`Proposal::check`].
//! What it could be that it must not be cannot be written in it: a proposed route has no key for a credential, for
//! passthrough, for an address, or for private ones.

use crate::{
    Policy, Route, Scheme, address,
    decide::NEVER,
    dockerfile::Recipe,
    host, path,
    target::{self, Target},
};
use serde::{Deserialize, Serialize};

/// The longest reason that an agent may give, in bytes.
pub const MAX_JUSTIFICATION: usize = 4 << 10;
/// The longest Dockerfile.
pub const MAX_DOCKERFILE: usize = 32 << 10;
/// The longest URL.
pub const MAX_URL: usize = 2 << 10;
/// Routes of one proposal.
pub const MAX_ROUTES: usize = 16;
/// Paths, methods or ports of one route.
pub const MAX_LISTED: usize = 32;
/// The longest path.
pub const MAX_PATH: usize = 1 << 10;
/// Characters of a proposal's id: hexadecimal.
pub const ID_LENGTH: usize = 16;

/// One proposal, as its tool is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tool", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Proposal {
    /// These hosts, beside what may be reached already.
    EgressBlock {
        /// At least one.
        routes: Vec<ProposedRoute>,
        /// Why, in the agent's words.
        justification: String,
    },
    /// What the program behind the proxy refused.
    PipelockBlock {
        /// The URL that failed.
        url: String,
        /// Why, in the agent's words.
        justification: String,
    },
    /// What the bottle's image lacks.
    CapabilityBlock {
        /// The steps that would add it.
        dockerfile: String,
        /// Why, in the agent's words.
        justification: String,
    },
}

/// A host that an agent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposedRoute {
    /// Exact, lower-case.
    pub host: String,
    /// Ports; none: 443.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Path prefixes; none: every path.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Methods, upper-case; none: every method.
    #[serde(default)]
    pub methods: Vec<String>,
}

/// What may be reached of the hosts of some routes once others are granted, too.
pub fn opened(known: &[ProposedRoute], proposed: &[ProposedRoute]) -> Result<Vec<ProposedRoute>, String> {
    let known = Policy { routes: known.iter().map(ProposedRoute::to_route).collect(), ..Policy::default() };
    Ok(known.granting(proposed)?.routes.iter().map(ProposedRoute::of).collect())
}

/// Is this how a proposal's id is written?
pub fn is_id(id: &str) -> bool {
    id.len() == ID_LENGTH && id.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

impl Proposal {
    /// The tool that it came by.
    pub fn tool(&self) -> &'static str {
        match self {
            Self::EgressBlock { .. } => "egress-block",
            Self::PipelockBlock { .. } => "pipelock-block",
            Self::CapabilityBlock { .. } => "capability-block",
        }
    }

    /// Why, in the agent's words.
    pub fn justification(&self) -> &str {
        match self {
            Self::EgressBlock { justification, .. }
            | Self::PipelockBlock { justification, .. }
            | Self::CapabilityBlock { justification, .. } => justification,
        }
    }

    /// Why nobody is asked, if nobody is: in words that an agent can act on.
    pub fn check(&self) -> Result<(), String> {
        if self.justification().trim().is_empty() {
            return Err("say why you need it (`justification`)".into());
        }
        bounded("the justification", self.justification().len(), MAX_JUSTIFICATION, "bytes")?;
        if let Self::CapabilityBlock { dockerfile, .. } = self {
            if dockerfile.trim().is_empty() {
                return Err("the Dockerfile is empty".into());
            }
            bounded("the Dockerfile", dockerfile.len(), MAX_DOCKERFILE, "bytes")?;
            return Recipe::parse(dockerfile, "")
                .map(drop)
                .map_err(|why| format!("the Dockerfile cannot be had: {why}"));
        }
        let routes = self.routes()?;
        if routes.is_empty() {
            return Err("no route is proposed".into());
        }
        bounded("the list of routes", routes.len(), MAX_ROUTES, "routes")?;
        routes.iter().try_for_each(ProposedRoute::check)
    }

    /// The routes that it would add.
    pub fn routes(&self) -> Result<Vec<ProposedRoute>, String> {
        match self {
            Self::EgressBlock { routes, .. } => Ok(routes.clone()),
            Self::PipelockBlock { url, .. } => of_url(url).map(|route| vec![route]),
            Self::CapabilityBlock { .. } => Ok(vec![]),
        }
    }
}

impl ProposedRoute {
    fn check(&self) -> Result<(), String> {
        let host = &self.host;
        if *host != host.to_ascii_lowercase() {
            return Err(format!("the host `{}` is not in lower case", host.escape_debug()));
        }
        if let Some(why) = host::ambiguity(host) {
            return Err(format!("the host `{}` cannot be asked for: {why}", host.escape_debug()));
        }
        let neighbour = match host::address(host) {
            Some(literal) => address::refusal(literal, false, &[]),
            None => host::local_name(host, false),
        };
        if let Some(why) = neighbour {
            return Err(format!("the host `{host}` cannot be asked for: it is {why}"));
        }
        for (what, length) in
            [("ports", self.ports.len()), ("paths", self.paths.len()), ("methods", self.methods.len())]
        {
            bounded(&format!("the list of {what} of {host}"), length, MAX_LISTED, what)?;
        }
        if self.ports.contains(&0) {
            return Err(format!("port 0 of {host} is none"));
        }
        for path in &self.paths {
            bounded(&format!("a path of {host}"), path.len(), MAX_PATH, "bytes")?;
            let why = path::ambiguity(path).or(path.contains('?').then_some("a prefix of paths has no query"));
            if let Some(why) = why {
                return Err(format!("the path `{}` of {host}: {why}", path.escape_debug()));
            }
        }
        for method in &self.methods {
            let is_one =
                (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            if !is_one || NEVER.contains(&method.as_str()) {
                return Err(format!("the method `{}` of {host} cannot be asked for", method.escape_debug()));
            }
        }
        Ok(())
    }

    /// As much of a route as an agent may ask for.
    fn of(route: &Route) -> Self {
        let Route { host, ports, paths, methods, .. } = route.clone();
        Self { host, ports, paths, methods }
    }

    /// The route that it would be: what the agent brings as a credential is taken out, and nothing is put in.
    fn to_route(&self) -> Route {
        let ports = if self.ports.is_empty() { vec![443] } else { self.ports.clone() };
        let (paths, methods) = (self.paths.clone(), self.methods.clone());
        Route { ports, paths, methods, strip_credentials: true, ..Route::to(&self.host) }
    }
}

impl Policy {
    /// What may be reached already of the hosts of these routes.
    pub fn known(&self, proposed: &[ProposedRoute]) -> Vec<ProposedRoute> {
        let is_one = |known: &&Route| proposed.iter().any(|route| host::same(&known.host, &route.host));
        self.routes.iter().filter(is_one).map(ProposedRoute::of).collect()
    }

    /// The policy with these routes too. A host that has a route is opened further, unless that route is of a kind that
    /// only a manifest may give.
    pub fn granting(&self, proposed: &[ProposedRoute]) -> Result<Self, String> {
        let mut policy = self.clone();
        for route in proposed {
            route.check()?;
            match policy.routes.iter_mut().find(|known| host::same(&known.host, &route.host)) {
                Some(known) => widen(known, &route.to_route())?,
                None => policy.routes.push(route.to_route()),
            }
        }
        policy.check()?;
        Ok(policy)
    }
}

fn widen(known: &mut Route, by: &Route) -> Result<(), String> {
    let kept = [
        (known.auth.is_some(), "a credential of its own"),
        (known.conversation, "the model behind it"),
        (known.tls_passthrough, "no sight of what passes"),
        (known.allow_private, "private addresses behind it"),
    ];
    if let Some((_, why)) = kept.iter().find(|(is_so, _)| *is_so) {
        return Err(format!("the route to {} has {why}: only its manifest opens it further", known.host));
    }
    known.ports.extend(by.ports.iter().filter(|port| !known.ports.contains(port)).copied().collect::<Vec<_>>());
    join(&mut known.paths, &by.paths);
    join(&mut known.methods, &by.methods);
    Ok(())
}

/// An empty list means all.
fn join(known: &mut Vec<String>, more: &[String]) {
    if known.is_empty() || more.is_empty() {
        return known.clear();
    }
    let new: Vec<String> = more.iter().filter(|text| !known.contains(text)).cloned().collect();
    known.extend(new);
}

/// The place that a URL names, and no more than its path.
fn of_url(url: &str) -> Result<ProposedRoute, String> {
    bounded("the URL", url.len(), MAX_URL, "bytes")?;
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        _ => return Err("the URL begins with neither `https://` nor `http://`".into()),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let Target { host, port } = target::of_url(scheme, authority).map_err(|why| format!("the URL's host: {why}"))?;
    Ok(ProposedRoute { host, ports: vec![port], paths: vec![path.to_owned()], methods: vec![] })
}

fn bounded(what: &str, length: usize, most: usize, unit: &str) -> Result<(), String> {
    if length > most { Err(format!("{what} is too long: {length} {unit}, {most} at most")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Auth, AuthScheme};
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<Proposal, String> {
        let proposal: Proposal = serde_json::from_value(value).map_err(|error| error.to_string())?;
        proposal.check().map(|()| proposal)
    }

    fn egress(route: Value) -> Result<Proposal, String> {
        read(json!({"tool": "egress-block", "routes": [route], "justification": "it is needed"}))
    }

    #[test]
    fn what_an_agent_may_not_have_cannot_be_proposed() {
        for (route, word) in [
            (json!({"host": "a.example", "auth": {"scheme": "Bearer", "secret": "x"}}), "auth"),
            (json!({"host": "a.example", "tls_passthrough": true}), "tls_passthrough"),
            (json!({"host": "a.example", "allow_private": true}), "allow_private"),
            (json!({"host": "a.example", "address": "10.0.0.1"}), "address"),
            (json!({"host": "a.example", "conversation": true}), "conversation"),
            (json!({"host": "a.example", "responses": "warn"}), "responses"),
            (json!({"host": "10.0.0.1"}), "private address"),
            (json!({"host": "172.16.0.1"}), "private address"),
            (json!({"host": "192.168.1.1"}), "private address"),
            (json!({"host": "127.0.0.1"}), "loopback"),
            (json!({"host": "169.254.169.254"}), "link-local"),
            (json!({"host": "[::1]"}), "loopback"),
            (json!({"host": "[fd00::1]"}), "private address"),
            (json!({"host": "[::ffff:10.0.0.1]"}), "private address"),
            (json!({"host": "localhost"}), "machine itself"),
            (json!({"host": "egress"}), "private network"),
            (json!({"host": "git.corp"}), "private network"),
            (json!({"host": "metadata.google.internal"}), "metadata"),
            (json!({"host": "0x7f000001"}), "unusual spelling"),
            (json!({"host": "A.example"}), "lower case"),
            (json!({"host": "*.example"}), "character"),
            (json!({"host": "*"}), "character"),
            (json!({"host": ""}), "empty"),
            (json!({"host": "a.example:443"}), "character"),
            (json!({"host": "a.example\u{202e}"}), "character"),
            (json!({"host": "a.example", "ports": [0]}), "port 0"),
            (json!({"host": "a.example", "ports": [70000]}), "70000"),
            (json!({"host": "a.example", "paths": ["/a/../b"]}), "dot segment"),
            (json!({"host": "a.example", "paths": ["a"]}), "begin with"),
            (json!({"host": "a.example", "paths": ["/a?b"]}), "query"),
            (json!({"host": "a.example", "paths": [format!("/{}", "a".repeat(MAX_PATH))]}), "too long"),
            (json!({"host": "a.example", "paths": vec!["/a"; MAX_LISTED + 1]}), "too long"),
            (json!({"host": "a.example", "methods": ["TRACE"]}), "method"),
            (json!({"host": "a.example", "methods": ["CONNECT"]}), "method"),
            (json!({"host": "a.example", "methods": ["get"]}), "method"),
            (json!({"host": "a.example", "methods": [""]}), "method"),
        ] {
            let refused = egress(route.clone()).expect_err(&route.to_string());
            assert!(refused.contains(word), "{route}: {refused}");
        }
    }

    #[test]
    fn proposals_are_bounded_and_say_why() {
        let route = json!({"host": "a.example"});
        let why = "x".repeat(MAX_JUSTIFICATION + 1);
        for (value, word) in [
            (json!({"tool": "egress-block", "routes": [], "justification": "x"}), "no route"),
            (json!({"tool": "egress-block", "routes": [route], "justification": " "}), "say why"),
            (json!({"tool": "egress-block", "routes": [route]}), "justification"),
            (json!({"tool": "egress-block", "routes": [route], "justification": why}), "too long"),
            (json!({"tool": "egress-block", "routes": vec![route; MAX_ROUTES + 1], "justification": "x"}), "too long"),
            (json!({"tool": "root-me", "justification": "x"}), "root-me"),
            (json!({"tool": "pipelock-block", "url": "ftp://a.example/", "justification": "x"}), "neither"),
            (json!({"tool": "pipelock-block", "url": "https://u@a.example/", "justification": "x"}), "userinfo"),
            (json!({"tool": "pipelock-block", "url": "https://10.0.0.1/", "justification": "x"}), "private"),
            (json!({"tool": "pipelock-block", "url": "https://a.example/%2e%2e/", "justification": "x"}), "encoded"),
            (json!({"tool": "capability-block", "dockerfile": "\n", "justification": "x"}), "empty"),
            (
                json!({"tool": "capability-block", "dockerfile": "x".repeat(MAX_DOCKERFILE + 1), "justification": "x"}),
                "too long",
            ),
        ] {
            let refused = read(value.clone()).expect_err(&value.to_string());
            assert!(refused.contains(word), "{value}: {refused}");
        }
        for value in [
            json!({"tool": "egress-block", "routes": [{"host": "198.51.100.7", "ports": [80]}], "justification": "x"}),
            json!({"tool": "pipelock-block", "url": "https://a.example/b?c=d#e", "justification": "x"}),
            json!({"tool": "capability-block", "dockerfile": "RUN apt-get install -y jq", "justification": "x"}),
        ] {
            let proposal = read(value.clone()).unwrap();
            assert_eq!(proposal.tool(), value["tool"]);
        }
    }

    #[test]
    fn a_yes_adds_a_bare_route_or_opens_a_bare_one_further() {
        let proposed = |value: Value| -> Vec<ProposedRoute> { egress(value).unwrap().routes().unwrap() };
        let narrow = Route { paths: vec!["/a".into()], methods: vec!["GET".into()], ..Route::to("b.example") };
        let policy = Policy { routes: vec![narrow], ..Policy::default() };

        let new = policy.granting(&proposed(json!({"host": "new.example"}))).unwrap();
        let added = &new.routes[1];
        assert_eq!((added.host.as_str(), &added.ports[..], added.strip_credentials), ("new.example", &[443][..], true));
        assert!(added.auth.is_none() && !added.allow_private && !added.tls_passthrough && added.address.is_none());

        let wider = policy.granting(&proposed(json!({"host": "b.example", "paths": ["/c"], "methods": ["POST"]})));
        let route = &wider.unwrap().routes[0];
        assert_eq!((route.paths.join(" "), route.methods.join(" ")), ("/a /c".into(), "GET POST".into()));
        let all = policy.granting(&proposed(json!({"host": "b.example"}))).unwrap();
        assert!(all.routes[0].paths.is_empty() && all.routes[0].methods.is_empty());

        let of_url =
            read(json!({"tool": "pipelock-block", "url": "https://u.example:8443/x/y?z", "justification": "x"}));
        let new = policy.granting(&of_url.unwrap().routes().unwrap()).unwrap();
        assert_eq!((new.routes[1].ports[0], new.routes[1].paths.join(" ")), (8443, "/x/y".into()));
    }

    #[test]
    fn what_a_yes_would_open_is_known_from_the_routes_of_its_hosts() {
        let narrow = Route { ports: vec![443], paths: vec!["/a".into()], ..Route::to("b.example") };
        let policy = Policy { routes: vec![Route::to("c.example"), narrow], ..Policy::default() };
        let routes = egress(json!({"host": "b.example", "paths": ["/b"]})).unwrap().routes().unwrap();
        let known = policy.known(&routes);
        assert_eq!(known, [ProposedRoute { paths: vec!["/a".into()], ports: vec![443], ..routes[0].clone() }]);
        let opened = opened(&known, &routes).unwrap();
        assert_eq!(opened, [ProposedRoute { paths: vec!["/a".into(), "/b".into()], ..known[0].clone() }]);
        let new = egress(json!({"host": "new.example"})).unwrap().routes().unwrap();
        assert!(policy.known(&new).is_empty());
        assert_eq!(super::opened(&[], &new).unwrap(), [ProposedRoute { ports: vec![443], ..new[0].clone() }]);
    }

    #[test]
    fn a_route_that_only_a_manifest_gives_is_not_opened_further() {
        let bare = || Route { ports: vec![443], ..Route::to("b.example") };
        let auth = Some(Auth { scheme: AuthScheme::Bearer, secret: "s".into() });
        for route in [
            Route { auth, ..bare() },
            Route { conversation: true, ..bare() },
            Route { tls_passthrough: true, ..bare() },
            Route { allow_private: true, ..bare() },
        ] {
            let policy = Policy { routes: vec![route], ..Policy::default() };
            let proposed = egress(json!({"host": "b.example", "paths": ["/c"]})).unwrap().routes().unwrap();
            assert!(policy.granting(&proposed).unwrap_err().contains("only its manifest"));
        }
    }

    #[test]
    fn ids_are_written_in_one_way() {
        assert!(is_id("0123456789abcdef"));
        for id in
            ["", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef0", "../../etc/passw", "0123456789abcde\n"]
        {
            assert!(!is_id(id), "{id:?}");
        }
    }
}
