//! Calls that wait for a person, and what came of them.

use crate::{daemon::DaemonUp, feed::Feed};
use anyhow::{Result, anyhow};
use bottle_policy::{Policy, Proposal, message::Answer, proposal::ID_LENGTH};
use ring::rand::{SecureRandom, SystemRandom};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Calls that may wait at once.
pub(super) const MAX_WAITING: usize = 32;
/// Questions that the host has not answered at all: a host that does not listen takes no memory.
const MAX_UNANSWERED: usize = 64;

/// Shared by all calls.
pub(super) struct Pending {
    feed: Feed,
    room: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    policy: Policy,
    /// By proposal: whoever waits for it.
    waiting: HashMap<String, watch::Sender<Option<Answer>>>,
    /// Proposals that the host was asked about and has not answered for.
    unanswered: HashSet<String>,
}

/// A call's place, until it is dropped.
pub(super) struct Waiting {
    /// The proposal's.
    pub(super) id: String,
    /// How it stands; nothing, until the host has said.
    pub(super) answer: watch::Receiver<Option<Answer>>,
    pending: Arc<Pending>,
    _place: OwnedSemaphorePermit,
}

impl Pending {
    pub(super) fn new(policy: Policy, feed: Feed) -> Self {
        let state = State { policy, waiting: HashMap::new(), unanswered: HashSet::new() };
        Self { feed, room: Arc::new(Semaphore::new(MAX_WAITING)), state: Mutex::new(state) }
    }

    /// The policy of now.
    pub(super) fn policy(&self) -> Policy {
        self.state().policy.clone()
    }

    /// Another policy holds.
    pub(super) fn replace(&self, policy: Policy) {
        self.state().policy = policy;
    }

    /// Has the host ask its operator.
    pub(super) fn propose(self: &Arc<Self>, proposal: Proposal) -> Result<Waiting> {
        let id = new_id()?;
        self.wait(id.clone(), DaemonUp::Proposal(id, Box::new(proposal)))
    }

    /// Asks how an earlier proposal stands, and waits for it again.
    pub(super) fn ask_again(self: &Arc<Self>, id: String) -> Result<Waiting> {
        self.wait(id.clone(), DaemonUp::Asked(id))
    }

    fn wait(self: &Arc<Self>, id: String, question: DaemonUp) -> Result<Waiting> {
        let full = || anyhow!("too many proposals wait at once: wait for the others first");
        let place = self.room.clone().try_acquire_owned().map_err(|_| full())?;
        let mut state = self.state();
        if !state.unanswered.contains(&id) {
            if state.unanswered.len() >= MAX_UNANSWERED {
                return Err(full());
            }
            state.unanswered.insert(id.clone());
            self.feed.report(question);
        }
        let answer = state.waiting.entry(id.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Ok(Waiting { id, answer, pending: self.clone(), _place: place })
    }

    /// The host has said how a proposal stands.
    pub(super) fn answered(&self, id: &str, answer: Answer) {
        let mut state = self.state();
        state.unanswered.remove(id);
        if let Some(waiting) = state.waiting.get(id) {
            waiting.send_replace(Some(answer));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.pending.state();
        // Its own receiver is the last one.
        if state.waiting.get(&self.id).is_some_and(|waiting| waiting.receiver_count() <= 1) {
            state.waiting.remove(&self.id);
        }
    }
}

fn new_id() -> Result<String> {
    let mut bytes = [0; ID_LENGTH / 2];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("no random bytes for a proposal's id"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_policy::proposal::is_id;

    fn pending() -> Arc<Pending> {
        Arc::new(Pending::new(Policy::default(), Feed::default()))
    }

    fn proposal() -> Proposal {
        Proposal::PipelockBlock { url: "https://a.example/".into(), justification: "x".into() }
    }

    #[test]
    fn who_waits_is_answered_and_leaves_nothing_behind() {
        let pending = pending();
        let first = pending.propose(proposal()).unwrap();
        assert!(is_id(&first.id));
        let second = pending.ask_again(first.id.clone()).unwrap();
        pending.answered("0123456789abcdef", Answer::Pending);
        assert_eq!(*first.answer.borrow(), None);
        pending.answered(&first.id, Answer::Pending);
        assert_eq!(
            (&*first.answer.borrow(), &*second.answer.borrow()),
            (&Some(Answer::Pending), &Some(Answer::Pending))
        );
        drop(first);
        let rejected = Answer::Rejected { reason: "no".into() };
        pending.answered(&second.id, rejected.clone());
        assert_eq!(*second.answer.borrow(), Some(rejected));
        drop(second);
        assert!(pending.state().waiting.is_empty() && pending.state().unanswered.is_empty());
    }

    #[test]
    fn calls_that_wait_and_questions_that_nobody_answers_are_bounded() {
        let pending = pending();
        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| pending.propose(proposal()).unwrap()).collect();
        assert!(pending.propose(proposal()).is_err());
        drop(waiting);
        // A host that answers nobody: whoever gives up and asks anew does so only so often.
        let rest = (0..1000).filter(|_| pending.propose(proposal()).is_ok()).count();
        assert_eq!((rest, pending.state().unanswered.len()), (MAX_UNANSWERED - MAX_WAITING, MAX_UNANSWERED));
        assert!(pending.state().waiting.is_empty());
        let known = pending.state().unanswered.iter().next().cloned().unwrap();
        assert!(pending.ask_again(known.clone()).is_ok());
        pending.answered(&known, Answer::Pending);
        assert!(pending.propose(proposal()).is_ok());
    }
}
