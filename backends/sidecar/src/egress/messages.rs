//! Messages of a WebSocket, judged whole: a frame passes when the message that it belongs to was judged.

use super::{
    Live,
    frames::{Frames, Side},
    guard::{Noted, denial},
    relay::Gate,
};
use bottle_policy::{Denial, Route};
use bottle_scan::Kind;
use std::sync::Arc;

/// The longest message that is held back until it was judged.
const MAX_MESSAGE: usize = 4 << 20;

/// One direction of a connection.
pub(super) struct Messages {
    side: Side,
    frames: Frames,
    live: Arc<Live>,
    route: Route,
    host: String,
    /// Frames as they came, from the first that is not judged on.
    held: Vec<u8>,
    /// Where in `held` the first frame begins that is not in `message` yet.
    next: usize,
    message: Vec<u8>,
    noted: Noted,
}

impl Messages {
    pub(super) fn of(side: Side, live: &Arc<Live>, route: &Route, host: &str) -> Self {
        let (frames, live, route, host) = (Frames::of(side), live.clone(), route.clone(), host.to_owned());
        Self { side, frames, live, route, host, held: vec![], next: 0, message: vec![], noted: vec![] }
    }

    fn judge(&mut self, message: &[u8]) -> Result<(), Denial> {
        match self.side {
            Side::Client => self.noted.extend(self.live.guard.message(&self.route, &self.host, message)?),
            // What comes back must not hold what was put in.
            Side::Server if self.route.auth.is_some() => {
                let found = self.live.guard.back().judge_message(&self.host, message, false);
                if let Some(finding) = found.iter().find(|finding| finding.kind == Kind::Exact) {
                    return Err(denial(finding));
                }
            }
            Side::Server => {}
        }
        Ok(())
    }

    /// Takes the frame that begins at `next`, if it is whole; with whether all that is held may go.
    fn frame(&mut self) -> Result<Option<bool>, Denial> {
        let Some(frame) = Frame::read(&self.held[self.next..]) else { return Ok(None) };
        let payload = frame.payload(&self.held[self.next..]);
        self.next += frame.end;
        if frame.control {
            self.judge(&payload)?;
            // Within a message it waits for its end: what is held goes in its order.
            return Ok(Some(self.message.is_empty()));
        }
        self.message.extend(payload);
        if !frame.last {
            return Ok(Some(false));
        }
        let message = std::mem::take(&mut self.message);
        self.judge(&message)?;
        Ok(Some(true))
    }
}

impl Gate for Messages {
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Denial> {
        let framed = self.frames.pass(bytes, &mut self.held);
        while let Some(may_go) = self.frame()? {
            if may_go {
                out.extend(self.held.drain(..self.next));
                self.next = 0;
            }
        }
        if self.held.len() > MAX_MESSAGE {
            return Err(Denial::forbidden("websocket", "a message that is too long to be judged"));
        }
        framed.map_err(|what| Denial::forbidden("websocket", what))
    }

    fn noted(&mut self) -> Noted {
        std::mem::take(&mut self.noted)
    }
}

/// A frame whose head was found to be right.
struct Frame {
    control: bool,
    last: bool,
    mask: Option<[u8; 4]>,
    start: usize,
    end: usize,
}

impl Frame {
    /// `None` as long as it is not there whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |n, b| n << 8 | usize::from(*b));
        let (length, mut start) = match second & 0x7f {
            126 => (number(bytes.get(2..4)?), 4),
            127 => (number(bytes.get(2..10)?), 10),
            short => (usize::from(short), 2),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            mask = Some(bytes.get(start..start + 4)?.try_into().ok()?);
            start += 4;
        }
        let end = start.checked_add(length).filter(|end| *end <= bytes.len())?;
        Some(Self { control: first & 0x08 != 0, last: first & 0x80 != 0, mask, start, end })
    }

    fn payload(&self, bytes: &[u8]) -> Vec<u8> {
        let mut payload = bytes[self.start..self.end].to_vec();
        if let Some(mask) = self.mask {
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        payload
    }
}
