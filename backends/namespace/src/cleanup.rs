//! What earlier bottles left: launchers that still run, and control groups. By the ledger's entries and by labels, never
//! by a number or a name alone.

use crate::{
    find::{self, Launcher},
    limits,
};
use bottle_api::{CleanupItem, CleanupOutcome, CleanupRequest, Host, Result};
use std::time::{Duration, Instant};

/// The ledger's word for a launcher and all that is below it.
pub(crate) const PROCESSES: &str = "processes";

/// What a cleanup removes, processes before the groups that they are in. An entry that has nothing behind it any more is
/// kept, with an empty id, so that the ledger hears of it.
pub(crate) fn plan(req: &CleanupRequest) -> Vec<CleanupItem> {
    if req.unlabelled {
        return vec![];
    }
    let launchers = find::launchers().into_iter().map(|launcher| item(&launcher));
    let owned = |item: &CleanupItem, owner: &str| owner == req.owner || req.foreign && !item.identity.is_empty();
    let launchers = launchers.filter(|(item, owner)| owned(item, owner));
    let groups = limits::groups().into_iter().filter(|(item, owner)| owned(item, owner));
    let mut found: Vec<CleanupItem> =
        launchers.chain(groups).map(|(item, owner)| CleanupItem { foreign: owner != req.owner, ..item }).collect();
    let mut items = vec![];
    for entry in &req.entries {
        match found.iter().position(|item| item.uuid == entry.uuid) {
            Some(at) => items.push(found.swap_remove(at)),
            None => items.push(CleanupItem { id: String::new(), ..entry.into() }),
        }
    }
    if req.sweep {
        items.extend(found.into_iter().filter(|item| !req.live.contains(&item.identity)));
    }
    items.sort_by_key(|item| item.kind != PROCESSES);
    items
}

fn item(launcher: &Launcher) -> (CleanupItem, String) {
    let item = CleanupItem {
        kind: PROCESSES.into(),
        name: format!("claude-bottle-{}", launcher.label("identity")),
        id: launcher.id(),
        identity: launcher.label("identity").into(),
        uuid: launcher.label("entry").into(),
        ..CleanupItem::default()
    };
    (item, launcher.label("owner").to_owned())
}

/// Removes it.
pub(crate) fn execute(host: &Host, items: Vec<CleanupItem>, deadline: Duration) -> Result<CleanupOutcome> {
    let until = Instant::now() + deadline;
    let mut outcome = CleanupOutcome::default();
    for item in items {
        match remove(&item, until) {
            Ok(()) => {
                host.ledger(&item.identity).gone(&(&item).into())?;
                outcome.removed.push(item);
            }
            Err(error) => outcome.left.push((item, error.to_string())),
        }
    }
    Ok(outcome)
}

fn remove(item: &CleanupItem, until: Instant) -> Result<()> {
    if item.kind != PROCESSES {
        return limits::remove(item, until);
    }
    // Whoever still has the entry's label, whatever its number: it may have come to run since.
    let of = |launcher: &Launcher| launcher.label("entry") == item.uuid;
    find::launchers().iter().filter(|launcher| of(launcher)).try_for_each(|launcher| find::end(launcher, until))
}
