//! The owner's desk: proposals and decisions come one after the other, and nothing else of them happens at once.
//!
//! ```text
//! proposal ─ check ─ audit ─ queue ─▶ "pending"        what cannot be kept is refused, not forgotten
//! approval ─ audit ─ apply ─┬─ queue, audit ─▶ "approved"
//!                           └─ failed: queue (the error), audit; it stays pending
//! ```

use super::{
    audit::{Audit, Event},
    now,
    queue::{Entry, Queue, Standing},
    words::asked_for,
};
use crate::{fault, paths::Paths, session::sidecar::SidecarChannel, state, ui::hinted};
use anyhow::{Result, anyhow, bail, ensure};
use bottle_api::control::PIPELOCK_DAEMON;
use bottle_policy::{
    Policy, Proposal,
    message::{Answer, Down, Up},
    proposal::is_id,
};
use bottle_scan::is_listed;
use serde::{Deserialize, Serialize};
use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, SyncSender, sync_channel},
};

/// Words that may lie on a desk unread.
const DEPTH: usize = 64;

/// What comes to a desk.
pub enum Word {
    /// From the sidecar: a proposal, or a question about one.
    Sidecar(Up),
    /// From the operator.
    Decided {
        /// The proposal's.
        id: String,
        /// Yes or no.
        decision: Decision,
        /// What came of it.
        answer: Sender<Result<()>>,
    },
    /// The session is over.
    Over,
}

/// What the operator says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Approve {
        /// For this session only.
        once: bool,
        /// What the agent is told with it.
        note: String,
    },
    /// Yes, to what the operator made of it: the same tool's, and held to the same rules.
    Modify {
        /// What holds instead.
        proposal: Proposal,
        /// For this session only.
        once: bool,
        /// What the agent is told with it, beside what it may have.
        note: String,
    },
    /// No.
    Reject {
        /// Why.
        reason: String,
    },
}

/// The way to a desk.
pub type Words = SyncSender<Word>;

/// A desk's two ends.
pub fn words() -> (Words, Receiver<Word>) {
    sync_channel(DEPTH)
}

/// Ends a desk's work on any way out, a panic too: nobody waits for a desk that waits for words.
pub struct Closing(pub Option<Words>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.iter().for_each(|words| drop(words.send(Word::Over)));
    }
}

/// One bottle's.
pub struct Desk<'a> {
    identity: String,
    /// The bottle's.
    state: PathBuf,
    queue: Queue,
    audit: Audit,
    /// The one that holds.
    policy: Policy,
    sidecar: &'a SidecarChannel,
}

impl<'a> Desk<'a> {
    /// Of a bottle that lives by this policy.
    pub fn new(paths: &Paths, identity: &str, policy: Policy, sidecar: &'a SidecarChannel) -> Self {
        let (queue, audit, state) = (Queue::of(paths, identity), Audit::of(paths), paths.state().join(identity));
        Self { identity: identity.into(), state, queue, audit, policy, sidecar }
    }

    /// Serves until the session is over.
    pub fn serve(mut self, words: &Receiver<Word>) {
        while let Ok(word) = words.recv() {
            match word {
                Word::Sidecar(Up::Proposal { id, proposal }) if is_id(&id) => {
                    let answer = self.take(&id, proposal);
                    self.tell(&id, answer);
                }
                Word::Sidecar(Up::Asked { id }) if is_id(&id) => {
                    let known = self.queue.get(&id).ok().flatten().map(|entry| entry.standing.answer());
                    let unknown = || Answer::Refused { message: format!("there is no proposal {id}") };
                    self.tell(&id, known.unwrap_or_else(unknown));
                }
                // Nothing that is to be answered.
                Word::Sidecar(_) => {}
                Word::Decided { id, decision, answer } => drop(answer.send(self.decide(&id, decision))),
                Word::Over => return,
            }
        }
    }

    /// Keeps a proposal for the operator.
    fn take(&self, id: &str, proposal: Proposal) -> Answer {
        let refused = |message: String| Answer::Refused { message };
        match self.queue.get(id) {
            // Said once more, by a daemon that did not hear the answer.
            Ok(Some(known)) => return known.standing.answer(),
            Ok(None) => {}
            Err(_) => return refused("its id is in use".into()),
        }
        match self.with(&proposal) {
            Err(why) => return refused(why),
            Ok(wider) if wider == self.policy && matches!(proposal, Proposal::EgressBlock { .. }) => {
                return refused("all of it may be reached already: see `list-egress-routes`".into());
            }
            Ok(_) => {}
        }
        let keep = || -> Result<()> {
            self.queue.make_room()?;
            // Whatever becomes of its bottle: only a bottle that can be resumed can have it decided.
            state::preserve(&self.state)?;
            self.note(id, Event::Proposed { proposal: proposal.clone() })?;
            let known = self.policy.known(&proposal.routes().map_err(anyhow::Error::msg)?);
            self.put(&Entry { known, ..Entry::pending(id, now()?, proposal.clone()) })
        };
        match keep() {
            Ok(()) => Answer::Pending,
            Err(error) => refused(format!("it cannot be kept for the operator: {error:#}")),
        }
    }

    /// The policy with what is proposed, or why it cannot be.
    fn with(&self, proposal: &Proposal) -> Result<Policy, String> {
        proposal.check()?;
        let routes = proposal.routes()?;
        let blocked = |host: &str| self.policy.scan.blocklist.iter().any(|listed| is_listed(host, listed));
        match routes.iter().find(|route| blocked(&route.host)) {
            Some(route) => Err(format!("{} is on the blocklist", route.host)),
            None => self.policy.granting(&routes),
        }
    }

    fn decide(&mut self, id: &str, decision: Decision) -> Result<()> {
        let Some(mut entry) = self.queue.get(id)? else { bail!("{} has no proposal {id}", self.identity) };
        match &entry.standing {
            Standing::Pending => {}
            Standing::Approved { at, .. } => bail!("proposal {id} was approved at {at}"),
            Standing::Rejected { at, .. } => bail!("proposal {id} was rejected at {at}"),
        }
        let (once, note) = match decision {
            Decision::Reject { reason } => {
                self.note(id, Event::Rejected { reason: reason.clone() })?;
                entry.standing = Standing::Rejected { at: now()?, reason };
                return self.settle(&entry);
            }
            Decision::Approve { once, note } => (once, note),
            Decision::Modify { proposal, once, note } => {
                self.modify(&mut entry, proposal)?;
                let told = format!("your operator changed it to: {}", asked_for(&entry.proposal));
                (once, if note.is_empty() { told } else { format!("{note} ({told})") })
            }
        };
        self.note(id, Event::Approved { once, note: note.clone() })?;
        if let Err(error) = self.apply(&entry.proposal) {
            self.note(id, Event::Failed { error: format!("{error:#}") })?;
            // What the agent asked for is what waits on.
            if let Some(mut waits) = self.queue.get(id)? {
                waits.error = Some(format!("{error:#}"));
                self.put(&waits)?;
            }
            return Err(error.context("it is not applied, and still waits"));
        }
        self.note(id, Event::Applied)?;
        entry.standing = Standing::Approved { at: now()?, once, note };
        entry.error = None;
        self.settle(&entry)
    }

    /// Puts what the operator made of a proposal in its place.
    fn modify(&self, entry: &mut Entry, proposal: Proposal) -> Result<()> {
        ensure!(proposal.tool() == entry.proposal.tool(), "what it is changed to is another tool's");
        self.with(&proposal).map_err(|why| anyhow!(why))?;
        self.note(&entry.id, Event::Modified { proposal: proposal.clone() })?;
        entry.proposal = proposal;
        Ok(())
    }

    /// Keeps what was decided, and tells the agent.
    fn settle(&self, entry: &Entry) -> Result<()> {
        self.put(entry)?;
        self.tell(&entry.id, entry.standing.answer());
        Ok(())
    }

    /// Has a proposal hold from now on.
    fn apply(&mut self, proposal: &Proposal) -> Result<()> {
        step()?;
        if let Proposal::CapabilityBlock { .. } = proposal {
            let hint = "Build an image of it yourself, or reject it and say what to do instead.";
            return Err(hinted("bottle builds no image from a Dockerfile that an agent proposes yet", hint));
        }
        let wider = self.with(proposal).map_err(|why| anyhow!(why))?;
        if wider != self.policy {
            // The second proxy begins anew with it, where there is one.
            if let Err(error) = self.sidecar.reload(&wider) {
                // One that did not answer may have taken it: nothing holds that is not approved.
                let _ = self.sidecar.reload(&self.policy);
                return Err(error);
            }
            self.policy = wider;
        } else if matches!(proposal, Proposal::PipelockBlock { .. }) {
            self.sidecar.restart(PIPELOCK_DAEMON)?;
        }
        Ok(())
    }

    fn note(&self, id: &str, event: Event) -> Result<()> {
        step()?;
        self.audit.append(&self.identity, id, event)
    }

    fn put(&self, entry: &Entry) -> Result<()> {
        step()?;
        self.queue.put(entry)?;
        step()
    }

    /// A sidecar that does not hear it asks again.
    fn tell(&self, id: &str, answer: Answer) {
        let _ = self.sidecar.say(&Down::Answer { id: id.into(), answer });
    }
}

/// Between any two of these a test may end the owner.
fn step() -> Result<()> {
    Ok(fault::point("desk").map_err(bottle_api::Error::into_std)?)
}

#[cfg(test)]
mod tests;
