//! Numbers of payment cards: issuer, length and check digit, and a word beside them that says what they are.

use crate::{checks::luhn, span};

/// Digits of the shortest number.
const LEAST: usize = 13;

/// Calls `found` with the place of each, and whether something beside it names it.
pub(crate) fn cards(bytes: &[u8], until: usize, mut found: impl FnMut(usize, usize, bool)) {
    let part = |b: u8| b.is_ascii_digit() | (b == b' ') | (b == b'-');
    span::each::<LEAST>(bytes, until, part, |start, end| {
        if bytes[start..end].iter().filter(|b| b.is_ascii_digit()).count() >= LEAST {
            row(bytes, start, end, &mut found);
        }
    });
}

fn row(bytes: &[u8], start: usize, end: usize, found: &mut impl FnMut(usize, usize, bool)) {
    let first = bytes[start..end].iter().position(u8::is_ascii_digit).map_or(end, |n| start + n);
    let last = bytes[first..end].iter().rposition(u8::is_ascii_digit).map_or(first, |n| first + n + 1);
    let groups: Vec<&[u8]> = bytes[first..last].split(|b| !b.is_ascii_digit()).collect();
    let digits = groups.concat();
    let grouped = groups.len() > 1;
    // As they are printed: all in one, or in fours (American Express: 4, 6, 5).
    // A table counts.
    let number = |group: &[u8]| group.iter().fold(0_u64, |all, d| all.wrapping_mul(10).wrapping_add((d - b'0').into()));
    let counts = groups.windows(2).any(|two| number(two[0]).wrapping_add(1) == number(two[1]));
    let plain = !grouped || !counts && groups.iter().rev().skip(1).all(|group| matches!(group.len(), 4 | 6));
    let beside = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"._".contains(b));
    let alone = !beside(first.checked_sub(1).and_then(|n| bytes.get(n))) && !beside(bytes.get(last));
    if plain && alone && issued(&digits) && luhn(&digits) && digits.iter().any(|d| *d != digits[0]) {
        let near = bytes[first.saturating_sub(64)..(last + 64).min(bytes.len())].to_ascii_lowercase();
        let words = ["card", "cc", "pan", "cvv", "cvc", "visa", "amex", "payment", "credit", "expir", "billing"];
        let named = words.iter().any(|word| {
            let word = word.as_bytes();
            memchr::memmem::find_iter(&near, word).any(|at| {
                let before = at.checked_sub(1).and_then(|n| near.get(n));
                let after = near.get(at + word.len());
                let letter = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphabetic);
                word.len() > 3 || !letter(before) && !letter(after)
            })
        });
        found(first, last, named || grouped && digits.len() >= 15);
    }
}

fn issued(digits: &[u8]) -> bool {
    let number = |n: usize| digits.iter().take(n).fold(0_u32, |all, d| all * 10 + u32::from(d - b'0'));
    match digits.len() {
        13 | 16 | 19 if digits[0] == b'4' => true,
        15 => matches!(number(2), 34 | 37),
        14 => matches!(number(3), 300..=305) || matches!(number(2), 36 | 38),
        16 => {
            matches!(number(2), 51..=55 | 65)
                || matches!(number(4), 2221..=2720 | 6011 | 3528..=3589)
                || number(2) == 62
        }
        _ => false,
    }
}
