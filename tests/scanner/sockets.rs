//! WebSocket frames as a corpus writes them, and those that arrived.

use crate::exchange::{Request, Wire};
use anyhow::{Result, bail};
use bottle_tests::wire::{ProxyClient, read_head, status_of};
use std::io::{Read, Write};

const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) fin: bool,
    pub(crate) rsv1: bool,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    fn encode(&self) -> Vec<u8> {
        let first = u8::from(self.fin) << 7 | u8::from(self.rsv1) << 6 | self.opcode;
        let length = self.payload.len();
        let mut bytes = match length {
            0..126 => vec![first, 0x80 | length as u8],
            126..0x1_0000 => [&[first, 0x80 | 126][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[first, 0x80 | 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        bytes.extend(MASK);
        bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

/// Opens a WebSocket. Its answer's status where that is not 101.
pub(crate) fn open(client: &ProxyClient, request: &Request) -> Result<Result<Wire, crate::exchange::Reply>> {
    let mut wire = request.open(client, HANDSHAKE)?;
    let head = read_head(&mut wire)?;
    if status_of(&head)? == 101 {
        return Ok(Ok(wire));
    }
    Ok(Err(crate::exchange::read_reply(&mut head.as_bytes().chain(&mut wire), "GET")?))
}

/// Sends frames, and waits until the other side of the proxy has them all, or the proxy closes. Did it close?
pub(crate) fn say(wire: &mut Wire, frames: &[Frame], arrived: impl Fn() -> Vec<Frame>) -> Result<bool> {
    let sent: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
    if wire.write_all(&sent).and_then(|()| wire.flush()).is_err() {
        return Ok(true);
    }
    wire.socket().set_read_timeout(Some(std::time::Duration::from_millis(20)))?;
    let mut buffer = [0; 4096];
    for _ in 0..250 {
        if payload(&arrived()) == payload(frames) {
            return Ok(false);
        }
        match wire.read(&mut buffer) {
            Ok(0) => return Ok(true),
            // The beginning of an answer that is a frame of closing: of the proxy, as the fixture never closes.
            Ok(read) if buffer[..read].first() == Some(&0x88) => return Ok(true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return Ok(true),
        }
    }
    bail!("neither did the frames arrive nor did the proxy close within five seconds")
}

/// What frames of messages carry, one after the other.
pub(crate) fn payload(frames: &[Frame]) -> Vec<u8> {
    frames.iter().filter(|frame| frame.opcode < 8).flat_map(|frame| frame.payload.clone()).collect()
}

/// The frames in what a client sent after its handshake; the last one as far as it came.
pub(crate) fn frames(connection: &[u8]) -> Vec<Frame> {
    let Some(head) = connection.windows(4).position(|end| end == b"\r\n\r\n") else { return vec![] };
    let (mut rest, mut frames) = (&connection[head + 4..], vec![]);
    while let [first, second, tail @ ..] = rest {
        let (length, tail) = match (second & 0x7f, tail) {
            (126, [a, b, tail @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), tail),
            (127, [a, b, c, d, e, f, g, h, tail @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize, tail)
            }
            (126 | 127, _) => break,
            (length, tail) => (usize::from(length), tail),
        };
        let masked = second & 0x80 != 0;
        let (mask, tail) = match tail {
            [a, b, c, d, tail @ ..] if masked => ([*a, *b, *c, *d], tail),
            _ if masked => break,
            tail => ([0; 4], tail),
        };
        let (payload, left) = tail.split_at(length.min(tail.len()));
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        frames.push(Frame { opcode: first & 0xf, fin: first & 0x80 != 0, rsv1: first & 0x40 != 0, payload });
        rest = left;
    }
    frames
}
