//! Where in an object something stands: for those in which something was found, read a second time.

use crate::{
    git::{Children, Repository},
    leak::At,
    objects::{Head, Kind},
    scan::ScanError,
};
use std::{
    io::{BufReader, Read},
    process::Stdio,
    time::Duration,
};

/// Git's own measure of what is text: no NUL in so many bytes.
const TEXT: usize = 8000;
/// The longest head of a commit or a tag that is read for its fields.
const LONGEST_FIELD: usize = 64;

/// The place of a byte. What git cannot give again is told by its byte.
pub(crate) fn locate(repository: &Repository, head: &Head, start: u64, limit: Duration) -> Result<At, ScanError> {
    let mut children = Children::default();
    let mut cat = repository.command(["cat-file", head.kind.name(), head.id.as_str()]);
    let bytes = children.start(cat.stdout(Stdio::piped()))?.stdout.take().ok_or(ScanError::Output)?;
    drop(cat);
    let watch = children.watch(limit)?;
    let at = find(BufReader::new(bytes), head.kind, start);
    // It may be told to stop before its end: how it ended says nothing.
    children.wait(watch)?;
    Ok(at?)
}

fn find(mut bytes: impl Read, kind: Kind, start: u64) -> std::io::Result<At> {
    let mut place = Lines { in_head: matches!(kind, Kind::Commit | Kind::Tag), line: 1, ..Lines::default() };
    let mut buffer = [0; 64 << 10];
    let mut at = 0;
    loop {
        let length = bytes.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        if at == 0 && kind == Kind::Blob && buffer[..length.min(TEXT)].contains(&0) {
            return Ok(At::Byte(start));
        }
        for byte in &buffer[..length] {
            if at == start {
                return Ok(place.here());
            }
            place.pass(*byte);
            at += 1;
        }
    }
    Ok(place.here())
}

/// Where a reader is.
#[derive(Default)]
struct Lines {
    line: u64,
    in_head: bool,
    field: Vec<u8>,
    /// The field's name has ended.
    named: bool,
    column: u64,
}

impl Lines {
    fn pass(&mut self, byte: u8) {
        if byte == b'\n' {
            // An empty line ends a head; the message's lines count from 1.
            (self.in_head, self.line) = match (self.in_head, self.column) {
                (true, 0) => (false, 1),
                (in_head, _) => (in_head, self.line + 1),
            };
            (self.column, self.named) = (0, false);
            return;
        }
        if self.in_head {
            match (self.column, byte) {
                // A field goes on in lines that begin with a space.
                (0, b' ') => self.named = true,
                (0, _) => self.field = vec![byte],
                (_, b' ') => self.named = true,
                _ if !self.named && self.field.len() < LONGEST_FIELD => self.field.push(byte),
                _ => {}
            }
        }
        self.column += 1;
    }

    fn here(&self) -> At {
        // Only git's own names are shown: anything else may be what was found.
        const FIELDS: [&str; 10] = [
            "tree",
            "parent",
            "author",
            "committer",
            "encoding",
            "gpgsig",
            "gpgsig-sha256",
            "mergetag",
            "object",
            "tagger",
        ];
        match self.in_head {
            true => {
                let name = String::from_utf8_lossy(&self.field);
                let known = FIELDS.iter().chain(&["type", "tag"]).find(|field| **field == name);
                At::Field(known.map_or_else(|| "head".into(), |field| (*field).into()))
            }
            false => At::Line(self.line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_told_by_its_line_or_its_field() {
        let commit = "tree 0\nauthor A <a@b> 1 +0\ngpgsig one\n two\nsecret: x\n\nfirst\nsecond";
        let binary = "a\0b\nc";
        let field = |name: &str| At::Field(name.into());
        for (kind, text, after, expected) in [
            (Kind::Commit, commit, "author A", field("author")),
            (Kind::Commit, commit, "gpgsig one\n t", field("gpgsig")),
            (Kind::Commit, commit, "secret: ", field("head")),
            (Kind::Commit, commit, "fir", At::Line(1)),
            (Kind::Commit, commit, "sec", At::Field("head".into())),
            (Kind::Commit, commit, "first\nsec", At::Line(2)),
            (Kind::Blob, commit, "tr", At::Line(1)),
            (Kind::Blob, commit, "first\nsec", At::Line(8)),
            (Kind::Blob, binary, "a\0b\n", At::Byte(4)),
            (Kind::Blob, "", "", At::Line(1)),
        ] {
            let start = (text.find(after).unwrap() + after.len()) as u64;
            assert_eq!(find(text.as_bytes(), kind, start).unwrap(), expected, "{kind:?} {after:?}");
        }
    }
}
