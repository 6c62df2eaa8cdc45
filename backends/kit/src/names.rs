//! Names and labels. A name is for people; what a thing is, its labels say, and only those are trusted.

use bottle_api::{BottleSpec, LedgerEntry};
use std::collections::HashMap;

/// The bottle's identity.
pub const IDENTITY: &str = "claude-bottle.identity";
/// The ledger's entry.
pub const ENTRY: &str = "claude-bottle.entry";
/// Machine, user and state directory that own it, hashed.
pub const OWNER: &str = "claude-bottle.owner";
/// What it is for.
pub const ROLE: &str = "claude-bottle.role";
/// The agent's name.
pub const AGENT: &str = "claude-bottle.agent";
/// The sidecar's daemons, on the agent's container.
pub const DAEMONS: &str = "claude-bottle.daemons";
/// The image that the agent's container is made from, on that container: without its workspace.
pub const IMAGE: &str = "claude-bottle.image";
/// Hash of the recipe that an image was built from.
pub const RECIPE: &str = "claude-bottle.recipe";

/// Claude Code's version in an image, where somebody asked for another than the pinned one.
pub const CLAUDE: &str = "claude-bottle.claude";
/// How the names of all that is ours begin, and of what other programs of the kind have made.
pub const PREFIX: &str = "claude-bottle-";

/// The ledger's word for an image that outlives its bottle: the next session of that identity goes on from it.
pub const OWN_IMAGE: &str = "own image";

/// Names are tried with `-2`, `-3`… up to this.
pub const MAX_SUFFIX: u32 = 100;

/// What a container, network or image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The agent's container.
    Agent,
    /// The sidecar bundle's.
    Sidecar,
    /// The network without a way out.
    Internal,
    /// The sidecar's network.
    Egress,
    /// The image whose workspace is not empty, and the container that it is made from.
    Workspace,
    /// The container in which an image of the bottle's own is made.
    Builder,
    /// That image.
    Built,
    /// The network of a sidecar whose agent is in a machine of its own.
    Bridge,
    /// That sidecar bundle.
    Bundle,
    /// The container that a machine's image is packed from; it never runs.
    Export,
}

/// Which backend a thing is of, where several use one engine: each lists and removes its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The agent's is a container, too.
    Containers,
    /// The agent is in a machine of its own.
    Machines,
}

impl Family {
    /// Of the thing with that label. What no backend knows is the older one's.
    pub fn of(role: Option<&str>) -> Self {
        let machines = [Role::Bridge, Role::Bundle, Role::Export].map(Role::label);
        if role.is_some_and(|role| machines.contains(&role)) { Self::Machines } else { Self::Containers }
    }
}

impl Role {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Sidecar => "sidecar",
            Self::Internal => "internal",
            Self::Egress => "egress",
            Self::Workspace => "workspace",
            Self::Builder => "builder",
            Self::Built => "built",
            Self::Bridge => "bridge",
            Self::Bundle => "bundle",
            Self::Export => "export",
        }
    }

    /// `claude-bottle-…<slug>`.
    pub fn base_name(self, slug: &str) -> String {
        match self {
            Self::Agent => format!("claude-bottle-{slug}"),
            Self::Sidecar | Self::Bundle => format!("claude-bottle-sidecars-{slug}"),
            Self::Internal => format!("claude-bottle-net-{slug}"),
            Self::Egress => format!("claude-bottle-egress-{slug}"),
            Self::Workspace => format!("claude-bottle-cwd-{slug}"),
            Self::Builder => format!("claude-bottle-builder-{slug}"),
            Self::Built => format!("claude-bottle-own-{slug}"),
            Self::Bridge => format!("claude-bottle-bundle-{slug}"),
            Self::Export => format!("claude-bottle-export-{slug}"),
        }
    }

    /// The ledger's word for the kind of thing.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Agent | Self::Sidecar | Self::Workspace | Self::Builder | Self::Bundle | Self::Export => "container",
            Self::Built => OWN_IMAGE,
            Self::Internal | Self::Egress | Self::Bridge => "network",
        }
    }
}

/// `base`, `base-2`, … `base-100`.
pub fn candidates(base: &str) -> impl Iterator<Item = String> + '_ {
    (1..=MAX_SUFFIX).map(move |n| if n == 1 { base.to_owned() } else { format!("{base}-{n}") })
}

/// The labels of everything that belongs to a bottle.
pub fn labels(spec: &BottleSpec, role: Role, entry: &LedgerEntry) -> HashMap<String, String> {
    let mut labels = HashMap::from([
        (IDENTITY.into(), spec.identity.clone()),
        (ENTRY.into(), entry.uuid.clone()),
        (OWNER.into(), spec.owner.clone()),
        (ROLE.into(), role.label().into()),
        (AGENT.into(), spec.agent.clone()),
    ]);
    if role == Role::Agent {
        labels.insert(DAEMONS.into(), spec.daemons.join(","));
    }
    labels
}

/// The engine's filter for things with these labels.
pub fn label_filter(labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".into(), labels.iter().map(|(k, v)| format!("{k}={v}")).collect())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_backend_has_its_own_roles_and_what_nobody_knows_is_the_older_ones() {
        for role in [Role::Bridge, Role::Bundle, Role::Export] {
            assert_eq!(Family::of(Some(role.label())), Family::Machines, "{role:?}");
        }
        for role in
            [Role::Agent, Role::Sidecar, Role::Internal, Role::Egress, Role::Workspace, Role::Builder, Role::Built]
        {
            assert_eq!(Family::of(Some(role.label())), Family::Containers, "{role:?}");
        }
        assert_eq!([Family::of(None), Family::of(Some("later"))], [Family::Containers; 2]);
    }
}
