//! What a workspace began with: enough to tell whether a file is as it came.

use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

/// What came along. Names are relative to the workspace.
#[derive(Default)]
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

impl Print {
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
