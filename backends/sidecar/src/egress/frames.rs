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
    /// The frame whose head has arrived.
    present: Option<Frame>,
    /// A message whose last frame has not begun.
    fragmented: bool,
    /// The frame after which there is none has begun.
    closing: bool,
}

/// A frame whose head was found to be right.
pub(super) struct Frame {
    /// It is none of a message's.
    pub(super) control: bool,
    /// Its message ends with it.
    pub(super) last: bool,
    /// What it carries, without the mask.
    pub(super) payload: Vec<u8>,
    mask: [u8; 4],
    /// Bytes of its payload that are still to come.
    missing: u64,
}

impl Frames {
    pub(super) fn of(side: Side) -> Self {
        Self { side, head: Vec::with_capacity(MAX_HEAD), present: None, fragmented: false, closing: false }
    }

    /// Takes bytes up to the end of a frame, and appends to `out` what of them is right. The frame, or `None` as long as
    /// it is not there whole. A wrong head is an error, and none of it is appended.
    pub(super) fn next(&mut self, bytes: &mut &[u8], out: &mut Vec<u8>) -> Result<Option<Frame>, &'static str> {
        loop {
            if let Some(frame) = self.present.take_if(|frame| frame.missing == 0) {
                return Ok(Some(frame));
            }
            let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
            if let Some(frame) = &mut self.present {
                let length = usize::try_from(frame.missing).unwrap_or(usize::MAX).min(bytes.len());
                let (now, later) = bytes.split_at(length);
                out.extend_from_slice(now);
                frame.take(now);
                *bytes = later;
            } else if self.closing {
                return Err("bytes after the frame that closes");
            } else {
                self.head.push(*first);
                *bytes = rest;
                if self.head.len() == head_length(&self.head) {
                    self.present = Some(self.judge()?);
                    out.append(&mut self.head);
                }
            }
        }
    }

    /// A whole head: the frame that it begins.
    fn judge(&mut self) -> Result<Frame, &'static str> {
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
        let mask = if masked { self.head.last_chunk().copied().unwrap_or_default() } else { [0; 4] };
        Ok(Frame { control: opcode >= CLOSE, last, payload: vec![], mask, missing: length })
    }
}

impl Frame {
    fn take(&mut self, bytes: &[u8]) {
        let at = self.payload.len();
        let mask = self.mask.iter().cycle().skip(at % self.mask.len());
        self.payload.extend(bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        self.missing -= bytes.len() as u64;
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
        for mut part in bytes.chunks(step) {
            while frames.next(&mut part, &mut out)?.is_some() {}
        }
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
    fn what_a_frame_carries_is_read_without_its_mask() {
        let masked = [0x01, 0x85, 1, 2, 3, 4, b'h' ^ 1, b'e' ^ 2, b'l' ^ 3, b'l' ^ 4, b'o' ^ 1];
        let all = [&masked[..], &[0x89, 0x80, 9, 9, 9, 9], &[0x80, 0x81, 5, 6, 7, 8, b'!' ^ 5]].concat();
        for step in [1, 2, 5, 100] {
            let (mut frames, mut seen) = (Frames::of(Side::Client), vec![]);
            for mut part in all.chunks(step) {
                while let Some(frame) = frames.next(&mut part, &mut vec![]).unwrap() {
                    seen.push((frame.control, frame.last, frame.payload));
                }
            }
            let expected = [(false, false, b"hello".to_vec()), (true, true, vec![]), (false, true, b"!".to_vec())];
            assert_eq!(seen, expected, "by {step}");
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
