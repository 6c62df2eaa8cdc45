//! A body on its way, held back until it is judged.

use crate::{
    Context, Scanner,
    block::{Blocks, Window},
    decode::inflate::{Trouble, Unpacker},
    finding::{Finding, Kind},
    member::Members,
    rule::Severity,
};
use std::{collections::VecDeque, sync::Arc};

/// A compressed body is decoded in steps of this size, after each of which something may be released.
const STEP: usize = 4 << 10;
/// Compressed bytes that may wait for a judgement: what becomes hardly longer than itself waits for one window.
const WAITING: usize = 8 << 20;

/// The answer to a piece.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Bytes that may go on: judged, and as they came.
    pub released: Vec<u8>,
    /// What the newly judged bytes hold. The caller decides; what is released is released only if it wants to go on.
    pub findings: Vec<Finding>,
}

/// One body. Bounded in memory, whatever comes.
pub struct Stream {
    scanner: Arc<Scanner>,
    context: Context,
    blocks: Blocks,
    members: Members,
    encoded: Option<Encoded>,
    trouble: Option<Trouble>,
}

struct Encoded {
    unpacker: Unpacker,
    waiting: VecDeque<u8>,
    /// After how many decoded bytes in all how many of the waiting ones are accounted for.
    marks: VecDeque<(u64, usize)>,
    made: u64,
}

impl Stream {
    pub(crate) fn new(scanner: Arc<Scanner>, context: Context, encoding: &str) -> Self {
        let (encoded, trouble) = match Unpacker::of(encoding) {
            Ok(unpacker) => (unpacker, None),
            Err(trouble) => (None, Some(trouble)),
        };
        let encoded =
            encoded.map(|unpacker| Encoded { unpacker, waiting: VecDeque::new(), marks: VecDeque::new(), made: 0 });
        let (blocks, members) = (Blocks::default(), Members::default());
        Self { scanner, context, blocks, members, encoded, trouble }
    }

    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Verdict {
        let mut verdict = Verdict::default();
        if let Some(trouble) = self.trouble {
            verdict.findings.push(opaque(trouble));
            return verdict;
        }
        match self.encoded.take() {
            None => self.plain(bytes, &mut verdict),
            Some(mut encoded) => {
                for step in bytes.chunks(STEP) {
                    self.encoded(&mut encoded, step, &mut verdict);
                }
                self.encoded = Some(encoded);
            }
        }
        verdict
    }

    /// The end of the body: everything that was held back, judged.
    pub fn finish(mut self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut encoded = self.encoded.take();
        if let (None, Some(encoded)) = (self.trouble, &mut encoded) {
            let mut made = vec![];
            match encoded.unpacker.finish(&mut made) {
                Ok(()) => {
                    let mut dropped = Verdict::default();
                    self.plain(&made, &mut dropped);
                    verdict.findings.append(&mut dropped.findings);
                }
                Err(trouble) => self.trouble = Some(trouble),
            }
        }
        if let Some(trouble) = self.trouble {
            verdict.findings.push(opaque(trouble));
            return verdict;
        }
        let Self { scanner, context, blocks, mut members, .. } = self;
        let mut plain = vec![];
        blocks.finish(|window| judge(&scanner, &context, &mut members, window, &mut plain, &mut verdict.findings));
        if context.archives && members.is_cut_off() {
            verdict.findings.push(opaque(Trouble::Sealed));
        }
        verdict.released = encoded.map_or(plain, |encoded| encoded.waiting.into());
        verdict
    }

    fn plain(&mut self, bytes: &[u8], verdict: &mut Verdict) {
        let Self { scanner, context, blocks, members, .. } = self;
        let Verdict { released, findings } = verdict;
        blocks.push(bytes, |window| judge(scanner, context, members, window, released, findings));
    }

    fn encoded(&mut self, encoded: &mut Encoded, bytes: &[u8], verdict: &mut Verdict) {
        if self.trouble.is_some() {
            return;
        }
        encoded.waiting.extend(bytes);
        let mut made = vec![];
        let mut done = encoded.unpacker.push(bytes, &mut made);
        if encoded.waiting.len() > WAITING {
            done = Err(Trouble::Broken);
        }
        if let Err(trouble) = done {
            self.trouble = Some(trouble);
            verdict.findings.push(opaque(trouble));
            return;
        }
        encoded.made += made.len() as u64;
        encoded.marks.push_back((encoded.made, bytes.len()));
        let mut plain = Verdict::default();
        self.plain(&made, &mut plain);
        verdict.findings.append(&mut plain.findings);
        // All of whose decoded bytes are judged.
        while let Some((made, length)) =
            encoded.marks.front().copied().filter(|(made, _)| *made <= self.blocks.released())
        {
            let _ = made;
            verdict.released.extend(encoded.waiting.drain(..length));
            encoded.marks.pop_front();
        }
    }
}

/// Judges a window, and releases its block.
fn judge(
    scanner: &Scanner,
    context: &Context,
    members: &mut Members,
    window: Window<'_>,
    released: &mut Vec<u8>,
    findings: &mut Vec<Finding>,
) -> usize {
    let (found, open) = scanner.judge_window("body", context, window);
    findings.extend(found);
    findings.extend(members.judge(scanner, context, window, &open));
    findings.extend(scanner.judge_structure("body", context, window.bytes));
    released.extend_from_slice(&window.bytes[..window.block]);
    window.block
}

pub(crate) fn opaque(trouble: Trouble) -> Finding {
    let rule = match trouble {
        Trouble::Unknown => "encoding-unknown",
        Trouble::Broken => "encoding-broken",
        Trouble::Bomb => "encoding-bomb",
        Trouble::Sealed => "archive-unreadable",
    };
    let place = "body".into();
    let (kind, severity, decoders) = (Kind::Opaque, Severity::High, String::new());
    Finding { rule: rule.into(), kind, severity, place, start: 0, end: 0, decoders }
}
