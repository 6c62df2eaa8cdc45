//! Cutting a stream into windows that overlap. Where they are cut depends on nothing but the position in the stream: so
//! the same bytes give the same findings, however they arrive.
//!
//! ```text
//!   released            held back
//! ─────────────┬───────────────────┬─────────────┐
//!   judged     │ block             │ overlap     │ ← arrives
//! ─────────────┴───────────────────┴─────────────┘
//!              └── window: judged when it is full, or the stream ends; then the block is released
//! ```

use crate::decode::base64;

/// Bytes that one judgement releases.
const BLOCK: usize = 192 << 10;
/// What is judged with a block and released with the next: no credential is longer.
const OVERLAP: usize = 32 << 10;

/// The part of a stream that is not released yet.
#[derive(Default)]
pub(crate) struct Blocks {
    held: Vec<u8>,
    /// Where `held` begins in the stream.
    base: u64,
    /// Characters of a base64 group that are before `held`.
    phase: usize,
}

/// A part of a stream that is to be judged.
#[derive(Clone, Copy)]
pub(crate) struct Window<'b> {
    pub(crate) bytes: &'b [u8],
    /// Where it begins in its stream.
    pub(crate) base: u64,
    /// How many of its bytes are released with it.
    pub(crate) block: usize,
    /// What begins from here on belongs to the next window.
    pub(crate) limit: usize,
    /// Characters of a base64 group that are before it.
    pub(crate) phase: usize,
}

impl<'b> Window<'b> {
    /// All there is.
    pub(crate) fn whole(bytes: &'b [u8]) -> Self {
        Self { bytes, base: 0, block: bytes.len(), limit: usize::MAX, phase: 0 }
    }
}

impl Blocks {
    /// Bytes of the stream that were released.
    pub(crate) fn released(&self) -> u64 {
        self.base
    }

    /// Takes bytes, and gives each window that is full to `judge`, which says how many bytes of it are done with: its
    /// block, or more.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut judge: impl FnMut(Window<'_>) -> usize) {
        while !bytes.is_empty() {
            let take = (BLOCK + OVERLAP - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.held.len() == BLOCK + OVERLAP {
                let Self { held, base, phase } = &*self;
                let done = judge(Window { bytes: held, base: *base, block: BLOCK, limit: BLOCK, phase: *phase });
                self.release(done);
            }
        }
    }

    /// What is held, before it is a window.
    pub(crate) fn held(&self) -> Window<'_> {
        Window { base: self.base, phase: self.phase, block: 0, ..Window::whole(&self.held) }
    }

    /// The end: the last window, all of which is released.
    pub(crate) fn finish(self, judge: impl FnOnce(Window<'_>) -> usize) {
        let Self { held, base, phase } = &self;
        judge(Window { base: *base, phase: *phase, ..Window::whole(held) });
    }

    fn release(&mut self, length: usize) {
        let run = base64::digits_at_end(&self.held[..length]);
        self.phase = (run + if run == length { self.phase } else { 0 }) % 4;
        self.held.drain(..length);
        self.base += length as u64;
    }
}
