//! What of this machine stands in a bottle: its system, read-only, and nothing that says who uses it.
//!
//! Everything is taken while the machine's tree can still be seen, each as a mount that stands nowhere yet. Symbolic links
//! are copied. Where the bottle has entries of its own in a directory of the system, it has the directory itself, too, and
//! the system's entries in it one by one.

use crate::{
    sys::{self, NO_DEVICES, NO_EXEC, NO_SETUID, READ_ONLY},
    wire::{Bind, Launch},
};
use anyhow::{Context, Result};
use bottle_api::HELPER_PATH;
use rustix::{
    fs::{CWD, fstat},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};
use std::{
    fs::{self, FileType},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Of the machine's settings: what programs need to run, and nothing that names a user, a host or a secret.
const SETTINGS: [&str; 22] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "timezone",
    "profile",
    "bash.bashrc",
    "inputrc",
    "terminfo",
    "mime.types",
    "magic",
    "services",
    "protocols",
    "ethertypes",
    "debian_version",
    "os-release",
    "lsb-release",
    "python3",
    "perl",
    "java",
    "ssl/openssl.cnf",
];
/// Of these, what finds a program's libraries.
const LINKER: [&str; 4] = ["ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"];
/// Below `/`, where they are no links into `/usr`.
const SYSTEM: [&str; 8] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];
/// Directories of the system in which the bottle has entries of its own.
const OWN: [&str; 4] = ["/usr", "/usr/local", "/usr/local/libexec", "/usr/local/sbin"];
/// Devices that are nobody's.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// A mount that stands nowhere yet.
pub(crate) struct Source {
    pub(crate) mount: OwnedFd,
    pub(crate) to: PathBuf,
    pub(crate) is_dir: bool,
}

/// All of them, in the order in which they are put up.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) mounts: Vec<Source>,
    /// Where, and to what.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
    /// These stand below file systems of the bottle's own, and come after them.
    pub(crate) late: Vec<Source>,
}

impl Sources {
    /// Of a bottle.
    pub(crate) fn take(launch: &Launch) -> Result<Self> {
        let mut taken = Self::default();
        for path in SYSTEM {
            taken.system(Path::new(path))?;
        }
        for path in OWN {
            taken.entries(Path::new(path))?;
        }
        taken.settings(&SETTINGS)?;
        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            taken.mounts.push(take(&path, &path, NO_SETUID | NO_EXEC)?);
        }
        let helper = Bind { from: launch.helper.clone(), to: HELPER_PATH.into() };
        for Bind { from, to } in [&helper].into_iter().chain(&launch.binds) {
            taken.late.push(take(Path::new(from), Path::new(to), NO_SETUID | NO_DEVICES)?);
        }
        taken.links.extend(launch.links.iter().map(|(at, to)| (at.into(), to.into())));
        Ok(taken)
    }

    /// What the machine's own programs need to run, for a sidecar that runs some.
    pub(crate) fn programs(&mut self) -> Result<()> {
        for path in SYSTEM.into_iter().chain(["/usr"]) {
            self.system(Path::new(path))?;
        }
        self.settings(&LINKER)
    }

    fn settings(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            let path = Path::new("/etc").join(name);
            self.mounts.extend(take_if_there(&path, &path, NO_SETUID | NO_DEVICES | NO_EXEC)?);
        }
        Ok(())
    }

    /// A directory or file where it is on the machine; a link as a link; nothing where there is none.
    fn system(&mut self, path: &Path) -> Result<()> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => self.entry(path.to_owned(), metadata.file_type()),
            Err(_) => Ok(()),
        }
    }

    fn entry(&mut self, path: PathBuf, kind: FileType) -> Result<()> {
        if kind.is_symlink() {
            let to = fs::read_link(&path)?;
            self.links.push((path, to));
        } else if kind.is_dir() || kind.is_file() {
            self.mounts.push(take(&path, &path, NO_SETUID | NO_DEVICES)?);
        }
        Ok(())
    }

    /// A directory's entries, but for directories that are the bottle's own.
    fn entries(&mut self, dir: &Path) -> Result<()> {
        let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            if !OWN.iter().any(|own| Path::new(own) == entry.path()) {
                self.entry(entry.path(), entry.file_type()?)?;
            }
        }
        Ok(())
    }
}

/// Takes a file or a directory, with all that is mounted below it, read-only.
pub(crate) fn take(from: &Path, to: &Path, attributes: u64) -> Result<Source> {
    take_if_there(from, to, attributes)?.with_context(|| format!("take {}: it is not there", from.display()))
}

/// The same. `None`: there is none, or none that this user may reach.
pub(crate) fn take_if_there(from: &Path, to: &Path, attributes: u64) -> Result<Option<Source>> {
    let attempt = || format!("take {} into the bottle", from.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mount = match open_tree(CWD, from, flags) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(None),
        mount => mount.with_context(attempt)?,
    };
    sys::restrict(&mount, READ_ONLY | attributes, true).with_context(attempt)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(fstat(&mount).with_context(attempt)?.st_mode).is_dir();
    Ok(Some(Source { mount, to: to.to_owned(), is_dir }))
}
