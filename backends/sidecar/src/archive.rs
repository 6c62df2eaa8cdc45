//! Trees into and out of a bottle whose engine copies single files without their modes: one archive, packed and unpacked
//! in the bottle, as its root.

use anyhow::{Context, Result};
use std::{
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};
use tar::{Archive, Builder, EntryType, Header};

/// Unpacks standard input: owners, modes, times and links as they are in it.
pub(crate) fn unpack(dest: &str) -> Result<()> {
    let mut archive = Archive::new(io::stdin().lock());
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_overwrite(true);
    archive.unpack(dest).with_context(|| format!("unpack into {dest}"))?;
    // What follows the archive's end is read, too: the other side must not find the pipe broken.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

/// Packs a path to standard output, below its last name. Links are packed as links, what is no file as nothing.
pub(crate) fn pack(path: &str) -> Result<()> {
    let path = Path::new(path);
    // Before anything is written: an archive of nothing would say that there was something.
    fs::symlink_metadata(path).with_context(|| format!("pack {}", path.display()))?;
    let mut to = Builder::new(BufWriter::with_capacity(256 << 10, io::stdout().lock()));
    to.follow_symlinks(false);
    let name = path.file_name().map_or_else(|| PathBuf::from("."), PathBuf::from);
    add(&mut to, path, &name).with_context(|| format!("pack {}", path.display()))?;
    Ok(to.into_inner()?.flush()?)
}

fn add(to: &mut Builder<impl Write>, path: &Path, name: &Path) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        to.append_dir(name, path)?;
        let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            match add(to, &entry.path(), &name.join(entry.file_name())) {
                // It went away meanwhile: the bottle lives on.
                Err(error) if is_gone(&error) => {}
                result => result?,
            }
        }
    } else if kind.is_symlink() {
        let mut header = Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        to.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if !(kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device()) {
        to.append_path_with_name(path, name)?;
    }
    Ok(())
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}
