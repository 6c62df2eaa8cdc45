//! The bottle's file tree: a small file system of its own, the machine's system in it read-only, and fresh file systems
//! where the agent writes.
//!
//! The order counts. `/proc` is made while the machine's own can be seen, or the kernel refuses; what stands below a fresh
//! file system comes after it; and the tree's root is read-only in the end, after the last of its files is written.

use crate::{
    sources::{Source, Sources},
    sys::{self, NO_DEVICES, NO_EXEC, NO_SETUID, READ_ONLY},
    wire::{File, Launch},
};
use anyhow::{Context, Result, ensure};
use bottle_api::{AGENT_UID, HOME, WORKSPACE, control::SIDECAR_NAMES};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
    },
    process::{chdir, pivot_root},
};
use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

/// Where the machine has a directory for the root to be put up on, which nobody sees.
const STAND: &str = "/tmp";
/// The system's own files are few and small.
const ROOT_SIZE: [(&str, &str); 3] = [("size", "8m"), ("nr_inodes", "16384"), ("mode", "0755")];
/// File systems that the agent writes to: where, mode, a share of what files may take, and how many there may be.
const FRESH: [(&str, &str, u64, &str); 5] = [
    (HOME, "0755", 1, "1000000"),
    (WORKSPACE, "0755", 1, "1000000"),
    ("/tmp", "1777", 2, "500000"),
    ("/var/tmp", "1777", 4, "100000"),
    ("/run", "0755", 16, "10000"),
];
const SHARED_MEMORY: &str = "/dev/shm";
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];
/// Below these the agent may change files.
pub(crate) const WRITABLE: [&str; 7] = [HOME, WORKSPACE, "/tmp", "/var/tmp", "/run", "/dev", "/proc"];

/// What happens to mounts here stays here; the machine's own changes still arrive, so that it can unmount what it wants.
pub(crate) fn part() -> Result<()> {
    let flags = MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM;
    mount_change("/", flags).context("part from the machine's mounts")
}

/// File systems that must be made while the machine's tree can still be seen.
pub(crate) struct Early {
    proc: OwnedFd,
    terminals: Option<OwnedFd>,
}

impl Early {
    /// `hide`: processes that one may not look into are not shown.
    pub(crate) fn make(hide: bool) -> Result<Self> {
        let options: &[_] = if hide { &[("hidepid", "invisible")] } else { &[] };
        let terminals = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        Ok(Self {
            proc: make("proc", options, NO_SETUID | NO_DEVICES | NO_EXEC)?,
            terminals: Some(make("devpts", &terminals, NO_SETUID | NO_EXEC)?),
        })
    }

    /// The sidecar's: it needs to find its own program.
    pub(crate) fn processes() -> Result<Self> {
        let options = [("subset", "pid"), ("hidepid", "invisible")];
        Ok(Self { proc: make("proc", &options, NO_SETUID | NO_DEVICES | NO_EXEC)?, terminals: None })
    }
}

/// Replaces the root by an empty one. The machine's tree is gone from sight.
pub(crate) fn turn() -> Result<()> {
    mount("tmpfs", &ROOT_SIZE, NO_SETUID | NO_DEVICES, STAND)?;
    chdir(STAND)?;
    pivot_root(".", ".").context("replace the root")?;
    unmount(".", UnmountFlags::DETACH).context("leave the machine's tree")?;
    Ok(chdir("/")?)
}

/// Puts up all of a bottle but what is written last.
pub(crate) fn put_up(launch: &Launch, sources: Sources, early: Early) -> Result<()> {
    for dir in ["/proc", "/sys", "/dev", "/dev/pts", "/etc", "/usr/local/libexec", "/usr/local/sbin", "/var", "/home"] {
        directory(Path::new(dir))?;
    }
    links(&sources.links)?;
    links(&DEVICE_LINKS.map(|(at, to)| (PathBuf::from(at), PathBuf::from(to))))?;
    sources.mounts.iter().try_for_each(stand)?;
    attach_at(&early.proc, Path::new("/proc"))?;
    if let Some(terminals) = &early.terminals {
        attach_at(terminals, Path::new("/dev/pts"))?;
    }
    let size = |share: u64| (launch.files / share).max(1 << 20).to_string();
    for (path, mode, share, inodes) in FRESH {
        directory(Path::new(path))?;
        let options = [("mode", mode), ("size", &size(share)), ("nr_inodes", inodes)];
        mount("tmpfs", &options, NO_SETUID | NO_DEVICES, path)?;
    }
    directory(Path::new(SHARED_MEMORY))?;
    let options = [("mode", "1777"), ("size", &size(4)), ("nr_inodes", "10000")];
    mount("tmpfs", &options, NO_SETUID | NO_DEVICES | NO_EXEC, SHARED_MEMORY)?;
    sources.late.iter().try_for_each(stand)?;
    settings(&launch.hostname).iter().try_for_each(write)
}

/// The sidecar's tree: processes, and what was taken.
pub(crate) fn put_up_bare(sources: &Sources, early: &Early, files: &[File]) -> Result<()> {
    directory(Path::new("/proc"))?;
    links(&sources.links)?;
    sources.mounts.iter().try_for_each(stand)?;
    attach_at(&early.proc, Path::new("/proc"))?;
    files.iter().try_for_each(write)
}

/// Where the sidecar's git-gate keeps its mirrors: a file system of that user's alone, in memory.
pub(crate) fn mirrors(at: &str, size: &str, user: u32) -> Result<()> {
    directory(Path::new(at))?;
    let user = user.to_string();
    let options = [("mode", "0700"), ("size", size), ("uid", &user), ("gid", &user)];
    mount("tmpfs", &options, NO_SETUID | NO_DEVICES | NO_EXEC, at)
}

fn links(links: &[(PathBuf, PathBuf)]) -> Result<()> {
    links
        .iter()
        .try_for_each(|(at, to)| in_directory(at, || symlink(to, at)).with_context(|| format!("link {}", at.display())))
}

/// Writes a file of the bottle's own system.
pub(crate) fn write(file: &File) -> Result<()> {
    let attempt = || format!("write {}", file.path);
    let path = Path::new(&file.path);
    ensure!(path.is_absolute() && !path.components().any(|part| part.as_os_str() == ".."), "{} is no path", file.path);
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut to = in_directory(path, || open.open(path)).with_context(attempt)?;
    to.write_all(file.text.as_bytes()).with_context(attempt)?;
    to.set_permissions(Permissions::from_mode(file.mode & 0o777)).with_context(attempt)
}

/// From now on nothing in the root itself can change.
pub(crate) fn seal() -> Result<()> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    sys::restrict(&root, READ_ONLY | NO_SETUID | NO_DEVICES, false).context("seal the root")
}

fn settings(hostname: &str) -> Vec<File> {
    let id = AGENT_UID;
    let names = SIDECAR_NAMES.join(" ");
    let files = [
        (
            "/etc/passwd",
            format!(
                "root:x:0:0::/:/bin/false\nagent:x:{id}:{id}::{HOME}:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n"
            ),
        ),
        ("/etc/group", format!("root:x:0:\nagent:x:{id}:\nnogroup:x:65534:\n")),
        ("/etc/hostname", format!("{hostname}\n")),
        ("/etc/hosts", format!("127.0.0.1\tlocalhost {hostname} {names}\n::1\tlocalhost ip6-localhost\n")),
        ("/etc/resolv.conf", "nameserver 127.0.0.1\n".into()),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".into()),
    ];
    files.map(|(path, text)| File { path: path.into(), mode: 0o644, text }).into()
}

/// A new file system that stands nowhere yet.
fn make(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd> {
    let attempt = || format!("make a file system of the kind {kind}");
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).with_context(attempt)?;
    for (name, value) in options {
        let set = if value.is_empty() {
            fsconfig_set_flag(&context, *name)
        } else {
            fsconfig_set_string(&context, *name, *value)
        };
        set.with_context(|| format!("{}: {name}={value}", attempt()))?;
    }
    fsconfig_create(&context).with_context(attempt)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).with_context(attempt)
}

/// A new file system at a directory that is there.
pub(crate) fn mount(kind: &str, options: &[(&str, &str)], attributes: u64, at: &str) -> Result<()> {
    attach_at(&make(kind, options, attributes)?, Path::new(at))
}

/// Puts a source up where it belongs, on a directory or file that is made for it.
fn stand(source: &Source) -> Result<()> {
    if source.is_dir {
        directory(&source.to)?;
    } else {
        let make = || Ok(mknodat(CWD, &source.to, FileType::RegularFile, Mode::from_raw_mode(0o444), 0)?);
        match in_directory(&source.to, make) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.with_context(|| format!("make {}", source.to.display()))?,
        }
    }
    attach(source)
}

/// Puts a source up on what is there.
pub(crate) fn attach(source: &Source) -> Result<()> {
    attach_at(&source.mount, &source.to)
}

pub(crate) fn attach_at(mount: &OwnedFd, at: &Path) -> Result<()> {
    move_mount(mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .with_context(|| format!("put up {}", at.display()))
}

fn directory(path: &Path) -> Result<()> {
    new_directory(path).with_context(|| format!("make {}", path.display()))
}

fn new_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Makes what stands in a directory, and the directory first where there is none.
fn in_directory<T>(path: &Path, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match make() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            new_directory(path.parent().unwrap_or(Path::new("/")))?;
            make()
        }
        made => made,
    }
}
