//! Secrets that are known by value. See [`crate::forms`] for the forms they are looked for in.
//!
//! One pass: letters and digits go through a register of eight bytes; a small table says whether those eight begin a
//! form of any secret; only then is anything compared. The cost does not depend on how many secrets there are.

use crate::{
    checks::entropy,
    forms::{self, SQUEEZED},
};
use zeroize::{Zeroize, Zeroizing};

/// Shorter values would be found everywhere.
pub(crate) const LEAST: usize = 12;
/// Bytes in the register.
pub(crate) const GRAM: usize = 8;
const TABLE_BITS: u32 = 16;

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
    /// Beginnings of all needles, by hash.
    begins: Vec<Gram>,
    /// Every place in the needles that splits are looked for in.
    pieces: Vec<Gram>,
    begin_table: Table,
    piece_table: Table,
    /// Values with hardly a letter in them, looked for as they are.
    literal: Vec<(u16, Zeroizing<Vec<u8>>)>,
}

/// One bit for each beginning of a hash: whether it is worth a search.
#[derive(Default)]
struct Table(Vec<u64>);

impl Table {
    fn of(grams: &[Gram]) -> Self {
        let mut bits = vec![0; 1 << (TABLE_BITS - 6)];
        for gram in grams {
            let at = gram.hash >> (64 - TABLE_BITS);
            bits[(at >> 6) as usize] |= 1 << (at & 63);
        }
        Self(bits)
    }

    #[inline]
    fn may_have(&self, hash: u64) -> bool {
        let at = hash >> (64 - TABLE_BITS);
        self.0.get((at >> 6) as usize).is_some_and(|bits| bits >> (at & 63) & 1 == 1)
    }
}

#[inline]
fn hash(register: u64) -> u64 {
    // Its upper bits depend on all of the register; only they are looked at first.
    register.wrapping_mul(0x9e37_79b9_7f4a_7c15)
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
        let register = |bytes: &[u8]| bytes.iter().fold(0, |all, b| all << 8 | u64::from(*b));
        for (number, needle) in (0..).zip(&set.needles) {
            let splits = matches!(needle.form, "raw" | "hex" | "base64");
            for (at, gram) in (0..u16::MAX).zip(needle.squeezed.windows(GRAM)) {
                let gram = Gram { hash: hash(register(gram)), needle: number, at };
                if at == 0 {
                    set.begins.push(gram);
                }
                if splits {
                    set.pieces.push(gram);
                }
            }
        }
        set.begins.sort_unstable();
        set.pieces.sort_unstable();
        (set.begin_table, set.piece_table) = (Table::of(&set.begins), Table::of(&set.pieces));
        set
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        let secret = self.names.len() as u16;
        self.names.push(name.to_owned());
        let mut add = |form, squeezed: Zeroizing<Vec<u8>>| {
            if squeezed.len() >= 10 {
                self.needles.push(Needle { secret, form, squeezed });
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
        if forms::squeeze(value).len() < 10 {
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

    pub(crate) fn needle(&self, number: u16) -> (u16, usize) {
        self.needles.get(usize::from(number)).map_or((0, usize::MAX), |n| (n.secret, n.squeezed.len()))
    }

    /// Calls `found` with every hit, in order of their ends.
    pub(crate) fn find(&self, bytes: &[u8], scratch: &mut Vec<u8>, mut found: impl FnMut(Hit)) {
        for (secret, value) in &self.literal {
            for start in memchr::memmem::find_iter(bytes, value.as_slice()) {
                found(Hit { secret: *secret, form: "raw", start, end: start + value.len() });
            }
        }
        if self.begins.is_empty() {
            return;
        }
        squeeze_onto(bytes, scratch);
        let mut from = 0;
        self.each_gram(scratch, &self.begins, &self.begin_table, |at, gram| {
            let needle = &self.needles[usize::from(gram.needle)];
            if at >= from && scratch[at..].starts_with(&needle.squeezed) {
                from = at + needle.squeezed.len();
                let (start, end) = unsqueezed(bytes, at, from);
                found(Hit { secret: needle.secret, form: needle.form, start, end });
            }
        });
    }

    /// Calls `found` with every eight characters that are a piece of a secret: the piece, and its place in `squeezed`.
    pub(crate) fn pieces(&self, squeezed: &[u8], mut found: impl FnMut(Gram)) {
        self.each_gram(squeezed, &self.pieces, &self.piece_table, |_, gram| found(*gram));
    }

    #[inline]
    fn each_gram(&self, text: &[u8], grams: &[Gram], table: &Table, mut found: impl FnMut(usize, &Gram)) {
        let mut register = 0_u64;
        for (n, byte) in text.iter().enumerate() {
            register = register << 8 | u64::from(*byte);
            let hash = hash(register);
            if n + 1 >= GRAM && table.may_have(hash) {
                let first = grams.partition_point(|gram| gram.hash < hash);
                grams[first..].iter().take_while(|gram| gram.hash == hash).for_each(|g| found(n + 1 - GRAM, g));
            }
        }
    }
}

impl Drop for ExactSet {
    fn drop(&mut self) {
        for gram in self.begins.iter_mut().chain(&mut self.pieces) {
            gram.hash.zeroize();
        }
    }
}

impl std::fmt::Debug for ExactSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExactSet").field("names", &self.names).field("skipped", &self.skipped).finish_non_exhaustive()
    }
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

/// Letters and digits of a text, in lower case. What an escape consists of is none: the `n` of `\n`.
pub(crate) fn squeeze_onto(bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.resize(bytes.len(), 0);
    let mut to = 0;
    let mut from = 0;
    for slash in memchr::memchr_iter(b'\\', bytes).chain([bytes.len()]) {
        if slash < from {
            continue;
        }
        for byte in &bytes[from..slash] {
            let folded = SQUEEZED[usize::from(*byte)];
            out[to] = folded;
            to += usize::from(folded != 0);
        }
        from = slash + escape(&bytes[slash..]);
    }
    out.truncate(to);
}

/// The length of the escape of a line's end (`\n`, `\\n` in JSON within JSON), or of the backslashes alone.
fn escape(bytes: &[u8]) -> usize {
    let slashes = bytes.iter().take_while(|b| **b == b'\\').count();
    slashes + usize::from(matches!(bytes.get(slashes), Some(b'n' | b'r' | b't')))
}

/// Where the characters `from..to` of a squeezed text stand in the text.
fn unsqueezed(bytes: &[u8], from: usize, to: usize) -> (usize, usize) {
    let (mut seen, mut at, mut start) = (0, 0, 0);
    while at < bytes.len() {
        if bytes[at] == b'\\' {
            at += escape(&bytes[at..]);
            continue;
        }
        if SQUEEZED[usize::from(bytes[at])] != 0 {
            if seen == from {
                start = at;
            }
            seen += 1;
            if seen == to {
                return (start, at + 1);
            }
        }
        at += 1;
    }
    (start, bytes.len())
}
