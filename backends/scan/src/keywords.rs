//! Where the keywords of all rules stand, in any case.
//!
//! Of each keyword its four rarest characters in a row are looked for; of the shortest, all three. A text is read two bytes
//! at a time. Of each two one table says which keywords they may be of, and at which place in them; three in a row that
//! agree are a place to look at. Another table says of four characters whether a keyword has them, and only then is it
//! compared. So it takes as long for a thousand keywords as for one.
//!
//! ```text
//!   s e c r e t _ k e y        the four that are looked for: t_ke
//!        |e t|_ k|e y|         where they begin at an odd place,
//!      |r e|t _|k e|           and at an even one
//! ```

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
/// Two bytes as a number in the table: the first, and five bits of the second, which are the same in either case. What is
/// common in texts of it stays in the nearest cache.
const PAIRS: usize = 1 << 13;
/// Groups of keywords that are told apart.
const GROUPS: u32 = 21;

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

/// Three pairs of characters; those that may be any are none.
type Row = [[Option<u8>; 2]; 3];

/// A set of keywords.
pub(crate) struct Keywords {
    words: Vec<Cow<'static, str>>,
    /// By their slots.
    grams: Vec<Gram>,
    /// How many are in the slots before each.
    before: Vec<u32>,
    /// For each slot: the fourth characters that may follow.
    table: Box<[u32; SLOTS]>,
    /// For each two bytes: the groups that have them at the first of three places, at the second, at the third.
    pairs: Box<[u64; PAIRS]>,
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
            // Two characters before them and one behind say more of their place than they do.
            let known = |at: usize| (at.min(2), (text.len() - GRAM - at).min(1));
            let rarest = text.windows(GRAM).enumerate().max_by_key(|(at, gram)| (known(*at), rarity(gram)));
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
        let pairs = Self::pairs(&words, &grams);
        Self { words, grams, before, table, pairs }
    }

    /// Three pairs of each keyword at an even and at an odd place, in groups of those that are alike.
    fn pairs(words: &[Cow<'static, str>], grams: &[Gram]) -> Box<[u64; PAIRS]> {
        let mut rows: Vec<Row> = vec![];
        for gram in grams {
            let word = words[gram.word].as_bytes();
            for odd in 0..2 {
                // The first pair begins one or two characters before those that are looked for.
                let character = |n: usize| (gram.at + n + odd).checked_sub(2).and_then(|at| word.get(at)).copied();
                rows.push([0, 2, 4].map(|n| [character(n), character(n + 1)]));
            }
        }
        rows.sort_unstable_by_key(|row| (row.map(|pair| pair.map(|character| character.is_some())), *row));
        // A pair of which only one character is known is many: a group has the fewer rows of them.
        let weight = |row: &Row| 1 + row.iter().flatten().filter(|character| character.is_none()).count();
        let total: usize = rows.iter().map(weight).sum();
        let (mut pairs, mut any, mut before) = (Box::new([0; PAIRS]), 0, 0);
        for row in &rows {
            let group = before * GROUPS as usize / total;
            before += weight(row);
            for (place, [first, second]) in row.iter().enumerate() {
                let bit = 1 << (group + GROUPS as usize * place);
                let firsts = first
                    .map_or(0..=u8::MAX, |first| first..=first)
                    .flat_map(|first| [first.to_ascii_lowercase(), first.to_ascii_uppercase()]);
                let seconds = second.map_or(0..=31, |second| second & 31..=second & 31);
                match (first, second) {
                    (None, None) => any |= bit,
                    _ => firsts.for_each(|first| {
                        seconds.clone().for_each(|second| {
                            pairs[usize::from(first) | usize::from(second) << 8] |= bit;
                        });
                    }),
                }
            }
        }
        pairs.iter_mut().for_each(|groups| *groups |= any);
        pairs
    }

    /// Calls `found` with the number of each keyword that stands in a text, and where it begins and ends there. Those
    /// that overlap are all found.
    pub(crate) fn find(&self, bytes: &[u8], mut found: impl FnMut(usize, usize, usize)) {
        let mut look = |at: usize, gram: u32| {
            if self.table[slot(gram)] & bit(gram) != 0 {
                self.compare(gram, bytes, at, &mut found);
            }
        };
        // The two pairs before the text may be any.
        let (mut before, mut at) = ([u64::MAX; 2], 0);
        let (blocks, _) = bytes.as_chunks::<8>();
        for block in blocks {
            let eight = u64::from_le_bytes(*block);
            let [a, b, c, d] = [0, 2, 4, 6].map(|n| self.pairs[(eight >> (8 * n)) as usize % PAIRS]);
            // The first of three that agree is one place before the second. None waits for what another comes to.
            let agree = |first: u64, second: u64, third: u64| first << (2 * GROUPS) & second << GROUPS & third;
            let here = [agree(before[0], before[1], a), agree(before[1], a, b), agree(a, b, c), agree(b, c, d)];
            before = [c, d];
            if here.iter().fold(0, |all, agreed| all | agreed) >> (2 * GROUPS) != 0 {
                for (n, _) in here.iter().enumerate().filter(|(_, agreed)| *agreed >> (2 * GROUPS) != 0) {
                    // The characters may begin at the odd place, or at the even one.
                    let last = at + 2 * n;
                    for place in [3, 2].into_iter().filter_map(|back| last.checked_sub(back)) {
                        if let Some(four) = bytes[place..].first_chunk() {
                            look(place, fold(*four));
                        }
                    }
                }
            }
            at += 8;
        }
        // What begins in the last pair or behind it.
        let rest = at.saturating_sub(3);
        for (n, four) in bytes[rest..].windows(GRAM).enumerate() {
            look(rest + n, fold([four[0], four[1], four[2], four[3]]));
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
    use proptest::prelude::*;

    const WORDS: [&str; 12] = [
        "sk-",
        "://",
        "eyj",
        "akia",
        "ghp_",
        "token",
        "xoxb-",
        "secret",
        "password",
        "secret_key",
        "word",
        "-----begin",
    ];

    proptest! {
        #[test]
        fn every_keyword_is_found_once_at_every_place(
            parts in prop::collection::vec((0..WORDS.len(), any::<bool>(), "[ -~\\x80é]{0,9}"), 0..12),
        ) {
            let keywords = Keywords::new(WORDS.into_iter().map(Cow::Borrowed).collect());
            let part = |(word, upper, filler): &(usize, bool, String)| {
                (if *upper { WORDS[*word].to_uppercase() } else { WORDS[*word].to_owned() }) + filler
            };
            let text: String = parts.iter().map(part).collect();
            for from in 0..text.len().min(9) {
                let bytes = &text.as_bytes()[from..];
                let is_at = |word: &str, at: usize| {
                    bytes.get(at..at + word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word.as_bytes()))
                };
                let mut expected: Vec<(usize, usize)> =
                    (0..bytes.len()).flat_map(|at| (0..WORDS.len()).map(move |n| (at, n))).collect();
                expected.retain(|(at, n)| is_at(WORDS[*n], *at));
                let mut found = vec![];
                keywords.find(bytes, |word, start, _| found.push((start, word)));
                found.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

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
