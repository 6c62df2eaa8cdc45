//! The agent's only way out: an HTTP proxy on port 9099 that opens every TLS connection and judges every request.
//!
//! ```text
//! client ─ proxy (capability) ─┬─ CONNECT ─ tunnel (TLS, SNI) ─┐
//!                              └─ absolute URL ────────────────┴─ forward (policy, credentials) ─ pool ─ upstream (TLS)
//!                                                                        └─ websocket (frames) ───────────┴─ dial (address)
//! ```
//!
//! What a route passes through unseen goes from the tunnel to `dial` (`passthrough`). Every wait has a limit, and so has
//! every buffer: how much memory this takes is not for a client or a host to decide.

mod body;
pub(crate) mod ca;
mod connection;
mod deny;
mod dial;
mod download;
mod forward;
mod frames;
mod guard;
mod headers;
mod idle;
mod inspect;
mod messages;
mod passthrough;
mod pool;
mod proxy;
mod record;
mod relay;
mod tunnel;
mod upload;
mod upstream;
mod websocket;

pub(crate) use dial::Stream;
pub(crate) use guard::scanner as outgoing_scanner;
pub(crate) use pool::Target;
pub(crate) use upstream::Connector;

use crate::{
    daemon::{DaemonStart, DaemonUp, Reloads},
    feed::Feed,
    listeners,
};
use anyhow::{Context, Result};
use bottle_api::{
    control::CAPABILITY,
    secret::{Secret, Secrets},
};
use bottle_policy::Policy;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

/// Clients at once; one more waits.
const MAX_CONNECTIONS: usize = 1024;
/// How long nothing at all may pass between a client and us. A model may think for minutes before its first word.
const IDLE_TIME: Duration = Duration::from_secs(15 * 60);

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often those with a place are told that another waits for one.
const PRESSURE: Duration = Duration::from_millis(100);

/// A client's place among [`MAX_CONNECTIONS`], held for as long as anything of its connection lives.
type Place = Arc<OwnedSemaphorePermit>;

/// What every connection needs.
struct State {
    live: Mutex<Arc<Live>>,
    secrets: Secrets,
    capability: Secret,
    leaves: ca::Leaves,
    feed: Feed,
    /// Every place is taken, and somebody waits for one.
    pressure: Notify,
}

/// What a new policy document replaces, at once and whole. A request is judged and sent by one of them.
struct Live {
    policy: Policy,
    upstream: upstream::Connector,
    guard: guard::Guard,
}

impl Live {
    fn new(policy: Policy, secrets: &Secrets) -> Result<Arc<Self>> {
        let (upstream, guard) = (upstream::Connector::new(&policy)?, guard::Guard::new(&policy, secrets)?);
        Ok(Arc::new(Self { upstream, guard, policy }))
    }
}

/// Why a policy cannot be served, if it cannot.
pub(crate) fn check(policy: &Policy) -> Result<()> {
    Live::new(policy.clone(), &Secrets::default()).map(drop)
}

impl State {
    /// Has every request from now on judged by another policy.
    fn replace(&self, policy: Policy) -> Result<()> {
        let live = Live::new(policy, &self.secrets)?;
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
        Ok(())
    }

    /// The table of now.
    fn live(&self) -> Arc<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves the proxy on `start.bind` for ever, or at the listener that it is lent.
pub(crate) async fn serve(
    start: DaemonStart,
    lent: &[&str],
    secrets: Secrets,
    reloads: Reloads,
    feed: Feed,
) -> Result<()> {
    let capability = secrets.get(CAPABILITY).context("the host sent no capability")?.clone();
    let key = secrets.get(ca::KEY_SECRET).context("the bundle sent no CA key")?;
    let state = Arc::new(State {
        leaves: ca::Leaves::new(key)?,
        live: Mutex::new(Live::new(start.policy, &secrets)?),
        capability,
        secrets,
        feed,
        pressure: Notify::new(),
    });
    let listener = listeners::proxy(start.bind, lent).await?;
    state.feed.report(DaemonUp::Listening);
    tokio::select! {
        never = accept(&state, &listener) => never,
        replaced = follow(&state, reloads) => replaced,
    }
}

/// Replaces the policy whenever another one comes. What was checked and cannot be served after all ends the daemon.
async fn follow(state: &State, mut reloads: Reloads) -> Result<()> {
    while let Some(policy) = reloads.recv().await {
        state.replace(policy)?;
        state.feed.report(DaemonUp::Reloaded);
    }
    Ok(())
}

async fn accept(state: &Arc<State>, listener: &TcpListener) -> Result<()> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Whoever comes now waits in the kernel's queue, where it takes no memory of ours.
        let permit = loop {
            match timeout(PRESSURE, room.clone().acquire_owned()).await {
                Ok(permit) => break permit?,
                Err(_) => state.pressure.notify_waiters(),
            }
        };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await; // out of descriptors: some will close
            continue;
        };
        tokio::spawn(proxy::serve(state.clone(), stream, Arc::new(permit)));
    }
}
