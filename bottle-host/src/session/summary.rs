//! What left a bottle and what was refused, in a few lines for the end of a session.

use super::sidecar::ENDED;
use bottle_policy::{
    message::{CHALLENGE_RULE, LogLine},
    probe::PROBE_RULE,
};
use std::collections::BTreeMap;

/// Of the different refusals, named at the end of a session.
const SHOWN: usize = 5;
/// A bottle can ask for as many names as it likes; it does not fill our memory with them.
const REMEMBERED: usize = 1000;

/// Counted line by line.
#[derive(Debug, Default)]
pub struct Summary {
    allowed: u64,
    denied: u64,
    /// Would have been denied, and was sent.
    audited: u64,
    /// What was refused, with its rule, and how often.
    refusals: BTreeMap<String, u64>,
    /// Daemons that ended and were started again: how often, and how the last time.
    restarts: BTreeMap<String, (u64, String)>,
    /// Why the sidecar ended, if it did so by itself.
    ended: Option<String>,
}

impl Summary {
    /// Another line.
    pub fn count(&mut self, line: &LogLine) {
        self.allowed += line.lost;
        let many = 1 + line.repeated;
        // Asked for its password, as some clients want to be; or our own launch probe.
        if [CHALLENGE_RULE, PROBE_RULE].contains(&line.rule.as_str()) {
            return;
        }
        let (counter, what) = match line.decision.as_str() {
            "allow" => {
                self.allowed += many;
                return;
            }
            ENDED => return,
            "audit" => (&mut self.audited, "would be denied"),
            _ => (&mut self.denied, "denied"),
        };
        *counter += many;
        let what = format!("{what} {{}}x {} ({})", line.host, line.rule);
        if self.refusals.len() < REMEMBERED || self.refusals.contains_key(&what) {
            *self.refusals.entry(what).or_default() += many;
        }
    }

    /// Requests that were refused.
    pub fn denied(&self) -> u64 {
        self.denied
    }

    /// A daemon ended.
    pub(super) fn daemon_ended(&mut self, daemon: &str, status: &str) {
        let (count, last) = self.restarts.entry(daemon.to_owned()).or_default();
        *count += 1;
        status.clone_into(last);
    }

    /// The sidecar ended by itself. The first reason counts.
    pub(super) fn ended(&mut self, why: &str) {
        self.ended.get_or_insert_with(|| why.to_owned());
    }

    /// A few lines for the end of a session.
    pub fn lines(&self) -> Vec<String> {
        let audited = if self.audited > 0 { format!(", {} would be denied", self.audited) } else { String::new() };
        let mut lines = vec![format!("egress: {} allowed, {} denied{audited}", self.allowed, self.denied)];
        let mut refusals: Vec<_> = self.refusals.iter().collect();
        refusals.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let shown = refusals.iter().take(SHOWN);
        lines.extend(shown.map(|(what, count)| format!("  {}", what.replacen("{}", &count.to_string(), 1))));
        if refusals.len() > SHOWN {
            lines.push(format!("  and {} other places", refusals.len() - SHOWN));
        }
        let restarts = self.restarts.iter();
        lines.extend(restarts.map(|(daemon, (count, status))| {
            format!("the sidecar's daemon {daemon} ended {count}x during the session ({status})")
        }));
        lines.extend(self.ended.iter().map(|why| format!("the sidecar ended during the session: {why}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_lines_stand_for() {
        let mut summary = Summary::default();
        let line = |decision: &str, rule: &str, repeated, lost| LogLine {
            decision: decision.into(),
            rule: rule.into(),
            host: "h:443".into(),
            repeated,
            lost,
            ..LogLine::default()
        };
        for line in [
            line("allow", "h", 0, 3),
            line("deny", "host", 9, 0),
            line("deny", CHALLENGE_RULE, 0, 0),
            line("audit", "path", 1, 0),
            line("ended", "signal: 9 (SIGKILL)", 0, 0),
        ] {
            summary.count(&line);
        }
        summary.daemon_ended("egress", "signal: 9 (SIGKILL)");
        summary.daemon_ended("egress", "exit status: 1");
        let expected = [
            "egress: 4 allowed, 10 denied, 2 would be denied",
            "  denied 10x h:443 (host)",
            "  would be denied 2x h:443 (path)",
            "the sidecar's daemon egress ended 2x during the session (exit status: 1)",
        ];
        assert_eq!(summary.lines(), expected);
    }
}
