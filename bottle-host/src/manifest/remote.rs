//! A remote as it is shown: in `info`, and in the preflight.

use super::{GitEntry, Transport};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::net::IpAddr;

/// A remote without the value of anything secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remote {
    /// What the agent calls it.
    pub name: String,
    /// Where it is.
    pub upstream: String,
    /// The key's file, or `$` and the host's variable.
    pub credential: Option<String>,
    /// ssh: the only key that the host may show.
    pub known_host_key: Option<String>,
    /// The refs that may be pushed to.
    pub allow_refs: Vec<String>,
    /// A push may delete refs.
    pub allow_delete: bool,
    /// A push may take commits away, and move tags.
    pub allow_force: bool,
    /// The address that is dialled, whatever the host's name says.
    pub address: Option<IpAddr>,
    /// It may be at a private address.
    pub allow_private: bool,
}

impl Remote {
    /// Of an entry.
    pub fn of(entry: &GitEntry) -> Self {
        let credential = match entry.upstream.transport {
            Transport::Ssh(_) => entry.identity_file.clone(),
            Transport::Https => entry.token_ref.as_ref().map(|name| format!("${name}")),
        };
        Self {
            name: entry.name.clone(),
            upstream: entry.upstream.to_string(),
            credential,
            known_host_key: entry.known_host_key.clone(),
            allow_refs: entry.allow_refs.clone(),
            allow_delete: entry.allow_delete,
            allow_force: entry.allow_force,
            address: entry.address,
            allow_private: entry.allow_private,
        }
    }

    /// For a person.
    pub fn lines(&self) -> Vec<String> {
        let mut place = format!("{}: {}", self.name, self.upstream);
        if let Some(credential) = &self.credential {
            place += &format!(" with {credential}");
        }
        if let Some(address) = self.address {
            place += &format!(" AT {address}");
        }
        if self.allow_private {
            place += " PRIVATE ADDRESSES";
        }
        let refs = if self.allow_refs.is_empty() { "nothing".into() } else { self.allow_refs.join(", ") };
        let mut push = format!("  may push {refs}");
        let flags = [(self.allow_force, " BY FORCE"), (self.allow_delete, " AND DELETE")];
        flags.iter().filter(|(set, _)| *set).for_each(|(_, flag)| push += flag);
        let key = self.known_host_key.as_deref().and_then(fingerprint).map(|key| format!("  host key {key}"));
        [Some(place), Some(push), key].into_iter().flatten().collect()
    }
}

/// A key as `ssh-keygen -l` and the forges' own pages show it.
fn fingerprint(key: &str) -> Option<String> {
    let (kind, bytes) = key.split_once(' ')?;
    let hash = Sha256::digest(BASE64_STANDARD.decode(bytes).ok()?);
    Some(format!("{kind} SHA256:{}", BASE64_STANDARD_NO_PAD.encode(hash)))
}
