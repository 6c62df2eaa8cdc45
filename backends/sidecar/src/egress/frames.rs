//! The framing of WebSocket (RFC 6455, 5.2), checked as the bytes pass: nothing else may use a connection that was
//! upgraded. No extension is ever negotiated, so every reserved bit is wrong.

/// The longest frame that is announced in good faith.
const MAX_PAYLOAD: u64 = 64 << 20;
/// Of a frame before its payload: two bytes, eight of length, four of mask.
const MAX_HEAD: usize = 14;

const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Masks every frame.
    Client,
    /// Masks none.
    Server,
}

/// One direction of a connection.
pub(super) struct Frames {
    side: Side,
    /// A frame's head, as far as it has arrived. It is passed on whole, or not at all.
    head: Vec<u8>,
    /// Bytes of the present frame's payload that are still to come.
    payload: u64,
    /// A message whose last frame has not begun.
    fragmented: bool,
    /// The present frame is the last one.
    closing: bool,
}

impl Frames {
    pub(super) fn of(side: Side) -> Self {
        Self { side, head: Vec::with_capacity(MAX_HEAD), payload: 0, fragmented: false, closing: false }
    }

    /// Appends to `out` what of `bytes` may pass. The first wrong frame is an error, and none of it passes.
    pub(super) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let length = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                let (now, later) = bytes.split_at(length);
                out.extend_from_slice(now);
                self.payload -= length as u64;
                bytes = later;
                continue;
            }
            if self.closing && self.head.is_empty() {
                return Err("bytes after the frame that closes");
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if self.head.len() == head_length(&self.head) {
                self.payload = self.judge()?;
                out.append(&mut self.head);
            }
        }
        Ok(())
    }

    /// A whole head: the length of its payload.
    fn judge(&mut self) -> Result<u64, &'static str> {
        let (last, reserved, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x70, self.head[0] & 0x0f);
        let (masked, short) = (self.head[1] & 0x80 != 0, self.head[1] & 0x7f);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        let length = match short {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            short => short.into(),
        };
        if reserved != 0 {
            return Err("a reserved bit of an extension that nobody negotiated");
        }
        if masked != (self.side == Side::Client) {
            return Err("the client masks its frames, the server does not");
        }
        if short == 126 && length < 126 || short == 127 && length <= 0xffff {
            return Err("a length that is not in its shortest form");
        }
        if length > MAX_PAYLOAD {
            return Err("a frame that is too long");
        }
        match opcode {
            CONTINUATION if !self.fragmented => return Err("a continuation of nothing"),
            CONTINUATION => self.fragmented = !last,
            1 | 2 if self.fragmented => return Err("a message within a message"),
            1 | 2 => self.fragmented = !last,
            CLOSE..=10 if !last || length > 125 => return Err("a control frame that is long or in parts"),
            CLOSE..=10 => self.closing = opcode == CLOSE,
            _ => return Err("an unknown opcode"),
        }
        Ok(length)
    }
}

/// How long the head is, as far as it can be known; more than there is while it cannot.
fn head_length(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & 0x80 != 0 { 4 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(side: Side, bytes: &[u8], step: usize) -> Result<Vec<u8>, &'static str> {
        let (mut frames, mut out) = (Frames::of(side), vec![]);
        bytes.chunks(step).try_for_each(|part| frames.pass(part, &mut out))?;
        Ok(out)
    }

    #[test]
    fn frames_pass_unchanged_however_they_are_cut() {
        let long = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let longer = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65536]].concat();
        let masked = [0x81, 0x82, 1, 2, 3, 4, 9, 9, 0x88, 0x80, 1, 2, 3, 4];
        let parts = [0x01, 1, b'a', 0x89, 0, 0x80, 1, b'b', 0x8a, 0];
        for (side, bytes) in [
            (Side::Server, &long[..]),
            (Side::Server, &longer),
            (Side::Client, &masked),
            (Side::Server, &parts),
            (Side::Server, &[]),
        ] {
            for step in [1, 2, 3, 7, 100_000] {
                assert_eq!(run(side, bytes, step).unwrap(), bytes, "{side:?} by {step}");
            }
        }
    }

    #[test]
    fn what_is_no_frame_does_not_pass() {
        for (side, bytes) in [
            (Side::Client, &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]),
            (Side::Server, b"HTTP/1.1 200 OK\r\n\r\n"),
            (Side::Client, b"\x16\x03\x01\x02\x00\x01"),
            (Side::Client, b"SSH-2.0-x\r\n"),
            (Side::Client, &[0x81, 0x01, b'a']),             // not masked
            (Side::Server, &[0x81, 0x81, 1, 2, 3, 4, b'a']), // masked
            (Side::Server, &[0xc1, 0]),                      // a reserved bit
            (Side::Server, &[0x83, 0]),                      // opcode
            (Side::Server, &[0x8b, 0]),                      // opcode
            (Side::Server, &[0x80, 0]),                      // continues nothing
            (Side::Server, &[0x01, 0, 0x81, 0]),             // a message within a message
            (Side::Server, &[0x09, 0]),                      // a ping in parts
            (Side::Server, &[0x89, 126, 0, 126]),            // a long ping
            (Side::Server, &[0x82, 126, 0, 1]),              // not the shortest form
            (Side::Server, &[0x82, 127, 0, 0, 0, 0, 0, 0, 1, 0]),
            (Side::Server, &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            (Side::Server, &[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0]),
            (Side::Server, &[0x88, 0, 0x81, 0]), // after the end
        ] {
            for step in [1, 100] {
                assert!(run(side, bytes, step).is_err(), "{side:?} {bytes:?}");
            }
        }
    }
}
