//! The agent's only way out: an HTTP proxy on port 9099 that opens every TLS connection and judges every request.
//!
//! ```text
//! client ─ proxy (capability) ─┬─ CONNECT ─ tunnel (TLS, SNI) ─┐
//!                              └─ absolute URL ────────────────┴─ forward (policy, credentials) ─ upstream (address, TLS)
//! ```

pub(crate) mod ca;
mod deny;
mod forward;
mod headers;
mod proxy;
mod record;
mod tunnel;
mod upstream;

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
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Clients at once; one more waits.
const MAX_CONNECTIONS: usize = 1024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client's place among [`MAX_CONNECTIONS`], held for as long as anything of its connection lives.
type Place = Arc<OwnedSemaphorePermit>;

/// A body on its way through.
type Body = BoxBody<Bytes, hyper::Error>;

/// What every connection needs.
struct State {
    live: Mutex<Arc<Live>>,
    secrets: Secrets,
    capability: Secret,
    leaves: ca::Leaves,
    feed: Feed,
}

/// What a new policy document replaces, at once and whole. A request is judged and sent by one of them.
struct Live {
    policy: Policy,
    upstream: upstream::Connector,
}

impl Live {
    fn new(policy: Policy) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { upstream: upstream::Connector::new(&policy)?, policy }))
    }
}

/// Why a policy cannot be served, if it cannot.
pub(crate) fn check(policy: &Policy) -> Result<()> {
    Live::new(policy.clone()).map(drop)
}

impl State {
    /// Has every request from now on judged by another policy.
    fn replace(&self, policy: Policy) -> Result<()> {
        let live = Live::new(policy)?;
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
        Ok(())
    }

    /// The table of now.
    fn live(&self) -> Arc<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves the proxy on `start.bind` for ever.
pub(crate) async fn serve(start: DaemonStart, secrets: Secrets, reloads: Reloads, feed: Feed) -> Result<()> {
    let capability = secrets.get(CAPABILITY).context("the host sent no capability")?.clone();
    let key = secrets.get(ca::KEY_SECRET).context("the bundle sent no CA key")?;
    let state = Arc::new(State {
        leaves: ca::Leaves::new(key)?,
        live: Mutex::new(Live::new(start.policy)?),
        capability,
        secrets,
        feed,
    });
    let listener = listeners::proxy(start.bind).await?;
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
        let permit = room.clone().acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await; // out of descriptors: some will close
            continue;
        };
        tokio::spawn(proxy::serve(state.clone(), stream, Arc::new(permit)));
    }
}
