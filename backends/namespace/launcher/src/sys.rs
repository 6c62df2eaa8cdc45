//! The system calls that no crate has a safe form of. Whoever calls them has one thread.
#![allow(unsafe_code)]

use anyhow::{Context, Result};
use rustix::process::Pid;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Attributes of a mount (linux/mount.h).
pub(crate) const READ_ONLY: u64 = 0x1;
pub(crate) const NO_SETUID: u64 = 0x2;
pub(crate) const NO_DEVICES: u64 = 0x4;
pub(crate) const NO_EXEC: u64 = 0x8;

const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;

/// `struct clone_args`.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// The namespaces of a bottle.
pub(crate) const BOTTLE: i32 = libc::CLONE_NEWNET | SIDECAR;
/// The namespaces of its sidecar: the network is this machine's.
pub(crate) const SIDECAR: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A copy of this process in new namespaces, as their first process. `None` in the copy.
pub(crate) fn clone_into(namespaces: i32) -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    let arguments = CloneArguments {
        flags: u64::from((namespaces | libc::CLONE_PIDFD) as u32),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM and with no stack of its own this is a fork: the copy goes on with a copy of all memory, and
    // as this process has one thread nothing in it is half done. The kernel writes one descriptor to `pidfd`.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of::<CloneArguments>()) })?;
    let Some(pid) = Pid::from_raw(pid as i32) else { return Ok(None) };
    // SAFETY: the kernel has just made this descriptor, for this call alone.
    Ok(Some((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })))
}

/// A copy of this process. `None` in the copy.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so nothing in the copy is half done.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(Pid::from_raw(pid as i32))
}

/// Ends this process at once: nothing of a copy is cleaned up twice.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: never returns, and runs nothing of this program.
    unsafe { libc::_exit(code) }
}

/// Gives a mount that stands nowhere yet these attributes, and all below it.
pub(crate) fn restrict(mount: impl AsFd, attributes: u64, recursive: bool) -> io::Result<()> {
    let wanted = MountAttributes { set: attributes, clear: 0, propagation: 0, userns: 0 };
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the path is an empty string, and the kernel reads as many bytes of `wanted` as it has.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &wanted, size_of::<MountAttributes>())
    };
    check(done).map(drop)
}

/// These signals arrive at a descriptor from now on, and no other way.
pub(crate) fn signals(numbers: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by the kernel's own library before it is used; the descriptor is new and nobody else's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        check(libc::sigemptyset(&mut set).into())?;
        for number in numbers {
            check(libc::sigaddset(&mut set, *number).into())?;
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Every signal arrives again. For a copy that is about to execute a program, which would go on with the same ones blocked.
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        check(libc::sigemptyset(&mut set).into())?;
        check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()).into()).map(drop)
    }
}

/// A descriptor under that number, for programs that are executed.
pub(crate) fn place(descriptor: impl AsFd, number: RawFd) -> io::Result<()> {
    // SAFETY: whoever calls this is about to execute a program, or has kept the numbers 0 to 2 for it: no owned descriptor
    // has that number.
    check(unsafe { libc::dup2(descriptor.as_fd().as_raw_fd(), number) }.into()).map(drop)
}

/// Closes every descriptor from that number on. For a copy that is about to execute a program, and uses none of them.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first as u32, u32::MAX)
}

/// Closes every descriptor beyond the three standard streams but these. For a copy, whose other values are never used.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: see the two callers: nothing in this process uses these descriptors any more.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Switches the loopback of this network namespace on.
pub(crate) fn loopback_up() -> Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an `ifreq` of zeros is valid, its name is ended by one, and the kernel reads and writes no more than it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &mut request).into()).context("look at it")?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request).into())?;
    }
    Ok(())
}
