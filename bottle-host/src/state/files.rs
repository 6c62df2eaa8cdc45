//! Writing below `~/.claude-bottle` so that a crash between any two steps leaves what can be told and taken away.
//!
//! Every step is a fault point, `write`: a test ends the process before each of them.

use crate::fault;
use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use std::{
    fs::{self, DirBuilder, File},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Makes a directory and its parents, for the user alone.
pub fn private_dirs(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| format!("create {}", dir.display()))
}

/// Makes one directory, for the user alone.
pub(super) fn make_dir(dir: &Path) -> Result<()> {
    step()?;
    DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("create {}", dir.display()))
}

/// Creates a file, or opens the one that is there, for the user alone.
pub(super) fn open_private(path: &Path) -> Result<File> {
    step()?;
    let file = File::options().read(true).append(true).create(true).mode(0o600).open(path);
    file.with_context(|| format!("open {}", path.display()))
}

/// Writes a file as a whole or not at all; it has reached the disk when this returns. One writer at a time: the draft's
/// name is fixed, so that a crash leaves one draft at most, which the next writer takes over.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let draft = path.with_extension("new");
    let write = || -> Result<()> {
        step()?;
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        step()?;
        file.write_all(content)?;
        file.sync_all()?;
        step()?;
        fs::rename(&draft, path)?;
        sync_dir_of(path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Gives a directory its name.
pub(super) fn rename_dir(from: &Path, to: &Path) -> Result<()> {
    step()?;
    fs::rename(from, to).with_context(|| format!("rename {} to {}", from.display(), to.display()))?;
    sync_dir_of(to)
}

/// Removes a directory with all that is in it; `last` of it goes last.
pub(super) fn remove_tree(dir: &Path, last: &str) -> Result<()> {
    let remove = || -> Result<()> {
        let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort_by_key(|path| path.file_name().is_some_and(|name| name == last));
        for path in paths {
            step()?;
            match path.is_dir() && !path.is_symlink() {
                true => fs::remove_dir_all(&path)?,
                false => fs::remove_file(&path)?,
            }
        }
        step()?;
        Ok(fs::remove_dir(dir)?)
    };
    remove().with_context(|| format!("remove {}", dir.display()))
}

/// Removes a file.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    step()?;
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

/// Who else may hold a lock beside this one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Beside others of this kind.
    Shared,
    /// Alone.
    Exclusive,
}

/// A lock on an open file description (`F_OFD_SETLK`, fcntl(2)): it ends with the last descriptor, whatever becomes of
/// the process, and holds across a network file system. Unlike a POSIX lock, closing another descriptor of the same
/// file does not lose it.
pub(super) fn try_lock(file: &File, kind: Kind) -> bool {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole(kind))).is_ok()
}

/// The same, waiting for whoever holds it.
pub(super) fn lock(file: &File, kind: Kind) -> Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLKW(&whole(kind))).map(drop).context("wait for a lock")
}

fn whole(kind: Kind) -> nix::libc::flock {
    let l_type = match kind {
        Kind::Shared => nix::libc::F_RDLCK,
        Kind::Exclusive => nix::libc::F_WRLCK,
    };
    nix::libc::flock { l_type: l_type as i16, l_whence: nix::libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Makes sure that a new name has reached the disk.
fn sync_dir_of(path: &Path) -> Result<()> {
    Ok(File::open(path.parent().context("a file has a directory")?)?.sync_all()?)
}

fn step() -> Result<()> {
    fault::point("write").map_err(|error| error.into_std().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_for_as_long_as_its_file_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let open = || open_private(&dir.path().join("lock")).unwrap();
        let (first, second) = (open(), open());
        assert!(try_lock(&first, Kind::Shared) && try_lock(&second, Kind::Shared));
        assert!(!try_lock(&first, Kind::Exclusive));
        drop(second);
        assert!(try_lock(&first, Kind::Exclusive));
        drop(open()); // a POSIX lock would be lost by this
        assert!(!try_lock(&open(), Kind::Shared));
    }
}
