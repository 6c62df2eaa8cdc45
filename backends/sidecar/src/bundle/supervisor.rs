//! The daemons' lives: started, told what to serve, started again when they end, ended in order.
//!
//! ```text
//! begin ─▶ listens ─▶ ended ─┬─ waits ─▶ begin      each life has new pipes, the newest policy and its own secrets
//!                            └─ again and again ─▶ the bundle ends
//! ```
//!
//! While a daemon is away its port refuses connections: nothing passes.

use super::{Channel, Event, Has, Mouth, delivery::Delivery, keeper::Keeper, read_policy, restarts::Restarts, send};
use crate::{
    daemon::{DaemonDown, DaemonStart, DaemonUp},
    egress::ca::KEY_SECRET,
    pipelock, supervise,
};
use anyhow::{Context, Result, bail};
use bottle_api::{
    control::{
        CAPABILITY, EGRESS_DAEMON, GIT_GATE_DAEMON, PIPELOCK_DAEMON, SUPERVISE_DAEMON, SecretsFrame, encode, read_frame,
    },
    secret::Secrets,
};
use bottle_policy::{
    Policy,
    message::{Answer, Down, Up},
};
use rustix::process::Signal;
use std::{
    collections::VecDeque,
    fs::File,
    io::{BufReader, Write},
    net::IpAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// How long a daemon has to listen; at the bundle's start, all of them together.
const START_TIME: Duration = Duration::from_secs(20);
/// How long a daemon that is told to end has for it.
const GRACE: Duration = Duration::from_secs(8);

type Frame = Zeroizing<Vec<u8>>;

/// What the host has given.
pub(super) struct Given {
    /// Where daemons listen.
    pub(super) bind: IpAddr,
    /// The newest that was good.
    pub(super) policy: Policy,
    /// All of them.
    pub(super) secrets: Secrets,
    /// The daemons that not every bottle has.
    pub(super) has: Has,
    /// Pipelock's directory.
    pub(super) scratch: Option<PathBuf>,
    /// Git-gate's.
    pub(super) mirrors: Option<PathBuf>,
}

/// All daemons, and what they are given.
pub(super) struct Supervisor {
    given: Given,
    /// Pipelock's program, and its certificate authority once it has one.
    delivery: Delivery,
    authority: Option<String>,
    daemons: Vec<Daemon>,
    /// What is said once these daemons judge by the newest policy, in the order in which it was asked for.
    pending: VecDeque<(Up, Vec<&'static str>)>,
    stopping: bool,
    up: Channel,
    pub(super) mouth: Mouth,
    events: Receiver<Event>,
    wake: Sender<Event>,
}

struct Daemon {
    name: &'static str,
    keeper: Arc<Keeper>,
    /// What it listens at, where the bundle was given that.
    listeners: Vec<OwnedFd>,
    restarts: Restarts,
    /// How many it has begun.
    lives: u64,
    now: Now,
}

enum Now {
    /// It runs. What it has to do by a time (listen, or end), if anything.
    Running { life: Life, by: Option<Due> },
    /// It does not, and begins then.
    Away { until: Instant },
    /// Its program has not come yet.
    Awaited,
    /// It has ended for good.
    Over,
}

/// What a running daemon has to do by a time; one that does not is killed.
struct Due {
    at: Instant,
    what: What,
}

#[derive(PartialEq, Eq)]
enum What {
    Listen,
    /// It was told to.
    End,
}

/// The bundle's ends of a daemon's pipes: one thread writes, one reads.
struct Life {
    down: Sender<Frame>,
    /// Ends when all that it had to say was passed on.
    heard: Receiver<()>,
}

impl Supervisor {
    /// Begins every daemon.
    pub(super) fn new(
        given: Given,
        daemons: impl Iterator<Item = (&'static str, Keeper, Vec<OwnedFd>)>,
        up: Channel,
        events: Receiver<Event>,
        wake: Sender<Event>,
    ) -> Result<Self> {
        let (mouth, pending) = (Mouth::new(up.clone()), VecDeque::new());
        let mut supervisor = Self {
            given,
            delivery: Delivery::default(),
            authority: None,
            daemons: vec![],
            pending,
            stopping: false,
            up,
            mouth,
            events,
            wake,
        };
        for (place, (name, keeper, listeners)) in daemons.enumerate() {
            let keeper = Arc::new(keeper);
            supervisor.watch(place, keeper.clone());
            supervisor.daemons.push(Daemon {
                name,
                keeper,
                listeners,
                restarts: Restarts::default(),
                lives: 0,
                now: Now::Awaited,
            });
            if name != PIPELOCK_DAEMON {
                supervisor.begin(place)?;
            }
        }
        Ok(supervisor)
    }

    /// Waits until all of them listen. One that ends before that is an error.
    pub(super) fn await_all(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIME;
        while self.daemons.iter().any(|daemon| matches!(daemon.now, Now::Running { by: Some(_), .. })) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left).context("a daemon did not start to listen")? {
                Event::Ended(place, status) => {
                    bail!("the daemon {} ended before it listened ({status})", self.daemons[place].name)
                }
                Event::Stop => bail!("it is told to end"),
                event => self.heed(event)?,
            }
        }
        Ok(())
    }

    /// Serves until it is told to stop, which is no error.
    pub(super) fn serve(&mut self) -> Result<()> {
        while !self.stopping || self.daemons.iter().any(|daemon| !matches!(daemon.now, Now::Over)) {
            match self.next_due() {
                None => self.events.recv().context("nobody is left").and_then(|event| self.heed(event))?,
                Some(at) => match self.events.recv_timeout(at.saturating_duration_since(Instant::now())) {
                    Ok(event) => self.heed(event)?,
                    Err(RecvTimeoutError::Timeout) => self.overdue()?,
                    Err(error) => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    fn heed(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Down(Down::Reload { policy }) => self.reload(policy),
            Event::Down(Down::Restart { daemon }) => self.restart(&daemon),
            Event::Down(Down::Program { daemon, bytes, last }) => self.receive(&daemon, &bytes, last),
            Event::Down(Down::Answer { id, answer }) => self.pass_on(id, answer),
            Event::Down(Down::Stop) | Event::Stop => self.stop(),
            Event::Said(place, life, word) if self.daemons[place].lives == life => self.said(place, word),
            Event::Said(..) => Ok(()),
            Event::Ended(place, status) => self.ended(place, status),
            Event::KeeperGone(place) => bail!("the keeper of the daemon {} ended", self.daemons[place].name),
        }
    }

    /// From now on no request is judged by an older document. A bad one changes nothing.
    fn reload(&mut self, document: serde_json::Value) -> Result<()> {
        match read_policy(document, self.given.has) {
            Ok(policy) => {
                let older = std::mem::replace(&mut self.given.policy, policy);
                let runs = |d: &Daemon| d.name == PIPELOCK_DAEMON && matches!(d.now, Now::Running { .. });
                let anew = pipelock::differ(&older, &self.given.policy) && self.daemons.iter().any(runs);
                if anew {
                    self.restart(PIPELOCK_DAEMON)?;
                }
                // It shows the routes, and judges nothing.
                self.tell(SUPERVISE_DAEMON, &DaemonDown::Reload(Box::new(self.policy_of(SUPERVISE_DAEMON))))?;
                let with_git = self.given.has.git_gate.then_some(GIT_GATE_DAEMON);
                // It judges by the newest once it listens again.
                let with_pipelock = anew.then_some(PIPELOCK_DAEMON);
                let to = [EGRESS_DAEMON].into_iter().chain(with_git).chain(with_pipelock).collect();
                self.hand_over(Up::Reloaded { error: None }, to)
            }
            Err(error) => {
                self.mouth.say(Up::Reloaded { error: Some(format!("{error:#}")) });
                Ok(())
            }
        }
    }

    /// Gives these daemons the newest policy; `then` is said once they judge by it. One that is away begins with it.
    fn hand_over(&mut self, then: Up, to: Vec<&'static str>) -> Result<()> {
        for name in &to {
            self.tell(name, &DaemonDown::Reload(Box::new(self.policy_of(name))))?;
        }
        self.pending.push_back((then, to));
        Ok(())
    }

    /// Says how a proposal stands. A life that has not made it does not wait for it.
    fn pass_on(&mut self, id: String, answer: Answer) -> Result<()> {
        self.tell(SUPERVISE_DAEMON, &DaemonDown::Answer(id, answer))
    }

    /// Says something to a daemon, if it is there.
    fn tell(&mut self, name: &str, word: &DaemonDown) -> Result<()> {
        let frame = encode(word).map(Zeroizing::new)?;
        if let Some(Daemon { now: Now::Running { life, .. }, .. }) = self.daemon(name) {
            let _ = life.down.send(frame);
        }
        Ok(())
    }

    /// A daemon judges by what it was given next, or by the newest.
    fn judges(&mut self, name: &str, newest: bool) {
        for (_, awaited) in &mut self.pending {
            let before = awaited.len();
            awaited.retain(|other| *other != name);
            if awaited.len() < before && !newest {
                break;
            }
        }
        while self.pending.front().is_some_and(|(_, awaited)| awaited.is_empty()) {
            self.pending.pop_front().into_iter().for_each(|(word, _)| self.mouth.say(word));
        }
    }

    /// Takes a piece of pipelock's program, with the last of which it begins.
    fn receive(&mut self, name: &str, bytes: &str, last: bool) -> Result<()> {
        let Some(place) = self.daemons.iter().position(|d| d.name == name && matches!(d.now, Now::Awaited)) else {
            eprintln!("bottle-sidecar: no daemon here waits for a program: {}", name.escape_debug());
            return Ok(());
        };
        self.delivery.add(bytes)?;
        if last {
            self.delivery.seal()?;
            self.begin(place)?;
        }
        Ok(())
    }

    /// Ends a daemon, which then begins again without waiting.
    fn restart(&mut self, name: &str) -> Result<()> {
        match self.daemon(name) {
            Some(daemon) => match &mut daemon.now {
                Now::Running { by, .. } => {
                    *by = Some(Due { at: Instant::now() + GRACE, what: What::End });
                    daemon.keeper.signal(Signal::TERM)
                }
                Now::Away { until } => {
                    *until = Instant::now();
                    Ok(())
                }
                Now::Awaited | Now::Over => Ok(()),
            },
            None => {
                eprintln!("bottle-sidecar: no daemon of that name runs here: {}", name.escape_debug());
                Ok(())
            }
        }
    }

    fn stop(&mut self) -> Result<()> {
        if !self.stopping {
            self.stopping = true;
            for daemon in &mut self.daemons {
                match &mut daemon.now {
                    Now::Running { by, .. } => {
                        *by = Some(Due { at: Instant::now() + GRACE, what: What::End });
                        daemon.keeper.signal(Signal::TERM)?;
                    }
                    away => *away = Now::Over,
                }
            }
        }
        Ok(())
    }

    fn said(&mut self, place: usize, word: DaemonUp) -> Result<()> {
        let daemon = &mut self.daemons[place];
        match word {
            DaemonUp::Listening => {
                if let Now::Running { by, .. } = &mut daemon.now {
                    by.take_if(|due| due.what == What::Listen);
                }
                let name = daemon.name;
                // It began with the newest.
                self.judges(name, true);
                if name == PIPELOCK_DAEMON {
                    // Said once the proxy trusts it.
                    self.hand_over(Up::Serving { daemon: PIPELOCK_DAEMON.into() }, vec![EGRESS_DAEMON])?;
                }
            }
            DaemonUp::Authority(pem) if daemon.name == PIPELOCK_DAEMON => self.authority = Some(pem),
            DaemonUp::Authority(_) => bail!("the daemon {} has no certificate authority", daemon.name),
            DaemonUp::Reloaded if matches!(daemon.name, EGRESS_DAEMON | GIT_GATE_DAEMON) => {
                let name = daemon.name;
                self.judges(name, false);
            }
            DaemonUp::Reloaded => bail!("the daemon {} judges nothing", daemon.name),
            DaemonUp::Proposal(..) | DaemonUp::Asked(_) => bail!("the daemon {} has no questions", daemon.name),
            DaemonUp::Log(_) => {}
        }
        Ok(())
    }

    fn ended(&mut self, place: usize, status: String) -> Result<()> {
        let daemon = &mut self.daemons[place];
        let was = std::mem::replace(&mut daemon.now, Now::Over);
        if self.stopping {
            // What it had to say at last is said before the channel ends.
            if let Now::Running { life, .. } = was {
                let _ = life.heard.recv_timeout(GRACE);
            }
            return Ok(());
        }
        self.mouth.say(Up::DaemonEnded { daemon: daemon.name.into(), status: status.clone() });
        let wait = match was {
            Now::Running { by: Some(Due { what: What::End, .. }), .. } => Duration::ZERO,
            _ => match daemon.restarts.ended(Instant::now()) {
                Some(wait) => wait,
                None => bail!("the daemon {} ended again and again: {status}", daemon.name),
            },
        };
        daemon.now = Now::Away { until: Instant::now() + wait };
        Ok(())
    }

    fn next_due(&self) -> Option<Instant> {
        let due = |daemon: &Daemon| match &daemon.now {
            Now::Running { by, .. } => by.as_ref().map(|due| due.at),
            Now::Away { until } => Some(*until),
            Now::Awaited | Now::Over => None,
        };
        self.daemons.iter().filter_map(due).min()
    }

    fn overdue(&mut self) -> Result<()> {
        let now = Instant::now();
        for place in 0..self.daemons.len() {
            let daemon = &mut self.daemons[place];
            match &mut daemon.now {
                Now::Away { until } if *until <= now => self.begin(place)?,
                Now::Running { by, .. } => {
                    if let Some(due) = by.as_mut().filter(|due| due.at <= now) {
                        due.at = now + GRACE; // an order to kill is not given twice at once
                        daemon.keeper.signal(Signal::KILL)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins a daemon's next life.
    fn begin(&mut self, place: usize) -> Result<()> {
        let name = self.daemons[place].name;
        let start = DaemonStart { bind: self.given.bind, policy: self.policy_of(name), scratch: self.scratch_of(name) };
        let frames = [encode(&start).map(Zeroizing::new)?, SecretsFrame::encode(&self.secrets_of(name))?];
        let daemon = &mut self.daemons[place];
        daemon.lives += 1;
        let program = self.delivery.program().filter(|_| name == PIPELOCK_DAEMON);
        let (stdin, stdout) = daemon.keeper.begin(daemon.listeners.iter().chain(program))?;
        let (down, to_write) = channel::<Frame>();
        thread::spawn(move || write_all(stdin, &to_write));
        frames.into_iter().for_each(|frame| drop(down.send(frame)));
        let (up, wake, life) = (self.up.clone(), self.wake.clone(), daemon.lives);
        let (hearing, heard) = channel();
        thread::spawn(move || {
            pass_up(stdout, &up, name == SUPERVISE_DAEMON, |word| drop(wake.send(Event::Said(place, life, word))));
            drop(hearing);
        });
        let by = Some(Due { at: Instant::now() + START_TIME, what: What::Listen });
        daemon.now = Now::Running { life: Life { down, heard }, by };
        Ok(())
    }

    fn watch(&self, place: usize, keeper: Arc<Keeper>) {
        let wake = self.wake.clone();
        thread::spawn(move || {
            while let Some(status) = keeper.next_end() {
                let _ = wake.send(Event::Ended(place, status));
            }
            let _ = wake.send(Event::KeeperGone(place));
        });
    }

    /// A daemon is told what it needs, and nothing else.
    fn policy_of(&self, name: &str) -> Policy {
        match name {
            EGRESS_DAEMON if self.given.has.pipelock => {
                pipelock::in_front(&self.given.policy, self.authority.as_deref())
            }
            EGRESS_DAEMON | PIPELOCK_DAEMON => self.given.policy.clone(),
            GIT_GATE_DAEMON => Policy { routes: vec![], ..self.given.policy.clone() },
            SUPERVISE_DAEMON => supervise::shown(&self.given.policy),
            _ => Policy::default(),
        }
    }

    fn secrets_of(&self, name: &str) -> Secrets {
        // What leaves is searched for all of them; only the proxy signs with the authority's key.
        let wanted = |secret: &str| match name {
            EGRESS_DAEMON => true,
            GIT_GATE_DAEMON => secret != KEY_SECRET,
            SUPERVISE_DAEMON => secret == CAPABILITY,
            _ => false,
        };
        let mut secrets = Secrets::default();
        let given = self.given.secrets.iter().filter(|(secret, _)| wanted(secret));
        given.for_each(|(name, secret)| secrets.insert(name, secret.clone()));
        secrets
    }

    fn scratch_of(&self, name: &str) -> Option<PathBuf> {
        match name {
            PIPELOCK_DAEMON => self.given.scratch.clone(),
            GIT_GATE_DAEMON => self.given.mirrors.clone(),
            _ => None,
        }
    }

    fn daemon(&mut self, name: &str) -> Option<&mut Daemon> {
        self.daemons.iter_mut().find(|daemon| daemon.name == name)
    }
}

/// Writes to a daemon what it is to know; with the sender its standard input ends, and with that the daemon.
fn write_all(mut stdin: File, frames: &Receiver<Frame>) {
    let _ = frames.iter().try_for_each(|frame| stdin.write_all(&frame));
}

/// Passes a daemon's log lines to the host until the daemon ends, the questions of one that `may_ask`, and what else it
/// says to the bundle. It waits for the host, and the daemon for it: no queue grows.
fn pass_up(from: File, up: &Channel, may_ask: bool, heard: impl Fn(DaemonUp)) {
    let mut from = BufReader::new(from);
    while let Ok(Some(word)) = read_frame::<DaemonUp>(&mut from) {
        let word = match word {
            DaemonUp::Log(line) => Up::Log(*line),
            DaemonUp::Proposal(id, proposal) if may_ask => Up::Proposal { id, proposal: *proposal },
            DaemonUp::Asked(id) if may_ask => Up::Asked { id },
            word => {
                heard(word);
                continue;
            }
        };
        if send(up, &word).is_err() {
            std::process::exit(0); // the host is dead
        }
    }
}
