//! Archives: xz and bzip2, which are decoded, and those that nobody here can look into: 7-Zip, ZIPs with a password or of
//! rare methods. Each is known by more than its first bytes, which stand in programs and in texts, too.

use super::{
    Derived, Map, Odd,
    inflate::{Open, Trouble, ZIP},
};
use bzip2::{Decompress, Status};
use flate2::Crc;
use lzma_rust2::{Action, XzStream};
use std::io::ErrorKind;

const XZ: &[u8] = b"\xfd7zXZ\0";
/// The first block's beginning; before it stand `BZh` and a digit.
const BZIP2: &[u8] = b"1AY&SY";
const SEVEN_ZIP: &[u8] = b"7z\xbc\xaf\x27\x1c";
/// Kilobytes that a decoder may take: what `xz -7` asks for, and something beside.
const MEMORY: u32 = 17 << 10;
/// Archives of one kind that are looked at in one text.
const MOST: usize = 4096;

/// What was found in a text beside what it was decoded to.
#[derive(Default)]
pub(crate) struct Found {
    /// What goes on behind the text, or was longer than allowed.
    pub(crate) open: Vec<Open>,
    /// Where something begins that nobody can look into.
    pub(crate) sealed: Vec<usize>,
}

/// Whether these are the first bytes of an archive.
pub(crate) fn is_archive(bytes: &[u8]) -> bool {
    is_xz(bytes) || bytes.get(4..).is_some_and(|rest| rest.starts_with(BZIP2)) || is_seven_zip(bytes)
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

/// The header has a checksum of its two flags.
fn is_xz(bytes: &[u8]) -> bool {
    let flags = bytes.strip_prefix(XZ).and_then(<[u8]>::split_first_chunk::<2>);
    flags.is_some_and(|(flags, rest)| rest.starts_with(&crc(flags)))
}

/// The header has a checksum of where the index is.
fn is_seven_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(SEVEN_ZIP) && bytes.get(12..32).is_some_and(|place| bytes[8..12] == crc(place))
}

/// Whether a file of a ZIP has a password, or is packed by a method that neither leaves it as it is nor is found by its own
/// first bytes (bzip2, zstd, xz). Whatever has no such header is no ZIP.
fn is_sealed_zip(bytes: &[u8]) -> bool {
    let number = |at: usize| bytes.get(at..at + 2).map(|two| u16::from_le_bytes([two[0], two[1]]));
    let (Some(version), Some(flags), Some(method), Some(name)) = (number(4), number(6), number(8), number(26)) else {
        return false;
    };
    let plain = matches!(method, 0 | 8 | 12 | 93 | 95);
    let known = plain || matches!(method, 1..=6 | 9 | 14 | 18 | 19 | 96..=99);
    (10..=63).contains(&version) && known && (1..=4096).contains(&name) && (flags & 1 == 1 || !plain)
}

/// Decodes an archive as it comes.
pub(crate) enum Decoder {
    Xz(Box<XzStream>),
    Bzip2(Box<Decompress>),
}

impl Decoder {
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "xz" => Some(Self::Xz(Box::new(XzStream::new_mem_limit(false, MEMORY)))),
            "bzip2" => Some(Self::Bzip2(Box::new(Decompress::new(false)))),
            _ => None,
        }
    }

    /// Gives what the next bytes become to `to`, piece by piece. Says how many of them belong to the archive, and whether
    /// it has ended.
    pub(crate) fn decode(
        &mut self,
        bytes: &[u8],
        mut to: impl FnMut(&[u8]) -> Result<(), Trouble>,
    ) -> Result<(usize, bool), Trouble> {
        let (mut made, mut used) = (vec![0; 32 << 10], 0);
        loop {
            let (read, written, ended) = self.step(&bytes[used..], &mut made)?;
            used += read;
            to(&made[..written])?;
            if ended || read == 0 && written == 0 {
                return Ok((used, ended));
            }
        }
    }

    fn step(&mut self, bytes: &[u8], made: &mut [u8]) -> Result<(usize, usize, bool), Trouble> {
        match self {
            Self::Xz(stream) => match stream.process(bytes, made, Action::Run) {
                Ok(done) => {
                    let ended = done.status == lzma_rust2::Status::StreamEnd;
                    Ok((done.bytes_consumed, done.bytes_produced, ended))
                }
                // Whoever made it can read it, if it is whole.
                Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::OutOfMemory) => {
                    Err(Trouble::Sealed)
                }
                Err(_) => Err(Trouble::Broken),
            },
            Self::Bzip2(stream) => {
                let before = (stream.total_in(), stream.total_out());
                let status = stream.decompress(bytes, made).map_err(|_| Trouble::Broken)?;
                let [read, written] = [stream.total_in() - before.0, stream.total_out() - before.1];
                Ok((read as usize, written as usize, status == Status::StreamEnd))
            }
        }
    }
}

/// Decodes every archive that begins in a text before `until`, up to `most` bytes of it.
pub(crate) fn embedded(bytes: &[u8], until: usize, most: usize, odd: Odd, give: &mut dyn FnMut(Derived)) -> Found {
    let mut found = Found::default();
    // Each of them has bytes that no text has: before the first block of bzip2 is the place of its end, in three of them.
    if !odd.control {
        return found;
    }
    let places = |magic: &'static [u8], before: usize| {
        let starts = memchr::memmem::find_iter(bytes, magic).filter_map(move |at| at.checked_sub(before));
        starts.take_while(|at| *at < until).take(MOST)
    };
    found.sealed.extend(places(ZIP, 0).filter(|at| is_sealed_zip(&bytes[*at..])));
    if !odd.high {
        return found;
    }
    found.sealed.extend(places(SEVEN_ZIP, 0).filter(|at| is_seven_zip(&bytes[*at..])));
    let xz = places(XZ, 0).filter(|at| is_xz(&bytes[*at..])).map(|at| (at, "xz"));
    let bzip2 = places(BZIP2, 4).filter(|at| bytes[*at..].starts_with(b"BZh")).map(|at| (at, "bzip2"));
    let mut heads: Vec<(usize, &'static str)> = xz.chain(bzip2).collect();
    heads.sort_unstable();
    let (mut left, mut next) = (most, 0);
    for (at, name) in heads {
        let Some(mut decoder) = Decoder::of(name).filter(|_| at >= next) else { continue };
        let mut made = vec![];
        let done = decoder.decode(&bytes[at..], |part| {
            made.extend_from_slice(&part[..part.len().min(left - made.len())]);
            if made.len() < left { Ok(()) } else { Err(Trouble::Bomb) }
        });
        match done {
            Ok((used, true)) => next = at + used,
            Ok((_, false)) | Err(Trouble::Bomb) => found.open.push(Open { at, name }),
            Err(Trouble::Sealed) => found.sealed.push(at),
            // No archive, but something that begins like one.
            Err(_) => {}
        }
        left -= made.len();
        if made.len() >= 8 {
            give(Derived { name, bytes: made, map: Map::whole(at, bytes.len()) });
        }
    }
    found
}
