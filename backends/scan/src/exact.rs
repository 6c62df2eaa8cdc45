//! Secrets that are known by value. See [`crate::forms`] for the forms they are looked for in.
//!
//! One pass: of the letters and digits of a text every few eight in a row go through a small table, which says whether
//! they stand at the beginning of a form of any secret; only then is anything compared. No form is so short that it could
//! stand between two places that are looked at. The cost does not depend on how many secrets there are.

use crate::{
    checks::entropy,
    filter::{Filter, hash},
    forms::{self, Squeezed},
};
use zeroize::{Zeroize, Zeroizing};

/// Shorter values would be found everywhere.
pub(crate) const LEAST: usize = 12;
/// Characters that are looked at together.
pub(crate) const GRAM: usize = 8;
/// Of these so many in a row are looked at first where pieces are looked for,
const PART: usize = 5;
/// at places so far apart: wherever [`GRAM`] characters stand, there is one of these in their first part.
const PARTS: usize = GRAM - PART + 1;
/// A shorter form of a secret is not looked for.
const SHORTEST: usize = 10;
/// The widest step from one place to the next. Each place within a step is one more in the table,
const STRIDE: usize = 8;
/// which has so many at most, as long as there is one for each needle.
const PLACES: usize = 2048;

/// A value that is not looked for, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Whose.
    pub name: String,
    /// As the preflight says it.
    pub why: &'static str,
}

struct Needle {
    secret: u16,
    form: &'static str,
    squeezed: Zeroizing<Vec<u8>>,
    /// How many of them are no secret: the user's name in `user:password`.
    public: usize,
}

/// The place of eight characters in a needle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gram {
    hash: u64,
    pub(crate) needle: u16,
    pub(crate) at: u16,
}

/// A set of secrets, wiped when it goes.
#[derive(Default)]
pub struct ExactSet {
    names: Vec<String>,
    skipped: Vec<Skipped>,
    needles: Vec<Needle>,
    /// Grams that begin less than `stride` characters behind the beginning of a needle, by hash.
    begins: Grams,
    /// Every place in the needles that splits are looked for in.
    pieces: Grams,
    /// What of them is looked at first.
    parts: Filter,
    /// How far apart the places are that are looked at: no needle is too short to have one of them in its first part.
    stride: usize,
    /// Letters of the longest needle.
    longest: usize,
    /// Values with hardly a letter in them, looked for as they are.
    literal: Vec<(u16, Zeroizing<Vec<u8>>)>,
}

/// A hit: whose, in which form, and where it begins and ends in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) secret: u16,
    pub(crate) form: &'static str,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl ExactSet {
    /// Of names and values.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut set = Self::default();
        for (name, value) in secrets {
            match reason_to_skip(value) {
                Some(why) => set.skipped.push(Skipped { name: name.to_owned(), why }),
                None => set.add(name, value),
            }
        }
        let shortest = set.needles.iter().map(|needle| needle.squeezed.len()).min().unwrap_or(SHORTEST);
        set.longest = set.needles.iter().map(|needle| needle.squeezed.len()).max().unwrap_or(0);
        let room = PLACES / set.needles.len().max(1);
        set.stride = (shortest - GRAM + 1).min(room).clamp(1, STRIDE);
        let (mut begins, mut pieces, mut parts) = (vec![], vec![], vec![]);
        for (number, needle) in (0..).zip(&set.needles) {
            let splits = matches!(needle.form, "raw" | "hex" | "base64");
            for (at, text) in (0..u16::MAX).zip(needle.squeezed.windows(GRAM)) {
                let gram = Gram { hash: hash_of(text), needle: number, at };
                if usize::from(at) < set.stride {
                    begins.push(gram);
                }
                if splits {
                    pieces.push(gram);
                    // Every part of these characters may be the one that is looked at.
                    parts.extend(text.windows(PART).map(part_of));
                }
            }
        }
        set.parts = parts.into_iter().collect();
        (set.begins, set.pieces) = (Grams::of(begins), Grams::of(pieces));
        set
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        let secret = self.names.len() as u16;
        self.names.push(name.to_owned());
        let public = name_before(value);
        let mut add = |form, squeezed: Zeroizing<Vec<u8>>| {
            if squeezed.len() >= SHORTEST {
                // Nothing else is weighed in pieces.
                let public = match form {
                    "raw" => forms::squeeze(&value[..public]).len(),
                    "hex" | "base64" => (squeezed.len() * public).div_ceil(value.len()),
                    _ => 0,
                };
                self.needles.push(Needle { secret, form, squeezed, public });
            }
        };
        forms::of(value).into_iter().for_each(|(form, squeezed)| add(form, squeezed));
        // Of a long value (a key file) any large piece counts, if nobody else could have it.
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"+/=_-".contains(b);
        for run in value.split(|b| !token(b)).filter(|run| run.len() >= 24 && run.len() < value.len()) {
            for piece in run.chunks(40).filter(|piece| piece.len() >= 24 && entropy(piece) >= 4.2) {
                add("a piece", forms::squeeze(piece));
            }
        }
        if forms::squeeze(value).len() < SHORTEST {
            self.literal.push((secret, Zeroizing::new(value.to_vec())));
        }
    }

    /// Values that are not looked for: the preflight names them.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// How many are looked for.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(crate) fn name(&self, secret: u16) -> &str {
        self.names.get(usize::from(secret)).map_or("", String::as_str)
    }

    /// Whose a needle is, its length, and how much of its beginning is no secret.
    pub(crate) fn needle(&self, number: u16) -> (u16, usize, usize) {
        self.needles.get(usize::from(number)).map_or((0, usize::MAX, 0), |n| (n.secret, n.squeezed.len(), n.public))
    }

    /// Calls `found` with every hit, in order of their ends. Those that begin at or behind `until` need not be found.
    pub(crate) fn find(&self, bytes: &[u8], until: usize, scratch: &mut Squeezed, mut found: impl FnMut(Hit)) {
        for (secret, value) in &self.literal {
            for start in memchr::memmem::find_iter(bytes, value.as_slice()) {
                found(Hit { secret: *secret, form: "raw", start, end: start + value.len() });
            }
        }
        if self.needles.is_empty() {
            return;
        }
        scratch.fill(bytes, until, self.longest);
        let letters = &scratch.letters;
        let mut from = 0;
        for at in (0..letters.len().saturating_sub(GRAM - 1)).step_by(self.stride) {
            self.begins.each(&letters[at..], |gram| {
                let needle = &self.needles[usize::from(gram.needle)];
                let Some(start) = at.checked_sub(gram.at.into()).filter(|start| *start >= from) else { return };
                if letters[start..].starts_with(&needle.squeezed) {
                    from = start + needle.squeezed.len();
                    let (start, end) = (scratch.place(bytes, start), scratch.place(bytes, from - 1) + 1);
                    found(Hit { secret: needle.secret, form: needle.form, start, end });
                }
            });
        }
    }

    /// Calls `found` with the needle and the place in it of every eight characters that are a piece of a secret.
    pub(crate) fn pieces(&self, letters: &[u8], mut found: impl FnMut(u16, usize)) {
        let mut each = |from: usize, to: usize| {
            let texts = letters[from..to + GRAM].windows(GRAM);
            texts.for_each(|text| self.pieces.each(text, |gram| found(gram.needle, gram.at.into())));
        };
        let Some(last) = letters.len().checked_sub(GRAM) else { return };
        for at in (0..=last).step_by(PARTS) {
            if self.parts.may_have(part_of(&letters[at..])) {
                each(at.saturating_sub(PARTS - 1), at);
            }
        }
        // Behind the last place that was looked at.
        each(last / PARTS * PARTS + 1, last);
    }

    /// The same of a few characters that are a piece as they are, of a secret in its own form.
    pub(crate) fn whole(&self, letters: &[u8], mut found: impl FnMut(u16, usize)) {
        for (number, needle) in (0..).zip(&self.needles).filter(|(_, needle)| needle.form == "raw") {
            memchr::memmem::find_iter(&needle.squeezed, letters).for_each(|at| found(number, at));
        }
    }
}

/// Places in needles, by what stands there.
#[derive(Default)]
struct Grams {
    sorted: Vec<Gram>,
    filter: Filter,
}

impl Grams {
    fn of(mut grams: Vec<Gram>) -> Self {
        grams.sort_unstable();
        let filter = grams.iter().map(|gram| gram.hash).collect();
        Self { sorted: grams, filter }
    }

    /// Calls `found` with each place where a text's first characters stand.
    #[inline(always)]
    fn each(&self, text: &[u8], mut found: impl FnMut(Gram)) {
        let hash = hash_of(text);
        if self.filter.may_have(hash) {
            let first = self.sorted.partition_point(|gram| gram.hash < hash);
            self.sorted[first..].iter().take_while(|gram| gram.hash == hash).for_each(|gram| found(*gram));
        }
    }
}

impl Drop for Grams {
    fn drop(&mut self) {
        self.sorted.iter_mut().for_each(|gram| gram.hash.zeroize());
    }
}

fn hash_of(eight: &[u8]) -> u64 {
    hash(eight.first_chunk::<GRAM>().map_or(0, |eight| u64::from_le_bytes(*eight)))
}

/// The hash of the first few characters.
#[inline(always)]
fn part_of(text: &[u8]) -> u64 {
    let part: Option<&[u8; PART]> = text.first_chunk();
    hash(part.map_or(0, |[a, b, c, d, e]| u64::from_le_bytes([*a, *b, *c, *d, *e, 0, 0, 0])))
}

impl std::fmt::Debug for ExactSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExactSet").field("names", &self.names).field("skipped", &self.skipped).finish_non_exhaustive()
    }
}

/// How long the name is with which `user:password` begins, if what follows is long enough to be known by itself.
fn name_before(value: &[u8]) -> usize {
    let colon = value.iter().position(|b| *b == b':').filter(|at| value[..*at].iter().all(u8::is_ascii_graphic));
    let rest = |at: usize| forms::squeeze(&value[at + 1..]).len() >= GRAM;
    colon.filter(|at| rest(*at) && !value[*at..].starts_with(b"://")).map_or(0, |at| at + 1)
}

fn reason_to_skip(value: &[u8]) -> Option<&'static str> {
    if value.len() < LEAST {
        return Some("shorter than 12 bytes");
    }
    let mut seen = [false; 256];
    value.iter().for_each(|b| seen[usize::from(*b)] = true);
    let different = seen.iter().filter(|seen| **seen).count();
    let words = value.iter().all(|b| b.is_ascii_lowercase() || b" -_.".contains(b));
    let low = different < 7
        || entropy(value) < 2.8
        || words && value.len() < 20
        || value.iter().all(u8::is_ascii_digit) && value.len() < 16;
    low.then_some("too easily guessed: it would be found where it is not")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "vK8qZt2mPw7Rj4Lx9Nd3Hs6Bc5Yf";

    proptest! {
        #[test]
        fn every_piece_of_a_secret_is_found_wherever_it_stands(
            parts in prop::collection::vec((0..SECRET.len(), 0..SECRET.len(), "[a-z0-9]{0,9}"), 0..6),
        ) {
            let set = ExactSet::new([("ONE", SECRET.as_bytes())]);
            let part = |(from, to, filler): &(usize, usize, String)| SECRET[*from.min(to)..*from.max(to)].to_owned() + filler;
            let letters = forms::squeeze(parts.iter().map(part).collect::<String>().as_bytes());
            let mut expected = vec![];
            letters.windows(GRAM).for_each(|text| set.pieces.each(text, |gram| expected.push((gram.needle, gram.at.into()))));
            let mut found = vec![];
            set.pieces(&letters, |needle, at| found.push((needle, at)));
            prop_assert_eq!(found, expected);
        }
    }
}
