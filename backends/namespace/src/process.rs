//! A process in a bottle: asked for at the bottle's door, started by its PID 1, and held by the connection. When the
//! connection closes, PID 1 kills it.
//!
//! What it writes is pumped: to pipes of its own, or to a terminal whose far end comes back. The host's own pipes would stay
//! open for as long as anything that the process has left behind has them, and the host would wait.

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
    io::{Errno, ioctl_fionread},
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
    io::{self, Read, Write},
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
            Pump::Terminal { stdin, stdout }
        } else {
            let (from_stdout, own_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
            let mut outputs = vec![(from_stdout, stdout)];
            let own_stderr = match stderr {
                Some(stderr) => {
                    let (from_stderr, own_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
                    outputs.push((from_stderr, stderr));
                    own_stderr
                }
                None => own_stdout.try_clone()?,
            };
            let lent = [&stdin, &own_stdout, &own_stderr];
            if let Some(id) = user_of(self.launcher) {
                // A pipe is opened anew at /dev/stdout by its owner only.
                for pipe in lent {
                    let _ = fchown(pipe, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)));
                }
            }
            wire::send(&socket, what, &lent.map(AsFd::as_fd)).with_context(attempt)?;
            Pump::Outputs(outputs)
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

/// What goes on between the host's ends and the process's.
enum Pump {
    /// By its terminal.
    Terminal { stdin: OwnedFd, stdout: OwnedFd },
    /// From pipes of its own to the host's.
    Outputs(Vec<(OwnedFd, OwnedFd)>),
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
    fn hold(socket: OwnedFd, terminal: Option<OwnedFd>, pump: Pump) -> Result<Self> {
        let (ended, ends) = pipe_with(PipeFlags::CLOEXEC)?;
        let (over, is_over) = pipe_with(PipeFlags::CLOEXEC)?;
        let shared = Arc::new(Shared { socket, terminal, status: Mutex::default(), ended });
        let outward = match (pump, &shared.terminal) {
            (Pump::Terminal { stdin, stdout }, Some(terminal)) => {
                let (input, output) = (terminal.try_clone()?, File::from(terminal.try_clone()?));
                fcntl_setfl(terminal, fcntl_getfl(terminal)? | OFlags::NONBLOCK)?;
                let feeding = shared.clone();
                thread::spawn(move || feed(&feeding, File::from(stdin), File::from(input)));
                vec![thread::spawn(move || show(output, File::from(stdout)))]
            }
            (Pump::Outputs(outputs), None) => {
                let over = Arc::new(over);
                let pass = |(from, to): (OwnedFd, OwnedFd)| {
                    let over = over.clone();
                    thread::spawn(move || pass(from.into(), to.into(), &over))
                };
                outputs.into_iter().map(pass).collect()
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::PROTOCOL,
                    "a terminal came back, or none did, against what was asked",
                ));
            }
        };
        let hearing = shared.clone();
        thread::spawn(move || {
            hear(&hearing, is_over, outward);
            drop(ends);
        });
        Ok(Self(shared))
    }
}

/// Waits for PID 1's last word on it, and until what it has written is passed on.
fn hear(shared: &Shared, is_over: OwnedFd, outward: Vec<JoinHandle<()>>) {
    let status = match wire::receive::<Told>(&shared.socket) {
        Ok(Some((Told::Ended { code }, _))) => Ok(ExitStatus { code }),
        _ => Err(Error::new(ErrorKind::RUNTIME, "the bottle has ended, and the process with it")),
    };
    drop(is_over);
    outward.into_iter().for_each(|thread| drop(thread.join()));
    *shared.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
}

/// Process → host, until nobody writes any more; or, once the process is `over`, up to what it had written. A host that
/// does not read any more ends it: whoever writes then is told so by the kernel.
fn pass(mut from: File, mut to: File, over: &OwnedFd) {
    let mut chunk = vec![0; CHUNK];
    let mut left = None;
    while left != Some(0) {
        if left.is_none() {
            let mut fds = [PollFd::new(&from, PollFlags::IN), PollFd::new(over, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) if fds[1].revents().is_empty() => {}
                Ok(_) => {
                    left = Some(ioctl_fionread(&from).unwrap_or(0));
                    continue;
                }
            }
        }
        let most = left.map_or(CHUNK, |left| CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)));
        let n = match from.read(&mut chunk[..most]) {
            Ok(0) => return,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        if to.write_all(&chunk[..n]).is_err() {
            return;
        }
        left = left.map(|left| left.saturating_sub(n as u64));
    }
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
            cancel.wait_readable(self.0.ended.as_fd(), None)?;
        }
    }

    fn resize(&self, req: &ResizeRequest) -> Result<()> {
        let none = || Error::new(ErrorKind::UNSUPPORTED, "the process has no terminal");
        let size = Winsize { ws_col: req.cols, ws_row: req.rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(self.0.terminal.as_ref().ok_or_else(none)?, size).context("resize the terminal")
    }

    fn signal(&self, req: &SignalRequest) -> Result<()> {
        match wire::send(&self.0.socket, &Signal { signal: req.signal }, &[]) {
            // PID 1 closes the socket of one that has ended, which needs none any more.
            Err(error) if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind()) => Ok(()),
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
