//! The launcher: makes the two sets of namespaces side by side, and then lives for as long as the bottle does.
//!
//! Its end is the bottle's: both first processes are told of a parent's death by the kernel, and by a socket that closes.

use crate::{
    ids::Ids,
    init, seccomp, side, sys,
    wire::{self, Finish, Launch, Order, Word},
};
use anyhow::{Context, Result, bail, ensure};
use bottle_api::AGENT_UID;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
    io::Errno,
    net::{SocketFlags, accept_with, sockopt::socket_peercred},
    process::{Pid, Signal, WaitId, WaitIdOptions, geteuid, pidfd_send_signal, waitid},
};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
};

/// A first process, until it is dropped.
struct First {
    pidfd: OwnedFd,
    control: OwnedFd,
}

impl First {
    /// A clone of this process, which goes on in `inside` with its end of the socket, and never comes back.
    fn clone(namespaces: i32, inside: impl FnOnce(&OwnedFd) -> i32) -> Result<(Pid, Self)> {
        let (control, theirs) = wire::pair()?;
        match sys::clone_into(namespaces)? {
            None => sys::exit(inside(&theirs)),
            Some((pid, pidfd)) => Ok((pid, Self { pidfd, control })),
        }
    }

    /// Tells it that its namespace has its users.
    fn tell_mapped(&self, mapped: Result<()>) -> Result<()> {
        mapped?;
        Ok(wire::send(&self.control, &Order::Mapped, &[])?)
    }

    /// When the first process is gone, so is every other of its namespaces.
    fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.kill();
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// The exit code.
pub(crate) fn run() -> i32 {
    let Ok(owner) = rustix::stdio::stdin().try_clone_to_owned() else { return 1 };
    match serve(&owner) {
        Ok(()) => 0,
        Err((step, error)) => {
            let errno = error.chain().find_map(|cause| {
                let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
                io.or_else(|| cause.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()))
            });
            let word = Word::Failed { step: step.into(), why: format!("{error:#}"), errno };
            let _ = wire::send(&owner, &word, &[]);
            1
        }
    }
}

fn serve(owner: &OwnedFd) -> Result<(), (&'static str, anyhow::Error)> {
    let as_step = |step: &'static str| move |error: anyhow::Error| (step, error);
    let (launch, asked) = begin(owner).map_err(as_step("begin"))?;
    let Asked { door, side_ends } = asked;
    let filters = seccomp::compile(seccomp::For::Bottle).map_err(as_step("seccomp"))?;
    let ids = Ids::choose().map_err(as_step("users"))?;
    // Before a child exists: none is ever waited for by a signal's handler.
    let signals = sys::signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).map_err(|e| ("begin", e.into()))?;

    let (pid, bottle) = First::clone(sys::BOTTLE, |control| {
        if sys::close_all_but(&[control.as_fd()]).is_err() {
            return 1;
        }
        init::run(&launch, ids, control, &filters)
    })
    .map_err(as_step("clone"))?;
    enter_cgroups(&launch, pid).map_err(as_step("cgroups"))?;
    bottle.tell_mapped(ids.map_bottle(pid, AGENT_UID)).map_err(as_step("map"))?;
    let mut sidecar = None;
    if let (Some(wanted), Some((channel, errors))) = (&launch.sidecar, &side_ends) {
        let (pid, first) = First::clone(sys::SIDECAR, |control| {
            if sys::close_all_but(&[control.as_fd(), channel.as_fd(), errors.as_fd()]).is_err() {
                return 1;
            }
            side::run(wanted, ids, control, channel, errors)
        })
        .map_err(as_step("clone"))?;
        first.tell_mapped(ids.map_sidecar(pid, side::UID)).map_err(as_step("map"))?;
        sidecar = Some(first);
    }
    // With a copy of its end open here the sidecar's channel would never end.
    drop(side_ends);
    let over = run_on(owner, &door, &signals, &bottle, sidecar.as_ref()).map_err(as_step("serve"));
    // Both at once: each is waited for when it is dropped.
    sidecar.iter().chain([&bottle]).for_each(First::kill);
    over
}

/// What the backend sends along.
struct Asked {
    door: OwnedFd,
    side_ends: Option<(OwnedFd, OwnedFd)>,
}

fn begin(owner: &OwnedFd) -> Result<(Launch, Asked)> {
    let nothing = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    for number in 0..3 {
        sys::place(&nothing, number)?;
    }
    let (launch, descriptors) = wire::receive::<Launch>(owner)?.context("the backend is gone")?;
    let mut descriptors = descriptors.into_iter();
    let door = descriptors.next().context("no door came along")?;
    let side_ends = descriptors.next().zip(descriptors.next());
    ensure!(side_ends.is_some() == launch.sidecar.is_some(), "a sidecar without its channel");
    Ok((launch, Asked { door, side_ends }))
}

/// Before it has done anything: whatever it starts is in them, too.
fn enter_cgroups(launch: &Launch, pid: Pid) -> Result<()> {
    launch
        .cgroups
        .iter()
        .try_for_each(|file| fs::write(file, pid.as_raw_pid().to_string()).with_context(|| format!("enter {file}")))
}

/// Passes on what is said, until somebody is gone.
fn run_on(owner: &OwnedFd, door: &OwnedFd, signals: &OwnedFd, bottle: &First, sidecar: Option<&First>) -> Result<()> {
    loop {
        let mut fds = [owner, door, signals, &bottle.control, &bottle.pidfd].map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            result => drop(result?),
        }
        let [owner_at, door_at, signals_at, control_at, ended_at] = fds.each_ref().map(|fd| !fd.revents().is_empty());
        if signals_at {
            return Ok(());
        }
        if owner_at {
            let Some((finish, _)) = wire::receive::<Finish>(owner)? else { return Ok(()) };
            wire::send(&bottle.control, &Order::Finish(finish), &[])?;
        }
        if control_at {
            match wire::receive::<Word>(&bottle.control)? {
                None => bail!("the bottle's first process is gone"),
                Some((Word::Listeners, listeners)) => {
                    if let Some(sidecar) = sidecar {
                        let lent: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
                        wire::send(&sidecar.control, &Order::Serve, &lent)?;
                    }
                    wire::send(owner, &Word::Listeners, &[])?;
                }
                Some((word, _)) => wire::send(owner, &word, &[])?,
            }
        } else if ended_at {
            bail!("the bottle's first process has ended");
        }
        if door_at {
            admit(door, bottle)?;
        }
    }
}

/// Whoever runs as the launcher's user may ask for processes.
fn admit(door: &OwnedFd, bottle: &First) -> Result<()> {
    let client = match accept_with(door, SocketFlags::CLOEXEC) {
        Err(Errno::INTR | Errno::AGAIN | Errno::CONNABORTED) => return Ok(()),
        client => client?,
    };
    if socket_peercred(&client).is_ok_and(|peer| peer.uid == geteuid()) {
        wire::send(&bottle.control, &Order::Serve, &[client.as_fd()])?;
    }
    Ok(())
}
