//! Which of a text's grams are worth a look: one bit for each beginning of a hash. A few instructions a byte, however many
//! words or secrets there are.

/// 8 KB: it stays in the nearest cache.
const WORDS: usize = 1 << (BITS - 6);
/// Bits of a hash that are looked at.
const BITS: u32 = 16;

/// A set of hashes, which also has some that were never put into it: of 65536, as many as there are in it.
pub(crate) struct Filter(Box<[u64; WORDS]>);

/// Mixes a gram. The upper bits of the result depend on all of it.
#[inline(always)]
pub(crate) fn hash(gram: u64) -> u64 {
    gram.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Default for Filter {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl FromIterator<u64> for Filter {
    fn from_iter<T: IntoIterator<Item = u64>>(hashes: T) -> Self {
        let mut all = Self::default();
        for hash in hashes {
            let at = hash >> (64 - BITS);
            all.0[(at >> 6) as usize] |= 1 << (at & 63);
        }
        all
    }
}

impl Filter {
    /// Whether it may be in the set.
    #[inline(always)]
    pub(crate) fn may_have(&self, hash: u64) -> bool {
        let at = hash >> (64 - BITS);
        self.0[(at >> 6) as usize] >> (at & 63) & 1 == 1
    }
}
