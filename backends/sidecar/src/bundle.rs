//! PID 1 of the bundle: keeps CA key and secrets, hands each daemon its own, passes log lines up.
//!
//! ```text
//! host ══ stdin/stdout ══ bundle ══ pipes ══ daemon egress
//!                                       ╘══ daemon dns
//! ```
//!
//! When the channel closes the host is dead: the bundle ends, its daemons with it, and the secrets are gone.

use crate::{
    daemon::{self, DaemonStart, DaemonUp},
    egress::ca,
};
use anyhow::{Context, Result, bail};
use bottle_api::control::{
    BIND_ENV, CONTROL_VERSION, DAEMONS_ENV, EGRESS_DAEMON, First, SecretsFrame, Start, read_frame, write_frame,
};
use bottle_policy::{Policy, message::Up};
use std::{
    io::{self, BufReader, Read, Stdout, Write},
    net::IpAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

/// How long the daemons have to listen, together.
const START_TIME: Duration = Duration::from_secs(20);

type Channel = Arc<Mutex<Stdout>>;

/// Serves until the channel closes or a daemon ends.
pub(crate) fn run() -> Result<()> {
    daemon::harden()?;
    let up: Channel = Arc::new(Mutex::new(io::stdout()));
    match start(&up) {
        Ok(children) => serve(&up, children),
        Err(error) => {
            send(&up, &First::Refused { message: format!("{error:#}") })?;
            Err(error)
        }
    }
}

/// What wakes the bundle while it serves.
enum Event {
    ChannelClosed,
    DaemonEnded(&'static str),
}

struct Daemons {
    children: Vec<(&'static str, Child)>,
    events: Receiver<Event>,
    wake: Sender<Event>,
}

fn start(up: &Channel) -> Result<Daemons> {
    let bind: IpAddr = env(BIND_ENV)?.parse().context(BIND_ENV)?;
    let names = env(DAEMONS_ENV)?;
    let mut stdin = io::stdin().lock();
    let hello: Start = read_frame(&mut stdin)?.context("the channel closed before the first frame")?;
    if hello.version != CONTROL_VERSION {
        bail!("the host speaks version {} of the control channel, this sidecar {CONTROL_VERSION}", hello.version);
    }
    let policy: Policy = serde_json::from_value(hello.policy).context("policy document")?;
    policy.check().map_err(anyhow::Error::msg)?;
    let secrets: SecretsFrame = read_frame(&mut stdin)?.context("the channel closed before the secrets")?;
    let mut secrets = secrets.decode()?;
    let authority = ca::Authority::generate()?;
    secrets.insert(ca::KEY_SECRET, authority.key);

    // Held until `First` is sent: a daemon's log line must not come before it.
    let mut first = up.lock().unwrap_or_else(PoisonError::into_inner);
    let (wake, events) = channel();
    let (ready, ready_events) = channel();
    let mut children = vec![];
    for name in daemon::known(&names)? {
        let mut child = spawn(name)?;
        let mut stdin = child.stdin.take().context("daemon's stdin")?;
        let begin = DaemonStart { bind, policy: policy.clone() };
        write_frame(&mut stdin, &begin)?;
        let own = if name == EGRESS_DAEMON {
            SecretsFrame::encode(&secrets)?
        } else {
            SecretsFrame::encode(&Default::default())?
        };
        stdin.write_all(&own)?;
        let from = child.stdout.take().context("daemon's stdout")?;
        children.push((name, child));
        let (up, wake, ready) = (up.clone(), wake.clone(), ready.clone());
        // The daemon's stdin lives as long as its reader: closing it ends the daemon.
        thread::spawn(move || {
            pass_up(from, &up, &ready);
            drop(stdin);
            let _ = ready.send(Err(name));
            let _ = wake.send(Event::DaemonEnded(name));
        });
    }
    drop(ready);
    drop(secrets);
    for _ in 0..children.len() {
        match ready_events.recv_timeout(START_TIME).context("a daemon did not start to listen")? {
            Ok(()) => {}
            Err(name) => bail!("the daemon {name} ended before it listened"),
        }
    }
    write_frame(&mut *first, &First::Ready { ca_pem: authority.cert_pem })?;
    Ok(Daemons { children, events, wake })
}

fn serve(up: &Channel, mut daemons: Daemons) -> Result<()> {
    let wake = daemons.wake.clone();
    thread::spawn(move || {
        // Nothing is asked of this version yet; what arrives is read so that the end is seen.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = wake.send(Event::ChannelClosed);
    });
    let event = daemons.events.recv()?;
    for (_, child) in &mut daemons.children {
        let _ = child.kill();
    }
    let mut status = String::new();
    for (name, child) in &mut daemons.children {
        let ended = child.wait()?;
        if matches!(event, Event::DaemonEnded(n) if n == *name) {
            status = ended.to_string();
        }
    }
    match event {
        Event::ChannelClosed => Ok(()),
        Event::DaemonEnded(name) => {
            send(up, &Up::DaemonEnded { daemon: name.into(), status: status.clone() })?;
            bail!("the daemon {name} ended: {status}")
        }
    }
}

fn spawn(name: &'static str) -> Result<Child> {
    Command::new("/proc/self/exe")
        .args(["daemon", name])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start the daemon {name}"))
}

/// Passes a daemon's log lines to the host until the daemon ends.
fn pass_up(from: impl Read, up: &Channel, ready: &Sender<Result<(), &'static str>>) {
    let mut from = BufReader::new(from);
    while let Ok(Some(message)) = read_frame::<DaemonUp>(&mut from) {
        match message {
            DaemonUp::Listening => drop(ready.send(Ok(()))),
            DaemonUp::Log(line) => {
                if send(up, &Up::Log(*line)).is_err() {
                    return;
                }
            }
        }
    }
}

fn send<T: serde::Serialize>(up: &Channel, value: &T) -> Result<()> {
    let mut up = up.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(write_frame(&mut *up, value)?)
}

fn env(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set in the bundle"))
}
