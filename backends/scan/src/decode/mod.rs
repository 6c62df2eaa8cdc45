//! Texts that are made from a text by decoding a part of it. Each decoder looks for its own mark, cheaply, and gives
//! what it has made with a way back to where it was.
//!
//! * [`runs`]: long unbroken runs: base64 and base32, hex;
//! * [`pairs`]: hex and decimal numbers with something between them;
//! * [`escape`]: percent, `\u`, `\x`, octal and HTML character references;
//! * [`fold`]: characters that look like others, and those that look like nothing;
//! * [`spaced`]: letters with something between them;
//! * [`lines`]: uuencode, quoted-printable;
//! * [`inflate`]: compressed data;
//! * [`archive`]: the same as archivers write it.

pub(crate) mod archive;
pub(crate) mod base64;
pub(crate) mod escape;
pub(crate) mod fold;
pub(crate) mod inflate;
pub(crate) mod lines;
pub(crate) mod pairs;
pub(crate) mod runs;
pub(crate) mod spaced;

/// The way back from a decoded text.
#[derive(Clone, Debug)]
pub(crate) enum Map {
    /// Each `den` bytes of it were `num` bytes, from `start` on.
    Linear { start: usize, end: usize, num: usize, den: usize },
    /// Where what each byte of it was made of began and ended.
    Table(Vec<(u32, u32)>),
}

impl Map {
    /// All of it came from there.
    pub(crate) fn whole(start: usize, end: usize) -> Self {
        Self::Linear { start, end, num: 0, den: 1 }
    }

    /// The range that a range came from.
    pub(crate) fn back(&self, from: usize, to: usize) -> (usize, usize) {
        match self {
            Self::Linear { start, end, num: 0, .. } => (*start, *end),
            Self::Linear { start, end, num, den } => {
                ((start + from * num / den).min(*end), (start + (to * num).div_ceil(*den)).min(*end))
            }
            Self::Table(table) => {
                let at = |n: usize| table.get(n).or(table.last()).map_or((0, 0), |(s, e)| (*s as usize, *e as usize));
                (at(from).0, at(to.max(from + 1) - 1).1)
            }
        }
    }
}

/// A text that was made from another.
pub(crate) struct Derived {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) map: Map,
}

/// Whether nearly all of it could be read.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    let plain = bytes.iter().filter(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n' | b'\r')).count();
    !bytes.is_empty() && plain * 100 >= bytes.len() * 85
}

/// What a text has that plain ASCII has not. Most texts have none of it, and no decoder that is for it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Odd {
    /// Bytes above ASCII.
    pub(crate) high: bool,
    /// Control characters that are no white space.
    pub(crate) control: bool,
}

impl Odd {
    /// Of a text.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let control = |b: u8| (b < b'\t') | (b'\x0e'..=b'\x1f').contains(&b);
        let mut odd = Self::default();
        for part in bytes.chunks(4096) {
            // Without a branch, so that the compiler does many at once.
            odd.high |= part.iter().fold(0, |all, b| all | b) >= 0x80;
            odd.control |= part.iter().fold(false, |any, b| any | control(*b));
            if odd.high && odd.control {
                break;
            }
        }
        odd
    }
}
