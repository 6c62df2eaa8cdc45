//! Escapes inside a text: `%41`, `\u0041`, `\x41`, `\101`, `\/`, `&#65;`, `&#x41;`, `&amp;`. Only the surroundings of
//! an escape are decoded: a text of megabytes with one of them costs no second text.

use super::{Derived, Map};
use crate::span;

/// What belongs to an escape, before and after it.
const AROUND: usize = 160;

/// The text of an escape that begins here, and its length.
fn escape(bytes: &[u8]) -> Option<(char, usize, &'static str)> {
    let hex = |from: usize, to: usize| -> Option<u32> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |all, b| Some(all << 4 | (*b as char).to_digit(16)?))
    };
    let unit = |value: u32| char::from_u32(value);
    match bytes {
        [b'%', b'u', ..] => Some((unit(hex(2, 6)?)?, 6, "percent")),
        // A byte of more than ASCII is given as it is: two of them are put together by whoever reads UTF-8.
        [b'%', ..] => Some((unit(hex(1, 3)?)?, 3, "percent")),
        [b'\\', b'u', b'{', ..] => {
            let end = bytes.iter().take(10).position(|b| *b == b'}')?;
            Some((unit(hex(3, end)?)?, end + 1, "escape"))
        }
        [b'\\', b'u', ..] => Some((unit(hex(2, 6)?)?, 6, "escape")),
        [b'\\', b'U', ..] => Some((unit(hex(2, 10)?)?, 10, "escape")),
        [b'\\', b'x', ..] => Some((unit(hex(2, 4)?)?, 4, "escape")),
        [b'\\', b'/', ..] => Some(('/', 2, "escape")),
        [b'\\', b'0'..=b'3', ..] => {
            let digits = bytes.get(1..4)?;
            let value = digits.iter().try_fold(0, |all, b| Some(all << 3 | (*b as char).to_digit(8)?))?;
            Some((unit(value)?, 4, "escape"))
        }
        [b'&', b'#', b'x' | b'X', ..] => {
            let end = bytes.iter().take(10).position(|b| *b == b';')?;
            Some((unit(hex(3, end)?)?, end + 1, "html"))
        }
        [b'&', b'#', ..] => {
            let end = bytes.iter().take(10).position(|b| *b == b';')?;
            let digits = std::str::from_utf8(bytes.get(2..end)?).ok()?;
            Some((unit(digits.parse().ok()?)?, end + 1, "html"))
        }
        [b'&', ..] => NAMED.iter().find(|(name, _)| bytes.starts_with(name)).map(|(name, c)| (*c, name.len(), "html")),
        _ => None,
    }
}

const NAMED: [(&[u8], char); 10] = [
    (b"&amp;", '&'),
    (b"&lt;", '<'),
    (b"&gt;", '>'),
    (b"&quot;", '"'),
    (b"&apos;", '\''),
    (b"&sol;", '/'),
    (b"&lowbar;", '_'),
    (b"&hyphen;", '-'),
    (b"&plus;", '+'),
    (b"&equals;", '='),
];

/// Every stretch that has escapes, without them.
pub(crate) fn decode(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    let is_mark = |b: u8| (b == b'%') | (b == b'\\') | (b == b'&');
    let counts = |at: usize| may_begin(&bytes[at..]) && escape(&bytes[at..]).is_some();
    span::rows(bytes, until, AROUND, is_mark, counts, |first, last| {
        let (from, to) = (first.saturating_sub(AROUND), (last + AROUND).min(bytes.len()));
        give(stretch(bytes, from, to, first));
    });
}

/// Whether the byte behind a mark is one that makes it an escape: behind most it is not.
fn may_begin(bytes: &[u8]) -> bool {
    match bytes {
        [b'\\', next, ..] => matches!(next, b'u' | b'U' | b'x' | b'/' | b'0'..=b'3'),
        [b'&', next, ..] => *next == b'#' || NAMED.iter().any(|(name, _)| name[1] == *next),
        _ => true,
    }
}

fn stretch(bytes: &[u8], from: usize, to: usize, first: usize) -> Derived {
    let name = escape(&bytes[first..]).map_or("escape", |(_, _, name)| name);
    let (mut made, mut table) = (Vec::with_capacity(to - from), Vec::with_capacity(to - from));
    let mut at = from;
    while at < to {
        match escape(&bytes[at..]) {
            Some((c, length, kind)) => {
                // Percent is of bytes, the others are of characters.
                let before = made.len();
                match u8::try_from(u32::from(c)) {
                    Ok(byte) if kind == "percent" || byte < 0x80 => made.push(byte),
                    _ => made.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                }
                table.extend(std::iter::repeat_n((at as u32, (at + length) as u32), made.len() - before));
                at += length;
            }
            None => {
                made.push(bytes[at]);
                table.push((at as u32, at as u32 + 1));
                at += 1;
            }
        }
    }
    Derived { name, bytes: made, map: Map::Table(table) }
}
