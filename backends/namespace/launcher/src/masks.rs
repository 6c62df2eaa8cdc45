//! What of `/proc` a bottle does not see, or cannot change.

use crate::{
    sources::take,
    sys::{NO_DEVICES, NO_EXEC, NO_SETUID},
    tree,
};
use anyhow::{Context, Result};
use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};
use std::{fs::File, io::Write, os::fd::OwnedFd, path::Path};

/// Settings of the whole machine: read-only.
const READ_ONLY_DIRS: [&str; 5] = ["/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"];
/// What says too much of the machine, or of others on it: empty.
const EMPTY_FILES: [&str; 16] = [
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/vmallocinfo",
];
/// The bottle's own, restricted as it is put up. Whatever is opened there holds nothing.
const EMPTY_FILE: &str = "/dev/null";
const EMPTY_DIRS: [&str; 4] = ["/proc/acpi", "/proc/asound", "/proc/driver", "/proc/scsi"];
/// The bottle's own, which is empty as long as nobody can write to its root.
const EMPTY_DIR: &str = "/sys";
/// How many namespaces a user namespace may make.
const COUNTS: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// Covers it all.
pub(crate) fn cover() -> Result<()> {
    for path in READ_ONLY_DIRS.map(Path::new).into_iter().filter(|path| path.exists()) {
        tree::attach(&take(path, path, NO_SETUID | NO_DEVICES | NO_EXEC)?)?;
    }
    for path in EMPTY_FILES.map(Path::new).into_iter().filter(|path| path.exists()) {
        tree::attach_at(&again(EMPTY_FILE)?, path)?;
    }
    for path in EMPTY_DIRS.map(Path::new).into_iter().filter(|path| path.exists()) {
        tree::attach(&take(Path::new(EMPTY_DIR), path, NO_SETUID | NO_DEVICES | NO_EXEC)?)?;
    }
    Ok(())
}

/// What stands at a path of the bottle's, once more, as it is.
fn again(path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).with_context(|| format!("take {path} once more"))
}

/// The last namespaces of this user namespace: there will be none in it. Opened before `/proc/sys` is read-only, closed
/// after the last mount was made, for new mounts stand in a namespace of their own until they are put up.
pub(crate) struct Counts(Vec<File>);

impl Counts {
    pub(crate) fn open() -> Result<Self> {
        let open = |name: &str| {
            let path = format!("/proc/sys/user/max_{name}_namespaces");
            File::options().write(true).open(&path).with_context(|| format!("open {path}"))
        };
        Ok(Self(COUNTS.into_iter().map(open).collect::<Result<_>>()?))
    }

    pub(crate) fn close(self) -> Result<()> {
        self.0.into_iter().try_for_each(|mut file| file.write_all(b"0")).context("forbid further namespaces")
    }
}
