//! Where the keywords of all rules stand, in any case.
//!
//! Of each keyword its four rarest characters in a row are looked for; of the shortest, all three. A table says of the
//! first three of them where a keyword may stand, and of the fourth: so it takes as long for a thousand keywords as for
//! one, and only where the table says yes is a keyword compared.

use crate::filter::hash;
use std::borrow::Cow;

/// Characters of a keyword that are looked for.
const GRAM: usize = 4;
/// The same of keywords that have no more; none has fewer.
const SHORT: usize = 3;
/// Bits of the hash of three characters. The table has 16 KB, which stay in the nearest cache.
const BITS: u32 = 12;
const SLOTS: usize = 1 << BITS;
/// What makes a small letter of a large one, in four characters.
const CASE: u32 = 0x2020_2020;
/// The first three of four characters.
const THREE: u32 = 0x00ff_ffff;

/// Characters from those that every text has to those that hardly any has. All others are rarer still.
const COMMON: &[u8] = b" etaoinsrlcdmupfhg_\".,:/(-b=)ywvk0'x1;2";

/// The characters of a keyword that are looked for.
struct Gram {
    /// All of them, where there are four.
    gram: u32,
    mask: u32,
    word: usize,
    /// Where in the keyword they begin.
    at: usize,
}

/// A set of keywords.
pub(crate) struct Keywords {
    words: Vec<Cow<'static, str>>,
    /// By their slots.
    grams: Vec<Gram>,
    /// How many are in the slots before each.
    before: Vec<u32>,
    /// For each slot: the fourth characters that may follow.
    table: Box<[u32; SLOTS]>,
}

/// Makes one character of upper and lower case, and leaves others different enough.
#[inline(always)]
fn fold(four: [u8; GRAM]) -> u32 {
    u32::from_le_bytes(four) | CASE
}

/// Where the first three of four characters are in the table.
#[inline(always)]
fn slot(gram: u32) -> usize {
    (hash((gram & THREE).into()) >> (64 - BITS)) as usize
}

/// The bit of the fourth: no two letters have the same.
#[inline(always)]
fn bit(gram: u32) -> u32 {
    1 << (gram >> 24 & 31)
}

/// How seldom these characters stand together, by each of them alone.
fn rarity(gram: &[u8]) -> usize {
    let of = |byte: &u8| COMMON.iter().position(|common| common == byte).unwrap_or(COMMON.len());
    gram.iter().map(of).sum()
}

impl Keywords {
    /// Of words, each of which has at least three characters; a shorter one is never found.
    pub(crate) fn new(words: Vec<Cow<'static, str>>) -> Self {
        let mut table = Box::new([0; SLOTS]);
        let mut grams = vec![];
        for (word, text) in words.iter().enumerate() {
            let text = text.as_bytes();
            let rarest = text.windows(GRAM).enumerate().max_by_key(|(_, gram)| rarity(gram));
            let (at, gram, mask) = match (rarest, text) {
                (Some((at, four)), _) => (at, fold([four[0], four[1], four[2], four[3]]), u32::MAX),
                (None, [a, b, c]) => (0, fold([*a, *b, *c, 0]), THREE),
                (None, _) => continue,
            };
            table[slot(gram)] |= if mask == THREE { u32::MAX } else { bit(gram) };
            grams.push(Gram { gram, mask, word, at });
        }
        grams.sort_by_key(|gram| slot(gram.gram));
        let before = (0..=SLOTS).map(|end| grams.partition_point(|gram| slot(gram.gram) < end) as u32).collect();
        Self { words, grams, before, table }
    }

    /// Calls `found` with the number of each keyword that stands in a text, and where it begins and ends there. Those
    /// that overlap are all found.
    pub(crate) fn find(&self, bytes: &[u8], mut found: impl FnMut(usize, usize, usize)) {
        let mut look = |at: usize, gram: u32| {
            if self.table[slot(gram)] & bit(gram) != 0 {
                self.compare(gram, bytes, at, &mut found);
            }
        };
        // Eight bytes are four places to look at.
        let mut at = 0;
        while let Some(eight) = bytes[at..].first_chunk() {
            let eight = u64::from_le_bytes(*eight);
            (0..4).for_each(|n| look(at + n, (eight >> (8 * n)) as u32 | CASE));
            at += 4;
        }
        for (n, four) in bytes[at..].windows(GRAM).enumerate() {
            look(at + n, fold([four[0], four[1], four[2], four[3]]));
        }
        // A short one may be the end of the text.
        if let Some([a, b, c]) = bytes.last_chunk() {
            self.compare(fold([*a, *b, *c, 0]), bytes, bytes.len() - SHORT, &mut found);
        }
    }

    /// Compares the keywords that these characters may be of.
    #[inline(never)]
    fn compare(&self, four: u32, bytes: &[u8], at: usize, found: &mut impl FnMut(usize, usize, usize)) {
        let slot = slot(four);
        let [from, to] = [self.before[slot] as usize, self.before[slot + 1] as usize];
        for gram in self.grams[from..to].iter().filter(|gram| (gram.gram ^ four) & gram.mask == 0) {
            let word = self.words[gram.word].as_bytes();
            let Some(start) = at.checked_sub(gram.at) else { continue };
            let end = start + word.len();
            if bytes.get(start..end).is_some_and(|text| text.eq_ignore_ascii_case(word)) {
                found(gram.word, start, end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_found_in_any_case_wherever_they_stand() {
        let words = ["sk-", "akia", "password", "secret_key", "://", "word"];
        let keywords = Keywords::new(words.into_iter().map(Cow::Borrowed).collect());
        for (text, expected) in [
            ("sk-", vec![("sk-", 0)]),
            ("xSK-", vec![("sk-", 1)]),
            ("aKiAakia", vec![("akia", 0), ("akia", 4)]),
            ("a PassWord", vec![("password", 2), ("word", 6)]),
            ("SECRET_KEY SECRETKEY https://x", vec![("secret_key", 0), ("://", 26)]),
            ("sk", vec![]),
            ("passwor", vec![]),
            ("", vec![]),
        ] {
            let mut found = vec![];
            keywords.find(text.as_bytes(), |word, start, end| {
                assert_eq!(end - start, words[word].len());
                found.push((words[word], start));
            });
            found.sort_by_key(|(_, start)| *start);
            assert_eq!(found, expected, "{text}");
        }
    }
}
