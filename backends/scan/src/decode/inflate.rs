//! Compressed data: known by its first bytes inside of other data, or by a header that names its encoding.

use super::{Derived, Map, Odd, archive, is_text};
use crate::span;
use brotli_decompressor::DecompressorWriter;
use flate2::{bufread, write};
use std::io::{self, Read, Write};

/// The first byte of zlib's header, as everybody writes it.
const ZLIB: u8 = 0x78;
const GZIP: &[u8] = b"\x1f\x8b\x08";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
pub(super) const ZIP: &[u8] = b"PK\x03\x04";
/// How much longer than itself compressed data may become, beside [`SMALL`].
const RATIO: u64 = 250;
const SMALL: u64 = 4 << 20;

/// Whether these are the first bytes of something compressed.
pub(crate) fn is_compressed(bytes: &[u8]) -> bool {
    [GZIP, ZSTD, ZIP].iter().any(|magic| bytes.starts_with(magic)) || is_zlib(bytes) || archive::is_archive(bytes)
}

fn is_zlib(bytes: &[u8]) -> bool {
    matches!(bytes, [ZLIB, level, ..] if is_level(*level))
}

/// The second byte of zlib's header: how hard was tried.
fn is_level(byte: u8) -> bool {
    matches!(byte, 0x01 | 0x5e | 0x9c | 0xda)
}

/// Something compressed that does not end where a text does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    /// Where its data begin.
    pub(crate) at: usize,
    pub(crate) name: &'static str,
}

/// How many members of one kind are unpacked in one text.
const MEMBERS: usize = 4096;

/// Unpacks everything compressed that begins in a text before `until`, up to `most` bytes of it. In what is all plain text
/// nothing does. Gives back what goes on behind the text, or is longer than `most`.
pub(crate) fn embedded(bytes: &[u8], until: usize, most: usize, odd: Odd, give: &mut dyn FnMut(Derived)) -> Vec<Open> {
    let mut open = vec![];
    let mut left = most;
    // Says where the member ends.
    let mut try_one =
        |from: usize, begin: usize, name: &'static str, read: &mut dyn FnMut(&mut Vec<u8>, u64) -> usize| {
            let mut made = vec![];
            // What could be read before an error counts: a text may be cut off.
            let end = bytes.len() - read(&mut made, left as u64);
            if made.len() >= left || end == bytes.len() {
                open.push(Open { at: begin, name });
            }
            left -= made.len().min(left);
            if made.len() >= 8 {
                give(Derived { name, bytes: made, map: Map::whole(from, bytes.len()) });
                return end;
            }
            from + 1
        };
    let places = |magic: &'static [u8]| {
        let may = Odd::of(magic);
        let found = (odd.high || !may.high) && (odd.control || !may.control);
        let found = found.then(|| memchr::memmem::find_iter(bytes, magic));
        found.into_iter().flatten().take_while(|at| *at < until).take(MEMBERS)
    };
    // Compressed data have bytes of all kinds. Only at the beginning two letters say enough.
    let text = if odd.high { bytes } else { &bytes[..bytes.len().min(2)] };
    // One for all, made when there is one: it is large.
    let mut decoder = None;
    let mut next = 0;
    span::pairs(
        text,
        until,
        |byte| byte == ZLIB,
        is_level,
        |at| {
            if at >= next {
                next = try_one(at, at, "zlib", &mut |made, left| {
                    let from = decoder.get_or_insert_with(|| bufread::ZlibDecoder::new(&b""[..]));
                    from.reset(&bytes[at..]);
                    let _ = from.by_ref().take(left).read_to_end(made);
                    from.get_ref().len()
                });
            }
        },
    );
    next = 0;
    for at in places(GZIP) {
        if at >= next {
            next = try_one(at, at, "gzip", &mut |made, left| {
                let mut from = bufread::MultiGzDecoder::new(&bytes[at..]);
                let _ = from.by_ref().take(left).read_to_end(made);
                from.get_ref().len()
            });
        }
    }
    for at in places(ZSTD) {
        try_one(at, at, "zstd", &mut |made, left| {
            let mut from = &bytes[at..];
            if let Ok(mut from) = ruzstd::decoding::StreamingDecoder::new(&mut from) {
                let _ = from.by_ref().take(left).read_to_end(made);
            }
            from.len()
        });
    }
    for at in places(ZIP) {
        let number =
            |from: usize| Some(usize::from(*bytes.get(at + from)?) | usize::from(*bytes.get(at + from + 1)?) << 8);
        let (Some(8), Some(name), Some(extra)) = (number(8), number(26), number(28)) else { continue };
        let begin = at + 30 + name + extra;
        if let Some(data) = bytes.get(begin..) {
            try_one(at, begin, "zip", &mut |made, left| {
                let mut from = bufread::DeflateDecoder::new(data);
                let _ = from.by_ref().take(left).read_to_end(made);
                from.get_ref().len()
            });
        }
    }
    open
}

/// Deflated data without anything around them, which nothing tells from noise but that they are text.
pub(crate) fn bare(bytes: &[u8], most: usize) -> Option<Derived> {
    let mut from = bufread::DeflateDecoder::new(bytes);
    let mut made = vec![];
    from.by_ref().take(most as u64).read_to_end(&mut made).ok()?;
    let whole = from.get_ref().is_empty() && made.len() >= 8 && is_text(&made);
    whole.then(|| Derived { name: "deflate", bytes: made, map: Map::whole(0, bytes.len()) })
}

/// Why an encoded body cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// An encoding that nobody here knows.
    Unknown,
    /// It is not what its header says.
    Broken,
    /// It becomes too large.
    Bomb,
    /// An archive that nobody here can look into.
    Sealed,
}

/// Where decoded bytes wait, as many as may come at once.
struct Tap {
    made: Vec<u8>,
    total: u64,
    allowed: u64,
    /// All blocks of a frame of zstd are there, its checksum is not.
    checksum: bool,
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.total += bytes.len() as u64;
        if self.total > self.allowed {
            return Err(io::Error::other("bomb"));
        }
        self.made.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Layer {
    Gzip(write::MultiGzDecoder<Tap>),
    Zlib(write::ZlibDecoder<Tap>),
    Deflate(write::DeflateDecoder<Tap>),
    /// Of `deflate`, the first byte says which.
    Either(Tap),
    Brotli(Box<DecompressorWriter<Tap>>),
    Archive(archive::Decoder, Tap),
    Zstd {
        decoder: Box<ruzstd::decoding::FrameDecoder>,
        pending: Vec<u8>,
        begun: bool,
        tap: Tap,
    },
}

/// Decodes a body as it comes.
pub(crate) struct Unpacker {
    layers: Vec<Layer>,
    read: u64,
}

impl Unpacker {
    /// For the value of a `Content-Encoding`; `None` for a body that has none.
    pub(crate) fn of(encoding: &str) -> Result<Option<Self>, Trouble> {
        let mut layers = vec![];
        let tap = || Tap { made: vec![], total: 0, allowed: SMALL, checksum: false };
        for name in encoding.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()) {
            layers.push(match name.as_str() {
                "identity" => continue,
                "gzip" | "x-gzip" => Layer::Gzip(write::MultiGzDecoder::new(tap())),
                "deflate" => Layer::Either(tap()),
                "br" => Layer::Brotli(Box::new(DecompressorWriter::new(tap(), 4096))),
                "zstd" => Layer::Zstd { decoder: Box::default(), pending: vec![], begun: false, tap: tap() },
                _ => return Err(Trouble::Unknown),
            });
        }
        // More than two layers is nobody's way to send a body.
        if layers.len() > 2 {
            return Err(Trouble::Unknown);
        }
        layers.reverse();
        Ok((!layers.is_empty()).then_some(Self { layers, read: 0 }))
    }

    /// For what is compressed inside of a body.
    pub(crate) fn member(name: &str) -> Option<Self> {
        match name {
            "zip" => {
                let tap = Tap { made: vec![], total: 0, allowed: SMALL, checksum: false };
                Some(Self { layers: vec![Layer::Deflate(write::DeflateDecoder::new(tap))], read: 0 })
            }
            "xz" | "bzip2" => {
                let tap = Tap { made: vec![], total: 0, allowed: SMALL, checksum: false };
                Some(Self { layers: vec![Layer::Archive(archive::Decoder::of(name)?, tap)], read: 0 })
            }
            "zlib" => Self::of("deflate").ok()?,
            name => Self::of(name).ok()?,
        }
    }

    /// Decodes the next bytes of a member onto `out`: also those before its end, behind which it is an error to go on.
    pub(crate) fn push_member(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Trouble> {
        self.read += bytes.len() as u64;
        let Some(layer) = self.layers.first_mut() else { return Ok(()) };
        layer.tap().allowed = self.read * RATIO + SMALL;
        let done = layer.write(bytes);
        out.append(&mut layer.tap().made);
        done
    }

    /// Decodes the next bytes onto `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Trouble> {
        self.read += bytes.len() as u64;
        let mut data = bytes.to_vec();
        for layer in &mut self.layers {
            layer.tap().allowed = self.read * RATIO + SMALL;
            layer.write(&data)?;
            data = std::mem::take(&mut layer.tap().made);
        }
        out.append(&mut data);
        Ok(())
    }

    /// The end: what is still inside, and whether it was whole.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Trouble> {
        let mut data = vec![];
        for layer in &mut self.layers {
            layer.write(&data)?;
            layer.end()?;
            data = std::mem::take(&mut layer.tap().made);
        }
        out.append(&mut data);
        Ok(())
    }
}

fn trouble(error: &io::Error) -> Trouble {
    if error.to_string() == "bomb" { Trouble::Bomb } else { Trouble::Broken }
}

impl Layer {
    fn tap(&mut self) -> &mut Tap {
        match self {
            Self::Gzip(of) => of.get_mut(),
            Self::Zlib(of) => of.get_mut(),
            Self::Deflate(of) => of.get_mut(),
            Self::Either(tap) | Self::Archive(_, tap) | Self::Zstd { tap, .. } => tap,
            Self::Brotli(of) => of.get_mut(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if let (Self::Either(tap), false) = (&mut *self, bytes.is_empty()) {
            let tap = Tap { made: vec![], total: 0, allowed: tap.allowed, checksum: false };
            let zlib = bytes[0] & 0x0f == 8 && bytes[0] >> 4 <= 7;
            *self = if zlib {
                Self::Zlib(write::ZlibDecoder::new(tap))
            } else {
                Self::Deflate(write::DeflateDecoder::new(tap))
            };
        }
        let done = match self {
            // These keep what they have made until more comes, or is asked for: nothing may go on before it is judged.
            Self::Gzip(to) => to.write_all(bytes).and_then(|()| to.flush()),
            Self::Zlib(to) => to.write_all(bytes).and_then(|()| to.flush()),
            Self::Deflate(to) => to.write_all(bytes).and_then(|()| to.flush()),
            Self::Either(_) => Ok(()),
            Self::Brotli(to) => to.write_all(bytes),
            Self::Archive(decoder, tap) => {
                let (_, ended) = decoder.decode(bytes, |part| tap.write_all(part).map_err(|_| Trouble::Bomb))?;
                return if ended { Err(Trouble::Broken) } else { Ok(()) };
            }
            Self::Zstd { decoder, pending, begun, tap } => {
                pending.extend_from_slice(bytes);
                return unzstd(decoder, pending, begun, tap);
            }
        };
        done.map_err(|error| trouble(&error))
    }

    fn end(&mut self) -> Result<(), Trouble> {
        let done = match self {
            Self::Gzip(to) => to.try_finish(),
            Self::Zlib(to) => to.try_finish(),
            Self::Deflate(to) => to.try_finish(),
            Self::Either(_) | Self::Archive(..) => Ok(()),
            Self::Brotli(to) => to.close(),
            Self::Zstd { pending, begun, .. } => {
                let whole = pending.is_empty() && !*begun;
                return if whole { Ok(()) } else { Err(Trouble::Broken) };
            }
        };
        done.map_err(|error| trouble(&error))
    }
}

/// Frames of zstd, as far as they are there. Block by block, because the decoder would unpack all that it is given
/// before any of it can be counted; and it reports a checksum as read that is not there yet.
fn unzstd(
    decoder: &mut ruzstd::decoding::FrameDecoder,
    pending: &mut Vec<u8>,
    begun: &mut bool,
    tap: &mut Tap,
) -> Result<(), Trouble> {
    let mut made = vec![0; 64 << 10];
    let broken = |_| Trouble::Broken;
    while !pending.is_empty() {
        if *begun && tap.checksum {
            if pending.len() < 4 {
                return Ok(());
            }
            checksum(decoder, pending, tap)?;
            (*begun, tap.checksum) = (false, false);
            continue;
        }
        if !*begun {
            let mut from = &pending[..];
            if decoder.init(&mut from).is_err() {
                // A frame's header is at most 18 bytes: fewer may be a part of one.
                return if pending.len() < 18 { Ok(()) } else { Err(Trouble::Broken) };
            }
            let used = pending.len() - from.len();
            pending.drain(..used);
            *begun = true;
            continue;
        }
        // Three bytes say whether a block is the last one, of which kind, and how long.
        let head = pending.iter().take(3).rev().fold(0_usize, |all, b| all << 8 | usize::from(*b));
        let length = 3 + if head >> 1 & 3 == 1 { 1 } else { head >> 3 };
        if pending.len() < length {
            return Ok(());
        }
        let last = head & 1 == 1;
        let (used, mut written) = decoder.decode_from_to(&pending[..length], &mut made).map_err(broken)?;
        if used != length {
            return Err(Trouble::Broken);
        }
        pending.drain(..used);
        while written > 0 {
            tap.write_all(&made[..written]).map_err(|error| trouble(&error))?;
            written = decoder.decode_from_to(&[], &mut made).map_or(0, |(_, written)| written);
        }
        *begun = !last;
        // What follows a checksum, if there is one, is another frame.
        if last && !decoder.is_finished() {
            (*begun, tap.checksum) = (true, true);
        }
    }
    Ok(())
}

/// The four bytes after the last block; what is still in the window comes out with them.
fn checksum(decoder: &mut ruzstd::decoding::FrameDecoder, pending: &mut Vec<u8>, tap: &mut Tap) -> Result<(), Trouble> {
    let mut made = vec![0; 64 << 10];
    let (_, mut written) = decoder.decode_from_to(&pending[..4], &mut made).map_err(|_| Trouble::Broken)?;
    pending.drain(..4);
    loop {
        tap.write_all(&made[..written]).map_err(|error| trouble(&error))?;
        if decoder.can_collect() == 0 {
            return Ok(());
        }
        written = decoder.decode_from_to(&[], &mut made).map_err(|_| Trouble::Broken)?.1;
        if written == 0 {
            return Ok(());
        }
    }
}
