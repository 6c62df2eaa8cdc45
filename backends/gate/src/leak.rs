//! What was found in a push: where it stands and which rule says so. Never the value, and no name that holds it.

use crate::words::plain;
use bottle_scan::{Context, Finding, Kind, Scanner};
use std::{fmt, sync::Arc};

/// Of a path, as it is shown.
const LONGEST: usize = 200;
/// Stands for a name in which something was found.
const WITHHELD: &str = "(name withheld)";

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Leak {
    /// The commit that brought it; none for what no commit holds.
    pub commit: Option<String>,
    /// Where it stands.
    pub place: Place,
    /// The rule's name, or the secret's.
    pub rule: String,
    /// What had to be decoded, from the outside; empty if nothing had to be.
    pub decoders: String,
}

/// A part of a push.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The name of a ref.
    RefName,
    /// The name of a file or a directory in this directory, or what a submodule's entry there says.
    FileName(String),
    /// A file, or its target if it is a link.
    File(String, At),
    /// A commit's own text.
    Commit(At),
    /// A tag's own text.
    Tag(At),
}

/// A place in an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// The field of a head: `author`.
    Field(String),
    /// A line, from 1 on.
    Line(u64),
    /// A byte of what is no text, from 0 on.
    Byte(u64),
    /// No one place: the rest has gone before.
    Pieces,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, "field {name}"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Byte(byte) => write!(f, "byte {byte}"),
            Self::Pieces => f.write_str("in pieces"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RefName => f.write_str("the name of the ref"),
            Self::FileName(dir) if dir.is_empty() => f.write_str("the name of a file at the top"),
            Self::FileName(dir) => write!(f, "the name of a file in {dir}"),
            Self::File(path, at) => write!(f, "{path}, {at}"),
            Self::Commit(At::Field(name)) => write!(f, "the commit's {name}"),
            Self::Commit(at) => write!(f, "the commit's message, {at}"),
            Self::Tag(At::Field(name)) => write!(f, "the tag's {name}"),
            Self::Tag(at) => write!(f, "the tag's message, {at}"),
        }
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(commit) = &self.commit {
            write!(f, "commit {}: ", commit.get(..12).unwrap_or(commit))?;
        }
        write!(f, "{}: {}", self.place, self.rule)?;
        if !self.decoders.is_empty() {
            write!(f, " ({})", self.decoders)?;
        }
        Ok(())
    }
}

/// Does this stop a push? A file is read by people and programs, not by an agent that would follow its orders, and code
/// that calls tools is code: only what gives a secret away counts.
pub(crate) fn is_leak(finding: &Finding) -> bool {
    match finding.kind {
        Kind::Exact | Kind::Split | Kind::Opaque | Kind::Listed => true,
        Kind::Pattern => finding.blocks(),
        Kind::Entropy | Kind::Injection | Kind::Structure => false,
    }
}

/// A path as it may be shown: one line, and no part of it in which something is found.
pub(crate) fn shown(scanner: &Arc<Scanner>, context: &Context, path: &[u8]) -> String {
    let found = |text: &[u8]| scanner.judge_body(context, "", text).iter().any(is_leak);
    let part = |part: &[u8]| match found(part) {
        true => WITHHELD.to_owned(),
        false => plain(&String::from_utf8_lossy(part)),
    };
    if !found(path) {
        return cut(plain(&String::from_utf8_lossy(path)));
    }
    let parts: Vec<String> = path.split(|b| *b == b'/').map(part).collect();
    match parts.iter().any(|part| part == WITHHELD) {
        true => cut(parts.join("/")),
        // It stands in several of them.
        false => WITHHELD.into(),
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}
