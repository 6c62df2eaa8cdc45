//! Takes out of a guest's output what would act on the operator's terminal beyond drawing on it, and follows which of
//! the terminal's modes the guest has switched.
//!
//! Taken out is what writes or reads the clipboard (OSC 52), whatever makes the terminal type back text that the guest
//! can choose or read off the screen, and what prints, programs keys or opens files. Answers that are the terminal's
//! own (device attributes, cursor position, sizes) pass: programs wait for them, they hold no line end, and what has
//! not been read when the session ends is thrown away. All else passes byte for byte.
//!
//! Sequences: ECMA-48 (CSI, OSC, DCS), xterm's control sequences. The terminal is taken to speak UTF-8. What terminals
//! read in different ways (a sequence cut short, a string with control characters in it) is left out.
//!
//! ```text
//! ground ── ESC ─▶ escape ── [ ─▶ CSI ── final byte ─▶ ground
//!                        ├── ] P X ^ _ ─▶ string ── BEL or ESC \ ─▶ ground
//!                        └── final byte ─▶ ground
//! ```

use super::modes::Modes;
use std::borrow::Cow;

/// A sequence longer than this is left out. Pictures are not held, and have no limit.
const MAX_HELD: usize = 4096;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const ENQ: u8 = 0x05;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const DEL: u8 = 0x7f;
const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;
/// The byte that begins U+0080 to U+00BF in UTF-8: a C1 control may follow, which some terminals obey like ESC.
const LATIN: u8 = 0xc2;
/// Ends a string.
const STRING_TERMINATOR: &[u8] = b"\x1b\\";

/// OSC numbers that draw or decorate: titles, colours, links, progress, notifications, marks of a shell.
const DRAWING_OSC: [u16; 24] =
    [0, 1, 2, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 104, 105, 110, 111, 112, 133, 777];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Latin,
    Escape,
    Csi,
    /// A string, held up to its terminator.
    Text,
    /// An ESC inside a string: the terminator, if `\` follows.
    TextEscape,
    /// A picture (sixel), passed on as it comes.
    Picture,
    PictureEscape,
    /// A string that is taken out, up to its terminator.
    Dropped,
    DroppedEscape,
}

/// The filter of one terminal. Sequences may be split anywhere between two calls.
pub(super) struct Filter {
    state: State,
    held: Vec<u8>,
    unfiltered: bool,
    /// The last byte shown: what is taken out after the first byte of a C1 control must not join it with the second.
    last: u8,
    /// What the guest has switched on.
    pub(super) modes: Modes,
}

impl Filter {
    /// `unfiltered`: everything passes; the modes are followed all the same.
    pub(super) const fn new(unfiltered: bool) -> Self {
        Self { state: State::Ground, held: vec![], unfiltered, last: 0, modes: Modes::new() }
    }

    /// What of these bytes, and of those held back before, may be shown.
    pub(super) fn pass<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.state == State::Ground {
                if out.last().copied().unwrap_or(self.last) == LATIN {
                    let second = rest.iter().position(|b| !(0x80..=0x9f).contains(b)).unwrap_or(rest.len());
                    rest = &rest[second..];
                }
                let plain = rest.iter().position(|b| is_special(*b)).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
            }
            if let Some((byte, after)) = rest.split_first() {
                self.step(*byte, &mut out);
                rest = after;
            }
        }
        self.last = out.last().copied().unwrap_or(self.last);
        if self.unfiltered { Cow::Borrowed(bytes) } else { Cow::Owned(out) }
    }

    /// What puts the terminal's modes back, wherever the guest's output broke off.
    pub(super) fn undo(&self) -> Vec<u8> {
        let shown_in_part = match self.state {
            State::Ground | State::Latin => false,
            State::Picture | State::PictureEscape => true,
            _ => self.unfiltered,
        };
        let end = if shown_in_part { STRING_TERMINATOR } else { b"" };
        [end, &self.modes.undo()].concat()
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        match (self.state, byte) {
            (State::Ground | State::Escape | State::Csi, ESC) => self.begin(byte),
            (State::Ground, ENQ) => {}
            (State::Ground, LATIN) => self.state = State::Latin,
            (State::Ground, 0x80..=0x9f) if out.last().copied().unwrap_or(self.last) == LATIN => {}
            (State::Ground, _) => {
                match byte {
                    SHIFT_OUT => self.modes.shift(true),
                    SHIFT_IN => self.modes.shift(false),
                    _ => {}
                }
                out.push(byte);
            }
            (State::Latin, 0x80..=0x9f) => self.forget(),
            (State::Latin, _) => {
                out.push(LATIN);
                self.forget();
                self.step(byte, out);
            }
            (State::Escape | State::Csi | State::Text | State::Dropped, CAN | SUB) => self.forget(),
            (State::Escape | State::Csi, ENQ | DEL) => {}
            // A control character inside a sequence is obeyed at once, and the sequence goes on.
            (State::Escape | State::Csi, 0x00..=0x1f) => out.push(byte),
            (State::Escape | State::Csi, 0x80..) => {
                self.forget();
                self.step(byte, out);
            }
            (State::Escape, b'[') if self.held.len() == 1 => self.hold(State::Csi, byte),
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') if self.held.len() == 1 => self.hold(State::Text, byte),
            (State::Escape, b' '..=b'/') => self.hold(State::Escape, byte),
            (State::Escape, _) => {
                self.held.push(byte);
                if is_forbidden_escape(&self.held[1..]) {
                    return self.forget();
                }
                self.modes.escape(&self.held);
                self.release(out);
            }
            (State::Csi, 0x40..) => {
                self.held.push(byte);
                if let Some(csi) = Csi::parse(&self.held[2..]).filter(|csi| !csi.is_forbidden()) {
                    self.modes.csi(&csi, &self.held);
                    self.release(out);
                }
                self.forget();
            }
            (State::Csi, _) => self.hold(State::Csi, byte),
            (State::Text, BEL) => self.end_text(&[byte], out),
            (State::Text, ESC) => self.state = State::TextEscape,
            (State::Text, b'q') if is_picture(&self.held) => {
                self.held.push(byte);
                self.release(out);
                self.state = State::Picture;
            }
            (State::Text, _) => self.hold(State::Text, byte),
            (State::TextEscape, b'\\') => self.end_text(STRING_TERMINATOR, out),
            (State::Picture, ESC) => self.state = State::PictureEscape,
            (State::Picture, CAN | SUB) => self.end_picture(out),
            (State::Picture, b' '..=b'~' | b'\r' | b'\n') => out.push(byte),
            (State::Picture, _) => {}
            (State::PictureEscape, b'\\') => self.end_picture(out),
            (State::Dropped, BEL) => self.forget(),
            (State::Dropped, ESC) => self.state = State::DroppedEscape,
            (State::Dropped, _) => {}
            (State::DroppedEscape, b'\\') => self.forget(),
            // Another sequence cuts the string short: terminals differ in what they make of its beginning.
            (State::TextEscape | State::DroppedEscape, _) => {
                self.begin(ESC);
                self.step(byte, out);
            }
            (State::PictureEscape, _) => {
                self.end_picture(out);
                self.begin(ESC);
                self.step(byte, out);
            }
        }
        if self.held.len() > MAX_HELD {
            let dropped = if self.state == State::Text { State::Dropped } else { State::Ground };
            self.forget();
            self.state = dropped;
        }
    }

    fn begin(&mut self, byte: u8) {
        self.held.clear();
        self.hold(State::Escape, byte);
    }

    fn hold(&mut self, state: State, byte: u8) {
        self.state = state;
        self.held.push(byte);
    }

    fn forget(&mut self) {
        self.held.clear();
        self.state = State::Ground;
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = State::Ground;
    }

    fn end_text(&mut self, terminator: &[u8], out: &mut Vec<u8>) {
        if is_drawing_text(&self.held) {
            if self.held[1] == b']' {
                self.modes.osc(&self.held[2..]);
            }
            self.held.extend(terminator);
            self.release(out);
        }
        self.forget();
    }

    fn end_picture(&mut self, out: &mut Vec<u8>) {
        out.extend(STRING_TERMINATOR);
        self.forget();
    }
}

/// `ESC % x` takes the terminal out of UTF-8, where single bytes begin sequences that nobody here has seen (`G` takes it
/// back in); `ESC SP F`, `ESC SP G` choose such bytes for its answers; to `ESC G` some answer with a line end
/// (CVE-2021-33477).
fn is_forbidden_escape(body: &[u8]) -> bool {
    matches!(body, [b'%', rest @ ..] if rest != b"G") || matches!(body, [b' ', ..] | [b'G'])
}

/// Everything else in ground state is shown as it is.
fn is_special(byte: u8) -> bool {
    matches!(byte, ESC | ENQ | LATIN | SHIFT_OUT | SHIFT_IN)
}

/// A control sequence, taken apart.
pub(super) struct Csi<'a> {
    /// `?`, `>`, `<`, `=` before the parameters.
    pub(super) private: &'a [u8],
    /// The parameters, without subparameters; what is left out is 0.
    pub(super) params: Vec<u16>,
    /// What stands between parameters and final byte.
    pub(super) intermediates: &'a [u8],
    /// The final byte.
    pub(super) last: u8,
}

impl<'a> Csi<'a> {
    /// Reads what follows `ESC [`. `None` where it is malformed: terminals differ in what they make of that.
    fn parse(body: &'a [u8]) -> Option<Self> {
        let (last, body) = body.split_last()?;
        let end = |of: &[u8], is: fn(&u8) -> bool| of.iter().position(|b| !is(b)).unwrap_or(of.len());
        let (private, rest) = body.split_at(end(body, |b| (b'<'..=b'?').contains(b)));
        let (params, intermediates) = rest.split_at(end(rest, |b| (b'0'..=b';').contains(b)));
        if !intermediates.iter().all(|b| (b' '..=b'/').contains(b)) {
            return None;
        }
        let number = |text: &[u8]| match std::str::from_utf8(text).ok()?.split(':').next()? {
            "" => Some(0),
            digits => digits.parse().ok(),
        };
        let params = params.split(|b| *b == b';').map(number).collect::<Option<_>>()?;
        Some(Self { private, params, intermediates, last: *last })
    }

    /// A parameter, 0 where it is left out.
    pub(super) fn param(&self, at: usize) -> u16 {
        self.params.get(at).copied().unwrap_or(0)
    }

    /// Reports of titles (`20 t`, `21 t`), of what the guest has stored (`$ w`, `$ u`) and of the screen's content
    /// (`* y`); the printer (`i`); the mode in which none of this is understood (`? 2 l`).
    fn is_forbidden(&self) -> bool {
        match (self.private, self.intermediates, self.last) {
            (b"", b"", b't') => matches!(self.param(0), 20 | 21),
            (_, b"$", b'w' | b'u') | (_, b"*", b'y') | (_, _, b'i') => true,
            (b"?", _, b'l') => self.params.contains(&2),
            _ => false,
        }
    }
}

/// The head of a sixel picture, up to its `q`.
fn is_picture(text: &[u8]) -> bool {
    text[1] == b'P' && text[2..].iter().all(|b| b.is_ascii_digit() || *b == b';')
}

/// An OSC of [`DRAWING_OSC`] that asks for nothing, or the beginning or end of a synchronised update. Every other
/// string is left out: some are commands to the terminal, or put text where it is typed back later.
fn is_drawing_text(text: &[u8]) -> bool {
    let body = &text[2..];
    let is_plain = |b: &u8| !b.is_ascii_control();
    if text[1] != b']' {
        return text[1] == b'P' && matches!(body, b"=1s" | b"=2s");
    }
    let Some((number, rest)) = osc_number(body) else { return false };
    let asks = rest.split(|b| *b == b';').any(|part| part.starts_with(b"?"));
    // ConEmu runs programs by OSC 9; the one of its numbers that many terminals know is progress.
    let is_command = number == 9 && rest.first().is_some_and(u8::is_ascii_digit) && !rest.starts_with(b"4;");
    // U+0080 to U+009F end a string in some terminals, and begin another.
    let has_control = body.windows(2).any(|pair| pair[0] == LATIN && (0x80..=0x9f).contains(&pair[1]));
    DRAWING_OSC.contains(&number) && body.iter().all(is_plain) && !asks && !is_command && !has_control
}

/// An OSC's number, and what follows it.
pub(super) fn osc_number(body: &[u8]) -> Option<(u16, &[u8])> {
    let end = body.iter().position(|b| *b == b';').unwrap_or(body.len());
    let number = std::str::from_utf8(&body[..end]).ok()?.parse().ok()?;
    Some((number, body.get(end + 1..).unwrap_or_default()))
}

/// A whole stream through the filter, in parts of this size. For fuzzing, and for nobody else.
#[doc(hidden)]
pub fn filtered(bytes: &[u8], part: usize) -> Vec<u8> {
    let mut filter = Filter::new(false);
    bytes.chunks(part).flat_map(|part| filter.pass(part).to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same however the bytes are cut; and all of it, unfiltered.
    fn shown(bytes: &[u8]) -> Vec<u8> {
        let whole = Filter::new(false).pass(bytes).into_owned();
        for size in 1..=bytes.len().min(7) {
            let mut filter = Filter::new(false);
            let parts: Vec<u8> = bytes.chunks(size).flat_map(|part| filter.pass(part).into_owned()).collect();
            assert_eq!(parts, whole, "in parts of {size}");
        }
        assert_eq!(*Filter::new(true).pass(bytes), *bytes);
        whole
    }

    #[test]
    fn drawing_passes_byte_for_byte() {
        let all: Vec<u8> = (0..=255).filter(|b| ![ENQ, ESC].contains(b)).collect();
        assert_eq!(shown(&all), all);
        for text in [
            "caf\u{e9} \u{a0}\u{2713}\r\n".as_bytes(),
            b"\x1b[1;31mred\x1b[0m",
            b"\x1b[38:2::1:2:3mred",
            b"\x1b[?1049h\x1b[2J\x1b[H",
            b"\x1b]0;a title\x07after",
            "\x1b]0;\u{2713} done\x07".as_bytes(),
            b"\x1b]8;;https://a.example/?q=1\x1b\\link\x1b]8;;\x1b\\",
            b"\x1b]9;4;1;50\x07\x1b]9;done\x07",
            b"\x1b[c\x1b[6n\x1b[?u\x1b[>0q",
            b"\x1b[>1u\x1b[>4;2m\x1b[18t\x1b[22;0t",
            b"\x1b7\x1b8\x1b(B\x1b#8",
            b"\x1bPq#0;2;0;0;0\x1b\\sixel",
            b"\x1bP=1s\x1b\\",
        ] {
            assert_eq!(shown(text), text, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn what_acts_on_the_operator_is_taken_out() {
        for text in [
            &b"a\x1b]52;c;aGVsbG8=\x07b"[..],
            b"a\x1b]052;c;aGVsbG8=\x1b\\b",
            b"a\x1b]5\x002;c;aGVsbG8=\x07b",
            b"a\x1b]52;c;?\x07b",
            b"a\x1b]10;?\x07b",
            b"a\x1b]4;1;?\x1b\\b",
            b"a\x1b]1337;Copy=:aGVsbG8=\x07b",
            b"a\x1b]5522;type=write\x1b\\b",
            b"a\x1b]9;7;\"run\"\x07b",
            "a\x1b]0;x\u{9c}\u{9d}52;c;aGVsbG8=\x07b".as_bytes(),
            b"a\x1b[21tb",
            b"a\x1b[20tb",
            b"a\x1b[021;1tb",
            b"a\x1b[2\x7f1tb",
            b"a\x1b[65557tb",
            b"a\x1b[2?1tb",
            b"a\x1bP$qm\x1b\\b",
            b"a\x1bP+q544e\x1b\\b",
            b"a\x1bP0;1|17/6c73\x1b\\b",
            b"a\x1bP@kitty-cmd{}\x1b\\b",
            b"a\x1b_Gi=1,a=q;AAAA\x1b\\b",
            b"a\x05b",
            b"a\x1b[1$wb",
            b"a\x1b[1;1;1;1;1;1*yb",
            b"a\x1b[5ib",
            b"a\x1b[?2lb",
            b"a\x1b%@b",
            b"a\x1b%/Gb",
            b"a\x1b Gb",
            b"a\x1bGb",
            b"a\xc2\x9db",
        ] {
            assert_eq!(shown(text), b"ab", "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_sequence_cannot_hide_in_another() {
        for (text, expected) in [
            (&b"a\x1b]0;x\x1b]52;c;aGVsbG8=\x07b"[..], &b"ab"[..]),
            (b"a\x1bP0;\x1b]52;c;aGVsbG8=\x07b", b"ab"),
            (b"a\x1bPtmux;\x1b\x1b]52;c;aGVsbG8=\x07\x1b\\b", b"a\x1b\\b"),
            (b"a\x1bPq#\x1b]52;c;aGVsbG8=\x07b", b"a\x1bPq#\x1b\\b"),
            // A control character inside is obeyed, and the sequence judged without it.
            (b"a\x1b[2\x081tb", b"a\x08b"),
            (b"a\x1b\x00]52;c;aGVsbG8=\x07b", b"a\x00b"),
            (b"a\x1b[2\x1b[21tb", b"ab"),
            (b"a\x1b[2\x18\x1b[mb", b"a\x1b[mb"),
        ] {
            assert_eq!(shown(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_long_clipboard_is_left_out_whole_and_not_kept() {
        let mut text = b"a\x1b]52;c;".to_vec();
        text.extend(std::iter::repeat_n(b'x', 100_000));
        text.extend(b"\x07b");
        let mut filter = Filter::new(false);
        let out: Vec<u8> = text.chunks(1000).flat_map(|part| filter.pass(part).into_owned()).collect();
        assert_eq!(out, b"ab");
        assert!(filter.held.capacity() < 4 * MAX_HELD);
    }
}
