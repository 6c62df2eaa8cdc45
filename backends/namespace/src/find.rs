//! The launchers that run, by the labels on their command lines, and how one is ended.
//!
//! A command line can say anything, so only processes of this user count, and of these only those that stand beside this
//! one: a bottle's own first process is a copy of its launcher, and carries the same words.

use bottle_api::{ActiveBottle, Error, ErrorKind, Result};
use bottle_namespace::wire::LABELS;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

/// The first word of a launcher's command line.
pub(crate) const NAME: &str = "bottle-namespace";
/// How long a launcher may take to end in order before it is made to.
const GRACE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// A process with labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launcher {
    pub(crate) pid: i32,
    /// When it was started, in the kernel's ticks: with the number it is one process for as long as the machine runs.
    pub(crate) start: u64,
    labels: BTreeMap<String, String>,
    /// It stands beside this process, and not in a bottle.
    outside: bool,
}

impl Launcher {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// As the ledger has it.
    pub(crate) fn id(&self) -> String {
        format!("{}.{}", self.pid, self.start)
    }

    pub(crate) fn active(&self) -> ActiveBottle {
        let daemons = self.label("daemons").split(',').filter(|name| !name.is_empty());
        ActiveBottle {
            identity: self.label("identity").into(),
            agent: self.label("agent").into(),
            started: self.label("started").into(),
            daemons: daemons.map(str::to_owned).collect(),
        }
    }
}

/// Of this user, outside of bottles.
pub(crate) fn launchers() -> Vec<Launcher> {
    labelled().into_iter().filter(|found| found.outside).collect()
}

/// Launchers and their bottles' first processes.
fn labelled() -> Vec<Launcher> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The process of that number, where it has labels and is alive.
pub(crate) fn look(pid: i32) -> Option<Launcher> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let labels = labels(&line)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let words = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Some(line?.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    let outside = words("NSpid")?.len() == 1;
    // Root's bottles are other users' processes; who made them is root.
    if outside && words("Uid")?.first()? != &geteuid().as_raw().to_string() {
        return None;
    }
    Some(Launcher { pid, start: start_of(pid)?, labels, outside })
}

/// When a process was started; none where it is gone but for its exit status.
pub(crate) fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let dead = ["Z", "X"].contains(words.first()?);
    if dead { None } else { words.get(19)?.parse().ok() }
}

/// `bottle-namespace --identity=… …`
fn labels(line: &[u8]) -> Option<BTreeMap<String, String>> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.split('\0').filter(|word| !word.is_empty());
    if words.next() != Some(NAME) {
        return None;
    }
    words
        .map(|word| {
            let (name, value) = word.strip_prefix("--")?.split_once('=')?;
            LABELS.contains(&name).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The words that [`labels`] reads.
pub(crate) fn arguments(values: [&str; LABELS.len()]) -> Vec<String> {
    LABELS.iter().zip(values).map(|(name, value)| format!("--{name}={value}")).collect()
}

/// Ends a launcher, and waits until it and its bottle's first process are gone. One that is gone already is no error.
pub(crate) fn end(launcher: &Launcher, until: Instant) -> Result<()> {
    for (signal, time) in [(Signal::TERM, GRACE), (Signal::KILL, Duration::MAX)] {
        let Some(pid) = Pid::from_raw(launcher.pid) else { break };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { break };
        // The descriptor is of whoever has the number now: is it still the same?
        if look(launcher.pid).is_none_or(|now| now.start != launcher.start) {
            break;
        }
        let _ = pidfd_send_signal(&pidfd, signal);
        let left = until.saturating_duration_since(Instant::now()).min(time);
        let left = Timespec { tv_sec: left.as_secs().try_into().unwrap_or(60), tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left));
    }
    let entry = launcher.label("entry");
    let is_left = |found: &Launcher| found.label("entry") == entry && (!found.outside || found.pid == launcher.pid);
    while labelled().iter().any(is_left) {
        if Instant::now() > until {
            let message = format!("the processes of {} do not end, not even by SIGKILL", launcher.label("identity"));
            return Err(Error::new(ErrorKind::DEADLINE, message));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_they_are_written_and_nothing_else_is() {
        let line =
            |words: &[&str]| words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>();
        let values = ["dev-12345", "me", "uuid", "dev", "egress,dns", "2026", "/a b/=x"];
        let words = arguments(values);
        let mut all = vec![NAME];
        all.extend(words.iter().map(String::as_str));
        let found = labels(&line(&all)).unwrap();
        assert_eq!(LABELS.map(|name| found[name].as_str()), values);
        for other in [&["bash", "--identity=x"][..], &[NAME, "--other=x"], &[NAME, "x"], &[]] {
            assert!(labels(&line(other)).is_none(), "{other:?}");
        }
    }

    #[test]
    fn this_process_has_a_beginning_and_no_labels() {
        let own = std::process::id() as i32;
        assert!(start_of(own).is_some() && look(own).is_none());
    }
}
