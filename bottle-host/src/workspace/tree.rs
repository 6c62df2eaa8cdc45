//! A directory of which nothing is trusted: everything is opened below it and through no link, whatever becomes of it
//! meanwhile (openat2(2)).

use super::{Budget, Shown};
use crate::random;
use anyhow::{Context, Result};
use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags, mkdirat, open, openat, openat2, readlinkat,
        renameat, statat, symlinkat, unlinkat,
    },
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Permission bits that come along: no set-user-id, no sticky.
const PERMISSIONS: RawMode = 0o777;

/// A directory.
pub(crate) struct Tree(OwnedFd);

/// What a name stands for.
pub(crate) enum Found {
    Nothing,
    Directory(u32),
    /// A plain file, opened.
    File {
        mode: u32,
        size: u64,
        modified: u64,
        file: File,
    },
    /// A link, and what it says.
    Link(Vec<u8>),
    /// Something that stays behind.
    Skipped(&'static str),
}

impl Tree {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(open(dir, flags, Mode::empty()).with_context(|| format!("open {}", dir.display()))?))
    }

    fn beneath(&self, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let name = if name.is_empty() { b"." } else { name };
        openat2(&self.0, OsStr::from_bytes(name), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), how)
    }

    /// Looks at a name, and opens what is a plain file.
    pub(crate) fn look(&self, name: &[u8]) -> Result<Found> {
        // Looked at before it is opened: opening a device, or a pipe that nobody writes to, does something.
        let fd = match self.beneath(name, OFlags::PATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Found::Nothing),
            Err(Errno::LOOP | Errno::XDEV) => return Ok(Found::Skipped("through a link or out of the directory")),
            Err(Errno::AGAIN) => return Ok(Found::Skipped("moved meanwhile")),
            Err(Errno::ACCESS) => return Ok(Found::Skipped("unreadable")),
            Err(error) => return Err(error).with_context(|| format!("look at {}", String::from_utf8_lossy(name))),
        };
        let stat = statat(&fd, c"", AtFlags::EMPTY_PATH)?;
        let mode = stat.st_mode & PERMISSIONS;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory(mode),
            FileType::Symlink => Found::Link(readlinkat(&fd, c"", vec![])?.into_bytes()),
            FileType::RegularFile => match File::open(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
                Ok(file) => Found::File {
                    mode,
                    size: u64::try_from(stat.st_size).unwrap_or(0),
                    modified: u64::try_from(stat.st_mtime).unwrap_or(0),
                    file,
                },
                Err(_) => Found::Skipped("unreadable"),
            },
            _ => Found::Skipped("a pipe, socket or device"),
        })
    }

    /// The names in a directory below; none where it is no directory.
    pub(crate) fn names(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>> {
        let fd = match self.beneath(dir, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS) => return Ok(vec![]),
            Err(error) => return Err(error).with_context(|| format!("read {}", String::from_utf8_lossy(dir))),
        };
        let mut names = vec![];
        for entry in Dir::new(fd)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Everything below, directories before what is in them. What belongs to git stays behind, at any depth.
    pub(super) fn walk(&self, budget: &Budget<'_>, shown: &mut Shown) -> Result<Vec<Vec<u8>>> {
        let (mut found, mut dirs) = (vec![], vec![vec![]]);
        while let Some(dir) = dirs.pop() {
            for name in self.names(&dir)? {
                budget.check()?;
                let path = join(&dir, &name);
                if is_gits(&name) {
                    if !dir.is_empty() {
                        shown.skip("a repository of its own: its history", &dir);
                    }
                    continue;
                }
                if let Found::Directory(_) = self.look(&path)? {
                    dirs.push(path.clone());
                }
                found.push(path);
                if found.len() > super::MAX_FILES * 2 {
                    return Err(super::too_much(format!("there are more than {} files", super::MAX_FILES)));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

/// What is put somewhere.
pub(crate) enum Place<'a> {
    /// A link that says this.
    Link(&'a [u8]),
    /// A plain file.
    File {
        /// It may be run.
        runs: bool,
        /// What is in it.
        content: &'a mut dyn Read,
    },
}

impl Tree {
    /// Puts something at a name, over a file or link that is there: whole, or not at all. Directories above are made.
    pub(crate) fn put(&self, name: &[u8], place: Place<'_>) -> Result<()> {
        let (dir, last) = self.above(name)?;
        let draft = format!(".bottle-{}.new", random::hex::<8>()?);
        let made = match place {
            Place::Link(target) => Ok(symlinkat(OsStr::from_bytes(target), &dir, &draft)?),
            Place::File { runs, content } => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(if runs { 0o777 } else { 0o666 });
                let mut file = File::from(openat(&dir, &draft, flags, mode)?);
                io::copy(content, &mut file).and_then(|_| file.sync_all()).map_err(Into::into)
            }
        };
        let put = made.and_then(|()| Ok(renameat(&dir, &draft, &dir, OsStr::from_bytes(last))?));
        put.inspect_err(|_| {
            let _ = unlinkat(&dir, &draft, AtFlags::empty());
        })
    }

    /// Removes a file or a link.
    pub(crate) fn remove(&self, name: &[u8]) -> Result<()> {
        let (dir, last) = self.above(name)?;
        match unlinkat(&dir, OsStr::from_bytes(last), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// The directory above a name, made where it is not there, and the name in it.
    fn above<'n>(&self, name: &'n [u8]) -> Result<(OwnedFd, &'n [u8])> {
        let at = name.iter().rposition(|byte| *byte == b'/');
        let (dir, last) = at.map_or((&b""[..], name), |at| (&name[..at], &name[at + 1..]));
        let mut above = self.beneath(b"", OFlags::PATH | OFlags::DIRECTORY)?;
        for part in dir.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            match mkdirat(&above, OsStr::from_bytes(part), Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            above = Self(above).beneath(part, OFlags::PATH | OFlags::DIRECTORY)?;
        }
        Ok((above, last))
    }
}

/// Is this what git keeps its own things under, on any file system?
pub(crate) fn is_gits(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b".git")
}

pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
