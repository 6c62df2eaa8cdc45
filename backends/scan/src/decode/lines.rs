//! Encodings of mail, which cut a text into lines: uuencode, and the soft breaks of quoted-printable. A line's end may be
//! one of JSON: `\\n`.

use super::{Derived, Map};
use memchr::memmem;

/// The longest text of one line: 45 bytes.
const LINE: usize = 61;
/// What belongs to a soft break, before and after it.
const AROUND: usize = 160;

/// The end of a line that begins a text, and its length.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let ends: [&[u8]; 4] = [b"\r\n", b"\n", b"\\r\\n", b"\\n"];
    ends.into_iter().find(|end| bytes.starts_with(end)).map(<[u8]>::len)
}

/// `begin 644 name`, and lines each of which begins with its length.
pub(crate) fn unix(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    for begin in memmem::find_iter(bytes, b"begin ").take_while(|at| *at < until) {
        let mode = bytes.get(begin + 6..begin + 9).is_some_and(|mode| mode.iter().all(u8::is_ascii_digit));
        let head = &bytes[begin..(begin + 300).min(bytes.len())];
        let Some(end) = (0..head.len()).find(|at| mode && line_end(&head[*at..]).is_some()) else { continue };
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
            // Some write blanks or a checksum behind it.
            at += bytes[at..].iter().take(LINE).take_while(|b| **b == b' ').count();
        }
        if made.len() >= 8 {
            give(Derived { name: "uuencode", bytes: made, map: Map::whole(begin, at) });
        }
    }
}

/// Text around soft breaks: `=` and a line's end, in the middle of a word.
pub(crate) fn soft(bytes: &[u8], until: usize, give: &mut dyn FnMut(Derived)) {
    let is_break = |at: usize| {
        let word = |at: usize| bytes.get(at).is_some_and(|b| b.is_ascii_graphic() && *b != b'=');
        let end = line_end(&bytes[at + 1..]);
        end.filter(|end| at > 0 && word(at - 1) && word(at + 1 + end)).map(|end| at + 1 + end)
    };
    let ends: [&[u8]; 2] = [b"=\n", b"=\r\n"];
    let escaped: [&[u8]; 2] = [b"=\\n", b"=\\r\\n"];
    for end in ends.into_iter().chain(escaped) {
        let mut done = 0;
        for at in memmem::find_iter(bytes, end).take_while(|at| *at < until) {
            if at < done || is_break(at).is_none() {
                continue;
            }
            let (mut made, mut table) = (vec![], vec![]);
            let (mut from, mut last) = (at.saturating_sub(AROUND), at);
            while from < (last + AROUND).min(bytes.len()) {
                let hex = || {
                    let digits = bytes.get(from + 1..from + 3)?;
                    let digit = |b: u8| (b as char).to_digit(16).filter(|_| !b.is_ascii_lowercase());
                    Some((digit(digits[0])? << 4 | digit(digits[1])?) as u8)
                };
                let (byte, next) = match bytes[from] {
                    b'=' => match is_break(from) {
                        Some(next) => {
                            (from, last) = (next, from);
                            continue;
                        }
                        None => hex().map_or((b'=', from + 1), |byte| (byte, from + 3)),
                    },
                    byte => (byte, from + 1),
                };
                made.push(byte);
                table.push((from as u32, next as u32));
                from = next;
            }
            done = from;
            give(Derived { name: "quoted-printable", bytes: made, map: Map::Table(table) });
        }
    }
}
