//! The staged sidecar, run as a bundle on this machine, and its log.

use crate::{lab, wire::ProxyClient};
use anyhow::{Context, Result, bail};
use bottle_api::{
    Secret,
    control::{
        BUNDLE_ARGUMENT, CONTROL_VERSION, First, MIRRORS_ENV, PROXY_PORT, SecretsFrame, Start, read_frame, write_frame,
    },
    secret::Secrets,
};
use bottle_policy::{
    Policy,
    message::{Down, LogLine, Up},
};
use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

/// The capability of every bottle here.
pub const CAPABILITY: &str = "the-capability-of-this-bottle";
/// The secret `token`, which routes inject.
pub const TOKEN: &str = "the-real-token";
/// How long a reload may take.
const RELOAD_TIME: Duration = Duration::from_secs(30);
/// Has the command after it resolve names by another file than the machine's.
const WITH_RESOLVER: [&str; 4] = ["--mount", "--", "sh", "-c"];
const MOUNT: &str = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";

/// The program.
pub fn program() -> PathBuf {
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    lab::stage().join(format!("libexec/bottle/bottle-sidecar-{arch}"))
}

/// A bundle that serves.
pub struct Sidecar {
    /// Its first process.
    pub child: Child,
    /// Its control channel; it ends with it.
    pub channel: Option<ChildStdin>,
    /// A client that knows its capability and trusts its certificates.
    pub client: ProxyClient,
    log: Arc<Mutex<Vec<LogLine>>>,
    reloads: Mutex<Receiver<Option<String>>>,
}

impl Sidecar {
    /// Starts `egress` and `dns` on that address.
    pub fn start(bind: IpAddr, policy: &Policy) -> Result<Self> {
        Self::start_with(bind, policy, None)
    }

    /// The same, resolving names as that `resolv.conf` says.
    pub fn start_with(bind: IpAddr, policy: &Policy, resolver: Option<&Path>) -> Result<Self> {
        Self::start_knowing(bind, policy, resolver, &[])
    }

    /// The same, knowing these secrets by their names besides.
    pub fn start_knowing(
        bind: IpAddr,
        policy: &Policy,
        resolver: Option<&Path>,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_beside(bind, policy, resolver, more, None)
    }

    /// The same with `git-gate` beside them, whose mirrors are in that directory.
    pub fn start_beside(
        bind: IpAddr,
        policy: &Policy,
        resolver: Option<&Path>,
        more: &[(&str, &str)],
        mirrors: Option<&Path>,
    ) -> Result<Self> {
        let policy = serde_json::to_value(policy)?;
        let daemons = if mirrors.is_some() { "egress,dns,git-gate" } else { "egress,dns" };
        let (mut child, first, channel) = launch_knowing(bind, daemons, policy, resolver, more, mirrors)?;
        let First::Ready { ca_pem } = first else { bail!("{first:?}") };
        let mut up = child.stdout.take().context("stdout")?;
        let log: Arc<Mutex<Vec<LogLine>>> = Arc::default();
        let (sink, (tell, reloads)) = (log.clone(), mpsc::channel());
        thread::spawn(move || {
            while let Ok(Some(message)) = read_frame::<Up>(&mut up) {
                match message {
                    Up::Log(line) => sink.lock().unwrap_or_else(PoisonError::into_inner).push(line),
                    Up::Reloaded { error } => drop(tell.send(error)),
                    _ => {}
                }
            }
        });
        let client = ProxyClient { proxy: (bind, PROXY_PORT).into(), capability: CAPABILITY.into(), ca_pem };
        Ok(Self { child, channel: Some(channel), client, log, reloads: Mutex::new(reloads) })
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<LogLine> {
        thread::sleep(Duration::from_millis(100));
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it judge by another policy, and waits until it does.
    pub fn reload(&mut self, policy: &Policy) -> Result<()> {
        let policy = serde_json::to_value(policy)?;
        write_frame(self.channel.as_mut().context("the channel")?, &Down::Reload { policy })?;
        let reloads = self.reloads.get_mut().unwrap_or_else(PoisonError::into_inner);
        match reloads.recv_timeout(RELOAD_TIME).context("it did not answer")? {
            None => Ok(()),
            Some(error) => bail!("{error}"),
        }
    }

    /// The number of the process that is the proxy.
    pub fn egress_pid(&self) -> Result<u32> {
        self.daemon_pid("egress")
    }

    /// The number of the process that is this daemon.
    pub fn daemon_pid(&self, name: &str) -> Result<u32> {
        let keeper = child_that_is(self.child.id(), format!("\0keep\0{name}\0").as_bytes())?;
        child_that_is(keeper, format!("\0daemon\0{name}\0").as_bytes())
    }
}

/// The child of a process whose command line ends so.
fn child_that_is(parent: u32, line: &[u8]) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    let is_it = |pid: &&str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|own| own.ends_with(line));
    let pid = children.split_whitespace().find(is_it);
    Ok(pid.with_context(|| format!("{parent} has no child {}", line.escape_ascii()))?.parse()?)
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a bundle and says hello. What it answers first, and its channel.
pub fn launch(
    bind: IpAddr,
    daemons: &str,
    policy: serde_json::Value,
    resolver: Option<&Path>,
) -> Result<(Child, First, ChildStdin)> {
    launch_knowing(bind, daemons, policy, resolver, &[], None)
}

fn launch_knowing(
    bind: IpAddr,
    daemons: &str,
    policy: serde_json::Value,
    resolver: Option<&Path>,
    more: &[(&str, &str)],
    mirrors: Option<&Path>,
) -> Result<(Child, First, ChildStdin)> {
    let mut command = match resolver {
        Some(file) => {
            let mut command = Command::new("unshare");
            command.args(WITH_RESOLVER).arg(MOUNT).arg(file).arg(program());
            command
        }
        None => Command::new(program()),
    };
    let mut child = command
        .arg(BUNDLE_ARGUMENT)
        .env_clear()
        .env("CLAUDE_BOTTLE_SIDECAR_BIND", bind.to_string())
        .env("CLAUDE_BOTTLE_SIDECAR_DAEMONS", daemons)
        .envs(mirrors.map(|dir| (MIRRORS_ENV, dir)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("run {command:?}"))?;
    let mut secrets = Secrets::default();
    secrets.insert("capability", Secret::new(CAPABILITY));
    secrets.insert("token", Secret::new(TOKEN));
    secrets.insert("proxy-login", Secret::new("user:word"));
    for (name, value) in more {
        secrets.insert(*name, Secret::new(*value));
    }
    let mut channel = child.stdin.take().context("stdin")?;
    // One that refuses waits for nothing more: what it has to say is read all the same.
    let _ = write_frame(&mut channel, &Start { version: CONTROL_VERSION, policy });
    let _ = std::io::Write::write_all(&mut channel, &SecretsFrame::encode(&secrets)?);
    let first = read_frame(child.stdout.as_mut().context("stdout")?)?.context("no first frame")?;
    Ok((child, first, channel))
}
