//! Seed phrases (BIP-39): twelve to twenty-four words of one list, the last of which holds a checksum.

use crate::filter::hash;
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// Bytes of twelve words of three letters.
pub(crate) const SHORTEST: usize = 47;

/// What a long text says where a phrase may follow.
pub(crate) const ANNOUNCING: [&str; 3] = ["mnemonic", "seed", "recovery"];

/// The English list, of BIP-39 (MIT).
const LIST: &str = include_str!("words.txt");

/// Bits of a hash that say where a word is looked for first: three of four places are free.
const BITS: u32 = 13;

/// The words, and where each of them is, by its first four letters, which no other has: at the place of their hash, or at
/// the next that was free. A free place has a number that is no word's.
struct Words {
    words: Vec<&'static str>,
    places: Box<[u16; 1 << BITS]>,
}

impl Words {
    fn get() -> &'static Self {
        static WORDS: OnceLock<Words> = OnceLock::new();
        WORDS.get_or_init(|| {
            let words: Vec<&str> = LIST.split_ascii_whitespace().collect();
            let mut places = Box::new([u16::MAX; 1 << BITS]);
            for (number, word) in (0..).zip(&words) {
                let free = Self::row(key(word.as_bytes())).find(|place| places[*place] == u16::MAX);
                // There are fewer words than places.
                free.into_iter().for_each(|place| places[place] = number);
            }
            Self { words, places }
        })
    }

    /// All places, from that of a word's letters on.
    fn row(key: u32) -> impl Iterator<Item = usize> {
        let first = (hash(key.into()) >> (64 - BITS)) as usize;
        (0..1 << BITS).map(move |n| (first + n) % (1 << BITS))
    }

    fn number(&self, word: &[u8]) -> Option<u16> {
        let row = Self::row(key(word)).map(|place| self.places[place]);
        let mut words = row.map_while(|number| Some((number, *self.words.get(usize::from(number))?)));
        words.find(|(_, own)| own.as_bytes().eq_ignore_ascii_case(word)).map(|(number, _)| number)
    }
}

/// Four letters in any case as a number; a word of three has a blank.
fn key(word: &[u8]) -> u32 {
    (0..4).fold(0, |all, n| all << 8 | u32::from(word.get(n).copied().unwrap_or(0) | 0x20))
}

fn number(word: &[u8]) -> Option<u16> {
    (3..=8).contains(&word.len()).then(|| Words::get().number(word))?
}

/// Whether the phrase is whole: its words are of the list and the checksum is right.
pub(crate) fn checksum(phrase: &[u8]) -> bool {
    let words = phrase.split(|b| !b.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    words.map(number).collect::<Option<Vec<u16>>>().is_some_and(|numbers| valid(&numbers))
}

fn valid(numbers: &[u16]) -> bool {
    if !matches!(numbers.len(), 12 | 15 | 18 | 21 | 24) {
        return false;
    }
    let bit = |n: usize| numbers[n / 11] >> (10 - n % 11) & 1;
    let entropy = numbers.len() * 11 * 32 / 33;
    let byte = |at: usize| (0..8).fold(0_u8, |byte, n| byte << 1 | bit(at * 8 + n) as u8);
    let bytes: Vec<u8> = (0..entropy / 8).map(byte).collect();
    let hash = Sha256::digest(&bytes);
    (0..numbers.len() * 11 - entropy).all(|n| u16::from(hash[n / 8] >> (7 - n % 8) & 1) == bit(entropy + n))
}

/// Calls `found` with the place of each phrase in a text, whatever stands between its words.
pub(crate) fn phrases(bytes: &[u8], mut found: impl FnMut(usize, usize)) {
    let mut numbers: Vec<(u16, usize, usize)> = vec![];
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_alphabetic() {
            at += 1;
            continue;
        }
        let end = bytes[at..].iter().position(|b| !b.is_ascii_alphabetic()).map_or(bytes.len(), |n| at + n);
        let far = numbers.last().is_some_and(|(_, _, last)| at - last > 8);
        match number(&bytes[at..end]) {
            Some(word) => {
                if far {
                    numbers.clear();
                }
                numbers.push((word, at, end));
                // The longest that ends here.
                for length in [24, 21, 18, 15, 12] {
                    let Some(from) = numbers.len().checked_sub(length) else { continue };
                    let phrase: Vec<u16> = numbers[from..].iter().map(|(word, ..)| *word).collect();
                    if valid(&phrase) {
                        found(numbers[from].1, end);
                        numbers.clear();
                        break;
                    }
                }
                if numbers.len() > 24 {
                    numbers.remove(0);
                }
            }
            // `\n` in JSON, and numbering, are no words.
            None if end - at < 3 => {}
            None => numbers.clear(),
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_number_in_any_case_and_others_have_none() {
        for (expected, word) in (0..).zip(LIST.split_ascii_whitespace()) {
            assert_eq!(number(word.as_bytes()), Some(expected), "{word}");
            assert_eq!(number(word.to_ascii_uppercase().as_bytes()), Some(expected), "{word}");
            assert_eq!(number(format!("{word}q").as_bytes()), None, "{word}");
        }
        assert_eq!([number(b"abou"), number(b"ab"), number(b"zzz")], [None; 3]);
    }

    #[test]
    fn a_phrase_of_the_standard_and_one_with_a_wrong_checksum() {
        let words = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon";
        assert!(checksum(format!("{words} about").as_bytes()));
        assert!(!checksum(format!("{words} zoo").as_bytes()));
        let mut at = None;
        phrases(format!("keep this: {words}, about.").as_bytes(), |start, end| at = Some((start, end)));
        assert_eq!(at, Some((11, 11 + words.len() + 7)));
    }
}
