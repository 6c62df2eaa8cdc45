//! What every daemon of the bundle has in common: it is told what to serve, and reports upwards.

use crate::{dns, egress, feed::Feed, git_gate, pipelock, supervise};
use anyhow::{Context, Result, bail};
use bottle_api::{
    control::{
        DNS_DAEMON as DNS, EGRESS_DAEMON as EGRESS, GIT_GATE_DAEMON as GIT_GATE, PIPELOCK_DAEMON as PIPELOCK,
        SUPERVISE_DAEMON as SUPERVISE, SecretsFrame, read_frame,
    },
    secret::Secrets,
};
use bottle_policy::{
    Policy, Proposal,
    message::{Answer, LogLine},
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};
use signal_hook::{consts::SIGTERM, iterator::Signals};
use std::{io, net::IpAddr, path::PathBuf, thread, time::Duration};
use tokio::sync::{
    mpsc::{UnboundedReceiver, unbounded_channel},
    oneshot,
};

/// How long a daemon that was told to end may take to write its last lines.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// How long what is under way may take to be dropped.
const DROP_TIME: Duration = Duration::from_secs(1);

/// From the bundle to a daemon, once; a [`SecretsFrame`] follows, then [`DaemonDown`]s.
#[derive(Serialize, Deserialize)]
pub(crate) struct DaemonStart {
    /// The bottle's own leg: the only address to listen on.
    pub(crate) bind: IpAddr,
    pub(crate) policy: Policy,
    /// Where it may keep files, if it has any.
    pub(crate) scratch: Option<PathBuf>,
}

/// From the bundle to a daemon that serves.
#[derive(Serialize, Deserialize)]
pub(crate) enum DaemonDown {
    /// Judge by this from now on. Answered by [`DaemonUp::Reloaded`].
    Reload(Box<Policy>),
    /// How a proposal of that id stands.
    Answer(String, Answer),
}

/// From a daemon to the bundle.
#[derive(Serialize, Deserialize)]
pub(crate) enum DaemonUp {
    Listening,
    Reloaded,
    /// Pipelock's own certificate authority, PEM.
    Authority(String),
    /// An agent's, and its id. Answered by [`DaemonDown::Answer`].
    Proposal(String, Box<Proposal>),
    /// How does the one of that id stand?
    Asked(String),
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
            GIT_GATE => out.push(GIT_GATE),
            PIPELOCK => out.push(PIPELOCK),
            SUPERVISE => out.push(SUPERVISE),
            other => bail!("this sidecar has no daemon `{other}`"),
        }
    }
    match [EGRESS, DNS].iter().find(|needed| !out.contains(needed)) {
        Some(missing) => bail!("the daemon {missing} cannot be left out"),
        None => Ok(out),
    }
}

/// Policies that replace the one that a daemon began with.
pub(crate) type Reloads = UnboundedReceiver<Policy>;
/// How proposals stand, by their ids.
pub(crate) type Answers = UnboundedReceiver<(String, Answer)>;

/// Runs one daemon until its standard input closes, or it is told to end. `lent`: the numbers of descriptors that it is
/// lent, its listeners or the program that it runs in turn.
pub(crate) fn run(name: &str, lent: &[&str]) -> Result<()> {
    harden()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let told_to_end = heed_signals()?;
    let mut stdin = io::stdin().lock();
    let start: DaemonStart = read_frame(&mut stdin)?.context("no start frame")?;
    let secrets: SecretsFrame = read_frame(&mut stdin)?.context("no secrets frame")?;
    let secrets = secrets.decode()?;
    drop(stdin);
    let ((reload, reloads), (answer, answers)) = (unbounded_channel(), unbounded_channel());
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        while let Ok(Some(word)) = read_frame(&mut stdin) {
            match word {
                DaemonDown::Reload(policy) => drop(reload.send(*policy)),
                DaemonDown::Answer(id, how) => drop(answer.send((id, how))),
            }
        }
        // The bundle is gone. Nothing is worth finishing: an open connection must not outlive the host.
        std::process::exit(0);
    });
    let feed = Feed::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(async {
        tokio::select! {
            served = serve(name, lent, start, secrets, (reloads, answers), feed.clone()) => served,
            _ = told_to_end => Ok(()),
        }
    });
    // What is under way is given up, and leaves its line in the log.
    runtime.shutdown_timeout(DROP_TIME);
    feed.flush(FLUSH_TIME);
    served
}

async fn serve(
    name: &str,
    lent: &[&str],
    start: DaemonStart,
    secrets: Secrets,
    (reloads, answers): (Reloads, Answers),
    feed: Feed,
) -> Result<()> {
    match name {
        EGRESS => egress::serve(start, lent, secrets, reloads, feed).await,
        DNS => dns::serve(start.bind, lent, feed).await,
        GIT_GATE => git_gate::serve(start, lent, secrets, reloads, feed).await,
        PIPELOCK => pipelock::serve(start, lent.first().context("it has not got its program")?, reloads, feed).await,
        SUPERVISE => supervise::serve(start, lent, secrets, reloads, answers, feed).await,
        other => bail!("this sidecar has no daemon `{other}`"),
    }
}

/// Told by SIGTERM.
fn heed_signals() -> Result<oneshot::Receiver<()>> {
    let (mut signals, (tell, told)) = (Signals::new([SIGTERM])?, oneshot::channel());
    thread::spawn(move || {
        signals.forever().next();
        let _ = tell.send(());
    });
    Ok(told)
}

/// No core file, and no other process of the same user may read this one's memory.
pub(crate) fn harden() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn egress_and_dns_cannot_be_left_out_and_unknown_daemons_are_refused() {
        assert_eq!(known("egress,dns").unwrap(), [EGRESS, DNS]);
        assert_eq!(known("egress,dns,git-gate,supervise").unwrap(), [EGRESS, DNS, GIT_GATE, SUPERVISE]);
        for list in ["egress", "dns", "", "supervise", "git-gate", "egress,dns,nobody"] {
            assert!(known(list).is_err(), "{list}");
        }
    }
}
