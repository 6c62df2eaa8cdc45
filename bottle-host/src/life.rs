//! A bottle from its launch to its end: whatever happens in between, nothing of it is left behind.
//!
//! ```text
//! launch ─▶ channel, log ─▶ probe ─▶ session (saves now and then) ─▶ save work ─▶ close ─▶ settle
//!    └────────── an error, a panic, a signal ──────▶ drop: the ledger's entries are taken away
//! ```

use crate::{
    fault,
    plan::{Resolved, environment, git},
    plugin::{Backend, Bottle, Plan, Services, backend::UNCANCELLED},
    probe,
    session::{
        self, Input, Program, Streams,
        owner::{Served, Surroundings},
        sidecar::SidecarChannel,
        terminal::Terminal,
    },
    signals::Cancellation,
    state::State,
    supervise::{
        build::Workshop,
        desk::{self, Closing, Desk},
        queue::Queue,
    },
    ui,
    work::{self, Left, Saved},
    workspace::{ARCHIVE, Came},
};
use anyhow::{Context, Result, anyhow, bail};
use bottle_api::{
    BottleSpec, CleanupRequest, FileEntry, LaunchRequest, LedgerEntry, PutRequest, Secret, WORKSPACE,
    control::{CAPABILITY, PIPELOCK_DAEMON, SUPERVISE_DAEMON},
    provision::pack,
    secret::Secrets,
};
use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::BorrowedFd,
    panic::resume_unwind,
    slice,
    sync::{Arc, mpsc::channel},
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

/// How long a bottle may take to be torn down.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// What a session is made of.
pub struct Session {
    /// The agent's command line.
    pub argv: Vec<String>,
    /// The manifest's part of its environment.
    pub env: BTreeMap<String, Secret>,
    /// No terminal: nothing comes in.
    pub headless: bool,
    /// What the agent writes reaches the terminal as it is.
    pub raw_terminal: bool,
    /// What the workspace begins with.
    pub came: Came,
    /// What an earlier session left, where this one resumes it.
    pub left: Option<Left>,
}

impl Session {
    fn came(&self) -> &Came {
        self.left.as_ref().map_or(&self.came, |left| &left.came)
    }
}

/// A bottle that this process owns. Dropped on any way out, it leaves nothing behind.
pub struct Life {
    /// Taken only by what ends it.
    state: Option<State>,
    identity: String,
    owner: String,
    services: Arc<Services>,
    backend: Backend,
    /// The variables that lead the backend back to the bottle.
    env: BTreeMap<String, String>,
    /// What the agent has made.
    saved: Option<Saved>,
    /// Proposals that nobody has decided on.
    waiting: usize,
}

impl Life {
    /// Begins with a state in which nothing is recorded yet.
    pub fn begin(state: State, spec: &BottleSpec, services: Arc<Services>, backend: Backend) -> Self {
        let (identity, owner) = (spec.identity.clone(), spec.owner.clone());
        Self { state: Some(state), identity, owner, services, env: backend.env(), backend, saved: None, waiting: 0 }
    }

    /// What else leads the backend back to where its plan goes is remembered before anything is made there.
    pub fn remember(&mut self, env: &BTreeMap<String, String>) -> Result<()> {
        point("planned")?;
        self.env.extend(env.clone());
        self.state.as_ref().map_or(Ok(()), |state| state.remember(&self.env))
    }

    /// Its backend.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Launches the bottle, runs the session, tears the bottle down. Returns the agent's exit code.
    pub fn live(
        mut self,
        plan: Plan,
        resolved: &Resolved,
        secrets: &Secrets,
        mut session: Session,
        cancel: &Cancellation,
    ) -> Result<i32> {
        let state = self.state.as_ref().context("a bottle that has ended is not launched again")?;
        self.services.keep_ledger(&self.identity, state.ledger.clone());
        if session.left.is_none() {
            state.keep_base(&session.came.encode())?;
        }
        let req = LaunchRequest { policy: serde_json::to_value(&resolved.policy)? };
        let bottle = plan.launch(&req, secrets, cancel.fd()).context("launch the bottle");
        ui::clear_progress();
        let bottle = bottle?;
        state.unpacked(ARCHIVE)?;
        point("launched")?;

        let (words, to_desk) = desk::words();
        let words = resolved.spec.daemons.iter().any(|daemon| daemon == SUPERVISE_DAEMON).then_some(words);
        let sidecar = SidecarChannel::follow(bottle.channel()?, &state.egress_log(), words.clone())?;
        let capability = secrets.get(CAPABILITY).context("a bottle has a capability")?;
        // What leads to the sidecar a manifest cannot set; of the rest (`PATH`, `LANG`, …) its own word counts.
        let info = bottle.describe()?;
        let mut env = environment::base(&info, capability, resolved.credential, &Terminal::kind());
        env.extend(state.image()?.into_iter().flat_map(|image| environment::of_image(&image.env)));
        env.extend(std::mem::take(&mut session.env));
        if words.is_some() {
            environment::supervised(&mut env, capability);
        }
        let surroundings = Surroundings { env, cwd: WORKSPACE.into() };
        if let Some(config) = git::gate_config(&resolved.policy.git, capability) {
            put(&bottle, &config, cancel).context("tell the agent's git where the gate is")?;
        }
        if let Some(left) = &session.left {
            if left.restore(&bottle)? {
                session.argv.insert(1, "--continue".into());
            }
            state.restored()?;
        }
        let program = Program { argv: session.argv.clone(), surroundings: surroundings.clone() };
        let input = if session.headless { Input::Nothing } else { Input::Terminal };
        let streams = Streams { input, unfiltered: session.raw_terminal };
        ui::progress("look from inside whether the bottle is closed", "");
        let mut served = None;
        let (session_ended, over) = channel();
        let workshop = Workshop {
            backend: &self.backend,
            bottle: &bottle,
            state,
            identity: &self.identity,
            owner: &self.owner,
            env: &self.env,
            capability,
            ca_paths: &resolved.spec.provision.ca_paths,
        };
        let build = |id: &str, dockerfile: &str, cancel: BorrowedFd<'_>| workshop.build(id, dockerfile, cancel);
        let ended = thread::scope(|scope| {
            // Dropped on any way out.
            let (session_ended, _closing) = (session_ended, Closing(words.clone()));
            let mut saving = None;
            if words.is_some() {
                let desk = Desk::new(&resolved.paths, &self.identity, resolved.policy.clone(), &sidecar, &build);
                let to_desk = to_desk;
                scope.spawn(move || desk.serve(&to_desk));
            }
            // What it sends there is refused until it serves.
            let delivered = scope.spawn(|| match &resolved.pipelock {
                Some(program) => {
                    let open = || File::open(program).with_context(|| format!("open {}", program.display()));
                    sidecar.deliver(PIPELOCK_DAEMON, open()?)
                }
                None => Ok(()),
            });
            let probe = scope.spawn(|| {
                point("probe")?;
                probe::check(&bottle, &info, capability, &resolved.spec.env, cancel)
            });
            let ended = session::run(&bottle, &program, streams, cancel, || {
                let verdict = probe.join().map_err(|_| anyhow!("the launch probe panicked"))?;
                ui::clear_progress();
                verdict?;
                delivered.join().map_err(|_| anyhow!("the delivery of pipelock panicked"))??;
                // No command gets into a bottle that is not known to be closed either.
                served = Some(Served::begin(state.dir(), surroundings, words.clone())?);
                let (bottle, dir, came) = (&bottle, state.dir(), session.came());
                saving = Some(scope.spawn(move || work::keep_saving(bottle, dir, came, &over)));
                point("session")
            });
            drop(session_ended);
            // Its panic is no reason to go without the last save.
            let _ = saving.map(ScopedJoinHandle::join);
            ended
        });
        drop(served);
        let waiting = Queue::of(&resolved.paths, &self.identity).waiting();
        self.waiting = *waiting.as_ref().unwrap_or(&0);
        // What cannot be read is not known to be decided.
        let undecided = waiting.map_or(true, |waiting| waiting > 0);
        // So is an image that nobody goes on from.
        let goes_on = state.image().map_or(true, |image| image.is_some());
        let talks_on = undecided || goes_on || !matches!(ended, Ok(0));
        // Nobody needs the sidecar any more: it ends, and forgets what it knows, while work is saved.
        let (saved, summary) = thread::scope(|scope| {
            let saving = scope.spawn(|| work::save(&bottle, state.dir(), session.came(), talks_on));
            let summary = sidecar.finish();
            (saving.join().unwrap_or_else(|panic| resume_unwind(panic)), summary)
        });
        self.saved = Some(saved);
        ui::clear_progress();
        let closed = close(&bottle);
        summary.lines().iter().for_each(ui::say);
        let code = ended?;
        closed?;
        self.settle(code, undecided, goes_on)?;
        Ok(code)
    }

    /// The session is over and the bottle is gone: what remains of its state?
    fn settle(&mut self, code: i32, undecided: bool, goes_on: bool) -> Result<()> {
        point("settle")?;
        // With entries left, `drop` sees to them.
        let Some(state) = self.state.take_if(|state| state.ledger.entries().is_empty()) else { return Ok(()) };
        match code {
            0 if undecided => self.keep(state, "what the agent asked for is not decided"),
            0 if goes_on => {
                let said = self.saved.as_ref().is_some_and(Saved::any);
                self.keep(state, "there is an image for its next session")?;
                if !said {
                    ui::say_at_last(format!("resume with: bottle resume {}", self.identity));
                }
                Ok(())
            }
            0 if self.saved.as_ref().is_none_or(|saved| !saved.any() && !saved.failed) => state.remove(),
            0 if !self.saved.as_ref().is_some_and(Saved::any) => self.keep(state, "the agent's work may be lost"),
            0 => self.keep(state, "the agent left work"),
            code => self.keep(state, &format!("the agent ended with {code}")),
        }
    }

    fn keep(&self, state: State, why: &str) -> Result<()> {
        let log = state.keep()?;
        ui::say(format!("{why}; its egress log is {}", log.display()));
        self.say_saved();
        if self.waiting > 0 {
            let wait = if self.waiting == 1 { "waits" } else { "wait" };
            ui::say_at_last(format!("{} {wait} for you: bottle supervise", ui::count(self.waiting, "proposal")));
        }
        Ok(())
    }

    fn say_saved(&self) {
        self.saved.iter().flat_map(|saved| saved.lines(&self.identity)).for_each(ui::say_at_last);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        ui::clear_progress();
        let Some(state) = self.state.take() else { return };
        state.ledger.seal();
        let left = state.ledger.entries();
        if !left.is_empty()
            && let Err(error) = take_away(&self.backend, &self.owner, &self.env, left, image_of(&state))
        {
            ui::warn_of("remove what the launch had created", &error);
        }
        let kept = match state.ledger.entries().is_empty() {
            false => {
                ui::say("hint: `bottle cleanup` tries again to remove what is left");
                self.say_saved();
                Ok(())
            }
            // A resume that came to nothing: all is as it was.
            true if state.is_preserved() && self.saved.is_none() => {
                let kept = state.keep().map(drop);
                ui::say_at_last(format!("resume with: bottle resume {}", self.identity));
                kept
            }
            true if state.egress_log().exists() => self.keep(state, "the session did not end by itself"),
            true => state.remove(),
        };
        if let Err(error) = kept {
            ui::error(&error);
        }
    }
}

/// A step of the life at which a test may make it fail.
fn point(name: &str) -> Result<()> {
    Ok(fault::point(name).map_err(bottle_api::Error::into_std)?)
}

fn close(bottle: &Bottle) -> Result<()> {
    point("close")?;
    bottle.close(CLOSE_DEADLINE).context("tear the bottle down")
}

/// Puts a file into the bottle that no plan may hold.
fn put(bottle: &Bottle, file: &FileEntry, cancel: &Cancellation) -> Result<()> {
    let archive = pack(slice::from_ref(file)).map_err(bottle_api::Error::into_std)?;
    bottle.put(&PutRequest { dest: "/".into(), owner: None }, archive.into(), cancel.fd())
}

/// The image that a state goes on from.
fn image_of(state: &State) -> Option<String> {
    state.image().ok().flatten().map(|image| image.id)
}

/// Removes a ledger's entries, whatever state they are in, but the image that the state goes on from. Nothing but the
/// deadline cuts it short.
pub fn take_away(
    backend: &Backend,
    owner: &str,
    env: &BTreeMap<String, String>,
    entries: Vec<LedgerEntry>,
    keep: Option<String>,
) -> Result<()> {
    let keep = keep.into_iter().collect();
    let req = CleanupRequest { entries, keep, owner: owner.into(), env: env.clone(), ..CleanupRequest::default() };
    let outcome = backend.prepare_cleanup(&req, UNCANCELLED)?.execute(CLOSE_DEADLINE)?;
    match outcome.left.first() {
        Some((item, why)) => bail!("the {} {} is left: {why}", item.kind, item.name),
        None => Ok(()),
    }
}
