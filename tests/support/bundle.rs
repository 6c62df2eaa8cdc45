//! The staged sidecar run as a bundle on this machine: its control channel is the test's, and its processes can be seen.

use crate::{
    bottle::eventually,
    lab,
    wire::{Answer, ProxyClient},
};
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::{
    Secret,
    control::{BUNDLE_ARGUMENT, CONTROL_VERSION, First, SecretsFrame, Start, read_frame, write_frame},
    secret::Secrets,
};
use bottle_policy::{
    Policy,
    message::{Down, LogLine, Up},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{Read, Write},
    net::IpAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What opens the proxy.
pub const CAPABILITY: &str = "the-capability-of-this-bottle";
/// The value of the secret `token`.
pub const TOKEN: &str = "the-real-token";

/// A bundle that serves. Dropped, it is killed.
pub struct Bundle {
    child: Child,
    channel: Option<ChildStdin>,
    /// Speaks to its proxy.
    pub client: ProxyClient,
    said: Arc<Mutex<Vec<Up>>>,
}

/// The staged program.
pub fn program() -> PathBuf {
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    lab::stage().join(format!("libexec/bottle/bottle-sidecar-{arch}"))
}

impl Bundle {
    /// Starts one on an address of its own. Nobody reads what it says until [`Bundle::read`].
    pub fn start(policy: &Policy) -> Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(2);
        let bind = [127, 0, 97, NEXT.fetch_add(1, Ordering::SeqCst)].into();
        let mut command = Command::new(program());
        command.arg(BUNDLE_ARGUMENT).env_clear();
        Self::launch(command, bind, "egress,dns", policy)
    }

    /// The same of a command that becomes a bundle, with these daemons.
    pub fn launch(mut command: Command, bind: IpAddr, daemons: &str, policy: &Policy) -> Result<Self> {
        command.env("CLAUDE_BOTTLE_SIDECAR_BIND", bind.to_string()).env("CLAUDE_BOTTLE_SIDECAR_DAEMONS", daemons);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut secrets = Secrets::default();
        secrets.insert("capability", Secret::new(CAPABILITY));
        secrets.insert("token", Secret::new(TOKEN));
        let mut channel = child.stdin.take().context("stdin")?;
        write_frame(&mut channel, &Start { version: CONTROL_VERSION, policy: serde_json::to_value(policy)? })?;
        channel.write_all(&SecretsFrame::encode(&secrets)?)?;
        match read_frame(child.stdout.as_mut().context("stdout")?)?.context("no first frame")? {
            First::Ready { ca_pem } => {
                let client = ProxyClient { proxy: (bind, 9099).into(), capability: CAPABILITY.into(), ca_pem };
                Ok(Self { child, channel: Some(channel), client, said: Arc::default() })
            }
            First::Refused { message } => bail!("it refuses: {message}"),
        }
    }

    /// Sends it a daemon's program, in pieces.
    pub fn deliver(&mut self, daemon: &str, program: &[u8]) -> Result<()> {
        let mut pieces = program.chunks(1 << 20).peekable();
        while let Some(piece) = pieces.next() {
            let (daemon, bytes) = (daemon.to_owned(), BASE64_STANDARD.encode(piece));
            self.say(&Down::Program { daemon, bytes, last: pieces.peek().is_none() })?;
        }
        Ok(())
    }

    /// Hands its channel over, to and fro, to whoever speaks with it from now on.
    pub fn channel(&mut self) -> Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let down = self.channel.take().context("the channel is closed")?;
        let up = self.child.stdout.take().context("what it says is read already")?;
        let from = ours.try_clone()?;
        thread::spawn(move || pass_on(from, down));
        thread::spawn(move || pass_on(up, ours));
        Ok(theirs.into())
    }

    /// From now on what it says is read.
    pub fn read(&mut self) {
        let (up, said) = (self.child.stdout.take(), self.said.clone());
        thread::spawn(move || {
            let Some(mut up) = up else { return };
            while let Ok(Some(word)) = read_frame(&mut up) {
                said.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(word);
            }
        });
    }

    /// What it has said so far.
    pub fn said(&self) -> Vec<Up> {
        self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What it has said so far but for log lines.
    pub fn words(&self) -> Vec<Up> {
        self.said().into_iter().filter(|word| !matches!(word, Up::Log(_))).collect()
    }

    /// The log so far.
    pub fn log(&self) -> Vec<LogLine> {
        let line = |word| match word {
            Up::Log(line) => Some(line),
            _ => None,
        };
        self.said().into_iter().filter_map(line).collect()
    }

    /// Says something to it.
    pub fn say(&mut self, word: &Down) -> Result<()> {
        self.channel_frame(&serde_json::to_value(word)?)
    }

    /// Sends it any frame.
    pub fn channel_frame(&mut self, frame: &serde_json::Value) -> Result<()> {
        Ok(write_frame(self.channel.as_mut().context("the channel is closed")?, frame)?)
    }

    /// Has it judge by another document. What it answers.
    pub fn reload(&mut self, policy: serde_json::Value) -> Result<Option<String>> {
        let answers = |bundle: &Self| -> Vec<Option<String>> {
            let answer = |word| match word {
                Up::Reloaded { error } => Some(error),
                _ => None,
            };
            bundle.said().into_iter().filter_map(answer).collect()
        };
        let before = answers(self).len();
        self.say(&Down::Reload { policy })?;
        eventually("it answers the reload", || answers(self).get(before).cloned())
    }

    /// The host is dead.
    pub fn close(&mut self) {
        self.channel = None;
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for it to end, for so long at most.
    pub fn ends_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "it lives on after {limit:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every process below its first one.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.pid()];
        let mut next = 0;
        while let Some(parent) = found.get(next).copied() {
            found.extend(children(parent));
            next += 1;
        }
        found.split_off(1)
    }

    /// The process of a daemon, once it is there.
    pub fn daemon(&self, name: &str) -> Result<u32> {
        eventually(&format!("the daemon {name} is there"), || {
            self.processes().into_iter().find(|pid| command_line(*pid).ends_with(&["daemon".into(), name.into()]))
        })
    }

    /// Sends a signal to a process.
    pub fn signal(pid: u32, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_raw(i32::try_from(pid)?).context("a process")?, signal)?)
    }

    /// A request inside a tunnel.
    pub fn get(&self, host: &str, path: &str) -> Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.client.https(&format!("{host}:443"), host, &request)
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not `io::copy`: between pipes and sockets that splices, and was seen to hold bytes back.
fn pass_on(mut from: impl Read, mut to: impl Write) -> std::io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            length => to.write_all(&piece[..length])?,
        }
    }
}

/// A process's arguments; none once it has ended.
pub fn command_line(pid: u32) -> Vec<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .filter(|w| !w.is_empty())
        .collect()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
