//! Characters that look like others (Cyrillic, Greek, full-width, mathematical) and characters that look like nothing.
//! A small table, of those that are taken for ASCII; not all of NFKC. Also text of two bytes a character.

use super::{Derived, Map};
use crate::span;

const AROUND: usize = 160;

/// Cyrillic and Greek letters and the ASCII ones that they are taken for.
const ALIKE: &[(char, char)] = &[
    ('а', 'a'),
    ('е', 'e'),
    ('о', 'o'),
    ('р', 'p'),
    ('с', 'c'),
    ('у', 'y'),
    ('х', 'x'),
    ('і', 'i'),
    ('ј', 'j'),
    ('ѕ', 's'),
    ('һ', 'h'),
    ('ԁ', 'd'),
    ('ԛ', 'q'),
    ('ԝ', 'w'),
    ('к', 'k'),
    ('м', 'm'),
    ('т', 't'),
    ('в', 'b'),
    ('А', 'A'),
    ('В', 'B'),
    ('Е', 'E'),
    ('К', 'K'),
    ('М', 'M'),
    ('Н', 'H'),
    ('О', 'O'),
    ('Р', 'P'),
    ('С', 'C'),
    ('Т', 'T'),
    ('У', 'Y'),
    ('Х', 'X'),
    ('І', 'I'),
    ('Ј', 'J'),
    ('Ѕ', 'S'),
    ('Ԍ', 'G'),
    ('Ү', 'Y'),
    ('Ԛ', 'Q'),
    ('Α', 'A'),
    ('Β', 'B'),
    ('Ε', 'E'),
    ('Ζ', 'Z'),
    ('Η', 'H'),
    ('Ι', 'I'),
    ('Κ', 'K'),
    ('Μ', 'M'),
    ('Ν', 'N'),
    ('Ο', 'O'),
    ('Ρ', 'P'),
    ('Τ', 'T'),
    ('Υ', 'Y'),
    ('Χ', 'X'),
    ('ο', 'o'),
    ('α', 'a'),
    ('ν', 'v'),
    ('ρ', 'p'),
    ('ι', 'i'),
    ('κ', 'k'),
    ('υ', 'u'),
    ('ı', 'i'),
    ('ſ', 's'),
    ('‐', '-'),
    ('‑', '-'),
    ('‒', '-'),
    ('–', '-'),
    ('＿', '_'),
    ('ℎ', 'h'),
    ('ⅰ', 'i'),
    ('ⅼ', 'l'),
    ('Ⅿ', 'M'),
    ('Ⅽ', 'C'),
    ('ɡ', 'g'),
    ('ɑ', 'a'),
    ('ո', 'n'),
];

/// Nothing to see, but there.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
}

/// How the tags begin: letters of ASCII that nobody sees.
const TAG: &[u8] = b"\xf3\xa0";

fn is_tag(c: char) -> bool {
    matches!(c, '\u{e0021}'..='\u{e007e}')
}

/// What a character is taken for; `Some(None)`: for nothing.
fn taken_for(c: char) -> Option<Option<char>> {
    let number = u32::from(c);
    let letter = |n: u32| char::from(if n < 26 { b'A' + n as u8 } else { b'a' + (n - 26) as u8 });
    Some(match c {
        c if is_tag(c) => char::from_u32(number - 0xe0000),
        c if is_invisible(c) => None,
        '\u{300}'..='\u{36f}' => None,
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(number - 0xfee0),
        '\u{1d400}'..='\u{1d6a3}' => Some(letter((number - 0x1d400) % 52)),
        '\u{1d7ce}'..='\u{1d7ff}' => char::from_digit((number - 0x1d7ce) % 10, 10),
        '\u{24b6}'..='\u{24e9}' => Some(letter(number - 0x24b6)),
        '\u{2070}'..='\u{2079}' => char::from_digit(number - 0x2070, 10),
        '\u{2080}'..='\u{2089}' => char::from_digit(number - 0x2080, 10),
        _ => return ALIKE.iter().find(|(from, _)| *from == c).map(|(_, to)| Some(*to)),
    })
}

/// The character that begins here, of more than one byte.
fn character(bytes: &[u8]) -> Option<(char, usize)> {
    let length = match bytes.first()? {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
    Some((text.chars().next()?, length))
}

/// Whether a character here stands for another *inside a word of ASCII*: text in a language of its own is left alone.
fn is_mark(bytes: &[u8], at: usize) -> bool {
    let Some((c, length)) = character(&bytes[at..]) else { return false };
    let beside = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"_-/+=:.".contains(b));
    let near = beside(at.checked_sub(1).and_then(|n| bytes.get(n))) || beside(bytes.get(at + length));
    match taken_for(c) {
        // Whole words of these are written by nobody honest, either.
        Some(_) if matches!(c, '\u{ff01}'..='\u{ff5e}' | '\u{1d400}'..='\u{1d7ff}' | '\u{24b6}'..='\u{24e9}' | '\u{e0021}'..='\u{e007e}') => {
            true
        }
        Some(_) => near,
        None => false,
    }
}

/// Every stretch that has such characters, with those that they are taken for.
pub(crate) fn decode(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    span::rows(
        bytes,
        until,
        AROUND,
        |b| b >= 0x80,
        |at| is_mark(bytes, at),
        |first, last| {
            let (from, to) = (first.saturating_sub(AROUND), (last + AROUND).min(bytes.len()));
            give(stretch(bytes, from, to, false));
            // Tags are a text of their own, or noise in another.
            if memchr::memmem::find(&bytes[from..to], TAG).is_some() {
                give(stretch(bytes, from, to, true));
            }
        },
    );
}

fn stretch(bytes: &[u8], from: usize, to: usize, tags: bool) -> Derived {
    let (mut made, mut table) = (Vec::with_capacity(to - from), Vec::with_capacity(to - from));
    let mut at = from;
    while at < to {
        let (seen, length) = match character(&bytes[at..]) {
            Some((c, length)) if is_tag(c) && !tags => (Some(None), length),
            Some((c, length)) => (taken_for(c), length),
            None => (None, 1),
        };
        let before = made.len();
        match seen {
            Some(Some(c)) => made.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            Some(None) => {}
            None => made.extend(&bytes[at..(at + length).min(bytes.len())]),
        }
        table.extend(std::iter::repeat_n((at as u32, (at + length) as u32), made.len() - before));
        at += length;
    }
    Derived { name: "folded", bytes: made, map: Map::Table(table) }
}

/// Whether it is no text in any encoding that folding is for, judged by its middle.
pub(crate) fn is_binary(bytes: &[u8]) -> bool {
    let middle = bytes.len().saturating_sub(1024) / 2;
    let sample = &bytes[middle..(middle + 1024).min(bytes.len())];
    let broken = sample.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
    broken * 16 > sample.len()
}

/// Text of two bytes a character (UTF-16): without its zeros.
pub(crate) fn wide(bytes: &[u8], give: &mut dyn FnMut(Derived)) {
    if memchr::memchr(0, bytes).is_none() {
        return;
    }
    let is = |two: &[u8]| (two[0] == 0) != (two[1] == 0) && (two[0] | two[1]).is_ascii();
    let wide = bytes.chunks_exact(2).filter(|two| is(two)).count();
    if wide >= 8 && wide * 8 >= bytes.len() {
        let (mut made, mut table) = (vec![], vec![]);
        for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            made.push(*byte);
            table.push((at as u32, at as u32 + 1));
        }
        give(Derived { name: "utf-16", bytes: made, map: Map::Table(table) });
    }
}
