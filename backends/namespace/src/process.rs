//! A process in a bottle: asked for at the bottle's door, started by its PID 1, and held by the connection. When the
//! connection closes, PID 1 kills it.
//!
//! Without a terminal the process has the host's pipes themselves. With one, its far end comes back, and is pumped.

use bottle_api::{
    Cancel, Error, ErrorKind, ExitStatus, Process, ResizeRequest, Result, SignalRequest, Stdio, error::Context,
};
use bottle_namespace::{
    user_of,
    wire::{self, Exec, Signal, Told},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Gid, Mode, OFlags, Uid, fchown, fcntl_getfl, fcntl_setfl, open},
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown, socket_with,
        sockopt::socket_peercred,
    },
    pipe::{PipeFlags, pipe_with},
    process::geteuid,
    termios::{Winsize, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

const CHUNK: usize = 64 << 10;

/// A bottle's door, and whose processes stand behind it.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) path: PathBuf,
    /// The launcher's number.
    pub(crate) launcher: u32,
}

impl Door {
    /// An address for a socket at a path, however long: a socket's own address must be short.
    pub(crate) fn address(path: &Path) -> Result<(OwnedFd, SocketAddrUnix)> {
        let attempt = || format!("reach {}", path.display());
        let dir = path.parent().unwrap_or(Path::new("/"));
        let dir = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).with_context(attempt)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).with_context(attempt)?;
        Ok((dir, address))
    }

    fn knock(&self) -> Result<OwnedFd> {
        let gone = || format!("speak with the bottle behind {}", self.path.display());
        let (_dir, address) = Self::address(&self.path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &address).with_context(gone)?;
        if socket_peercred(&socket)?.uid != geteuid() {
            return Err(Error::new(ErrorKind::PROTOCOL, format!("another user listens at {}", self.path.display())));
        }
        Ok(socket)
    }

    /// Starts a process.
    pub(crate) fn start(&self, what: &Exec, io: Stdio) -> Result<NamespaceProcess> {
        let attempt = || format!("run {} in the bottle", what.argv.first().map_or("", String::as_str));
        let socket = self.knock().with_context(attempt)?;
        let Stdio { stdin, stdout, stderr } = io;
        let pump = if what.tty.is_some() {
            wire::send(&socket, what, &[]).with_context(attempt)?;
            Some((stdin, stdout))
        } else {
            let stderr = stderr.as_ref().unwrap_or(&stdout);
            if let Some(id) = user_of(self.launcher) {
                // A pipe is opened anew at /dev/stdout by its owner only.
                for pipe in [&stdin, &stdout, stderr] {
                    let _ = fchown(pipe, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
                }
            }
            wire::send(&socket, what, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]).with_context(attempt)?;
            None
        };
        match wire::receive::<Told>(&socket).with_context(attempt)? {
            Some((Told::Started, descriptors)) => {
                NamespaceProcess::hold(socket, descriptors.into_iter().next(), pump).with_context(attempt)
            }
            Some((Told::Refused { why }, _)) => Err(Error::new(ErrorKind::RUNTIME, why).context(attempt())),
            Some((Told::Ended { .. }, _)) | None => {
                Err(Error::new(ErrorKind::RUNTIME, "the bottle has ended").context(attempt()))
            }
        }
    }
}

pub(crate) struct NamespaceProcess(Arc<Shared>);

struct Shared {
    socket: OwnedFd,
    terminal: Option<OwnedFd>,
    status: Mutex<Option<Result<ExitStatus>>>,
    /// Readable once there is a status.
    ended: OwnedFd,
}

impl NamespaceProcess {
    fn hold(socket: OwnedFd, terminal: Option<OwnedFd>, pump: Option<(OwnedFd, OwnedFd)>) -> Result<Self> {
        let (ended, ends) = pipe_with(PipeFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { socket, terminal, status: Mutex::default(), ended });
        let outward = match (pump, &shared.terminal) {
            (Some((stdin, stdout)), Some(terminal)) => {
                let (input, output) = (terminal.try_clone()?, File::from(terminal.try_clone()?));
                fcntl_setfl(terminal, fcntl_getfl(terminal)? | OFlags::NONBLOCK)?;
                let feeding = shared.clone();
                thread::spawn(move || feed(&feeding, File::from(stdin), File::from(input)));
                Some(thread::spawn(move || show(output, File::from(stdout))))
            }
            (None, _) => None,
            (Some(_), None) => return Err(Error::new(ErrorKind::PROTOCOL, "no terminal came back")),
        };
        let hearing = shared.clone();
        thread::spawn(move || {
            hear(&hearing, outward);
            drop(ends);
        });
        Ok(Self(shared))
    }
}

/// Waits for PID 1's last word on it, and for its terminal's last.
fn hear(shared: &Shared, outward: Option<JoinHandle<()>>) {
    let status = match wire::receive::<Told>(&shared.socket) {
        Ok(Some((Told::Ended { code }, _))) => Ok(ExitStatus { code }),
        _ => Err(Error::new(ErrorKind::RUNTIME, "the bottle has ended, and the process with it")),
    };
    outward.map(JoinHandle::join);
    *shared.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
}

/// Host → terminal, until the host closes its end or the process is gone.
fn feed(shared: &Shared, mut from: File, mut to: File) {
    let mut chunk = vec![0; CHUNK];
    let ready = |fd: &File, flags: PollFlags| loop {
        let mut fds = [PollFd::new(fd, flags), PollFd::new(&shared.ended, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(_) => return false,
            Ok(_) => return fds[1].revents().is_empty(),
        }
    };
    while ready(&from, PollFlags::IN) {
        let Ok(n @ 1..) = from.read(&mut chunk) else { return };
        let mut rest = &chunk[..n];
        while !rest.is_empty() && ready(&to, PollFlags::OUT) {
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Terminal → host, until the terminal ends. A host that has gone away does not stop the process.
fn show(mut from: File, mut to: File) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match poll(&mut [PollFd::new(&from, PollFlags::IN)], None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        match from.read(&mut chunk) {
            Ok(n @ 1..) => drop(to.write_all(&chunk[..n])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // A terminal's end is an error.
            Ok(0) | Err(_) => return,
        }
    }
}

impl Process for NamespaceProcess {
    fn wait(&self, cancel: &Cancel) -> Result<ExitStatus> {
        loop {
            if let Some(status) = &*self.0.status.lock().unwrap_or_else(PoisonError::into_inner) {
                return status.clone();
            }
            let cancelled = cancel.fd();
            let mut fds = vec![PollFd::from_borrowed_fd(self.0.ended.as_fd(), PollFlags::IN)];
            fds.extend(cancelled.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                result => drop(result?),
            }
            if fds[0].revents().is_empty() {
                cancel.check()?;
            }
        }
    }

    fn resize(&self, req: &ResizeRequest) -> Result<()> {
        let none = || Error::new(ErrorKind::UNSUPPORTED, "the process has no terminal");
        let size = Winsize { ws_col: req.cols, ws_row: req.rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.0.terminal.as_ref().ok_or_else(none)?, size).context("resize the terminal")
    }

    fn signal(&self, req: &SignalRequest) -> Result<()> {
        match wire::send(&self.0.socket, &Signal { signal: req.signal }, &[]) {
            // One that has ended needs none any more.
            Err(_) if self.0.status.lock().unwrap_or_else(PoisonError::into_inner).is_some() => Ok(()),
            sent => sent.with_context(|| format!("send signal {}", req.signal)),
        }
    }
}

impl Drop for NamespaceProcess {
    fn drop(&mut self) {
        // PID 1 sees it, and kills what still runs.
        let _ = shutdown(&self.0.socket, Shutdown::Both);
    }
}
