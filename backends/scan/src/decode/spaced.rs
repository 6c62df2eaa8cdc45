//! Letters with one and the same thing between each two: `A.K.I.A`, `A K I A`, `"A","K","I","A"`, a letter a line.

use super::{Derived, Map};

/// Letters of the shortest row: a shorter one holds no credential.
const LEAST: usize = 20;
/// From one letter to the next, at most: they may be in quotes.
const PERIOD: usize = 5;

/// For each period and each place in it: the bytes of eight that are not at that place.
const OTHERS: [[u64; PERIOD]; PERIOD + 1] = {
    let mut others = [[u64::MAX; PERIOD]; PERIOD + 1];
    let mut period = 2;
    while period <= PERIOD {
        let mut n = 0;
        while n < 8 {
            others[period][n % period] &= !(0xff << (8 * n));
            n += 1;
        }
        period += 1;
    }
    others
};

/// Every row of letters.
pub(crate) fn decode(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    apart::<2>(bytes, until, give);
    apart::<3>(bytes, until, give);
    apart::<4>(bytes, until, give);
    apart::<PERIOD>(bytes, until, give);
}

/// Every row of letters that are so far from each other.
fn apart<const APART: usize>(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    let mut at = 0;
    // Of a row there are five letters wherever it is looked at in such steps.
    while at < until {
        let Some(letter) = letter::<APART>(bytes, at) else {
            at += (LEAST - 5) * APART;
            continue;
        };
        let row = row(bytes, letter, APART);
        let end = row.last().map_or(at, |last| last + 1);
        let long = row.len() >= LEAST;
        if long {
            let made = row.iter().map(|at| bytes[*at]).collect();
            let table = row.iter().map(|at| (*at as u32, *at as u32 + 1)).collect();
            give(Derived { name: "spaced", bytes: made, map: Map::Table(table) });
        }
        at = (at + (LEAST - 5) * APART).max(if long { end } else { at });
    }
}

/// The first letter at or behind a place, if only bytes at its place in a period are not the same in the next.
#[inline(always)]
fn letter<const APART: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let here = bytes.get(at..at + 8 + APART)?;
    let [one, other] = [here.first_chunk()?, here.last_chunk()?].map(|eight| u64::from_le_bytes(*eight));
    let differs = one ^ other;
    let place = differs.trailing_zeros() as usize / 8 % APART;
    (differs != 0 && differs & OTHERS[APART][place] == 0).then_some(at + place)
}

/// The letters of the row that one of them stands in.
fn row(bytes: &[u8], letter: usize, period: usize) -> Vec<usize> {
    let between = bytes.get(letter + 1..letter + period).unwrap_or_default();
    if between.first().is_none_or(|b| b.is_ascii_alphanumeric()) {
        return vec![];
    }
    let mut first = letter;
    while let Some(before) = first.checked_sub(period).filter(|before| bytes[*before].is_ascii_graphic()) {
        if bytes[before + 1..first] != *between {
            break;
        }
        first = before;
    }
    let mut row = vec![first];
    while let Some(next) = row.last().map(|last| last + period).filter(|next| *next < bytes.len()) {
        if bytes[next - period + 1..next] != *between || !bytes[next].is_ascii_graphic() {
            break;
        }
        row.push(next);
    }
    row
}
