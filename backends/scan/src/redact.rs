//! Taking known secrets out of a body that has to go on: the conversation with the model. Everything else stays as it
//! is, byte for byte, and what was JSON stays JSON.

use crate::{
    Context, Scanner,
    block::{Blocks, Window},
    finding::{Finding, Kind},
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
    blocks: Blocks,
}

impl Redactor {
    pub(crate) fn new(scanner: Arc<Scanner>, context: Context) -> Self {
        Self { scanner, context, blocks: Blocks::default() }
    }

    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Redacted {
        let mut out = Redacted::default();
        let Self { scanner, context, blocks } = self;
        blocks.push(bytes, |window| judge(scanner, context, window, &mut out));
        out
    }

    /// The end.
    pub fn finish(self) -> Redacted {
        let mut out = Redacted::default();
        let Self { scanner, context, blocks } = self;
        blocks.finish(|window| judge(&scanner, &context, window, &mut out));
        out
    }
}

/// Judges a window, and gives its block without the secrets in it.
fn judge(scanner: &Scanner, context: &Context, window: Window<'_>, out: &mut Redacted) -> usize {
    let Window { bytes, base, block, .. } = window;
    let (mut findings, _) = scanner.judge_window("body", context, window);
    findings.sort_by_key(|finding| (finding.start, std::cmp::Reverse(finding.end)));
    let mut at = 0;
    for finding in findings.iter().filter(|finding| finding.kind == Kind::Exact) {
        let place = |of: u64| of.saturating_sub(base) as usize;
        let (start, end) = widen(bytes, place(finding.start), place(finding.end));
        if end <= at {
            continue;
        }
        let start = start.max(at);
        out.bytes.extend_from_slice(&bytes[at..start]);
        replace(&bytes[start..end], &finding.rule, &mut out.bytes);
        at = end;
    }
    out.findings.append(&mut findings);
    // A secret that reaches over the block's end is gone whole.
    let done = block.max(at);
    out.bytes.extend_from_slice(&bytes[at..done]);
    done
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
