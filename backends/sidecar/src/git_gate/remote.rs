//! One `git` entry that is served: its mirror, its way to upstream, and the socket of its hooks.

use super::{carrier::Carrier, https, log, programs};
use crate::{egress::outgoing_scanner, feed::Feed};
use anyhow::{Context, Result};
use bottle_api::secret::Secret;
use bottle_gate::{Decision, Found, Gate, Git, KeyAgent, Mirror, Ssh, Trouble, Upstream, agent::ASKPASS};
use bottle_policy::{GitRemote, GitSsh, GitUpstream, Policy, Scan};
use bottle_scan::Scanner;
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

/// Where remotes are, and what they are made with.
pub(super) struct Home {
    pub(super) dir: PathBuf,
    pub(super) git: Git,
    pub(super) programs: PathBuf,
    pub(super) carrier: Arc<Carrier>,
    pub(super) feed: Feed,
}

/// A remote. With it its place, its agent, and its sockets end.
pub(super) struct Remote {
    pub(super) entry: GitRemote,
    scan: Scan,
    open: Result<Open, String>,
    dir: PathBuf,
}

/// What serves it.
struct Open {
    gate: Arc<Gate>,
    hooks: PathBuf,
    _agent: Option<KeyAgent>,
    /// What listens for hooks, ssh, git's HTTP.
    listens: Mutex<JoinSet<()>>,
}

impl Home {
    /// For what is pushed: it knows every secret that the proxy knows.
    pub(super) fn scanner(&self, policy: &Policy) -> Result<Arc<Scanner>> {
        outgoing_scanner(policy, &self.carrier.secrets)
    }

    fn secret(&self, name: &str) -> Result<&Secret> {
        self.carrier.secrets.get(name).with_context(|| format!("the credential {name} is missing"))
    }
}

impl Remote {
    /// Makes one. Where that fails it is there, and says why to whoever asks for it.
    pub(super) fn make(home: &Home, entry: &GitRemote, scan: &Scan, scanner: &Arc<Scanner>) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // No name is used twice: a remote that is replaced may still serve somebody.
        let dir = home.dir.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
        let open = Open::new(home, entry, scanner, &dir).map_err(|error| {
            eprintln!("bottle-sidecar: git remote {}: {error:#}", entry.name);
            format!("{error:#}")
        });
        Self { entry: entry.clone(), scan: scan.clone(), open, dir }
    }

    /// Would this entry, with these rules, be made the same?
    pub(super) fn is_for(&self, entry: &GitRemote, scan: &Scan) -> bool {
        self.open.is_ok() && self.entry == *entry && self.scan == *scan
    }

    /// It is no remote any more: whoever is in the middle of a push gets no further.
    pub(super) fn close(&self) {
        if let Ok(open) = &self.open {
            open.listens.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        }
    }

    pub(super) fn found(&self) -> Found {
        match &self.open {
            Ok(open) => Found::Gate(open.gate.clone(), open.hooks.clone()),
            Err(why) => Found::Shut(why.clone()),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Open {
    fn new(home: &Home, entry: &GitRemote, scanner: &Arc<Scanner>, dir: &Path) -> Result<Self> {
        fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
        let trouble = Trouble::default();
        let mut listens = JoinSet::new();
        let (upstream, agent) = match &entry.upstream {
            GitUpstream::Ssh(ssh) => {
                let (upstream, agent) = over_ssh(home, entry, ssh, &trouble, dir, &mut listens)?;
                (upstream, Some(agent))
            }
            GitUpstream::Https(https) => {
                let token = https.token.as_ref().map(|name| home.secret(name)).transpose()?;
                let (carrier, entry) = (home.carrier.clone(), Arc::new(entry.clone()));
                (https::listen(carrier, entry, token, &trouble, &mut listens)?, None)
            }
        };
        let mirror = Mirror::create(home.git.clone(), &dir.join("mirror.git"), upstream, &home.programs)?;
        let host = entry.upstream.host();
        let gate = Arc::new(Gate::new(&entry.name, mirror, host, entry.push.clone(), scanner.clone()));
        let hooks = dir.join("hooks.sock");
        listens.spawn(answer_hooks(
            UnixListener::bind(&hooks)?,
            Arc::downgrade(&gate),
            entry.clone(),
            home.feed.clone(),
        ));
        Ok(Self { gate, hooks, _agent: agent, listens: Mutex::new(listens) })
    }
}

fn over_ssh(
    home: &Home,
    entry: &GitRemote,
    ssh: &GitSsh,
    trouble: &Trouble,
    dir: &Path,
    listens: &mut JoinSet<()>,
) -> Result<(Upstream, KeyAgent)> {
    symlink(home.programs.join(ASKPASS), dir.join(ASKPASS))?;
    let key = home.secret(&ssh.key)?;
    let passphrase = ssh.passphrase.as_ref().map(|name| home.secret(name)).transpose()?;
    let passphrase = passphrase.map(Secret::expose).unwrap_or_default();
    let agent = KeyAgent::start(&home.git, dir, key.expose(), passphrase)?;
    let socket = dir.join("dial.sock");
    let listener = UnixListener::bind(&socket)?;
    let (carrier, own, told) = (home.carrier.clone(), Arc::new(entry.clone()), trouble.clone());
    listens.spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (carrier, own, told) = (carrier.clone(), own.clone(), told.clone());
            tokio::spawn(async move { carrier.carry(&own, &told, near).await });
        }
    });
    let dial = programs::dialler(&home.programs, &socket);
    let transport = Ssh {
        user: &ssh.user,
        host: &ssh.host,
        port: ssh.port,
        path: &ssh.path,
        known_host_key: &ssh.known_host_key,
        agent: agent.socket(),
        dial: Some(&dial),
    };
    let limit = Duration::from_secs(entry.limits.seconds.into());
    let upstream = transport.upstream(&dir.join("known_hosts"), limit, entry.limits.push_bytes)?;
    Ok((Upstream { trouble: trouble.clone(), ..upstream }, agent))
}

/// Answers the hooks of one gate, for as long as somebody serves it.
async fn answer_hooks(hooks: UnixListener, gate: Weak<Gate>, entry: GitRemote, feed: Feed) {
    while let Ok((hook, _)) = hooks.accept().await {
        let Some(gate) = gate.upgrade() else { return };
        let (entry, feed) = (entry.clone(), feed.clone());
        tokio::task::spawn_blocking(move || {
            // A hook without an answer refuses its push.
            let began = Instant::now();
            let decisions = answer(&gate, hook).unwrap_or_default();
            decisions.into_iter().for_each(|decision| log(&feed, Some(&entry), decision, began));
        });
    }
}

fn answer(gate: &Gate, hook: UnixStream) -> io::Result<Vec<Decision>> {
    let mut hook = hook.into_std()?;
    hook.set_nonblocking(false)?;
    Ok(gate.answer(&mut hook))
}
