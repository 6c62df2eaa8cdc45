//! A daemon's way upwards: what it reports, and its log lines, written by a thread of their own.
//!
//! No request waits for a host that does not read, and memory stays bounded: once [`QUEUE`] lines wait, a line of an
//! allowed request is counted as lost; a refusal is not lost, but joins the earlier ones of its rule and host in one
//! line, and where there are too many of these, those of its rule.

use crate::daemon::DaemonUp;
use bottle_api::control::encode;
use bottle_policy::message::LogLine;
use std::{
    collections::{HashMap, hash_map::Entry},
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// Lines that may wait for the host, each as it is.
const QUEUE: usize = 4096;
/// Refusals that may wait beside them, each for all of its rule and host.
const JOINED: usize = 1024;
/// Stands for the hosts that there was no room to name.
const ANY_HOST: &str = "*";

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    reports: Vec<DaemonUp>,
    lines: Vec<LogLine>,
    /// By decision, rule and host.
    joined: HashMap<[String; 3], LogLine>,
    lost: u64,
    /// What was taken out last is not written yet.
    writing: bool,
}

impl Feed {
    /// One that writes to standard output. The process ends where that is gone: so is the bundle.
    pub(crate) fn start() -> Self {
        let feed = Self::default();
        let own = feed.clone();
        thread::spawn(move || {
            let _ = own.write_all(&mut io::stdout().lock());
            std::process::exit(0);
        });
        feed
    }

    /// Reports something that must arrive.
    pub(crate) fn report(&self, what: DaemonUp) {
        self.waiting().reports.push(what);
        self.0.changed.notify_all();
    }

    /// What was reported and is not written yet, where nobody writes.
    #[cfg(test)]
    pub(crate) fn reported(&self) -> Vec<DaemonUp> {
        mem::take(&mut self.waiting().reports)
    }

    /// Logs a line.
    pub(crate) fn log(&self, mut line: LogLine) {
        line.time = now();
        let mut waiting = self.waiting();
        waiting.add(line);
        drop(waiting);
        self.0.changed.notify_all();
    }

    /// Waits until all of it is written, for so long at most.
    pub(crate) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut waiting = self.waiting();
        while waiting.writing || !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.0.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_all(&self, to: &mut impl Write) -> io::Result<()> {
        loop {
            let mut waiting = self.waiting();
            waiting.writing = false;
            self.0.changed.notify_all();
            while waiting.is_empty() {
                waiting = self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let batch = waiting.take();
            drop(waiting);
            for message in batch {
                to.write_all(&encode(&message)?)?;
            }
            to.flush()?;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.lines.is_empty() && self.joined.is_empty() && self.lost == 0
    }

    fn add(&mut self, line: LogLine) {
        if self.lines.len() < QUEUE {
            self.lines.push(line);
        } else if line.is_allowed() {
            self.lost += 1;
        } else {
            self.join(line);
        }
    }

    fn join(&mut self, mut line: LogLine) {
        let mut key = [line.decision.clone(), line.rule.clone(), line.host.clone()];
        if self.joined.len() >= JOINED && !self.joined.contains_key(&key) {
            // There are few rules, and a guest does not make them up.
            key[2] = ANY_HOST.into();
            line = LogLine { host: ANY_HOST.into(), path: String::new(), ..line };
        }
        match self.joined.entry(key) {
            Entry::Occupied(earlier) => earlier.into_mut().repeated += 1,
            Entry::Vacant(room) => drop(room.insert(line)),
        }
    }

    /// Everything, to be written: reports first, then lines in their order.
    fn take(&mut self) -> Vec<DaemonUp> {
        let mut lines = mem::take(&mut self.lines);
        lines.extend(mem::take(&mut self.joined).into_values());
        // Lines are lost only while others wait.
        if let Some(last) = lines.last_mut() {
            last.lost = mem::take(&mut self.lost);
        }
        self.writing = true;
        let reports = mem::take(&mut self.reports).into_iter();
        reports.chain(lines.into_iter().map(|line| DaemonUp::Log(Box::new(line)))).collect()
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

    fn line(decision: &str, rule: &str, host: String) -> LogLine {
        LogLine { decision: decision.into(), rule: rule.into(), host, ..LogLine::default() }
    }

    fn lines_of(batch: Vec<DaemonUp>) -> Vec<LogLine> {
        let line = |message| match message {
            DaemonUp::Log(line) => Some(*line),
            _ => None,
        };
        batch.into_iter().filter_map(line).collect()
    }

    #[test]
    fn a_host_that_does_not_read_loses_no_refusal_and_takes_no_memory() {
        let feed = Feed::default();
        let (hosts, rounds) = (3 * JOINED, 3);
        for round in 0..rounds {
            for n in 0..hosts {
                feed.log(line("allow", "a.example", "a.example:443".into()));
                feed.log(line("deny", "host", format!("{n}.example")));
                feed.log(line("audit", "path", "b.example".into()));
                assert!(round > 0 || n > 0 || feed.waiting().lines.len() == 3);
            }
        }
        feed.report(DaemonUp::Listening);
        let mut waiting = feed.waiting();
        assert_eq!(waiting.lines.len(), QUEUE);
        assert!(waiting.joined.len() <= JOINED + 2, "{}", waiting.joined.len());
        let batch = waiting.take();
        assert!(waiting.is_empty() && matches!(batch[0], DaemonUp::Listening));
        drop(waiting);
        let lines = lines_of(batch);
        let total =
            |decision: &str| -> u64 { lines.iter().filter(|l| l.decision == decision).map(|l| 1 + l.repeated).sum() };
        let lost: u64 = lines.iter().map(|l| l.lost).sum();
        let each = (hosts * rounds) as u64;
        assert_eq!((total("deny"), total("audit"), total("allow") + lost), (each, each, each));
        assert!(lines.iter().any(|l| l.host == ANY_HOST && l.repeated > 0));
        // With room again a line stands for itself.
        feed.log(line("deny", "host", "1.example".into()));
        assert_eq!(lines_of(feed.waiting().take())[0].repeated, 0);
    }

    #[test]
    fn what_waits_is_written_in_order_and_flushed() {
        struct Pipe(std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Pipe {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let feed = Feed::default();
        for n in 0..3 {
            feed.log(line("allow", "", n.to_string()));
        }
        let (to, from) = std::sync::mpsc::channel();
        let own = feed.clone();
        thread::spawn(move || own.write_all(&mut Pipe(to)));
        feed.flush(Duration::from_secs(10));
        let wire: Vec<u8> = from.try_iter().flatten().collect();
        let mut wire = &wire[..];
        for n in 0..3 {
            match bottle_api::control::read_frame(&mut wire).unwrap() {
                Some(DaemonUp::Log(line)) => assert_eq!(line.host, n.to_string()),
                _ => panic!("line {n} is missing"),
            }
        }
    }
}
