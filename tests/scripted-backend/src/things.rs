//! What a scripted bottle consists of: a file per thing below `SCRIPT_ROOT`, named by its ledger entry's uuid.

use crate::script::at;
use bottle_api::{CleanupItem, Error, ErrorKind, Host, LedgerEntry, Result, error::Context};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The kinds of things, in the order of their creation.
pub(crate) const KINDS: [&str; 3] = ["network", "sidecar", "agent"];

#[derive(Serialize, Deserialize)]
struct Label {
    identity: String,
    owner: String,
    kind: String,
    agent: String,
}

/// The place where all things are.
#[derive(Clone)]
pub(crate) struct World {
    host: Host,
    root: PathBuf,
    owner: String,
}

impl World {
    pub(crate) fn new(host: &Host, env: &BTreeMap<String, String>, owner: &str) -> Result<Self> {
        let root = env.get("SCRIPT_ROOT").ok_or_else(|| {
            Error::new(ErrorKind::PREREQUISITE, "SCRIPT_ROOT is not set").hint("export SCRIPT_ROOT=/some/directory")
        })?;
        Ok(Self { host: host.clone(), root: root.into(), owner: owner.into() })
    }

    /// Announces, makes and confirms one thing; the script may strike between any two.
    pub(crate) fn make(&self, identity: &str, agent: &str, kind: &str) -> Result<()> {
        let ledger = self.host.ledger(identity);
        at(&format!("before-{kind}"))?;
        let mut entry = ledger.intent(kind, &format!("{kind} of {agent}"))?;
        at(&format!("announced-{kind}"))?;
        let label =
            Label { identity: identity.into(), owner: self.owner.clone(), kind: kind.into(), agent: agent.into() };
        fs::write(self.path(&entry.uuid), serde_json::to_vec(&label)?).context("make a thing")?;
        at(&format!("made-{kind}"))?;
        let id = entry.uuid.clone();
        ledger.created(&mut entry, &id)?;
        at(&format!("confirmed-{kind}"))
    }

    /// Removes one thing and tells the ledger.
    pub(crate) fn remove(&self, item: &CleanupItem) -> Result<()> {
        let path = self.path(&item.uuid);
        if path.exists() {
            fs::remove_file(path).context("remove a thing")?;
        }
        at(&format!("removed-{}", item.kind))?;
        self.host.ledger(&item.identity).gone(&LedgerEntry::from(item))?;
        at(&format!("forgotten-{}", item.kind))
    }

    /// All things, of this owner or of every one; the last made of each bottle first.
    pub(crate) fn all(&self, every: bool) -> Result<Vec<(CleanupItem, String)>> {
        let mut found = vec![];
        for entry in fs::read_dir(&self.root).context("look for things")? {
            let path = entry?.path();
            let label: Label = serde_json::from_slice(&fs::read(&path)?)?;
            let foreign = label.owner != self.owner;
            if foreign && !every {
                continue;
            }
            let uuid = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let item = CleanupItem {
                kind: label.kind,
                name: path.display().to_string(),
                id: uuid.clone(),
                identity: label.identity,
                uuid,
                foreign,
                ..CleanupItem::default()
            };
            found.push((item, label.agent));
        }
        let age = |item: &CleanupItem| KINDS.iter().position(|kind| *kind == item.kind);
        found.sort_by_key(|(item, _)| std::cmp::Reverse(age(item)));
        Ok(found)
    }

    /// The things of one bottle.
    pub(crate) fn of(&self, identity: &str) -> Result<Vec<CleanupItem>> {
        Ok(self.all(false)?.into_iter().map(|(item, _)| item).filter(|item| item.identity == identity).collect())
    }

    fn path(&self, uuid: &str) -> PathBuf {
        Path::new(&self.root).join(uuid)
    }
}
