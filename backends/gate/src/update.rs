//! What a push wants to change: `OLD NEW REF` lines, as git gives them to `pre-receive`, and packets of the same to
//! `proc-receive`.

use std::{fmt, str::FromStr};
use thiserror::Error;

/// The name of an object: hexadecimal, of SHA-1 or SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectId(String);

impl ObjectId {
    /// In hexadecimal.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does it stand for no object?
    pub(crate) fn is_zero(&self) -> bool {
        self.0.bytes().all(|digit| digit == b'0')
    }
}

impl FromStr for ObjectId {
    type Err = UpdateError;

    fn from_str(text: &str) -> Result<Self, UpdateError> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.len() {
            40 | 64 if text.bytes().all(is_digit) => Ok(Self(text.to_owned())),
            _ => Err(UpdateError::Object),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A line that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UpdateError {
    /// One of its objects.
    #[error("git named an object that has no name of one")]
    Object,
    /// Its parts.
    #[error("git told of an update that is not `OLD NEW REF`")]
    Shape,
    /// The ref's name.
    #[error("a ref's name is not UTF-8; rename it")]
    Name,
}

/// One ref of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What it has; `None`: it is not there.
    pub old: Option<ObjectId>,
    /// What it is to have; `None`: it is to go.
    pub new: Option<ObjectId>,
    /// The ref.
    pub name: String,
}

impl Update {
    /// Reads `OLD NEW REF`, without the end of the line.
    pub fn parse(line: &[u8]) -> Result<Self, UpdateError> {
        let mut parts = line.splitn(3, |b| *b == b' ').map(std::str::from_utf8);
        let (Some(old), Some(new), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(UpdateError::Shape);
        };
        let object = |text: Result<&str, _>| {
            let id: ObjectId = text.map_err(|_| UpdateError::Object)?.parse()?;
            Ok((!id.is_zero()).then_some(id))
        };
        let (old, new) = (object(old)?, object(new)?);
        let name = name.map_err(|_| UpdateError::Name)?;
        if name.is_empty() || name.contains(['\n', '\0', ' ']) || (old.is_none() && new.is_none()) {
            return Err(UpdateError::Shape);
        }
        Ok(Self { old, new, name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_read_whole_or_not_at_all() {
        let (zero, one, two) = ("0".repeat(40), "1".repeat(40), "a2".repeat(32));
        let of = |line: &str| Update::parse(line.as_bytes());
        let created = of(&format!("{zero} {one} refs/heads/a")).unwrap();
        assert_eq!(
            (created.old, created.new.unwrap().to_string(), created.name.as_str()),
            (None, one.clone(), "refs/heads/a")
        );
        assert!(of(&format!("{two} {} refs/heads/a", "0".repeat(64))).unwrap().new.is_none());
        for (line, expected) in [
            (String::new(), UpdateError::Shape),
            (format!("{zero} {one}"), UpdateError::Shape),
            (format!("{zero} {zero} refs/heads/a"), UpdateError::Shape),
            (format!("{zero} {one} "), UpdateError::Shape),
            (format!("{zero} {one} refs/heads/a b"), UpdateError::Shape),
            (format!("{zero} {one} refs/heads/a\n"), UpdateError::Shape),
            (format!("{zero} --all refs/heads/a"), UpdateError::Object),
            (format!("{zero} {} refs/heads/a", "A".repeat(40)), UpdateError::Object),
            (format!("{zero} {} refs/heads/a", "1".repeat(41)), UpdateError::Object),
        ] {
            assert_eq!(of(&line), Err(expected), "{line:?}");
        }
        let strange = [zero.as_bytes(), b" ", one.as_bytes(), b" refs/heads/\xff"].concat();
        assert_eq!(Update::parse(&strange), Err(UpdateError::Name));
    }
}
