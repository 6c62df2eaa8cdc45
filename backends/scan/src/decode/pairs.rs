//! Numbers of bytes with something between them: `41:4b`, `\x41\x4b`, `0x41, 0x4b`, `=41=4B`, `65, 75`.

use super::{Derived, Map, is_text};
use crate::span;

const LEAST: usize = 24;
/// Digits of eight numbers, which no shorter text is made of.
const DIGITS: usize = 16;

/// Digits of both bases, and what stands between numbers: the `x` of `0x`, `\\`, `=`, `_`, `|`, and whatever ASCII has
/// from the blank to `;`.
#[inline(always)]
fn is_member(byte: u8) -> bool {
    let lower = byte | 0x20;
    let between = (byte == b'=') | (byte == b'_') | (lower == b'|');
    (b' '..=b';').contains(&byte) | (b'a'..=b'f').contains(&lower) | (lower == b'x') | between
}

/// Every row of numbers that reads as text.
pub(crate) fn decode(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    span::each::<LEAST>(bytes, until, is_member, |start, end| {
        let digits = bytes[start..end].iter().filter(|b| b.is_ascii_hexdigit()).count();
        if digits >= DIGITS {
            row(bytes, start, end, 16, "hex", give);
            row(bytes, start, end, 10, "decimal", give);
        }
    });
}

/// The numbers of one row in one base; what is no number of a byte ends a text.
fn row(bytes: &[u8], start: usize, end: usize, base: u32, name: &'static str, give: &mut dyn FnMut(Derived)) {
    let (mut made, mut table) = (vec![], vec![]);
    let mut at = start;
    let mut flush = |made: &mut Vec<u8>, table: &mut Vec<(u32, u32)>| {
        if made.len() >= 8 && is_text(made) {
            give(Derived { name, bytes: std::mem::take(made), map: Map::Table(std::mem::take(table)) });
        }
        made.clear();
        table.clear();
    };
    while at < end {
        let digit = |b: u8| (b as char).to_digit(base);
        if digit(bytes[at]).is_none() {
            at += 1;
            continue;
        }
        // The zero of `0x` is no number.
        if base == 16 && bytes[at] == b'0' && bytes.get(at + 1).is_some_and(|b| b.eq_ignore_ascii_case(&b'x')) {
            at += 2;
            continue;
        }
        let stop = bytes[at..end].iter().position(|b| digit(*b).is_none()).map_or(end, |n| at + n);
        let wide = if base == 16 { stop - at == 2 } else { matches!(stop - at, 2 | 3) };
        let value = bytes[at..stop].iter().take(4).fold(0, |all, b| all * base + digit(*b).unwrap_or(0));
        match u8::try_from(value) {
            Ok(byte) if wide => {
                made.push(byte);
                table.push((at as u32, stop as u32));
            }
            _ => flush(&mut made, &mut table),
        }
        at = stop;
    }
    flush(&mut made, &mut table);
}
