//! The sidecar's own namespaces: everything but the network, which is this machine's. It sees its program, its own
//! processes, and what resolves names; it can change nothing, and speak with nobody on this machine but through the
//! network, whose addresses the bundle judges.
//!
//! Where git-gate is among its daemons it has this machine's programs, too, read-only, a file system in memory for the
//! mirrors, and sockets of its own: abstract ones go with the network, and it is Landlock alone that keeps the machine's from
//! it. A kernel whose Landlock cannot runs no such sidecar.

use crate::{
    confine,
    ids::Ids,
    init, seccomp,
    sources::{Sources, take, take_if_there},
    sys::{self, NO_DEVICES, NO_EXEC, NO_SETUID},
    tree,
    wire::{self, File, Order, Sidecar},
};
use anyhow::{Context, Result, bail};
use bottle_api::control::{BIND_ENV, BUNDLE_ARGUMENT, DAEMONS_ENV, LISTENERS_ENV, MIRRORS_ENV, UIDS_ENV};
use rustix::{
    fs::Mode,
    process::{Resource, umask},
    thread::CapabilitySet,
};
use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
};

/// The bundle's user, inside; its daemons' follow, where there are any to hand out.
pub(crate) const UID: u32 = 65200;
/// What the bundle needs for that, and gives up before it reads anything. As in a container of Docker's.
const HANDING_OUT: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::SETPCAP);
/// Where its program is, inside.
const PROGRAM: &str = "/bottle-sidecar";
/// Of this machine's settings: how names are resolved.
const NAMES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/gai.conf"];
const DEVICES: [&str; 3] = ["/dev/null", "/dev/random", "/dev/urandom"];
/// The number of the socket from which its listeners come.
const LISTENERS: i32 = 3;
const PROCESSES: u64 = 256;
const MEMORY: u64 = 512 << 20;
/// Where git-gate has its mirrors, inside, and what they may take.
const MIRRORS: &str = "/run/git-gate";
const MIRRORS_SIZE: &str = "2g";
/// The bundle and its daemons.
const USERS: u32 = 7;

/// Everything from the clone on. Returns where the bundle cannot be run.
pub(crate) fn run(sidecar: &Sidecar, ids: Ids, control: &OwnedFd, channel: &OwnedFd, errors: &OwnedFd) -> i32 {
    let Err(error) = become_it(sidecar, ids, control, channel, errors);
    let line = format!("{error:#}\n");
    let _ = rustix::io::write(errors, line.as_bytes());
    1
}

fn become_it(
    sidecar: &Sidecar,
    ids: Ids,
    control: &OwnedFd,
    channel: &OwnedFd,
    errors: &OwnedFd,
) -> Result<std::convert::Infallible> {
    init::die_with_parent()?;
    let Some((Order::Mapped, _)) = wire::receive(control)? else { bail!("the launcher is gone") };
    umask(Mode::from_raw_mode(0o022));
    confine::hide(true)?;
    tree::part()?;
    let sources = sources(sidecar)?;
    // Where the bundle has users to hand out it begins as the namespace's root, who is nobody outside.
    init::become_agent(ids, 0)?;
    confine::hide(true)?;
    let early = tree::Early::processes()?;
    tree::turn()?;
    tree::put_up_bare(&sources, &early, &settings())?;
    let git_gate = sidecar.git_gate();
    if let Some(place) = git_gate {
        let user = if ids.apart { UID + 1 + u32::try_from(place)? } else { UID };
        tree::mirrors(MIRRORS, MIRRORS_SIZE, user)?;
    }
    drop((sources, early));
    tree::seal()?;
    for (resource, value) in [(Resource::Core, 0), (Resource::Nproc, PROCESSES), (Resource::Data, MEMORY)] {
        confine::limit(resource, value)?;
    }
    confine::give_up_capabilities(if ids.apart { HANDING_OUT } else { CapabilitySet::empty() })?;
    let filters = match git_gate {
        Some(_) => {
            confine::landlock(&["/dev", MIRRORS], true)?;
            seccomp::compile(seccomp::For::GitSidecar)?
        }
        None => {
            confine::landlock(&["/dev"], false)?;
            seccomp::compile(seccomp::For::Sidecar)?
        }
    };
    let Some((Order::Serve, listeners)) = wire::receive(control)? else { bail!("there are no listeners") };
    let (near, far) = wire::pair()?;
    let lent: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    // All that the bundle wants of the message is what comes along.
    wire::send(&near, &0, &lent)?;
    // Their numbers may be taken by what is placed: first out of the way.
    let apart = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 100);
    let (channel, errors, far) = (apart(channel)?, apart(errors)?, apart(&far)?);
    sys::place(&channel, 0)?;
    sys::place(&channel, 1)?;
    sys::place(&errors, 2)?;
    sys::place(&far, LISTENERS)?;
    sys::close_from(LISTENERS + 1)?;
    sys::unblock_signals()?;
    confine::filter(&filters)?;
    let mut bundle = Command::new(PROGRAM);
    bundle.arg0("bottle-sidecar").arg(BUNDLE_ARGUMENT).env_clear();
    bundle.env(BIND_ENV, "127.0.0.1").env(DAEMONS_ENV, &sidecar.daemons);
    bundle.env(LISTENERS_ENV, LISTENERS.to_string());
    if ids.apart {
        bundle.env(UIDS_ENV, UID.to_string());
    }
    if git_gate.is_some() {
        bundle.env(MIRRORS_ENV, MIRRORS);
    }
    Err(bundle.exec()).context("run the bundle")
}

fn sources(sidecar: &Sidecar) -> Result<Sources> {
    let attributes = NO_SETUID | NO_DEVICES;
    let mut taken = Sources::default();
    if sidecar.git_gate().is_some() {
        taken.programs()?;
    }
    taken.mounts.push(take(Path::new(&sidecar.program), Path::new(PROGRAM), attributes)?);
    for path in NAMES.map(Path::new) {
        taken.mounts.extend(take_if_there(path, path, attributes | NO_EXEC)?);
    }
    for path in DEVICES.map(Path::new) {
        taken.mounts.push(take(path, path, NO_SETUID | NO_EXEC)?);
    }
    Ok(taken)
}

/// How names are looked up, and the names of the bundle's users: ssh runs for nobody who has none.
fn settings() -> [File; 3] {
    let named = |line: fn(u32) -> String| (UID..UID + USERS).map(line).collect::<String>();
    let users = named(|id| format!("sidecar-{id}:x:{id}:{id}::/nonexistent:/bin/false\n"));
    let groups = named(|id| format!("sidecar-{id}:x:{id}:\n"));
    let order = "passwd: files\ngroup: files\nhosts: files dns\n".into();
    [("/etc/nsswitch.conf", order), ("/etc/passwd", users), ("/etc/group", groups)].map(|(path, text)| File {
        path: path.into(),
        mode: 0o644,
        text,
    })
}
