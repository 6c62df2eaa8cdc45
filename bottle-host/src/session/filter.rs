//! Takes out of a guest's output what would act on the operator's terminal beyond drawing on it: writing or reading the
//! clipboard (OSC 52), and queries whose answer the terminal types back as if the operator had (reports of titles and
//! settings, DECRQSS, XTGETTCAP, the answerback). All else passes byte for byte.
//!
//! Sequences: ECMA-48 (CSI, OSC, DCS), xterm's control sequences.
//!
//! ```text
//! ground ── ESC ─▶ escape ── [ ─▶ CSI ── final byte ─▶ ground
//!                        ├── ] ─▶ OSC ── BEL or ESC \ ─▶ ground
//!                        └── P ─▶ DCS ── ESC \ ─▶ ground
//! ```

/// A sequence longer than this is passed as it is, unless it is one that is taken out: those end when they end.
const MAX_HELD: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const ENQ: u8 = 0x05;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    /// First byte of U+0080 to U+00BF in UTF-8: a C1 control may follow, which some terminals obey like ESC.
    Latin,
    Escape,
    Csi,
    /// OSC or DCS: a string up to its terminator.
    Text,
    /// An ESC inside a string: the terminator, if `\` follows.
    TextEscape,
    /// A string that is taken out, up to its terminator.
    Dropped,
    DroppedEscape,
}

/// The filter of one stream. Sequences may be split anywhere between two calls.
pub(super) struct Filter {
    state: State,
    held: Vec<u8>,
    /// The last byte shown is the first of a C1 control: what is taken out must not join it with the second.
    lone: bool,
}

impl Filter {
    pub(super) fn new() -> Self {
        Self { state: State::Ground, held: vec![], lone: false }
    }

    /// What of these bytes, and of those held back before, may be shown.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.step(byte, &mut out);
        }
        out
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.state, byte) {
            (State::Ground, ESC) => self.hold(State::Escape, byte),
            (State::Ground, ENQ) => {}
            (State::Ground, 0xc2) => self.hold(State::Latin, byte),
            (State::Latin, 0x80..=0x9f) => {
                self.held.clear();
                self.state = State::Ground;
            }
            (State::Latin, _) => {
                self.release(out);
                self.lone = true;
                self.step(byte, out);
            }
            (State::Ground, 0x80..=0x9f) if self.lone => {}
            (State::Ground, _) => {
                out.push(byte);
                self.lone = false;
            }
            (State::Escape | State::Csi, ENQ) => {}
            (State::Escape, b'[') => self.hold(State::Csi, byte),
            (State::Escape, b']' | b'P') => self.hold(State::Text, byte),
            // What is cut short is left out: with what follows it might make another sequence.
            (State::Escape | State::Csi, ESC) => {
                self.held.clear();
                self.hold(State::Escape, byte);
            }
            (State::Escape | State::Csi, 0x00..=0x1f | 0x80..) => {
                self.held.clear();
                self.state = State::Ground;
                self.step(byte, out);
            }
            (State::Escape, _) => {
                self.held.push(byte);
                self.release(out);
            }
            (State::Csi, 0x40..=0x7e) => {
                self.held.push(byte);
                if is_report(&self.held) {
                    self.held.clear();
                }
                self.release(out);
            }
            (State::Csi, _) => self.hold(State::Csi, byte),
            (State::Text, BEL) => self.end_text(byte, out),
            (State::Text, ESC) => self.hold(State::TextEscape, byte),
            (State::Text, _) => self.hold(State::Text, byte),
            (State::TextEscape, b'\\') => self.end_text(byte, out),
            // Another sequence cuts the string short, and is obeyed.
            (State::TextEscape, _) => {
                self.held.clear();
                self.hold(State::Escape, ESC);
                self.step(byte, out);
            }
            (State::Dropped, BEL) => self.state = State::Ground,
            (State::Dropped, ESC) => self.state = State::DroppedEscape,
            (State::Dropped, _) => {}
            (State::DroppedEscape, b'\\') => self.state = State::Ground,
            (State::DroppedEscape, _) => {
                self.hold(State::Escape, ESC);
                self.step(byte, out);
            }
        }
        if self.held.len() > MAX_HELD {
            // A clipboard's worth of text does not have to be kept to be left out.
            match self.state {
                State::Text | State::TextEscape if is_forbidden_text(&self.held) => {
                    self.held.clear();
                    self.state = State::Dropped;
                }
                _ => self.release(out),
            }
        }
    }

    fn hold(&mut self, state: State, byte: u8) {
        self.state = state;
        self.held.push(byte);
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        self.lone &= self.held.is_empty();
        out.append(&mut self.held);
        self.state = State::Ground;
    }

    fn end_text(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.held.push(byte);
        if is_forbidden_text(&self.held) {
            self.held.clear();
        }
        self.release(out);
    }
}

/// CSI sequences that make the terminal type back something that the guest can choose: titles and icon names
/// (`CSI 20 t`, `CSI 21 t`), and what DECRQPSR keeps (`CSI … $ w`).
fn is_report(csi: &[u8]) -> bool {
    let body = &csi[2..];
    matches!(body, b"20t" | b"21t") || body.ends_with(b"$w")
}

/// OSC 52 (the clipboard), any OSC that asks (`?`), DECRQSS (`DCS $ q`) and XTGETTCAP (`DCS + q`).
fn is_forbidden_text(text: &[u8]) -> bool {
    let body = &text[2..];
    match text[1] {
        b']' => {
            let number: Vec<u8> = body.iter().copied().take_while(u8::is_ascii_digit).collect();
            number.iter().skip_while(|b| **b == b'0').eq(b"52") || body.windows(2).any(|pair| pair == b";?")
        }
        _ => body.starts_with(b"$q") || body.starts_with(b"+q"),
    }
}

/// A whole stream through the filter, in parts of this size. For fuzzing, and for nobody else.
#[doc(hidden)]
pub fn filtered(bytes: &[u8], part: usize) -> Vec<u8> {
    let mut filter = Filter::new();
    bytes.chunks(part).flat_map(|part| filter.pass(part).to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same however the bytes are cut.
    fn shown(bytes: &[u8]) -> Vec<u8> {
        let whole = Filter::new().pass(bytes);
        for size in 1..=bytes.len().min(7) {
            let mut filter = Filter::new();
            let parts: Vec<u8> = bytes.chunks(size).flat_map(|part| filter.pass(part)).collect();
            assert_eq!(parts, whole, "in parts of {size}");
        }
        whole
    }

    #[test]
    fn drawing_passes_byte_for_byte() {
        let all: Vec<u8> = (0..=255).filter(|b| ![ENQ, ESC].contains(b)).collect();
        assert_eq!(shown(&all), all);
        for text in [
            "caf\u{e9} \u{a0}\u{2713}\r\n".as_bytes(),
            b"\x1b[1;31mred\x1b[0m",
            b"\x1b[?1049h\x1b[2J\x1b[H",
            b"\x1b]0;a title\x07after",
            b"\x1b]8;;https://a.example\x1b\\link\x1b]8;;\x1b\\",
            b"\x1b[c\x1b[6n\x1b[?u",
            b"\x1b7\x1b8\x1b(B",
            b"\x1bPq#0;2;0;0;0\x1b\\sixel",
        ] {
            assert_eq!(shown(text), text, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn what_acts_on_the_operator_is_taken_out() {
        for text in [
            &b"a\x1b]52;c;aGVsbG8=\x07b"[..],
            b"a\x1b]052;c;aGVsbG8=\x1b\\b",
            b"a\x1b]52;c;?\x07b",
            b"a\x1b]10;?\x07b",
            b"a\x1b]4;1;?\x1b\\b",
            b"a\x1b[21tb",
            b"a\x1b[20tb",
            b"a\x1bP$qm\x1b\\b",
            b"a\x1bP+q544e\x1b\\b",
            b"a\x05b",
            b"a\x1b[1$wb",
            b"a\xc2\x9db",
        ] {
            assert_eq!(shown(text), b"ab", "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_long_clipboard_is_left_out_whole_and_not_kept() {
        let mut text = b"a\x1b]52;c;".to_vec();
        text.extend(std::iter::repeat_n(b'x', 100_000));
        text.extend(b"\x07b");
        let mut filter = Filter::new();
        let out: Vec<u8> = text.chunks(1000).flat_map(|part| filter.pass(part)).collect();
        assert_eq!(out, b"ab");
        assert!(filter.held.capacity() < 4 * MAX_HELD);
    }
}
