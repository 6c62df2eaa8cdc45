//! Long unbroken runs of letters, digits and `+/-_`: what base64, base32 and hex are made of.

use super::{Derived, Map, base64, inflate, is_text};
use crate::{checks, span};
use std::ops::{ControlFlow, RangeInclusive};

/// A shorter one holds no credential in any encoding.
pub(crate) const LEAST: usize = 15;
const LEAST_ENCODED: usize = 20;
/// From here on a run is decoded whatever it decodes to.
const LONG: usize = 96;

/// What stands between the lines of a broken run: a line's end, as it is or escaped.
fn line_end(bytes: &[u8]) -> usize {
    let ends: [&[u8]; 9] = [b"\r\n", b"\n", b"\\r\\n", b"\\n", b"\\\\n", b"%0D%0A", b"%0A", b"%0d%0a", b"%0a"];
    let end = ends.iter().find(|end| bytes.starts_with(end)).map_or(0, |end| end.len());
    let indent = bytes[end..].iter().take_while(|b| **b == b' ' || **b == b'\t').count();
    if end > 0 { end + indent } else { 0 }
}

/// Joins lines of base64 to one run, and calls `found` with its pieces. Runs that begin at or behind `until` need not be
/// found.
pub(crate) fn joined(bytes: &[u8], until: usize, mut found: impl FnMut(&[(usize, usize)])) {
    let mut pieces: Vec<(usize, usize)> = vec![];
    span::each_while::<LEAST>(bytes, usize::MAX, base64::is_digit, |start, end| {
        let follows = pieces.last().is_some_and(|(_, last)| {
            let gap = line_end(&bytes[*last..start.max(*last)]);
            *last < start && last + gap + 1 >= start && gap > 0
        });
        if !follows && !pieces.is_empty() {
            tail(bytes, &mut pieces);
            found(&pieces);
            pieces.clear();
        }
        if start >= until && !follows {
            return ControlFlow::Break(());
        }
        // `\n` before it: the `n` is none of its own.
        let escaped = follows && start > 0 && bytes[start - 1] == b'\\' && bytes[start] == b'n';
        pieces.push((start + usize::from(escaped), end));
        ControlFlow::Continue(())
    });
    if !pieces.is_empty() {
        tail(bytes, &mut pieces);
        found(&pieces);
    }
}

/// The last line may be shorter than a run.
fn tail(bytes: &[u8], pieces: &mut Vec<(usize, usize)>) {
    let Some((_, last)) = pieces.last().copied() else { return };
    let gap = line_end(&bytes[last..]);
    if gap > 0 {
        let start = last + gap;
        let end = bytes[start..].iter().position(|b| !base64::is_digit(*b)).map_or(bytes.len(), |n| start + n);
        if end > start && end - start < LEAST {
            pieces.push((start, end));
        }
    }
}

/// Decodes a run in every way that makes sense of it. `phase` characters of its first group were before the text.
pub(crate) fn decode(bytes: &[u8], pieces: &[(usize, usize)], phase: usize, give: &mut dyn FnMut(Derived)) {
    let (Some((start, _)), Some((_, end))) = (pieces.first().copied(), pieces.last().copied()) else { return };
    let length: usize = pieces.iter().map(|(start, end)| end - start).sum();
    if length < LEAST_ENCODED {
        return;
    }
    let parts: Vec<&[u8]> = pieces.iter().map(|(start, end)| &bytes[*start..*end]).collect();
    // Base64 of anything has both cases; a name in a program mostly has not.
    let cased = |is: fn(&u8) -> bool| parts.iter().any(|part| part.iter().any(is));
    let offsets = if cased(u8::is_ascii_uppercase) && cased(u8::is_ascii_lowercase) { 4 } else { 0 };
    for offset in 0..offsets {
        let skip = (offset + 4 - phase) % 4;
        let mut probe = vec![];
        let head = parts[0].len().min(LONG + skip);
        base64::decode_onto(&[&parts[0][..head]], skip, &mut probe);
        let wanted = if length < LONG {
            is_text(&probe) || is_wide(&probe) || inflate::is_compressed(&probe)
        } else {
            offset == 0 || worth(&parts, skip, &probe)
        };
        if wanted {
            let mut all = Vec::with_capacity(length * 3 / 4 + 3);
            base64::decode_onto(&parts, skip, &mut all);
            let map = Map::Linear { start: start + skip, end, num: end - start, den: (length * 3 / 4).max(1) };
            give(Derived { name: "base64", bytes: all, map });
        }
    }
    for part in pieces {
        hex(bytes, *part, give);
        base32(bytes, *part, give);
    }
    if offsets > 0 && pieces.len() == 1 && BASE58.contains(&length) {
        base58(parts[0], start, give);
    }
    // Lines of hex, as `xxd -p` writes them.
    if pieces.len() > 1 && parts.iter().all(|part| part.iter().all(u8::is_ascii_hexdigit)) {
        hex(&parts.concat(), (0, length), &mut |derived| give(Derived { map: Map::whole(start, end), ..derived }));
    }
}

/// Lengths of what is worth a division of a large number.
const BASE58: RangeInclusive<usize> = 27..=160;

/// A text as one large number, as nobody writes a name by chance.
fn base58(run: &[u8], start: usize, give: &mut dyn FnMut(Derived)) {
    let mut made: Vec<u8> = vec![];
    for digit in run {
        let Some(value) = checks::base58_digit(*digit) else { return };
        let mut carry = value;
        for byte in made.iter_mut() {
            carry += u32::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            made.push(carry as u8);
        }
    }
    made.reverse();
    if is_text(&made) {
        give(Derived { name: "base58", bytes: made, map: Map::whole(start, start + run.len()) });
    }
}

/// Text of two bytes a character, the second of which is nothing: PowerShell's.
fn is_wide(bytes: &[u8]) -> bool {
    let (pairs, _) = bytes.as_chunks::<2>();
    let plain = pairs.iter().filter(|[low, high]| *high == 0 && is_text(&[*low])).count();
    !pairs.is_empty() && plain * 100 >= pairs.len() * 85
}

/// Whether a run could be text from this offset on: its beginning or its middle is, or it is compressed.
fn worth(parts: &[&[u8]], skip: usize, probe: &[u8]) -> bool {
    let middle = parts[parts.len() / 2];
    let from = (middle.len() / 2 / 4 * 4 + skip).min(middle.len());
    let mut inside = vec![];
    base64::decode_onto(&[&middle[from..(from + LONG).min(middle.len())]], 0, &mut inside);
    is_text(probe) || is_text(&inside) || is_wide(probe) || inflate::is_compressed(probe)
}

fn hex(bytes: &[u8], (start, end): (usize, usize), give: &mut dyn FnMut(Derived)) {
    let value = |b: u8| (b as char).to_digit(16).map(|v| v as u8);
    let mut next = start;
    while next + LEAST_ENCODED <= end {
        // A row of so many digits has one here.
        let probe = next + LEAST_ENCODED - 1;
        if !bytes[probe].is_ascii_hexdigit() {
            next = probe + 1;
            continue;
        }
        let at = bytes[next..probe].iter().rposition(|b| !b.is_ascii_hexdigit()).map_or(next, |n| next + n + 1);
        let stop = bytes[probe..end].iter().position(|b| !b.is_ascii_hexdigit()).map_or(end, |n| probe + n);
        let length = stop - at;
        if length >= LEAST_ENCODED {
            for odd in 0..=length % 2 {
                let digits = &bytes[at + odd..stop];
                let made: Vec<u8> =
                    digits.chunks_exact(2).filter_map(|two| Some(value(two[0])? << 4 | value(two[1])?)).collect();
                if is_text(&made) || length >= 4 * LONG || inflate::is_compressed(&made) {
                    let map = Map::Linear { start: at + odd, end: stop, num: 2, den: 1 };
                    give(Derived { name: "hex", bytes: made, map });
                }
            }
        }
        next = stop + 1;
    }
}

fn base32(bytes: &[u8], (start, end): (usize, usize), give: &mut dyn FnMut(Derived)) {
    // What begins in both cases is none, however long it is.
    let head = &bytes[start..end.min(start + 64)];
    let mixed = head.iter().any(u8::is_ascii_uppercase) && head.iter().any(u8::is_ascii_lowercase);
    if mixed && end - start > 512 {
        return;
    }
    let mut at = start;
    for run in bytes[start..end].split(|b| !b.is_ascii_alphanumeric()) {
        let upper = run.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        let lower = run.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let fits = run.len() >= LEAST_ENCODED && (upper || lower);
        if let Some(made) = fits.then(|| base64::base32(run)).flatten().filter(|made| is_text(made)) {
            let map = Map::Linear { start: at, end: at + run.len(), num: 8, den: 5 };
            give(Derived { name: "base32", bytes: made, map });
        }
        at += run.len() + 1;
    }
}
