//! What every daemon of the bundle has in common: it is told once what to serve, and reports upwards.

use crate::{dns, egress};
use anyhow::{Context, Result, bail};
use bottle_api::{
    control::{DNS_DAEMON as DNS, EGRESS_DAEMON as EGRESS, SecretsFrame, read_frame, write_frame},
    secret::Secrets,
};
use bottle_policy::{Policy, message::LogLine};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// Log lines that may wait for the host. Past that, allowed requests' lines are counted instead of kept.
const LOG_QUEUE: usize = 8192;

/// From the bundle to a daemon, once; a [`SecretsFrame`] follows.
#[derive(Serialize, Deserialize)]
pub(crate) struct DaemonStart {
    /// The bottle's own leg: the only address to listen on.
    pub(crate) bind: IpAddr,
    pub(crate) policy: Policy,
}

/// From a daemon to the bundle.
#[derive(Serialize, Deserialize)]
pub(crate) enum DaemonUp {
    Listening,
    Log(Box<LogLine>),
}

/// Those daemons of a comma-separated list that this sidecar has. One it does not know is an error: a bottle that
/// asks for it would run without it. `egress` and `dns` cannot be left out.
pub(crate) fn known(list: &str) -> Result<Vec<&'static str>> {
    let mut out = vec![];
    for name in list.split(',') {
        match name {
            EGRESS => out.push(EGRESS),
            DNS => out.push(DNS),
            other => bail!("this sidecar has no daemon `{other}`"),
        }
    }
    match [EGRESS, DNS].iter().find(|needed| !out.contains(needed)) {
        Some(missing) => bail!("the daemon {missing} cannot be left out"),
        None => Ok(out),
    }
}

/// Runs one daemon until its standard input closes.
pub(crate) fn run(name: &str) -> Result<()> {
    harden()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut stdin = io::stdin().lock();
    let start: DaemonStart = read_frame(&mut stdin)?.context("no start frame")?;
    let secrets: SecretsFrame = read_frame(&mut stdin)?.context("no secrets frame")?;
    let secrets = secrets.decode()?;
    drop(stdin);
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        // The bundle is gone. Nothing is worth finishing: an open connection must not outlive the host.
        std::process::exit(0);
    });
    let feed = Feed::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(name, start, secrets, feed))
}

async fn serve(name: &str, start: DaemonStart, secrets: Secrets, feed: Feed) -> Result<()> {
    match name {
        EGRESS => egress::serve(start, secrets, feed).await,
        DNS => dns::serve(start.bind, feed).await,
        other => bail!("this sidecar has no daemon `{other}`"),
    }
}

/// No core file, and no other process of the same user may read this one's memory.
pub(crate) fn harden() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// A daemon's way upwards: log lines, written by a thread of their own so that no request waits for the host.
#[derive(Clone)]
pub(crate) struct Feed {
    lines: SyncSender<DaemonUp>,
    lost: Arc<AtomicU64>,
}

impl Feed {
    fn new() -> Self {
        let (lines, queue) = sync_channel(LOG_QUEUE);
        thread::spawn(move || write_all(&queue));
        Self { lines, lost: Arc::default() }
    }

    /// Says that the daemon listens.
    pub(crate) fn listening(&self) {
        let _ = self.lines.send(DaemonUp::Listening);
    }

    /// Logs a line. Refusals wait for room, lines of allowed requests are counted as lost where there is none.
    pub(crate) fn log(&self, mut line: LogLine) {
        line.time = now();
        line.lost = self.lost.swap(0, Ordering::Relaxed);
        let lost = line.lost;
        if line.decision == "deny" {
            let _ = self.lines.send(DaemonUp::Log(Box::new(line)));
        } else if self.lines.try_send(DaemonUp::Log(Box::new(line))).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

fn write_all(queue: &Receiver<DaemonUp>) {
    let mut stdout = io::stdout().lock();
    while let Ok(message) = queue.recv() {
        if write_frame(&mut stdout, &message).is_err() {
            std::process::exit(0); // the bundle is gone
        }
    }
}

fn now() -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(FORMAT).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn egress_and_dns_cannot_be_left_out_and_unknown_daemons_are_refused() {
        assert_eq!(known("egress,dns").unwrap(), [EGRESS, DNS]);
        for list in ["egress", "dns", "", "egress,dns,git-gate"] {
            assert!(known(list).is_err(), "{list}");
        }
    }
}
