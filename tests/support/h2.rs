//! HTTP/2 frame by frame, with nothing that would keep a request from being wrong.

use crate::wire::Answer;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};

/// What every connection begins with: the preface, and settings that change nothing.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Kinds of frames.
pub const DATA: u8 = 0;
/// A request's or response's head.
pub const HEADERS: u8 = 1;
/// The end of a stream.
pub const RESET: u8 = 3;
/// What may be sent.
pub const SETTINGS: u8 = 4;
/// Is anybody there?
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// More may be sent.
pub const WINDOW: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;
/// The sender has nothing more to say on this stream; of settings and pings: an answer.
pub const END: u8 = 0x1;
/// The head is whole.
pub const END_HEADERS: u8 = 0x4;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of headers, every one spelled out as it is given.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![];
    for (name, value) in fields {
        out.push(0); // literal, not to be remembered
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.len();
    match rest {
        0..=126 => out.push(u8::try_from(rest).unwrap_or_default()),
        _ => {
            out.push(0x7f);
            rest -= 0x7f;
            while rest >= 0x80 {
                out.push(u8::try_from(rest % 0x80).unwrap_or_default() | 0x80);
                rest /= 0x80;
            }
            out.push(u8::try_from(rest).unwrap_or_default());
        }
    }
    out.extend(text.as_bytes());
}

/// A GET's four fields.
pub fn get<'a>(authority: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", path)]
}

/// A request on a stream, without a body.
pub fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END | END_HEADERS, stream, &block(fields))
}

/// A request with a body.
pub fn upload(stream: u32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, stream, &block(fields)), frame(DATA, END, stream, body)].concat()
}

/// Reads frames until a stream has ended; an error where it, or the connection, was reset.
pub fn read_answer(io: &mut (impl Read + Write), stream: u32) -> Result<Answer> {
    let mut answer = Answer { status: 0, head: String::new(), body: String::new() };
    loop {
        let (kind, flags, of, payload) = read_frame(io)?;
        match kind {
            SETTINGS if flags & END == 0 => io.write_all(&frame(SETTINGS, END, 0, &[]))?,
            GOAWAY => bail!("the connection was given up: {payload:?}"),
            RESET if of == stream => bail!("the stream was reset: {payload:?}"),
            HEADERS if of == stream && answer.status == 0 => answer.status = status(&payload)?,
            DATA if of == stream => answer.body += &String::from_utf8_lossy(&payload),
            _ => {}
        }
        if of == stream && flags & END != 0 && matches!(kind, DATA | HEADERS) {
            return Ok(answer);
        }
    }
}

/// Reads one frame: its kind, flags, stream and payload.
pub fn read_frame(io: &mut impl Read) -> Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).context("closed")?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    ensure!(length <= 1 << 20, "a frame of {length} bytes");
    let mut payload = vec![0; usize::try_from(length)?];
    io.read_exact(&mut payload).context("closed within a frame")?;
    let stream = u32::from_be_bytes(head[5..].try_into()?) & 0x7fff_ffff;
    Ok((head[3], head[4], stream, payload))
}

/// The status that a response's block of headers begins with.
fn status(block: &[u8]) -> Result<u16> {
    // A change of the table's size may come before it.
    let block = match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        _ => block,
    };
    let known = [200, 204, 206, 304, 400, 404, 500];
    let digits = match block {
        [indexed @ 0x88..=0x8e, ..] => return Ok(known[usize::from(indexed - 0x88)]),
        [0x08 | 0x18 | 0x48, length, rest @ ..] => {
            let text = rest.get(..usize::from(length & 0x7f)).context("a status")?;
            if length & 0x80 == 0 { text.to_vec() } else { unpacked(text) }
        }
        _ => bail!("no status in {block:?}"),
    };
    Ok(std::str::from_utf8(&digits)?.parse()?)
}

/// Three digits in HPACK's code: `0` to `2` have five bits, the others six.
fn unpacked(text: &[u8]) -> Vec<u8> {
    let bits = text.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1));
    let (mut out, mut code, mut length) = (vec![], 0_u8, 0);
    for bit in bits {
        (code, length) = (code << 1 | bit, length + 1);
        let digit = match (length, code) {
            (5, 0..=2) => code,
            (6, 25..=31) => code - 25 + 3,
            _ => continue,
        };
        out.push(b'0' + digit);
        (code, length) = (0, 0);
    }
    out.truncate(3);
    out
}
