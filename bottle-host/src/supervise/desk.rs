//! The owner's desk: proposals and decisions come one after the other, and nothing else of them happens at once. Only an image
//! is made beside it, one at a time: that takes minutes, and the agent may ask for other things meanwhile.
//!
//! ```text
//! proposal ─ check ─ audit ─ queue ─▶ "pending"        what cannot be kept is refused, not forgotten
//! approval ─ audit ─ apply ─┬─ queue, audit ─▶ "approved"
//!                   (image) └─ failed: queue (the error), audit; it stays pending
//! ```

use super::{
    audit::{Audit, Event},
    build::BUILD_TIME,
    now,
    queue::{Entry, Queue, Standing},
    words::asked_for,
};
use crate::{
    fault,
    manifest::env::is_reserved,
    paths::Paths,
    plan::environment,
    session::sidecar::SidecarChannel,
    state,
    ui::{self, hinted},
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use bottle_api::control::PIPELOCK_DAEMON;
use bottle_policy::{
    Policy, Proposal,
    dockerfile::Recipe,
    message::{Answer, Down, Up},
    proposal::is_id,
};
use bottle_scan::is_listed;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

/// Words that may lie on a desk unread.
const DEPTH: usize = 64;
/// How often is looked whether an image is made.
const LOOK: Duration = Duration::from_millis(100);

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

/// Makes the image of a proposal, of that id and with that Dockerfile, until the descriptor becomes readable: the image's id.
pub type Build<'a> = dyn Fn(&str, &str, BorrowedFd<'_>) -> Result<String> + Sync + 'a;

/// A proposal that was approved, and is about to hold.
struct Approved {
    entry: Entry,
    once: bool,
    note: String,
}

/// An image that is being made.
struct Building<'scope> {
    approved: Approved,
    thread: ScopedJoinHandle<'scope, Result<String>>,
    /// Who waits for it.
    answer: Sender<Result<()>>,
    /// Dropped once it is made, told to give it up before.
    give_up: Sender<()>,
    began: Instant,
    is_over: bool,
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
    build: &'a Build<'a>,
}

impl<'a> Desk<'a> {
    /// Of a bottle that lives by this policy.
    pub fn new(
        paths: &Paths,
        identity: &str,
        policy: Policy,
        sidecar: &'a SidecarChannel,
        build: &'a Build<'a>,
    ) -> Self {
        let (queue, audit, state) = (Queue::of(paths, identity), Audit::of(paths), paths.state().join(identity));
        Self { identity: identity.into(), state, queue, audit, policy, sidecar, build }
    }

    /// Serves until the session is over. An image that is being made then is given up.
    pub fn serve(mut self, words: &Receiver<Word>) {
        thread::scope(|scope| {
            let mut building: Option<Building<'_>> = None;
            loop {
                if let Some(made) = building.take_if(|building| building.thread.is_finished()) {
                    self.made(made);
                }
                let word = match &building {
                    Some(_) => words.recv_timeout(LOOK),
                    None => words.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match word {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) | Ok(Word::Over) => break,
                    Ok(word) => self.hear(word, scope, &mut building),
                }
            }
            if let Some(mut building) = building {
                building.is_over = true;
                let _ = building.give_up.send(());
                self.made(building);
            }
        });
    }

    fn hear<'scope>(&mut self, word: Word, scope: &'scope Scope<'scope, '_>, building: &mut Option<Building<'scope>>)
    where
        'a: 'scope,
    {
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
            Word::Over => {}
            Word::Decided { id, decision, answer } => {
                let builds = building.as_ref().map(|building| building.approved.entry.id.as_str());
                let approved = match self.decide(&id, decision, builds) {
                    Ok(Some(approved)) => approved,
                    settled => return drop(answer.send(settled.map(drop))),
                };
                let began = match &approved.entry.proposal {
                    Proposal::CapabilityBlock { dockerfile, .. } => self.begin(scope, &id, dockerfile),
                    proposal => {
                        let applied = self.apply(proposal).map(|()| None);
                        return drop(answer.send(self.applied(approved, applied)));
                    }
                };
                match began {
                    Ok((thread, give_up)) => {
                        let began = Instant::now();
                        *building = Some(Building { approved, thread, answer, give_up, began, is_over: false });
                    }
                    Err(error) => drop(answer.send(self.applied(approved, Err(error)))),
                }
            }
        }
    }

    /// Has an image be made beside the desk.
    fn begin<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        id: &str,
        dockerfile: &str,
    ) -> Result<(ScopedJoinHandle<'scope, Result<String>>, Sender<()>)>
    where
        'a: 'scope,
    {
        step()?;
        let (passed, timer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (give_up, told) = channel();
        thread::Builder::new().name("build-time".into()).spawn(move || {
            // One that is done with needs nobody to say so.
            if told.recv_timeout(fault::patience(BUILD_TIME)) != Err(RecvTimeoutError::Disconnected) {
                let _ = rustix::io::write(&timer, &[1]);
                let _ = told.recv();
            }
        })?;
        let (build, id, dockerfile) = (self.build, id.to_owned(), dockerfile.to_owned());
        let thread = thread::Builder::new()
            .name("build".into())
            .spawn_scoped(scope, move || build(&id, &dockerfile, passed.as_fd()))?;
        Ok((thread, give_up))
    }

    /// An image is made, or is not.
    fn made(&self, building: Building<'_>) {
        let Building { approved, thread, answer, give_up, began, is_over } = building;
        let made = thread.join().unwrap_or_else(|_| Err(anyhow!("the making of the image panicked")));
        drop(give_up);
        let made = match (made, is_over, began.elapsed() >= BUILD_TIME) {
            (Err(error), true, _) => Err(error.context("the session ended before the image was made")),
            (Err(error), _, true) => {
                Err(error.context(format!("the image was not made within {} minutes", BUILD_TIME.as_secs() / 60)))
            }
            (made, ..) => made,
        };
        let _ = answer.send(self.applied(approved, made.context("make the image").map(Some)));
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
        if let Proposal::CapabilityBlock { dockerfile, .. } = proposal {
            let recipe = Recipe::parse(dockerfile, environment::PATH)?;
            if let Some(name) = recipe.env.keys().find(|name| is_reserved(name)) {
                return Err(format!("the Dockerfile cannot be had: ENV sets {name}, which bottle sets itself"));
            }
        }
        let routes = proposal.routes()?;
        let blocked = |host: &str| self.policy.scan.blocklist.iter().any(|listed| is_listed(host, listed));
        match routes.iter().find(|route| blocked(&route.host)) {
            Some(route) => Err(format!("{} is on the blocklist", route.host)),
            None => self.policy.granting(&routes),
        }
    }

    /// What a decision comes to: something that was approved and is to be applied, or nothing more.
    /// Meanwhile the image of a proposal may be made.
    fn decide(&self, id: &str, decision: Decision, builds: Option<&str>) -> Result<Option<Approved>> {
        ensure!(builds != Some(id), "proposal {id} was approved, and its image is being made");
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
                return self.settle(&entry).map(|()| None);
            }
            Decision::Approve { once, note } => {
                may_begin(&entry.proposal, once, builds)?;
                (once, note)
            }
            Decision::Modify { proposal, once, note } => {
                may_begin(&entry.proposal, once, builds)?;
                self.modify(&mut entry, proposal)?;
                let told = format!("your operator changed it to: {}", asked_for(&entry.proposal));
                (once, if note.is_empty() { told } else { format!("{note} ({told})") })
            }
        };
        self.note(id, Event::Approved { once, note: note.clone() })?;
        Ok(Some(Approved { entry, once, note }))
    }

    /// What was approved holds, by an image if it is one, or does not.
    fn applied(&self, approved: Approved, applied: Result<Option<String>>) -> Result<()> {
        let Approved { mut entry, once, note } = approved;
        let id = entry.id.clone();
        let image = match applied {
            Ok(image) => image,
            Err(error) => {
                let said = ui::hint_of(&error).map_or(format!("{error:#}"), |hint| format!("{error:#} ({hint})"));
                self.note(&id, Event::Failed { error: said.clone() })?;
                // What the agent asked for is what waits on.
                if let Some(mut waits) = self.queue.get(&id)? {
                    waits.error = Some(said);
                    self.put(&waits)?;
                }
                return Err(error.context("it is not applied, and still waits"));
            }
        };
        self.note(&id, Event::Applied { image })?;
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

/// Where it asks for an image: can that be made now, and used later?
fn may_begin(proposal: &Proposal, once: bool, builds: Option<&str>) -> Result<()> {
    let Proposal::CapabilityBlock { .. } = proposal else { return Ok(()) };
    if once {
        let hint = "Approve it without `once`; to go on without the image later: `bottle resume --forget-image`.";
        return Err(hinted("an image is for the sessions to come, never for this one", hint));
    }
    ensure!(builds.is_none(), "another image is being made: decide on this one when it is done");
    Ok(())
}

/// Between any two of these a test may end the owner.
fn step() -> Result<()> {
    Ok(fault::point("desk").map_err(bottle_api::Error::into_std)?)
}

#[cfg(test)]
mod tests;
