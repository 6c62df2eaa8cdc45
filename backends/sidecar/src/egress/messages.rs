//! Messages of a WebSocket, judged whole: a frame passes when the message that it belongs to was judged.

use super::{
    Live,
    frames::{Frame, Frames, Side},
    guard::{Noted, denial},
    relay::Gate,
};
use bottle_policy::{Denial, Route};
use bottle_scan::{Kind, Session};
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
    /// What the frames among them carry.
    message: Vec<u8>,
    /// What the host has sent of a credential in pieces.
    came_back: Session,
    noted: Noted,
}

impl Messages {
    pub(super) fn of(side: Side, live: &Arc<Live>, route: &Route, host: &str) -> Self {
        let (frames, came_back) = (Frames::of(side), live.guard.back().session());
        let (live, route, host) = (live.clone(), route.clone(), host.to_owned());
        Self { side, frames, live, route, host, held: vec![], message: vec![], came_back, noted: vec![] }
    }

    fn judge(&mut self, message: &[u8]) -> Result<(), Denial> {
        match self.side {
            Side::Client => self.noted.extend(self.live.guard.message(&self.route, &self.host, message)?),
            // What comes back must not hold what was put in.
            Side::Server if self.route.auth.is_some() => {
                let mut found = self.live.guard.back().judge_message(&self.host, message, false);
                found.extend(self.came_back.observe(&self.host, "message", message));
                if let Some(finding) = found.iter().find(|f| matches!(f.kind, Kind::Exact | Kind::Split)) {
                    return Err(denial(finding));
                }
            }
            Side::Server => {}
        }
        Ok(())
    }

    /// Takes a frame that is the last in `held`; whether all that is held may go.
    fn take(&mut self, frame: Frame) -> Result<bool, Denial> {
        if frame.control {
            self.judge(&frame.payload)?;
            // Within a message it waits for its end: what is held goes in its order.
            return Ok(self.message.is_empty());
        }
        self.message.extend(frame.payload);
        if !frame.last {
            return Ok(false);
        }
        let message = std::mem::take(&mut self.message);
        self.judge(&message)?;
        Ok(true)
    }
}

impl Gate for Messages {
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Denial> {
        let wrong = |what| Denial::forbidden("websocket", what);
        while let Some(frame) = self.frames.next(&mut bytes, &mut self.held).map_err(wrong)? {
            if self.take(frame)? {
                out.append(&mut self.held);
            }
        }
        if self.held.len() > MAX_MESSAGE {
            return Err(wrong("a message that is too long to be judged"));
        }
        Ok(())
    }

    fn noted(&mut self) -> Noted {
        std::mem::take(&mut self.noted)
    }
}
