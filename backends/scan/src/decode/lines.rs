//! Encodings of mail, which cut a text into lines: uuencode, and the soft breaks of quoted-printable. A line's end may be
//! one of JSON: `\\n`.

use super::{Derived, Map};
use aho_corasick::packed::Searcher;
use std::sync::OnceLock;

/// The longest text of one line: 45 bytes.
const LINE: usize = 61;
/// What belongs to a soft break, before and after it.
const AROUND: usize = 160;

/// The end of a line that begins a text, and its length.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let ends: [&[u8]; 4] = [b"\r\n", b"\n", b"\\r\\n", b"\\n"];
    ends.into_iter().find(|end| bytes.starts_with(end)).map(<[u8]>::len)
}

/// Every text of these encodings. What gives them away is looked for in one pass.
pub(crate) fn decode(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    static MARKS: OnceLock<Option<Searcher>> = OnceLock::new();
    let marks = MARKS.get_or_init(|| Searcher::new(["begin ", "=\n", "=\r\n", "=\\n", "=\\r\\n"]));
    let Some(marks) = marks else { return };
    let mut done = 0;
    for mark in marks.find_iter(bytes).take_while(|mark| mark.start() < until) {
        let at = mark.start();
        if at < done {
            continue;
        }
        if bytes[at] == b'b' {
            unix(bytes, at, give);
        } else if soft_break(bytes, at).is_some() {
            done = soft(bytes, at, give);
        }
    }
}

/// `begin 644 name`, and lines each of which begins with its length.
fn unix(bytes: &[u8], begin: usize, give: &mut dyn FnMut(Derived)) {
    let mode = bytes.get(begin + 6..begin + 9).is_some_and(|mode| mode.iter().all(u8::is_ascii_digit));
    let head = &bytes[begin..(begin + 300).min(bytes.len())];
    let Some(end) = (0..head.len()).find(|at| mode && line_end(&head[*at..]).is_some()) else { return };
    let (mut made, mut at) = (vec![], begin + end);
    while let Some(next) = bytes.get(at..).and_then(line_end) {
        at += next;
        let length = bytes.get(at).map_or(0, |byte| usize::from(byte.wrapping_sub(b' ') & 63));
        let digits = length.div_ceil(3) * 4;
        let Some(line) = bytes.get(at + 1..at + 1 + digits).filter(|_| (1..=45).contains(&length)) else { break };
        let begins = made.len();
        for four in line.chunks_exact(4) {
            let all = four.iter().fold(0_u32, |all, b| all << 6 | u32::from(b.wrapping_sub(b' ') & 63));
            made.extend([(all >> 16) as u8, (all >> 8) as u8, all as u8]);
        }
        made.truncate(begins + length);
        at += 1 + digits;
        // Some write blanks behind it.
        at += bytes[at..].iter().take(LINE).take_while(|b| **b == b' ').count();
    }
    if made.len() >= 8 {
        give(Derived { name: "uuencode", bytes: made, map: Map::whole(begin, at) });
    }
}

/// Where a text goes on behind an `=`, if that is a soft break: at a line's end, in the middle of a word.
fn soft_break(bytes: &[u8], at: usize) -> Option<usize> {
    let word = |at: usize| bytes.get(at).is_some_and(|b| b.is_ascii_graphic() && *b != b'=');
    let next = at + 1 + line_end(bytes.get(at + 1..)?)?;
    (at > 0 && word(at - 1) && word(next)).then_some(next)
}

/// The text around soft breaks that are near each other, without them. Says where it ends.
fn soft(bytes: &[u8], first: usize, give: &mut dyn FnMut(Derived)) -> usize {
    let (mut made, mut table) = (vec![], vec![]);
    let (mut from, mut last) = (first.saturating_sub(AROUND), first);
    while from < (last + AROUND).min(bytes.len()) {
        let digit =
            |n: usize| bytes.get(from + n).filter(|b| !b.is_ascii_lowercase()).and_then(|b| (*b as char).to_digit(16));
        let (byte, next) = match (bytes[from], soft_break(bytes, from), digit(1), digit(2)) {
            (b'=', Some(next), ..) => {
                (from, last) = (next, from);
                continue;
            }
            (b'=', None, Some(high), Some(low)) => ((high << 4 | low) as u8, from + 3),
            (byte, ..) => (byte, from + 1),
        };
        made.push(byte);
        table.push((from as u32, next as u32));
        from = next;
    }
    give(Derived { name: "quoted-printable", bytes: made, map: Map::Table(table) });
    from
}
