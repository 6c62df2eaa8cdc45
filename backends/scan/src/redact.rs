//! Taking known secrets out of a body that has to go on: the conversation with the model. Everything else stays as it
//! is, byte for byte, and what was JSON stays JSON.

use crate::{
    Context, Scanner,
    block::{BLOCK, OVERLAP},
    finding::{Finding, Kind},
    window::{Collector, Scratch},
};
use std::sync::Arc;

/// The answer to a piece.
#[derive(Debug, Default)]
pub struct Redacted {
    /// What may go on.
    pub bytes: Vec<u8>,
    /// What was taken out, and credentials by their form, which stay where they are.
    pub findings: Vec<Finding>,
}

/// One body.
pub struct Redactor {
    scanner: Arc<Scanner>,
    context: Context,
    scratch: Scratch,
    held: Vec<u8>,
    base: u64,
}

impl Redactor {
    pub(crate) fn new(scanner: Arc<Scanner>, context: Context) -> Self {
        Self { scanner, context, scratch: Scratch::default(), held: vec![], base: 0 }
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Redacted {
        let mut out = Redacted::default();
        while !bytes.is_empty() {
            let take = (BLOCK + OVERLAP - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.held.len() == BLOCK + OVERLAP {
                self.judge(BLOCK, &mut out);
            }
        }
        out
    }

    /// The end.
    pub fn finish(mut self) -> Redacted {
        let mut out = Redacted::default();
        self.judge(self.held.len(), &mut out);
        out
    }

    fn judge(&mut self, block: usize, out: &mut Redacted) {
        let mut collector = Collector::new(&self.scanner, &self.context, &mut self.scratch);
        collector.limit = if block == self.held.len() { usize::MAX } else { block };
        collector.window(&self.held, 0);
        let mut findings = std::mem::take(&mut collector.findings);
        findings.sort_by_key(|finding| (finding.start, std::cmp::Reverse(finding.end)));
        let mut at = 0;
        for finding in findings.iter().filter(|finding| finding.kind == Kind::Exact) {
            let (start, end) = widen(&self.held, finding.start as usize, finding.end as usize);
            if end <= at {
                continue;
            }
            let start = start.max(at);
            out.bytes.extend_from_slice(&self.held[at..start]);
            replace(&self.held[start..end], &finding.rule, &mut out.bytes);
            at = end;
        }
        // A secret that reaches over the block's end is gone whole.
        let done = block.max(at);
        out.bytes.extend_from_slice(&self.held[at..done]);
        for mut finding in findings {
            (finding.start, finding.end) = (finding.start + self.base, finding.end + self.base);
            out.findings.push(finding);
        }
        self.held.drain(..done);
        self.base += done as u64;
    }
}

/// An escape belongs to what it escapes: the whole of it goes.
fn widen(bytes: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    while start > 0 && matches!(bytes[start - 1], b'\\' | b'%' | b'#') {
        start -= 1;
    }
    if start > 0 && bytes[start] == b'#' && bytes[start - 1] == b'&' {
        start -= 1;
    }
    if bytes[start] == b'&' && bytes.get(end) == Some(&b';') {
        end += 1;
    }
    (start, end)
}

fn replace(old: &[u8], name: &str, out: &mut Vec<u8>) {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' };
    let marker = format!("[bottle:redacted {}]", name.chars().map(plain).collect::<String>());
    // Over several strings: the marker in the first, nothing of the secret in the others, the structure as it was.
    match old.iter().position(|b| b"\"{}[]".contains(b)) {
        None if old.iter().all(|b| !b.is_ascii_alphabetic() && *b != b'\\') && old.contains(&b',') => {
            out.extend(old.iter().map(|b| if b.is_ascii_digit() { b'1' } else { *b }));
        }
        None => out.extend(marker.bytes()),
        Some(first) => {
            // A quote that a backslash escapes keeps it.
            let escaped = old[..first].iter().rev().take_while(|b| **b == b'\\').count();
            out.extend(marker.bytes());
            out.extend(&old[first - escaped..first]);
            let mut escape = false;
            for byte in &old[first..] {
                out.push(if byte.is_ascii_alphanumeric() && !escape { b'0' } else { *byte });
                escape = *byte == b'\\' && !escape;
            }
        }
    }
}
