//! What was found: the rule's name and the place, never the value.

use crate::rule::Severity;
use std::{borrow::Cow, fmt};

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A secret that is known by its value. The rule is the secret's name.
    Exact,
    /// Pieces of one, sent one after the other.
    Split,
    /// A credential by its form.
    Pattern,
    /// A name or an identifier that looks like encoded data.
    Entropy,
    /// What cannot be decoded: nobody can say what is in it.
    Opaque,
    /// Words that give an agent orders.
    Injection,
    /// A message that asks for what it should not: a poisoned tool, a hidden command.
    Structure,
    /// A host that the caller's list names.
    Listed,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Finding {
    /// The rule's stable name, or the secret's.
    pub rule: Cow<'static, str>,
    /// What kind of thing it is.
    pub kind: Kind,
    /// How bad it is.
    pub severity: Severity,
    /// Which part of the message: `body`, `query`, `header cookie`.
    pub place: Cow<'static, str>,
    /// Where in that part it begins, in the bytes that were sent.
    pub start: u64,
    /// Where it ends there.
    pub end: u64,
    /// What had to be decoded, from the outside: `base64 > gzip`. Empty if nothing had to be.
    pub decoders: String,
}

impl Finding {
    /// Whether it stops a message wherever patterns do: what is likely a credential, not what only looks like one.
    pub fn blocks(&self) -> bool {
        self.severity >= Severity::High
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} at {}", self.rule, self.place, self.start)?;
        if !self.decoders.is_empty() {
            write!(f, " ({})", self.decoders)?;
        }
        Ok(())
    }
}
