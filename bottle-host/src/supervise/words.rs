//! Proposals in a line, for a person. What of it a guest has chosen is not made printable here.

use crate::ui;
use bottle_policy::{Proposal, ProposedRoute};

/// A route in one line: no credential goes there, and none that the agent brings.
pub fn shown(route: &ProposedRoute) -> String {
    let listed = |items: &[String], all: &str| if items.is_empty() { all.to_owned() } else { items.join(" ") };
    let ports: Vec<String> = route.ports.iter().map(u16::to_string).collect();
    let (methods, paths) = (listed(&route.methods, "any method"), listed(&route.paths, "any path"));
    format!("{}:{} {methods} {paths}, no credential", route.host, listed(&ports, "443").replace(' ', ","))
}

/// What a proposal asks for, in a few words.
pub fn asked_for(proposal: &Proposal) -> String {
    match proposal {
        Proposal::EgressBlock { routes, .. } => routes.iter().map(shown).collect::<Vec<_>>().join("; "),
        Proposal::PipelockBlock { url, .. } => url.clone(),
        Proposal::CapabilityBlock { dockerfile, .. } => {
            ui::count(dockerfile.lines().count(), "line") + " of a Dockerfile"
        }
    }
}
