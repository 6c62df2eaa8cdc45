//! What machines need of this one, for `doctor` and before a start: hardware that runs them for this user, and room.

use crate::cli::Smolvm;
use bottle_api::{Error, ErrorKind, Finding, Result};
use bottle_kit::{address::Address, engine::Engine};
use rustix::{fs::statvfs, process::geteuid};
use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind as IoKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const KVM: &str = "/dev/kvm";
/// A machine's disks begin empty, and grow.
const ROOM: u64 = 5 << 30;
const UID_DROP_ENV: &str = "SMOLVM_VM_UID_DROP";

/// Where packed images are kept.
pub(crate) fn cache(env: &BTreeMap<String, String>) -> Result<PathBuf> {
    let set = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let nowhere = || Error::new(ErrorKind::PREREQUISITE, "there is no HOME to keep packed images in").hint("Set HOME.");
    Ok(base.ok_or_else(nowhere)?.join("claude-bottle/machines"))
}

/// May this user run machines?
pub(crate) fn kvm(env: &BTreeMap<String, String>) -> Result<()> {
    let refused = |why: String, hint: &str| {
        Err(Error::new(ErrorKind::PREREQUISITE, format!("{KVM} cannot be used: {why}")).hint(hint))
    };
    match File::options().read(true).write(true).open(KVM) {
        Ok(_) => {}
        Err(error) if error.kind() == IoKind::NotFound => {
            return refused(
                "there is none, so this machine has no hardware for others, or its kernel does not offer it".into(),
                "Switch virtualisation on in the firmware, or nested virtualisation where this is a virtual machine; then \
                 `sudo modprobe kvm`.",
            );
        }
        Err(error) if error.kind() == IoKind::PermissionDenied => {
            return refused("your user may not".into(), "`sudo usermod -aG kvm $USER`, then log in again.");
        }
        Err(error) => return refused(error.to_string(), "`ls -l /dev/kvm` shows what it is."),
    }
    // smolvm gives each machine of root's a user of its own.
    let drops = geteuid().is_root() && env.get(UID_DROP_ENV).is_none_or(|value| value != "off");
    let for_all = Path::new(KVM).metadata().is_ok_and(|found| found.permissions().mode() & 0o006 == 0o006);
    if drops && !for_all {
        return refused(
            "you are root, smolvm runs each machine as a user of its own, and those may not".into(),
            "`chmod 666 /dev/kvm`; or run bottle as another user; or SMOLVM_VM_UID_DROP=off.",
        );
    }
    Ok(())
}

/// A machine reaches its bundle through a bridge of this machine's.
pub(crate) fn is_here(engine: &Engine) -> Result<()> {
    match &*engine.address {
        Address::Socket(_) => Ok(()),
        address => {
            let message = format!("the engine at {address} is not on this machine, where the bottle's machine runs");
            Err(Error::new(ErrorKind::UNSUPPORTED, message)
                .hint("Name one that is: DOCKER_HOST=unix:///path/to/docker.sock."))
        }
    }
}

/// smolvm's row.
pub(crate) fn program(found: Result<Smolvm>) -> Finding {
    row("smolvm", found.map(|smolvm| format!("{} at {}", smolvm.version(), smolvm.program().display())))
}

/// The rows about this machine.
pub(crate) fn machine(env: &BTreeMap<String, String>) -> [Finding; 2] {
    [row("KVM", kvm(env).map(|()| format!("{KVM} can be used"))), row("disk", room(env))]
}

/// A need and what was found.
pub(crate) fn row(what: &str, found: Result<String>) -> Finding {
    match found {
        Ok(found) => Finding { what: what.into(), ok: true, found, hint: None },
        Err(error) => Finding { what: what.into(), ok: false, found: error.to_string(), hint: error.hint },
    }
}

fn room(env: &BTreeMap<String, String>) -> Result<String> {
    let cache = cache(env)?;
    let there = cache.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let found = statvfs(there)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let said = format!("{} GiB free in {}", free >> 30, there.display());
    if free < ROOM {
        return Err(Error::new(
            ErrorKind::PREREQUISITE,
            format!("{said}; images and machines' disks need {}", ROOM >> 30),
        )
        .hint("Make room, or keep caches elsewhere: XDG_CACHE_HOME=/path."));
    }
    Ok(said)
}
