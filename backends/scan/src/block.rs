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

/// Bytes that one judgement releases.
pub(crate) const BLOCK: usize = 192 << 10;
/// What is judged with a block and released with the next: no credential is longer.
pub(crate) const OVERLAP: usize = 32 << 10;

/// The part of a stream that is not released yet.
#[derive(Default)]
pub(crate) struct Blocks {
    held: Vec<u8>,
    /// Where `held` begins in the stream.
    pub(crate) base: u64,
    /// Characters of a base64 group that are before `held`.
    phase: usize,
}

impl Blocks {
    /// Takes bytes, and gives each window that is full to `judge`: bytes, where they begin, the size of the block, the
    /// phase. The blocks judged go to `out`.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
        mut judge: impl FnMut(&[u8], u64, usize, usize),
    ) {
        while !bytes.is_empty() {
            let take = (BLOCK + OVERLAP - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.held.len() == BLOCK + OVERLAP {
                judge(&self.held, self.base, BLOCK, self.phase);
                self.release(BLOCK, out);
            }
        }
    }

    /// The end: the last window, all of which is released.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>, mut judge: impl FnMut(&[u8], u64, usize, usize)) {
        judge(&self.held, self.base, usize::MAX, self.phase);
        self.release(self.held.len(), out);
    }

    fn release(&mut self, length: usize, out: &mut Vec<u8>) {
        let run = self.held[..length].iter().rev().take_while(|b| crate::decode::base64::is_digit(**b)).count();
        self.phase = (run + if run == length { self.phase } else { 0 }) % 4;
        out.extend(self.held.drain(..length));
        self.base += length as u64;
    }
}
