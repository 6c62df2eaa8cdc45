//! The forms in which a secret may be sent. Each is *squeezed*: only its letters and digits, in lower case. So one form
//! of hex is found as `41:4b`, `41 4B`, `%41%4b` and `=41=4B`, and a value cut by quotes, dots or line ends is found
//! like a whole one.

use crate::span::{BLOCK, mask};
use std::fmt::Write;
use zeroize::{Zeroize, Zeroizing};

/// What a byte is squeezed to: letters and digits stay, letters in lower case; 0 is dropped. In the second table, what it
/// is behind a backslash: the `n` of `\n`, also of `\\n` in JSON within JSON, is no letter.
const SQUEEZED: [[u8; 256]; 2] = {
    let mut tables = [[0; 256]; 2];
    let mut n = 0;
    while n < 256 {
        let byte = n as u8;
        if byte.is_ascii_alphanumeric() {
            tables[0][n] = byte.to_ascii_lowercase();
            tables[1][n] = if matches!(byte, b'n' | b'r' | b't') { 0 } else { tables[0][n] };
        }
        n += 1;
    }
    tables
};

/// What a byte is squeezed to, behind another one.
#[inline(always)]
pub(crate) fn squeezed(before: u8, byte: u8) -> u8 {
    SQUEEZED[usize::from(before == b'\\')][usize::from(byte)]
}

/// A form's name and its squeezed bytes.
pub(crate) type Form = (&'static str, Zeroizing<Vec<u8>>);

pub(crate) fn squeeze(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut squeezed = Squeezed::default();
    squeezed.fill(bytes, usize::MAX, 0);
    let letters = Zeroizing::new(std::mem::take(&mut squeezed.letters));
    squeezed.zeroize();
    letters
}

/// The letters and digits of a text, and the way back from them.
pub(crate) struct Squeezed {
    pub(crate) letters: Vec<u8>,
    /// Letters of one step, before they are put behind the others.
    made: [u8; STEP + COPY],
    /// A block in small letters.
    small: [u8; BLOCK + COPY],
    /// How many there were at most since it was wiped.
    most: usize,
    /// How many of them are before each step of the text.
    before: Vec<usize>,
}

/// Bytes of a text that are squeezed together.
const STEP: usize = 256;
/// Letters that are copied together: hardly a word has more.
const COPY: usize = 16;

/// Squeezes a block into what has room for it and [`COPY`] more, and says how many letters were made. `escapes`: whether
/// the last byte before it, and then its own of `length`, is a backslash. `small` is room to work in.
#[inline(always)]
fn squeeze_block(
    block: &[u8; BLOCK],
    length: usize,
    escapes: &mut bool,
    small: &mut [u8; BLOCK + COPY],
    made: &mut [u8],
) -> usize {
    let mut keep = mask(block, |byte| byte.is_ascii_digit() | ((byte | 0x20).wrapping_sub(b'a') < 26));
    let backslashes = mask(block, |byte| byte == b'\\');
    let escaped = backslashes << 1 | u64::from(*escapes);
    if escaped != 0 {
        keep &= !(escaped & mask(block, |byte| (byte == b'n') | (byte == b'r') | (byte == b't')));
    }
    *escapes = backslashes >> (length - 1) & 1 == 1;
    // A digit stays what it is, and so does a small letter.
    small.iter_mut().zip(block).for_each(|(small, byte)| *small = byte | 0x20);
    let mut done = 0;
    while keep != 0 {
        let first = keep.trailing_zeros() as usize;
        let run = (!(keep >> first)).trailing_zeros() as usize;
        let mut copied = 0;
        while copied < run {
            made[done + copied..][..COPY].copy_from_slice(&small[first + copied..][..COPY]);
            copied += COPY;
        }
        done += run;
        // What is added to the lowest bit of a run ends up behind it.
        keep &= keep.wrapping_add(keep & keep.wrapping_neg());
    }
    done
}

impl Default for Squeezed {
    fn default() -> Self {
        let (made, small) = ([0; STEP + COPY], [0; BLOCK + COPY]);
        Self { letters: vec![], made, small, most: 0, before: vec![] }
    }
}

impl Squeezed {
    /// Squeezes a text, in place of the one before. Of what stands from `until` on, only `more` letters are needed.
    pub(crate) fn fill(&mut self, bytes: &[u8], until: usize, more: usize) {
        self.letters.clear();
        self.before.clear();
        self.letters.reserve(bytes.len());
        let (made, small) = (&mut self.made, &mut self.small);
        let (mut escapes, mut enough) = (false, usize::MAX);
        for (n, step) in bytes.chunks(STEP).enumerate() {
            if n * STEP >= until {
                enough = enough.min(self.letters.len() + more);
                if self.letters.len() >= enough {
                    break;
                }
            }
            self.before.push(self.letters.len());
            let mut length = 0;
            let (blocks, rest) = step.as_chunks();
            for block in blocks {
                length += squeeze_block(block, BLOCK, &mut escapes, small, &mut made[length..]);
            }
            if !rest.is_empty() {
                let mut block = Zeroizing::new([0; BLOCK]);
                block[..rest.len()].copy_from_slice(rest);
                length += squeeze_block(&block, rest.len(), &mut escapes, small, &mut made[length..]);
            }
            self.letters.extend_from_slice(&made[..length]);
        }
        self.most = self.most.max(self.letters.len());
    }

    /// Writes over all that it was ever filled with. It lives on, so that no compiler leaves this out; and byte by byte,
    /// as `zeroize` does it, would take as long as a tenth of a judgement.
    pub(crate) fn wipe(&mut self) {
        self.letters.clear();
        self.letters.resize(self.most, 0);
        self.most = 0;
        self.made = [0; STEP + COPY];
        self.small = [0; BLOCK + COPY];
    }

    /// Where in the text that it was filled with the letter of this number stands.
    pub(crate) fn place(&self, bytes: &[u8], number: usize) -> usize {
        let step = self.before.partition_point(|before| *before <= number).saturating_sub(1);
        let first = step * STEP;
        let behind = bytes.iter().enumerate().skip(first).filter(|(at, byte)| {
            let last = at.checked_sub(1).map_or(0, |before| bytes[before]);
            squeezed(last, **byte) != 0
        });
        let before = self.before.get(step).copied().unwrap_or(0);
        behind.map(|(at, _)| at).nth(number - before).unwrap_or(bytes.len())
    }
}

impl Zeroize for Squeezed {
    fn zeroize(&mut self) {
        self.letters.zeroize();
        self.made.zeroize();
        self.small.zeroize();
    }
}

/// All forms of a value.
pub(crate) fn of(value: &[u8]) -> Vec<Form> {
    let mut forms: Vec<Form> = vec![];
    let mut add = |name: &'static str, bytes: &[u8]| forms.push((name, squeeze(bytes)));
    let text = |each: &dyn Fn(u8) -> String| Zeroizing::new(value.iter().map(|b| each(*b)).collect::<String>());
    let reversed = Zeroizing::new(value.iter().rev().copied().collect::<Vec<u8>>());
    add("raw", value);
    add("reversed", &reversed);
    add("rot13", &Zeroizing::new(value.iter().map(|b| rotate(*b)).collect::<Vec<u8>>()));
    add("atbash", &Zeroizing::new(value.iter().map(|b| mirror(*b)).collect::<Vec<u8>>()));
    let hex = text(&|b| format!("{b:02x}"));
    add("hex", hex.as_bytes());
    add("hex reversed", &Zeroizing::new(hex.bytes().rev().collect::<Vec<u8>>()));
    add("hex \\x", text(&|b| format!("x{b:02x}")).as_bytes());
    add("hex 0x", text(&|b| format!("0x{b:02x}")).as_bytes());
    add("hex \\u", text(&|b| format!("u{b:04x}")).as_bytes());
    add("hex u{}", text(&|b| format!("u{b:x}")).as_bytes());
    add("hex utf-16", text(&|b| format!("{b:02x}00")).as_bytes());
    add("decimal", text(&|b| b.to_string()).as_bytes());
    add("decimal, three digits", text(&|b| format!("{b:03}")).as_bytes());
    add("decimal, chr()", text(&|b| format!("chr{b}")).as_bytes());
    add("octal", text(&|b| format!("{b:o}")).as_bytes());
    add("octal, three digits", text(&|b| format!("{b:03o}")).as_bytes());
    add("binary", text(&|b| format!("{b:08b}")).as_bytes());
    add("base58", based(value, BASE58).as_bytes());
    add("base62", based(value, BASE62).as_bytes());
    add("base36", based(value, &BASE62[..36]).as_bytes());
    add("base91", &base91(value));
    add("rot47", &Zeroizing::new(value.iter().map(|b| turn(*b)).collect::<Vec<u8>>()));
    for offset in 0..4 {
        // Its first whole group. Python's alphabet and ZeroMQ's are the same when squeezed.
        let groups = value.get((4 - offset) % 4..).unwrap_or_default();
        add("ascii85", groups_of_85(groups, ASCII85).as_bytes());
        add("base85", groups_of_85(groups, BASE85).as_bytes());
    }
    let wide = Zeroizing::new(value.iter().flat_map(|b| [*b, 0]).collect::<Vec<u8>>());
    for (name, bytes) in [("base64", value), ("base64 utf-16", &wide), ("base64 reversed", &reversed)] {
        for offset in 0..3 {
            add(name, packed(bytes, offset, 6, BASE64).as_bytes());
        }
    }
    add("base64 of hex", packed(hex.as_bytes(), 0, 6, BASE64).as_bytes());
    for offset in 0..5 {
        add("base32", packed(value, offset, 5, BASE32).as_bytes());
        add("base32hex", packed(value, offset, 5, BASE32HEX).as_bytes());
    }
    forms
}

const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE32: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE32HEX: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUV";
const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ASCII85: &[u8] = b"!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstu";
const BASE85: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
const BASE91: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&()*+,./:;<=>?@[]^_`{|}~\"";

/// Groups of `width` bits of a value that stands `offset` bytes after a group's beginning: those that depend on nothing
/// else.
fn packed(value: &[u8], offset: usize, width: usize, digits: &[u8]) -> Zeroizing<String> {
    let (first, last) = ((offset * 8).div_ceil(width), (offset + value.len()) * 8 / width);
    let bit = |n: usize| value[n / 8 - offset] >> (7 - n % 8) & 1;
    let digit = |n: usize| (n * width..(n + 1) * width).fold(0_usize, |all, n| all << 1 | usize::from(bit(n)));
    Zeroizing::new((first..last).map(|n| char::from(digits[digit(n)])).collect())
}

fn rotate(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => (byte - b'a' + 13) % 26 + b'a',
        b'A'..=b'Z' => (byte - b'A' + 13) % 26 + b'A',
        _ => byte,
    }
}

fn mirror(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => b'z' - (byte - b'a'),
        b'A'..=b'Z' => b'Z' - (byte - b'A'),
        _ => byte,
    }
}

/// By half of what can be printed.
fn turn(byte: u8) -> u8 {
    match byte {
        b'!'..=b'~' => (byte - b'!' + 47) % 94 + b'!',
        _ => byte,
    }
}

/// Thirteen or fourteen bits are two digits.
fn base91(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(value.len() * 16 / 13 + 2));
    let (mut bits, mut held) = (0_u32, 0);
    for byte in value {
        bits |= u32::from(*byte) << held;
        held += 8;
        if held > 13 {
            let wide = if bits & 8191 > 88 { 13 } else { 14 };
            let number = (bits & ((1 << wide) - 1)) as usize;
            bits >>= wide;
            held -= wide;
            out.extend([BASE91[number % 91], BASE91[number / 91]]);
        }
    }
    out
}

/// As one large number.
fn based(value: &[u8], alphabet: &[u8]) -> Zeroizing<String> {
    let base = alphabet.len() as u32;
    let mut digits = Zeroizing::new(Vec::<u8>::new());
    // Quadratic, and nobody writes files in it.
    for byte in value.iter().take(256) {
        let mut carry = u32::from(*byte);
        for digit in digits.iter_mut() {
            carry += u32::from(*digit) << 8;
            *digit = (carry % base) as u8;
            carry /= base;
        }
        while carry > 0 {
            digits.push((carry % base) as u8);
            carry /= base;
        }
    }
    Zeroizing::new(digits.iter().rev().map(|digit| char::from(alphabet[usize::from(*digit)])).collect())
}

/// Four bytes are five digits.
fn groups_of_85(value: &[u8], alphabet: &[u8]) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::new());
    for four in value.chunks_exact(4) {
        let mut number = four.iter().fold(0_u32, |all, b| all << 8 | u32::from(*b));
        let mut digits = [0; 5];
        for digit in digits.iter_mut().rev() {
            *digit = alphabet[(number % 85) as usize];
            number /= 85;
        }
        let _ = write!(out, "{}", String::from_utf8_lossy(&digits));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn letters_stay_and_lead_back_to_their_places(
            parts in prop::collection::vec(("[a-zA-Z0-9]{0,80}", "(\\\\|n|r|t|[ -~é]){0,70}"), 0..9),
            cut in 0_usize..600,
        ) {
            let text: String = parts.iter().map(|(word, between)| word.clone() + between).collect();
            let bytes = &text.as_bytes()[cut.min(text.len())..];
            let before = |at: usize| at.checked_sub(1).map_or(0, |at| bytes[at]);
            let letters = |at: &usize| squeezed(before(*at), bytes[*at]) != 0;
            let places: Vec<usize> = (0..bytes.len()).filter(letters).collect();
            let mut scratch = Squeezed::default();
            scratch.fill(bytes, usize::MAX, 0);
            let expected: Vec<u8> = places.iter().map(|at| squeezed(before(*at), bytes[*at])).collect();
            prop_assert_eq!(&scratch.letters, &expected);
            for (number, place) in places.iter().enumerate() {
                prop_assert_eq!(scratch.place(bytes, number), *place);
            }
        }
    }
}
