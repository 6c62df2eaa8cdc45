//! What a workspace began with: enough to tell whether a file is as it came.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

/// What came along. Names are relative to the workspace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Files and links.
    pub prints: BTreeMap<Vec<u8>, Print>,
    /// Tracked files that were not there.
    pub missing: BTreeSet<Vec<u8>>,
    /// Ignored files came along, too.
    pub ignored: bool,
    /// The commits that branches, tags and `HEAD` stood at.
    pub bases: Vec<String>,
}

/// A file's or a link's mode, length and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Print {
    /// Permission bits; none for a link.
    pub mode: Option<u32>,
    /// Bytes of the content, or of the link's target.
    pub size: u64,
    /// SHA-256 of them.
    pub hash: [u8; 32],
}

/// As it is kept in a state directory: records that end with NUL, of a word and what belongs to it.
impl Came {
    /// All of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![];
        let mut record = |word: &str, name: &[u8]| out.extend([word.as_bytes(), b" ", name, b"\0"].concat());
        if self.ignored {
            record("ignored", b"");
        }
        self.bases.iter().for_each(|base| record("base", base.as_bytes()));
        self.missing.iter().for_each(|name| record("missing", name));
        for (name, print) in &self.prints {
            let hash: String = print.hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let word = match print.mode {
                Some(mode) => format!("file {mode:o} {} {hash}", print.size),
                None => format!("link 0 {} {hash}", print.size),
            };
            record(&word, name);
        }
        out
    }

    /// What [`Came::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut came = Self::default();
        for record in bytes.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let mut words = record.splitn(2, |byte| *byte == b' ');
            let (word, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            match word {
                b"ignored" => came.ignored = true,
                b"base" => came.bases.push(String::from_utf8(rest.to_vec())?),
                b"missing" => drop(came.missing.insert(rest.to_vec())),
                b"file" | b"link" => {
                    let (name, mut print) = decode_print(rest).context("a record of a file that is none")?;
                    print.mode = print.mode.filter(|_| word == b"file");
                    came.prints.insert(name, print);
                }
                _ => bail!("a record of another kind"),
            }
        }
        Ok(came)
    }
}

/// Mode, size, hash and name.
fn decode_print(rest: &[u8]) -> Option<(Vec<u8>, Print)> {
    let mut words = rest.splitn(4, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let (mode, size, hex) = (u32::from_str_radix(word()?, 8).ok()?, word()?.parse().ok()?, word()?.to_owned());
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some((words.next()?.to_vec(), Print { mode: Some(mode), size, hash }))
}

impl Print {
    /// A file's.
    pub(crate) fn file(mode: u32, size: u64, content: impl Read) -> io::Result<Self> {
        let mut content = Hashing::new(content);
        io::copy(&mut content, &mut io::sink())?;
        Ok(Self { mode: Some(mode), size, hash: content.hash() })
    }

    /// A link's.
    pub fn link(target: &[u8]) -> Self {
        Self { mode: None, size: target.len() as u64, hash: Sha256::digest(target).into() }
    }
}

/// Hashes what is read through it.
pub(crate) struct Hashing<R> {
    from: R,
    hasher: Sha256,
}

impl<R> Hashing<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, hasher: Sha256::new() }
    }

    pub(crate) fn hash(self) -> [u8; 32] {
        self.hasher.finalize().into()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(to)?;
        self.hasher.update(&to[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_read_as_it_was_written_and_nothing_else_is() {
        let mut came = Came { ignored: true, bases: vec!["ab".repeat(20)], ..Came::default() };
        came.missing.insert(b"gone \xff\n".to_vec());
        came.prints.insert(b"a b/c\n".to_vec(), Print { mode: Some(0o755), ..Print::link(b"x") });
        came.prints.insert(b" ".to_vec(), Print::link(b"/etc"));
        assert_eq!(Came::decode(&came.encode()).unwrap(), came);
        assert_eq!(Came::decode(b"").unwrap(), Came::default());
        for wrong in [&b"file 644 1 00 a"[..], b"what", b"file", b"file 644 x 00", b"link 0 1"] {
            assert!(Came::decode(wrong).is_err(), "{wrong:?}");
        }
    }
}
