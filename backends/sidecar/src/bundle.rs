//! PID 1 of the bundle: keeps CA key and secrets, hands each daemon its own, passes log lines up.
//!
//! ```text
//! host ══ stdin/stdout ══ bundle ══ pipes ══ daemon egress   (started by its keeper)
//!                                       ╘══ daemon dns      (started by its keeper)
//! ```
//!
//! When the channel closes the host is dead: the bundle ends at once, its daemons with it, and the secrets are gone.

mod delivery;
mod keeper;
mod restarts;
mod supervisor;

pub(crate) use keeper::run as keep;

use crate::{
    daemon::{self, DaemonUp},
    egress::ca,
    git_gate, listeners, pipelock,
    users::Users,
};
use anyhow::{Context, Result, bail};
use bottle_api::control::{
    BIND_ENV, CONTROL_VERSION, DAEMONS_ENV, First, GIT_GATE_DAEMON, MIRRORS_ENV, PIPELOCK_DAEMON, SCRATCH_ENV,
    SecretsFrame, Start, encode, read_frame, write_frame,
};
use bottle_policy::{
    Policy,
    message::{Down, Up},
};
use keeper::Keeper;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    io::{self, Stdout},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};
use supervisor::{Given, Supervisor};

/// How long what is still to be said may take, where the bundle ends by itself and the host is slow to listen.
const LAST_WORD_TIME: Duration = Duration::from_secs(1);

/// The way to the host. Whoever writes a log line waits for the host; nobody else does.
type Channel = Arc<Mutex<Stdout>>;

/// What wakes the bundle while it serves.
enum Event {
    /// The host says something.
    Down(Down),
    /// A daemon says something: which, in which of its lives, and what.
    Said(usize, u64, DaemonUp),
    /// A daemon ended, and how.
    Ended(usize, String),
    /// A daemon's keeper is gone.
    KeeperGone(usize),
    /// The bundle is told to end in order.
    Stop,
}

/// Serves until the channel closes, the host has it stop, or a daemon ends again and again.
pub(crate) fn run() -> Result<()> {
    daemon::harden()?;
    let up: Channel = Arc::new(Mutex::new(io::stdout()));
    let mut supervisor = match start(&up) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            send(&up, &First::Refused { message: format!("{error:#}") })?;
            return Err(error);
        }
    };
    let ended = supervisor.serve();
    supervisor.mouth.finish();
    // With PID 1 every process beside it ends; where this is not PID 1, keepers and daemons end with their parent.
    ended
}

fn start(up: &Channel) -> Result<Supervisor> {
    let bind: IpAddr = env(BIND_ENV)?.parse().context(BIND_ENV)?;
    let users = Users::from_env()?;
    let names = daemon::known(&env(DAEMONS_ENV)?)?;
    let keepers = names.iter().enumerate().map(|(place, name)| Keeper::start(name, place, &users));
    let keepers = keepers.collect::<Result<Vec<_>>>()?;
    users.settle()?;
    let listeners = listeners::given(&names)?;

    let mut stdin = io::stdin().lock();
    let hello: Start = read_frame(&mut stdin)?.context("the channel closed before the first frame")?;
    if hello.version != CONTROL_VERSION {
        bail!("the host speaks version {} of the control channel, this sidecar {CONTROL_VERSION}", hello.version);
    }
    let has = Has { pipelock: names.contains(&PIPELOCK_DAEMON), git_gate: names.contains(&GIT_GATE_DAEMON) };
    let policy = read_policy(hello.policy, has)?;
    let [scratch, mirrors] = [SCRATCH_ENV, MIRRORS_ENV].map(|name| std::env::var_os(name).map(PathBuf::from));
    if has.pipelock && scratch.is_none() {
        bail!("this backend gives pipelock no place for its files: {SCRATCH_ENV} is not set");
    }
    if has.git_gate && mirrors.is_none() {
        bail!("this backend gives git-gate no place for its mirrors: {MIRRORS_ENV} is not set");
    }
    let secrets: SecretsFrame = read_frame(&mut stdin)?.context("the channel closed before the secrets")?;
    let mut secrets = secrets.decode()?;
    drop(stdin);
    let authority = ca::Authority::generate()?;
    secrets.insert(ca::KEY_SECRET, authority.key);

    let (events_to, events) = channel();
    listen(&events_to);
    heed_signals(&events_to)?;
    thread::spawn(reap);
    // Held until `First` is sent: a daemon's log line must not come before it.
    let mut first = up.lock().unwrap_or_else(PoisonError::into_inner);
    let daemons = names.into_iter().zip(keepers).zip(listeners).map(|((name, keeper), own)| (name, keeper, own));
    let given = Given { bind, policy, secrets, has, scratch, mirrors };
    let mut supervisor = Supervisor::new(given, daemons, up.clone(), events, events_to)?;
    supervisor.await_all()?;
    write_frame(&mut *first, &First::Ready { ca_pem: authority.cert_pem })?;
    Ok(supervisor)
}

/// Which of the daemons that a bottle may have this one has.
#[derive(Clone, Copy)]
struct Has {
    /// Behind the proxy: nothing passes but through it.
    pipelock: bool,
    git_gate: bool,
}

/// A policy document, where all of it is understood and can be served.
fn read_policy(document: serde_json::Value, has: Has) -> Result<Policy> {
    let policy: Policy = serde_json::from_value(document).context("policy document")?;
    policy.check().map_err(anyhow::Error::msg)?;
    crate::egress::check(&policy)?;
    git_gate::check(&policy)?;
    if has.pipelock {
        pipelock::check(&policy)?;
    }
    if !has.git_gate && !policy.git.is_empty() {
        bail!("the policy has git remotes, and this bundle has no daemon {GIT_GATE_DAEMON}");
    }
    Ok(policy)
}

/// Reads what the host sends. Where the channel ends, or what comes is no frame, the host is dead: nothing is worth
/// finishing, and no secret outlives it.
fn listen(events: &Sender<Event>) {
    let events = events.clone();
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        while let Ok(Some(frame)) = read_frame::<serde_json::Value>(&mut stdin) {
            // A host of another version may ask for what this one does not have; it gets no answer.
            match serde_json::from_value(frame) {
                Ok(down) => drop(events.send(Event::Down(down))),
                Err(error) => eprintln!("bottle-sidecar: the host asks for what this version does not know: {error}"),
            }
        }
        std::process::exit(0);
    });
}

/// An engine that stops the bundle gives it time to end in order.
fn heed_signals(events: &Sender<Event>) -> Result<()> {
    let (mut signals, events) = (Signals::new([SIGTERM, SIGINT])?, events.clone());
    thread::spawn(move || {
        for _ in &mut signals {
            let _ = events.send(Event::Stop);
        }
    });
    Ok(())
}

/// Takes away what has ended: as PID 1 the bundle inherits every process that loses its parent.
fn reap() {
    while waitid(WaitId::All, WaitIdOptions::EXITED).is_ok() {}
}

/// What the bundle itself says to the host. It never waits: the host may not be listening.
struct Mouth {
    words: Option<Sender<Up>>,
    said: Receiver<()>,
}

impl Mouth {
    fn new(up: Channel) -> Self {
        let (words, to_say) = channel();
        let (done, said) = channel();
        thread::spawn(move || {
            let _ = to_say.iter().try_for_each(|word: Up| send(&up, &word));
            drop(done);
        });
        Self { words: Some(words), said }
    }

    fn say(&self, word: Up) {
        self.words.iter().for_each(|words| drop(words.send(word.clone())));
    }

    /// Waits until all is said, but not for long.
    fn finish(&mut self) {
        self.words = None;
        let _ = self.said.recv_timeout(LAST_WORD_TIME);
    }
}

fn send<T: serde::Serialize>(up: &Channel, value: &T) -> Result<()> {
    let frame = encode(value)?;
    let mut up = up.lock().unwrap_or_else(PoisonError::into_inner);
    io::Write::write_all(&mut *up, &frame)?;
    Ok(io::Write::flush(&mut *up)?)
}

fn env(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set in the bundle"))
}
