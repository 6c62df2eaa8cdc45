//! What a guest has switched on at the operator's terminal: remembered, so that exactly that can be put back when the
//! session ends, and switched on again when a stopped session goes on.

use super::filter::{Csi, osc_number};

/// DEC's private modes (`CSI ? n h`, `CSI ? n l`): cursor keys, colours, origin, wrapping, cursor, keypad, margins, the
/// alternate screen, mouse, focus, paste, synchronised output, reports of sizes and colours.
const PRIVATE: [u16; 26] = [
    1, 5, 6, 7, 9, 25, 47, 66, 69, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026, 2027,
    2031, 2048, 9001,
];
/// Those of them that a terminal begins with.
const BEGINS_WITH: [u16; 2] = [7, 25];
/// ECMA-48's modes (`CSI n h`): locked keyboard, insert, new line. A terminal begins without.
const ANSI: [u16; 3] = [2, 4, 20];
/// The alternate screen, which has a keyboard stack of its own.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];
/// Takes one entry off kitty's keyboard stack. More entries than a terminal keeps are not remembered.
const KEYBOARD_POP: &[u8] = b"\x1b[<u";
const MAX_KEYBOARDS: usize = 32;

/// A switch that is not as the terminal began.
struct Switch {
    set: Vec<u8>,
    /// Puts it back; no two switches have the same, but those of kitty's keyboard stack.
    reset: Vec<u8>,
}

/// All of them, the oldest first.
pub(super) struct Modes(Vec<Switch>);

impl Modes {
    pub(super) const fn new() -> Self {
        Self(vec![])
    }

    /// Puts everything back, the newest first.
    pub(super) fn undo(&self) -> Vec<u8> {
        self.0.iter().rev().flat_map(|switch| switch.reset.iter().copied()).collect()
    }

    /// Switches everything on again.
    pub(super) fn redo(&self) -> Vec<u8> {
        self.0.iter().flat_map(|switch| switch.set.iter().copied()).collect()
    }

    /// A control sequence has passed; `whole` is all of it.
    pub(super) fn csi(&mut self, csi: &Csi<'_>, whole: &[u8]) {
        match (csi.private, csi.intermediates, csi.last) {
            (b"?", b"", b'h' | b'l') => csi.params.iter().for_each(|n| self.private(*n, csi.last == b'h')),
            (b"", b"", b'h' | b'l') => {
                for n in csi.params.iter().filter(|n| ANSI.contains(n)) {
                    self.switch(csi.last == b'h', format!("\x1b[{n}h"), format!("\x1b[{n}l"));
                }
            }
            (b"", b"", b'm') => self.switch(csi.params.iter().any(|n| *n != 0), whole, "\x1b[m"),
            // It moves the cursor home.
            (b"", b"", b'r') => self.switch(csi.params.iter().any(|n| *n != 0), whole, "\x1b7\x1b[r\x1b8"),
            (b"", b" ", b'q') => self.switch(csi.param(0) != 0, whole, "\x1b[0 q"),
            (b">", b"", b'm') if csi.param(0) == 4 => self.switch(csi.param(1) != 0, whole, "\x1b[>4m"),
            (b">", b"", b'u') if self.keyboards() < MAX_KEYBOARDS => {
                self.0.push(Switch { set: whole.into(), reset: KEYBOARD_POP.into() });
            }
            (b"<", b"", b'u') => {
                for _ in 0..csi.param(0).max(1) {
                    let Some(at) = self.0.iter().rposition(|s| s.reset == KEYBOARD_POP) else { break };
                    self.0.remove(at);
                }
            }
            (b"=", b"", b'u') => self.switch(csi.param(0) != 0, whole, "\x1b[=0u"),
            _ => {}
        }
    }

    /// A sequence of ESC and no parameters has passed.
    pub(super) fn escape(&mut self, whole: &[u8]) {
        match whole[1..] {
            [b'c'] => self.0.clear(),
            [b'='] => self.switch(true, whole, "\x1b>"),
            [b'>'] => self.switch(false, whole, "\x1b>"),
            [b'n' | b'o'] => self.switch(true, whole, "\x0f"),
            [slot @ b'('..=b'+', set] => self.switch(set != b'B', whole, format!("\x1b{}B", char::from(slot))),
            [b'%', coding] => self.switch(coding == b'@', whole, "\x1b%G"),
            _ => {}
        }
    }

    /// Shift out, or in.
    pub(super) fn shift(&mut self, out: bool) {
        self.switch(out, "\x0e", "\x0f");
    }

    /// An OSC has passed: links, colours and progress are switches too.
    pub(super) fn osc(&mut self, body: &[u8]) {
        let whole = || [b"\x1b]", body, b"\x1b\\"].concat();
        match osc_number(body) {
            Some((8, link)) => self.switch(!link.ends_with(b";"), whole(), "\x1b]8;;\x1b\\"),
            Some((9, progress)) if progress.starts_with(b"4;") => {
                self.switch(!progress.starts_with(b"4;0"), whole(), "\x1b]9;4;0\x1b\\");
            }
            Some((n @ (4 | 5 | 10..=19), _)) => self.switch(true, whole(), format!("\x1b]{}\x1b\\", n + 100)),
            Some((n @ (104 | 105 | 110..=119), _)) => self.switch(false, "", format!("\x1b]{n}\x1b\\")),
            _ => {}
        }
    }

    fn keyboards(&self) -> usize {
        self.0.iter().filter(|s| s.reset == KEYBOARD_POP).count()
    }

    fn private(&mut self, mode: u16, on: bool) {
        if !PRIVATE.contains(&mode) {
            return;
        }
        let sequence = |on: bool| format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' });
        if ALTERNATE.contains(&mode) && !on {
            let entered = self.0.iter().position(|s| s.reset == sequence(false).as_bytes()).unwrap_or(self.0.len());
            let since = self.0.split_off(entered);
            self.0.extend(since.into_iter().filter(|s| s.reset != KEYBOARD_POP));
        }
        let default = BEGINS_WITH.contains(&mode);
        self.switch(on != default, sequence(on), sequence(default));
    }

    fn switch(&mut self, on: bool, set: impl Into<Vec<u8>>, reset: impl Into<Vec<u8>>) {
        let (set, reset) = (set.into(), reset.into());
        let found = self.0.iter().position(|s| s.reset == reset);
        match (on, found) {
            (true, Some(at)) => self.0[at].set = set,
            (true, None) => self.0.push(Switch { set, reset }),
            (false, Some(at)) => drop(self.0.remove(at)),
            (false, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter::Filter;

    fn undone(unfiltered: bool, written: &[u8]) -> String {
        let mut filter = Filter::new(unfiltered);
        for byte in written {
            filter.pass(&[*byte]);
        }
        String::from_utf8(filter.undo()).unwrap()
    }

    #[test]
    fn exactly_what_was_switched_is_put_back() {
        for (written, expected) in [
            ("plain\x1b[1m text\x1b[0m\x1b[2J\x1b[H\x1b[6n", ""),
            ("\x1b[?1049h", "\x1b[?1049l"),
            ("\x1b[?1049h\x1b[?1049l", ""),
            ("\x1b[?25l", "\x1b[?25h"),
            ("\x1b[?25l\x1b[?25h", ""),
            ("\x1b[?25h\x1b[?7h\x1b[?2004l", ""),
            ("\x1b[?1000;1006h", "\x1b[?1006l\x1b[?1000l"),
            ("\x1b[?1000;1006h\x1b[?1000l", "\x1b[?1006l"),
            ("\x1b[?2004h\x1b[?1004h", "\x1b[?1004l\x1b[?2004l"),
            ("\x1b[?1h\x1b=", "\x1b>\x1b[?1l"),
            ("\x1b=\x1b>", ""),
            ("\x1b[>1u", "\x1b[<u"),
            ("\x1b[>1u\x1b[>3u\x1b[<u", "\x1b[<u"),
            ("\x1b[>1u\x1b[>3u\x1b[<2u", ""),
            ("\x1b[<5u", ""),
            ("\x1b[=5u", "\x1b[=0u"),
            // The alternate screen takes the keyboards with it that were set on it.
            ("\x1b[>1u\x1b[?1049h\x1b[>3u", "\x1b[<u\x1b[?1049l\x1b[<u"),
            ("\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[?1049l", "\x1b[<u"),
            ("\x1b[?1049l\x1b[>1u\x1b[?1049l", "\x1b[<u"),
            ("\x1b[>4;2m", "\x1b[>4m"),
            ("\x1b[>4;2m\x1b[>4m", ""),
            ("\x1b[5;10r", "\x1b7\x1b[r\x1b8"),
            ("\x1b[5;10r\x1b[r", ""),
            ("\x1b[4h", "\x1b[4l"),
            ("\x1b[1;31m", "\x1b[m"),
            ("\x1b[38;5;0m", "\x1b[m"),
            ("\x1b[4 q", "\x1b[0 q"),
            ("\x1b(0", "\x1b(B"),
            ("\x1b(0\x1b(B", ""),
            ("\x0e", "\x0f"),
            ("\x0e\x0f", ""),
            ("\x1b]8;;https://a.example\x1b\\", "\x1b]8;;\x1b\\"),
            ("\x1b]8;;https://a.example\x07link\x1b]8;;\x07", ""),
            ("\x1b]9;4;1;50\x07", "\x1b]9;4;0\x1b\\"),
            ("\x1b]11;#000000\x07", "\x1b]111\x1b\\"),
            ("\x1b]11;#000000\x07\x1b]111\x07", ""),
            ("\x1b[?1049h\x1b[?1000h\x1bc", ""),
            // Broken off inside a sequence.
            ("\x1b[?25l\x1bPq#0", "\x1b\\\x1b[?25h"),
        ] {
            for unfiltered in [false, true] {
                assert_eq!(undone(unfiltered, written.as_bytes()), expected, "{}", written.escape_debug());
            }
        }
    }

    #[test]
    fn what_is_put_back_can_be_switched_on_again() {
        let mut filter = Filter::new(false);
        filter.pass(b"\x1b[?1049;1006h\x1b[?25l\x1b[>1u\x1b[2;9r");
        let again = filter.modes.redo();
        let mut second = Filter::new(false);
        second.pass(&again);
        assert_eq!(second.undo(), filter.undo());
        assert!(second.pass(&filter.undo()).len() > 20 && second.undo().is_empty());
    }

    #[test]
    fn a_guest_cannot_make_it_remember_without_end() {
        let mut filter = Filter::new(false);
        for n in 0..10_000 {
            filter.pass(format!("\x1b[?{n}h\x1b[{n}h\x1b[>1u\x1b]8;;{n}\x07\x1b]4;{n};red\x07").as_bytes());
        }
        assert!(filter.undo().len() < 1000, "{}", filter.undo().len());
    }
}
