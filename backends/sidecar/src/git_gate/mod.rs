//! The way to the host's repositories, on git's own port: every push is judged here before any of it leaves.
//!
//! ```text
//! git ─ greeting (capability) ─ a place ─ mirror, refreshed ─ git upload-pack, git receive-pack
//!                                             │                              │ hooks
//!                                             ▼                              ▼
//!                              git fetch, git push ◀── what was judged ── bottle_gate::Gate
//!                                │ ssh ─ `dial` ─┐
//!                                │ http, loopback ┴─▶ this process: judges the address, dials, injects ─▶ upstream
//! ```
//!
//! Keys are in agents of OpenSSH's, tokens in this process; no program of git's ever has one. What upstream may send is
//! counted here, whichever way it comes.

mod carrier;
mod https;
mod programs;
mod remote;

pub(crate) use programs::Program;

use crate::{
    daemon::{DaemonStart, DaemonUp, Reloads},
    feed::Feed,
    listeners,
};
use anyhow::{Context, Result, bail, ensure};
use bottle_api::{
    control::{CAPABILITY, GIT_GATE_DAEMON},
    secret::{Secret, Secrets},
};
use bottle_gate::{Decision, Found, Git, Service, serve as serve_client};
use bottle_policy::{GitRemote, Policy, message::LogLine};
use carrier::Carrier;
use remote::{Home, Remote};
use std::{
    fs,
    net::TcpStream,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, runtime::Handle, sync::Semaphore, time::sleep};

/// Clients at once; one more waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// Of them, those that git serves: each is a dozen processes, and the bundle may have few.
const MAX_SERVED: usize = 8;
/// Of one program of git's, in bytes: a pack of some kilobytes can ask for gigabytes. Packs that are mapped do not count.
const MEMORY: &str = "536870912";
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every client needs.
struct State {
    home: Home,
    capability: Secret,
    remotes: Mutex<Vec<Arc<Remote>>>,
    places: Semaphore,
    feed: Feed,
}

/// Why a policy's remotes cannot be served, if they cannot.
pub(crate) fn check(policy: &Policy) -> Result<()> {
    let listed = |host: &str| policy.scan.blocklist.iter().any(|listed| bottle_scan::is_listed(host, listed));
    match policy.git.iter().find(|remote| listed(remote.upstream.host())) {
        Some(remote) => {
            bail!("the blocklist names {}, where the git remote {} is", remote.upstream.host(), remote.name)
        }
        None => Ok(()),
    }
}

/// Serves for ever, on git's port of `start.bind` or at the listener that it is lent.
pub(crate) async fn serve(
    start: DaemonStart,
    lent: &[&str],
    secrets: Secrets,
    reloads: Reloads,
    feed: Feed,
) -> Result<()> {
    let capability = secrets.get(CAPABILITY).context("the host sent no capability")?.clone();
    let dir = start.scratch.context("git-gate has no place for its mirrors")?;
    empty(&dir)?;
    let git = Git::default().tied_by(&["/proc/self/exe", "tied", MEMORY]);
    ensure!(git.runs(), "there is no git in /usr/local/bin, /usr/bin or /bin, or it does not run");
    let programs = programs::put(&dir)?;
    let carrier = Arc::new(Carrier::new(&start.policy, secrets)?);
    let home = Home { dir, git, programs, carrier, feed: feed.clone() };
    let places = Semaphore::new(MAX_SERVED);
    let state = Arc::new(State { home, capability, remotes: Mutex::default(), places, feed });
    state.replace(&start.policy)?;
    let listener = listeners::repositories(start.bind, lent).await?;
    state.feed.report(DaemonUp::Listening);
    tokio::select! {
        never = accept(&state, &listener) => never,
        replaced = follow(&state, reloads) => replaced,
    }
}

/// What an earlier life has left is nobody's.
fn empty(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let gone =
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        gone.with_context(|| format!("remove {}", entry.path().display()))?;
    }
    Ok(())
}

async fn follow(state: &State, mut reloads: Reloads) -> Result<()> {
    while let Some(policy) = reloads.recv().await {
        state.replace(&policy)?;
        state.feed.report(DaemonUp::Reloaded);
    }
    Ok(())
}

async fn accept(state: &Arc<State>, listener: &TcpListener) -> Result<()> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = room.clone().acquire_owned().await?;
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await; // out of descriptors: some will close
            continue;
        };
        let state = state.clone();
        tokio::task::spawn_blocking(move || {
            // A client that breaks off has decided for itself.
            let _ = stream.into_std().map(|stream| state.client(stream));
            drop(permit);
        });
    }
}

impl State {
    /// From now on there are these remotes. One that stays as it is keeps its mirror and its key's agent.
    fn replace(&self, policy: &Policy) -> Result<()> {
        self.home.carrier.replace(policy)?;
        let older = self.remotes();
        let same = |entry| older.iter().find(|old| old.is_for(entry, &policy.scan)).cloned();
        let scanner = self.home.scanner(policy)?;
        let made = policy.git.iter().map(|entry| {
            same(entry).unwrap_or_else(|| Arc::new(Remote::make(&self.home, entry, &policy.scan, &scanner)))
        });
        let made: Vec<_> = made.collect();
        older.iter().filter(|old| !made.iter().any(|new| Arc::ptr_eq(old, new))).for_each(|old| old.close());
        *self.remotes.lock().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(())
    }

    fn remotes(&self) -> Vec<Arc<Remote>> {
        self.remotes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves one client, on a thread of its own.
    fn client(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let began = Instant::now();
        // Held while git serves it, and for as long as it is served.
        let (mut place, mut remote) = (None, None);
        let decision = serve_client(stream, self.capability.expose_str().unwrap_or_default(), |name| {
            place = Handle::current().block_on(self.places.acquire()).ok();
            remote = self.remotes().into_iter().find(|remote| remote.entry.name == name);
            remote.as_ref().map_or(Found::Nothing, |remote| remote.found())
        });
        drop(place);
        if let Some(decision) = decision? {
            log(&self.feed, remote.as_deref().map(|remote| &remote.entry), decision, began);
        }
        Ok(())
    }
}

/// The line of what was decided. What the pusher is told is for him alone.
fn log(feed: &Feed, entry: Option<&GitRemote>, decision: Decision, began: Instant) {
    let upstream = entry.map(|entry| &entry.upstream);
    let path = upstream.map(|upstream| format!("{} {}", upstream.path(), decision.refs));
    feed.log(LogLine {
        daemon: GIT_GATE_DAEMON.into(),
        decision: if decision.allowed { "allow" } else { "deny" }.into(),
        rule: decision.rule.into(),
        host: upstream.map(|upstream| format!("{}:{}", upstream.host(), upstream.port())).unwrap_or_default(),
        method: match decision.service {
            Some(Service::UploadPack) => "fetch".into(),
            Some(Service::ReceivePack) => "push".into(),
            None => String::new(),
        },
        path: path.map(|path| path.trim_end().to_owned()).unwrap_or_default(),
        ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        ..LogLine::default()
    });
}
