//! What is compressed inside of a body and longer than a window: an archive that is uploaded, a packed file in a form. The
//! window in which it begins knows nothing of how it goes on: its decoder is carried from window to window.
//!
//! One level: what is compressed in what such a member becomes is decoded as far as a window of that reaches.

use crate::{
    Context, Scanner,
    block::{Blocks, Window},
    decode::inflate::{Open, Trouble, Unpacker},
    finding::Finding,
    stream::opaque,
};

/// Members that may be open at a time. Nobody honest has more than one.
const MOST: usize = 4;
/// Compressed bytes that are decoded together.
const STEP: usize = 4 << 10;

/// The members of one body that have begun and not ended.
#[derive(Default)]
pub(crate) struct Members(Vec<Member>);

struct Member {
    name: &'static str,
    unpacker: Unpacker,
    /// Where in the body it begins.
    begin: u64,
    /// How far in the body it is decoded.
    fed: u64,
    made: Blocks,
}

impl Members {
    /// Judges what the members become with this window, of which some begin in it. To the window's end, not only the
    /// block's: what is released with the block is judged with what follows it.
    pub(crate) fn judge(
        &mut self,
        scanner: &Scanner,
        context: &Context,
        window: Window<'_>,
        open: &[Open],
    ) -> Vec<Finding> {
        let mut findings = vec![];
        self.0.retain_mut(|member| member.judge(scanner, context, window, &mut findings));
        for Open { at, name } in open.iter().copied().filter(|open| open.at < window.limit) {
            let begin = window.base + at as u64;
            let Some(unpacker) = Unpacker::member(name) else { continue };
            let mut member = Member { name, unpacker, begin, fed: begin, made: Blocks::default() };
            if !member.judge(scanner, context, window, &mut findings) {
                continue;
            }
            if self.0.len() >= MOST {
                findings.push(opaque(Trouble::Bomb));
                break;
            }
            self.0.push(member);
        }
        findings
    }

    /// Whether the body has ended before something of which the last part cannot be decoded then.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.0.iter().any(|member| member.name == "xz")
    }
}

impl Member {
    /// Whether it goes on.
    fn judge(&mut self, scanner: &Scanner, context: &Context, window: Window<'_>, findings: &mut Vec<Finding>) -> bool {
        let Self { name, unpacker, begin, fed, made } = self;
        let from = fed.saturating_sub(window.base) as usize;
        let window_end = window.base + window.bytes.len() as u64;
        let mut goes_on = Ok(());
        let mut judge = |window: Window<'_>| {
            for mut finding in scanner.judge_window("body", context, window).0 {
                let inner = if finding.decoders.is_empty() { "" } else { " > " };
                finding.decoders = format!("{name}{inner}{}", finding.decoders);
                (finding.start, finding.end) = (*begin, window_end);
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
            window.block
        };
        for step in window.bytes.get(from..).unwrap_or_default().chunks(STEP) {
            let mut out = vec![];
            goes_on = unpacker.push_member(step, &mut out);
            made.push(&out, &mut judge);
            if goes_on.is_err() {
                break;
            }
        }
        judge(made.held());
        *fed = window_end;
        match goes_on {
            // A test's file of zeros is no bomb to whoever only keeps it.
            Err(Trouble::Bomb) if context.archives || !matches!(*name, "xz" | "bzip2") => {
                findings.push(opaque(Trouble::Bomb));
            }
            Err(Trouble::Sealed) if context.archives => findings.push(opaque(Trouble::Sealed)),
            _ => {}
        }
        goes_on.is_ok()
    }
}
