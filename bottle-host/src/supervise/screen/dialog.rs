//! What is asked of the operator: a word to the agent before a decision, or what to look for in the log.

use super::text;
use crate::{supervise::desk::Decision, ui};
use bottle_policy::Proposal;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Characters of a reason or a note: an agent reads it, and it is kept for good.
const MAX_TEXT: usize = 1000;

/// A line that is being typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(pub(super) String);

impl Line {
    /// A key; did it change the line?
    pub(super) fn key(&mut self, key: KeyEvent) -> bool {
        match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
            (KeyCode::Char('u'), true) => self.0.clear(),
            (KeyCode::Char('w'), true) => {
                let word = self.0.trim_end().rfind(' ').map_or(0, |at| at + 1);
                self.0.truncate(word);
            }
            (KeyCode::Char('h'), true) | (KeyCode::Backspace, _) => drop(self.0.pop()),
            (KeyCode::Char(c), false) => self.paste(c.encode_utf8(&mut [0; 4])),
            _ => return false,
        }
        true
    }

    /// What was pasted, in one line, without what nobody would see.
    pub(super) fn paste(&mut self, text: &str) {
        let room = MAX_TEXT.saturating_sub(self.0.chars().count());
        let text = text.chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c });
        self.0.extend(text.filter(|c| ui::is_seen(*c)).take(room));
    }

    /// Its end, in so many columns, where the cursor is.
    pub(super) fn shown(&self, width: usize) -> String {
        text::fitted_end(&self.0, width)
    }
}

/// What is going to be said to a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes, for good.
    Approve,
    /// Yes, for this session.
    Once,
    /// No.
    Reject,
}

/// A decision that waits for its last key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deciding {
    /// Whose proposal.
    pub(super) identity: String,
    /// Which: it stays this one, whatever else comes or goes.
    pub(super) id: String,
    /// Yes or no.
    pub(super) verdict: Verdict,
    /// What the operator made of it, where that is something else.
    pub(super) changed: Option<Proposal>,
    /// A note, or a reason.
    pub(super) line: Line,
}

impl Deciding {
    /// As the bottle's owner takes it.
    pub(super) fn decision(&self) -> Decision {
        let text = self.line.0.trim().to_owned();
        let once = self.verdict == Verdict::Once;
        match (self.verdict, &self.changed) {
            (Verdict::Reject, _) => Decision::Reject { reason: text },
            (_, None) => Decision::Approve { once, note: text },
            (_, Some(proposal)) => Decision::Modify { proposal: proposal.clone(), once, note: text },
        }
    }

    /// What Enter does.
    pub(super) fn title(&self) -> &'static str {
        match (self.verdict, self.changed.is_some()) {
            (Verdict::Approve, false) => "Approve, for good",
            (Verdict::Once, false) => "Approve, for this session only",
            (Verdict::Approve, true) => "Approve as changed, for good",
            (Verdict::Once, true) => "Approve as changed, for this session only",
            (Verdict::Reject, _) => "Reject",
        }
    }

    /// For good, or for this session only.
    pub(super) fn toggle(&mut self) {
        self.verdict = match self.verdict {
            Verdict::Approve => Verdict::Once,
            Verdict::Once => Verdict::Approve,
            Verdict::Reject => Verdict::Reject,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_takes_what_is_seen_and_no_more_than_fits() {
        let mut line = Line::default();
        line.paste("two words\r\n\x1b[31m\u{202e}x");
        assert_eq!(line.0, "two words  [31mx");
        for (code, modifiers, expected) in [
            (KeyCode::Backspace, KeyModifiers::NONE, "two words  [31m"),
            (KeyCode::Char('w'), KeyModifiers::CONTROL, "two words  "),
            (KeyCode::Char('w'), KeyModifiers::CONTROL, "two "),
            (KeyCode::Char('É'), KeyModifiers::SHIFT, "two É"),
            (KeyCode::Char('u'), KeyModifiers::CONTROL, ""),
            (KeyCode::Backspace, KeyModifiers::NONE, ""),
        ] {
            assert!(line.key(KeyEvent::new(code, modifiers)));
            assert_eq!(line.0, expected);
        }
        assert!(!line.key(KeyCode::Left.into()));
        line.paste(&"x".repeat(10_000_000));
        assert_eq!(line.0.chars().count(), MAX_TEXT);
        assert_eq!(line.shown(5), "…xxxx");
    }
}
