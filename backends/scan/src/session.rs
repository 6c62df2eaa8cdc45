//! Secrets in pieces: over headers, query, body, requests, frames, names. What has gone to a host is remembered, as far
//! as it is a piece of a secret, for some time and in bounded memory.
//!
//! Two ways, neither of which fires on what is no piece:
//! * eight characters of a secret, wherever they stand, mark their place in it; when three fifths of the secret are
//!   marked, it has gone; of `user:password`, three fifths of the password. Chance makes eight characters of a random value once in 10^12 bytes. Of a value that is no
//!   longer, and a piece of a secret as a whole, five are enough;
//! * the short values of one slot (`query q`, `frame`, a label) are put one after the other: a secret that is sent
//!   letter by letter stands there whole.

use crate::{
    Scanner,
    exact::GRAM,
    finding::{Finding, Kind},
    forms::Squeezed,
    rule::Severity,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use zeroize::Zeroize;

/// Hosts that are remembered; the one heard of longest ago goes first.
const HOSTS: usize = 256;
const SLOTS: usize = 32;
/// Characters of a slot that are remembered.
const TRAIL: usize = 1024;
/// A longer value is looked at for pieces, but is no letter of a trail.
const SHORT: usize = 96;
/// Characters of a value that is a piece as a whole.
const LEAST_PIECE: usize = 5;
/// What was sent longer ago is forgotten.
const WINDOW: Duration = Duration::from_secs(3600);

/// What one bottle has sent. A copy is for what may not go after all.
#[derive(Clone)]
pub struct Session {
    scanner: Arc<Scanner>,
    hosts: HashMap<String, Host>,
}

#[derive(Clone)]
struct Host {
    heard: Instant,
    /// For each needle: which of its characters have gone.
    sent: HashMap<u16, Vec<bool>>,
    slots: VecDeque<(String, Vec<u8>)>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.slots.iter_mut().for_each(|(_, trail)| trail.zeroize());
    }
}

impl Session {
    /// Nothing sent yet.
    pub fn new(scanner: Arc<Scanner>) -> Self {
        Self { scanner, hosts: HashMap::new() }
    }

    /// Remembers a value that goes to a host in a slot (`query q`, `header x-a`, `body`, `frame`, `label`), and says
    /// which secrets have gone there in pieces with it.
    pub fn observe(&mut self, host: &str, slot: &str, value: &[u8]) -> Vec<Finding> {
        self.observe_at(Instant::now(), host, slot, value)
    }

    /// The values of a request, each in its slot.
    pub fn observe_url(&mut self, host: &str, path: &str, query: Option<&str>) -> Vec<Finding> {
        let now = Instant::now();
        let mut findings = vec![];
        // To one domain, whatever stands before it.
        let labels: Vec<&str> = host.split('.').collect();
        let (own, domain) = labels.split_at(labels.len().saturating_sub(2));
        let domain = domain.join(".");
        for label in own {
            findings.extend(self.observe_at(now, &domain, "label", label.as_bytes()));
        }
        for part in path.split('/').filter(|part| !part.is_empty()) {
            findings.extend(self.observe_at(now, host, "path", part.as_bytes()));
        }
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or(("", pair));
            findings.extend(self.observe_at(now, host, &format!("query {name}"), value.as_bytes()));
        }
        findings
    }

    fn observe_at(&mut self, now: Instant, name: &str, slot: &str, value: &[u8]) -> Vec<Finding> {
        if self.scanner.exact.is_empty() || value.is_empty() {
            return vec![];
        }
        let name = name.to_ascii_lowercase();
        if !self.hosts.contains_key(&name) && self.hosts.len() >= HOSTS {
            let oldest = self.hosts.iter().min_by_key(|(_, host)| host.heard).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.hosts.remove(&name));
        }
        let new = || Host { heard: now, sent: HashMap::new(), slots: VecDeque::new() };
        let host = self.hosts.entry(name).or_insert_with(new);
        if now.duration_since(host.heard) > WINDOW {
            *host = new();
        }
        host.heard = now;
        let mut findings = host.pieces(&self.scanner, value);
        if value.len() <= SHORT {
            findings.extend(host.trail(&self.scanner, slot, value));
        }
        findings
    }
}

fn found(scanner: &Scanner, secret: u16) -> Finding {
    Finding {
        rule: scanner.exact.name(secret).to_owned().into(),
        kind: Kind::Split,
        severity: Severity::Critical,
        place: "pieces".into(),
        start: 0,
        end: 0,
        decoders: String::new(),
    }
}

impl Host {
    fn pieces(&mut self, scanner: &Scanner, value: &[u8]) -> Vec<Finding> {
        let mut changed = vec![];
        let mut mark = |needle: u16, at: usize, many: usize| {
            let (_, length, _) = scanner.exact.needle(needle);
            let sent = self.sent.entry(needle).or_insert_with(|| vec![false; length]);
            sent.iter_mut().skip(at).take(many).for_each(|sent| *sent = true);
            changed.push(needle);
        };
        scanner.with_scratch(|scratch| {
            scratch.squeezed.fill(value, usize::MAX, 0);
            let letters = &scratch.squeezed.letters;
            scanner.exact.pieces(letters, |needle, at| mark(needle, at, GRAM));
            if (LEAST_PIECE..GRAM).contains(&letters.len()) {
                scanner.exact.whole(letters, |needle, at| mark(needle, at, letters.len()));
            }
        });
        changed.dedup();
        let gone = |needle: &u16| {
            let sent = self.sent.get(needle)?;
            let (secret, _, public) = scanner.exact.needle(*needle);
            let sent = sent.get(public..)?;
            let many = sent.iter().filter(|sent| **sent).count() * 5 >= sent.len() * 3;
            many.then(|| found(scanner, secret))
        };
        let mut findings: Vec<Finding> = changed.iter().filter_map(gone).collect();
        findings.sort();
        findings.dedup();
        findings
    }

    fn trail(&mut self, scanner: &Scanner, slot: &str, value: &[u8]) -> Vec<Finding> {
        let at = self.slots.iter().position(|(name, _)| name == slot);
        let mut entry = match at.and_then(|at| self.slots.remove(at)) {
            Some(entry) => entry,
            None => (slot.to_owned(), vec![]),
        };
        let before = entry.1.len();
        entry.1.extend_from_slice(value);
        let mut scratch = Squeezed::default();
        let mut findings = vec![];
        scanner.exact.find(&entry.1, usize::MAX, &mut scratch, |hit| {
            // Whole in one value: that was found where it stands.
            if hit.start < before && hit.end > before {
                findings.push(found(scanner, hit.secret));
            }
        });
        scratch.zeroize();
        let over = entry.1.len().saturating_sub(TRAIL);
        entry.1.drain(..over);
        self.slots.push_back(entry);
        if self.slots.len() > SLOTS {
            self.slots.pop_front();
        }
        findings
    }
}
