//! What agents ask their operator for: kept on disk, decided by a person, applied by the process that owns the bottle.
//!
//! ```text
//! sidecar ─ proposal ─▶ desk ─▶ audit log, queue ◀── read ── bottle supervise
//!         ◀─ answer ──── │ ◀── decision ── control.sock ◀─── bottle supervise approve|reject
//!         ◀─ reload ─────┘
//! ```
//!
//! * [`queue`]: the proposals of a bottle, a file each;
//! * [`audit`]: what was asked, decided and done, for good;
//! * [`desk`]: where the owner takes proposals and decisions, one after the other;
//! * [`build`]: images of what is proposed;
//! * [`words`]: proposals in a line;
//! * [`screen`]: what an operator sees, and the keys that decide.

pub mod audit;
pub mod build;
pub mod desk;
pub mod queue;
pub mod screen;
pub mod words;

use crate::paths::Paths;
use anyhow::Result;
use audit::{Audit, Event};
use bottle_policy::Policy;
use queue::{Entry, Queue, Standing};
use std::collections::BTreeMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The policy of a bottle that is resumed: what its operator approved for good holds again, as far as its manifest still
/// allows for it. What is to be said of that.
pub fn grant_again(paths: &Paths, identity: &str, policy: &mut Policy) -> Result<Vec<String>> {
    let mut said = vec![];
    for entry in Queue::of(paths, identity).entries()?.0 {
        if !matches!(entry.standing, Standing::Approved { once: false, .. }) {
            continue;
        }
        let granted = entry.proposal.routes().and_then(|routes| Ok((policy.granting(&routes)?, routes)));
        match granted {
            Ok((wider, routes)) => {
                *policy = wider;
                said.extend(routes.iter().map(|route| format!("{} was approved in an earlier session", route.host)));
            }
            Err(why) => said.push(format!("what was approved as {} holds no more: {why}", entry.id)),
        }
    }
    Ok(said)
}

/// Puts back what stands in the audit log and not in the queue: its owner was killed between the two.
pub fn restore(paths: &Paths, identity: &str) -> Result<()> {
    let (queue, mut lost) = (Queue::of(paths, identity), BTreeMap::new());
    Audit::of(paths).read(|record, _| {
        match &record.event {
            _ if record.identity != identity => {}
            Event::Proposed { proposal } => {
                let entry = Entry::pending(&record.id, record.time.clone(), proposal.clone());
                lost.insert(record.id.clone(), entry);
            }
            // It was there; by now it may be among those that are forgotten.
            _ => drop(lost.remove(&record.id)),
        }
        Ok(())
    })?;
    lost.retain(|id, _| matches!(queue.get(id), Ok(None)));
    lost.values().try_for_each(|entry| queue.put(entry))
}

fn now() -> Result<String> {
    Ok(OffsetDateTime::now_utc().format(&Rfc3339)?)
}
