//! The archive that goes to the backend: relative to `/`, everything the agent's.

use super::{
    Budget,
    came::{Hashing, Print},
    tree::{Found, Tree},
};
use anyhow::{Context, Result};
use bottle_api::{AGENT_UID, WORKSPACE};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};
use tar::{Builder, EntryType, Header};

/// What GNU tar names an entry that holds the next one's link.
const LONG_LINK: &[u8] = b"././@LongLink";

pub(super) struct Archive<'a> {
    tar: Builder<BufWriter<File>>,
    /// Directories that are in it.
    made: BTreeSet<Vec<u8>>,
    budget: Budget<'a>,
}

impl<'a> Archive<'a> {
    pub(super) fn create(path: &Path, budget: Budget<'a>) -> Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut archive = Self { tar: Builder::new(BufWriter::new(file)), made: BTreeSet::new(), budget };
        archive.directory(b"", 0o755)?;
        Ok(archive)
    }

    pub(super) fn budget(&self) -> &Budget<'a> {
        &self.budget
    }

    pub(super) fn directory(&mut self, name: &[u8], mode: u32) -> Result<()> {
        if self.made.insert(name.to_vec()) {
            let mut header = header(EntryType::Directory, mode | 0o700, 0, 0);
            self.tar.append_data(&mut header, path(name), io::empty())?;
        }
        Ok(())
    }

    /// The directories above a name, as they are in the tree.
    pub(super) fn parents(&mut self, tree: &Tree, name: &[u8]) -> Result<()> {
        for (at, _) in name.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let dir = &name[..at];
            if !self.made.contains(dir) {
                let mode = if let Found::Directory(mode) = tree.look(dir)? { mode } else { 0o755 };
                self.directory(dir, mode)?;
            }
        }
        Ok(())
    }

    /// A file. One that shrinks meanwhile is filled up with zeros.
    pub(super) fn file(&mut self, name: &[u8], mode: u32, size: u64, modified: u64, file: impl Read) -> Result<Print> {
        self.budget.spend(name, size)?;
        let mut header = header(EntryType::Regular, mode, size, modified);
        let mut content = Hashing::new(file.chain(io::repeat(0)).take(size));
        self.tar.append_data(&mut header, path(name), &mut content)?;
        Ok(Print { mode: Some(mode), size, hash: content.hash() })
    }

    pub(super) fn link(&mut self, name: &[u8], target: &[u8]) -> Result<Print> {
        self.budget.spend(name, target.len() as u64)?;
        let mut link = header(EntryType::Symlink, 0o777, 0, 0);
        // `append_link` would tidy the target up, and it would not be as it came.
        if link.set_link_name_literal(target).is_err() {
            let mut long = header(EntryType::GNULongLink, 0o644, target.len() as u64 + 1, 0);
            long.as_old_mut().name[..LONG_LINK.len()].copy_from_slice(LONG_LINK);
            long.set_cksum();
            self.tar.append(&long, target.chain(&b"\0"[..]))?;
        }
        self.tar.append_data(&mut link, path(name), io::empty())?;
        Ok(Print::link(target))
    }

    /// A directory of our own making as `.git`.
    pub(super) fn history(&mut self, dir: &Path) -> Result<()> {
        let mut dirs = vec![PathBuf::new()];
        while let Some(below) = dirs.pop() {
            let name = |path: &Path| Path::new(".git").join(path).as_os_str().as_bytes().to_vec();
            self.directory(name(&below).strip_suffix(b"/").unwrap_or(&name(&below)), 0o755)?;
            for entry in fs::read_dir(dir.join(&below))? {
                let (entry, metadata) = entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?)))?;
                let path = below.join(entry);
                if metadata.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let file = File::open(dir.join(&path))?;
                self.file(&name(&path), metadata.permissions().mode() & 0o666 | 0o600, metadata.len(), 0, file)?;
            }
        }
        Ok(())
    }

    /// Returns how many bytes of files are in it.
    pub(super) fn finish(self) -> Result<u64> {
        let bytes = self.budget.spent();
        self.tar.into_inner()?.flush().context("write the archive")?;
        Ok(bytes)
    }
}

fn path(name: &[u8]) -> PathBuf {
    let mut path = Path::new(WORKSPACE.trim_start_matches('/')).to_owned();
    if !name.is_empty() {
        path.push(OsStr::from_bytes(name));
    }
    path
}

fn header(kind: EntryType, mode: u32, size: u64, modified: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(AGENT_UID.into());
    header.set_gid(AGENT_UID.into());
    header.set_size(size);
    header.set_mtime(modified);
    header
}
