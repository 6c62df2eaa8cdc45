//! How a process runs in a bottle whose engine offers no more than a pipe into it: the in-bottle helper attends it.
//!
//! A backend starts `bottle-helper attend` as the bottle's root, with nothing but standard input and output, and speaks
//! frames with it. So terminals, sizes, signals, two separate outputs and the exit code are the helper's word, and never
//! guessed from what an engine's client prints or ends with.
//!
//! ```text
//! backend ── Attend, then Down … ──▶ bottle-helper attend ── starts ──▶ the process, as its user
//!         ◀───────────── Up … ──────
//! ```
//!
//! A frame is a byte that says its kind, a big-endian `u32` length and that many bytes. When the backend's end closes, the
//! process is killed.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

/// The helper's argument.
pub const ATTEND_ARGUMENT: &str = "attend";
/// The helper's argument that makes a fresh machine a bottle: [`crate::WORKSPACE`], devices, names, and no way in its
/// network but to the sidecar, whose address follows.
pub const SETTLE_ARGUMENT: &str = "settle";
/// The helper's argument that unpacks standard input, a tar archive, into the directory that follows.
pub const UNPACK_ARGUMENT: &str = "unpack";
/// The helper's argument that packs the path that follows into a tar archive on standard output.
pub const PACK_ARGUMENT: &str = "pack";

/// Input that may be under way to a process that does not read: more would keep signals from reaching it.
pub const WINDOW: usize = 1 << 20;
/// The longest frame either side accepts, in bytes.
const MAX_FRAME: usize = 256 << 10;

/// First, as a frame of the control channel: what to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Attend {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment beside the helper's own.
    pub env: BTreeMap<String, String>,
    /// Working directory; empty: the helper's own.
    pub cwd: String,
    /// Numeric user. Any but root has no capability, can gain none, and is held by a filter of system calls.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// A terminal of this size (columns, rows), or none.
    pub tty: Option<(u16, u16)>,
    /// How many processes and threads the user may have.
    pub pids: Option<u64>,
}

/// From the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// For the process's standard input.
    Input(Vec<u8>),
    /// Its standard input ends.
    InputEnd,
    /// Its terminal has this size now (columns, rows).
    Resize(u16, u16),
    /// A signal for it, by number.
    Signal(i32),
}

/// From the helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// From the process's standard output, or its terminal.
    Output(Vec<u8>),
    /// From its error output.
    Errors(Vec<u8>),
    /// So many bytes of input are through.
    Taken(u32),
    /// It has ended, and its output is through: its exit code, 128 + n for signal n.
    Ended(i32),
    /// It could not be run.
    Failed(String),
}

impl Down {
    /// Writes the frame.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Input(bytes) => frame(to, b'i', bytes),
            Self::InputEnd => frame(to, b'e', &[]),
            Self::Resize(cols, rows) => frame(to, b'r', &[cols.to_be_bytes(), rows.to_be_bytes()].concat()),
            Self::Signal(number) => frame(to, b's', &number.to_be_bytes()),
        }
    }

    /// Reads a frame. `None` where the stream ends between two.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, body)) = unframe(from)? else { return Ok(None) };
        Ok(Some(match (kind, &body[..]) {
            (b'i', _) => Self::Input(body),
            (b'e', []) => Self::InputEnd,
            (b'r', &[a, b, c, d]) => Self::Resize(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            (b's', &[a, b, c, d]) => Self::Signal(i32::from_be_bytes([a, b, c, d])),
            _ => return Err(unreadable(kind)),
        }))
    }
}

impl Up {
    /// Writes the frame.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Output(bytes) => frame(to, b'o', bytes),
            Self::Errors(bytes) => frame(to, b'x', bytes),
            Self::Taken(bytes) => frame(to, b't', &bytes.to_be_bytes()),
            Self::Ended(code) => frame(to, b'c', &code.to_be_bytes()),
            Self::Failed(why) => frame(to, b'f', why.as_bytes()),
        }
    }

    /// Reads a frame. `None` where the stream ends between two.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, body)) = unframe(from)? else { return Ok(None) };
        Ok(Some(match (kind, &body[..]) {
            (b'o', _) => Self::Output(body),
            (b'x', _) => Self::Errors(body),
            (b't', &[a, b, c, d]) => Self::Taken(u32::from_be_bytes([a, b, c, d])),
            (b'c', &[a, b, c, d]) => Self::Ended(i32::from_be_bytes([a, b, c, d])),
            (b'f', _) => Self::Failed(String::from_utf8_lossy(&body).into_owned()),
            _ => return Err(unreadable(kind)),
        }))
    }
}

fn frame(to: &mut impl Write, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_FRAME);
    let length = length.ok_or_else(|| too_long(body.len()))?;
    // In one piece: whoever else writes to the stream comes before or after it.
    to.write_all(&[&[kind], &length.to_be_bytes()[..], body].concat())?;
    to.flush()
}

fn unframe(from: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut head = [0; 5];
    match from.read(&mut head)? {
        0 => return Ok(None),
        n => from.read_exact(&mut head[n..])?,
    }
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(too_long(length));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some((kind, body)))
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes, {MAX_FRAME} allowed"))
}

fn unreadable(kind: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no frame begins with {:?}", char::from(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_arrives_as_it_was_sent() {
        let (mut down, mut up) = (vec![], vec![]);
        let sent = [Down::Input(vec![0, 255]), Down::InputEnd, Down::Resize(80, 24), Down::Signal(15)];
        let said = [
            Up::Output(b"out".to_vec()),
            Up::Errors(vec![]),
            Up::Taken(7),
            Up::Ended(137),
            Up::Failed("no such program".into()),
        ];
        sent.iter().for_each(|frame| frame.write(&mut down).unwrap());
        said.iter().for_each(|frame| frame.write(&mut up).unwrap());
        let (mut down, mut up) = (&down[..], &up[..]);
        for frame in sent {
            assert_eq!(Down::read(&mut down).unwrap(), Some(frame));
        }
        for frame in said {
            assert_eq!(Up::read(&mut up).unwrap(), Some(frame));
        }
        assert_eq!((Down::read(&mut down).unwrap(), Up::read(&mut up).unwrap()), (None, None));
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for bytes in [&b"o\0\0\0\x05abc"[..], b"z\0\0\0\0", b"o\xff\xff\xff\xff", b"c\0\0\0\x01\0", b"Star", b"o"] {
            assert!(Up::read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
