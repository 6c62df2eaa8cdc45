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
    users::Users,
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
    /// Each with its standard input, whose end is the daemon's.
    children: Vec<(&'static str, Child)>,
    events: Receiver<Event>,
    wake: Sender<Event>,
}

fn start(up: &Channel) -> Result<Daemons> {
    let bind: IpAddr = env(BIND_ENV)?.parse().context(BIND_ENV)?;
    let users = Users::from_env()?;
    let names = daemon::known(&env(DAEMONS_ENV)?)?;
    let children = names.into_iter().enumerate().map(|(place, name)| Ok((name, spawn(name, place, &users)?)));
    let mut children = children.collect::<Result<Vec<_>>>()?;
    users.settle()?;

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
    for (name, child) in &mut children {
        let name = *name;
        let stdin = child.stdin.as_mut().context("daemon's stdin")?;
        let begin = DaemonStart { bind, policy: policy.clone() };
        write_frame(stdin, &begin)?;
        let own = if name == EGRESS_DAEMON {
            SecretsFrame::encode(&secrets)?
        } else {
            SecretsFrame::encode(&Default::default())?
        };
        stdin.write_all(&own)?;
        let from = child.stdout.take().context("daemon's stdout")?;
        let (up, wake, ready) = (up.clone(), wake.clone(), ready.clone());
        thread::spawn(move || {
            pass_up(from, &up, &ready);
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

/// Where this returns the bundle ends, and with PID 1 every process beside it. A daemon that outlives it, where it is not
/// PID 1, loses its standard input and goes.
fn serve(up: &Channel, mut daemons: Daemons) -> Result<()> {
    let wake = daemons.wake.clone();
    thread::spawn(move || {
        // Nothing is asked of this version yet; what arrives is read so that the end is seen.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = wake.send(Event::ChannelClosed);
    });
    let Event::DaemonEnded(name) = daemons.events.recv()? else { return Ok(()) };
    let child = daemons.children.iter_mut().find(|(of, _)| *of == name);
    let status = child.context("an unknown daemon ended")?.1.wait()?.to_string();
    send(up, &Up::DaemonEnded { daemon: name.into(), status: status.clone() })?;
    bail!("the daemon {name} ended: {status}")
}

fn spawn(name: &'static str, place: usize, users: &Users) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    users.assign(&mut command, place)?;
    command
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
