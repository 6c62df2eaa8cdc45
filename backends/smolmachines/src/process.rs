//! A process in a machine: `smolvm machine exec` as the pipe, the in-bottle helper's frames in it.
//!
//! What smolvm ends with says nothing that is relied on: 1 and 255 are its own and its guest's. The helper's last frame is
//! the exit code; without one, what smolvm says is the reason. The program dies with its pipe: whoever kills the client,
//! or loses it, ends the process.

use crate::cli::{self, Smolvm};
use bottle_api::{
    Cancel, Error, ErrorKind, ExitStatus, HELPER_PATH, Process, ResizeRequest, Result, SignalRequest, Stdio,
    attend::{ATTEND_ARGUMENT, Attend, Down, Up, WINDOW},
    control::write_frame,
    error::Context,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    fs::File,
    io::{BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Child, ChildStdin, Stdio as ChildStdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

const CHUNK: usize = 64 << 10;
/// Of the client's error output, kept for messages.
const STDERR_KEPT: u64 = 16 << 10;

/// Where a stream of the process goes. An error ends the process.
pub(crate) type Sink = Box<dyn FnMut(&[u8]) -> Result<()> + Send>;

/// A process in a machine.
pub(crate) struct MachineProcess(Arc<Shared>);

struct Shared {
    /// Down to the helper; gone when the process is.
    down: Mutex<Option<ChildStdin>>,
    /// Bytes of input under way.
    unread: Mutex<usize>,
    taken: Condvar,
    status: Mutex<Option<Result<ExitStatus>>>,
    /// Readable once there is a status.
    ended: OwnedFd,
}

/// Starts a process for the host: its streams are the host's pipes.
pub(crate) fn start(smolvm: &Smolvm, machine: &str, what: &Attend, io: Stdio) -> Result<MachineProcess> {
    let (stdout, stderr) = (File::from(io.stdout), io.stderr.map(File::from));
    let told = stdout.try_clone()?;
    // A host that has gone away does not stop the process.
    let to = |mut file: File| -> Sink {
        Box::new(move |bytes| {
            let _ = file.write_all(bytes);
            Ok(())
        })
    };
    let errors = stderr.map_or_else(|| Ok(to(stdout.try_clone()?)), |file| Ok::<_, Error>(to(file)))?;
    launch(smolvm, machine, what, Some(io.stdin), to(stdout), errors, Some(told))
}

/// Runs a process to its end, as root: what it reads, where its output goes. An error says what it said.
pub(crate) fn run(
    smolvm: &Smolvm,
    machine: &str,
    argv: &[&str],
    input: Option<OwnedFd>,
    output: Sink,
    cancel: &Cancel,
) -> Result<()> {
    let what = Attend { argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..Attend::default() };
    let said: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = said.clone();
    let errors: Sink = Box::new(move |bytes| {
        let mut kept = lock(&kept);
        let room = (STDERR_KEPT as usize).saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    });
    let process = launch(smolvm, machine, &what, input, output, errors, None)?;
    let ended = process.wait(cancel);
    process.0.close();
    let code = ended?.code;
    match code {
        0 => Ok(()),
        code => {
            let said = String::from_utf8_lossy(&lock(&said)).trim().escape_debug().to_string();
            Err(Error::new(ErrorKind::RUNTIME, format!("{} in the machine ended with {code}: {said}", argv.join(" "))))
        }
    }
}

fn launch(
    smolvm: &Smolvm,
    machine: &str,
    what: &Attend,
    input: Option<OwnedFd>,
    output: Sink,
    errors: Sink,
    told: Option<File>,
) -> Result<MachineProcess> {
    let attempt = || format!("run {} in the machine", what.argv.first().map_or("", String::as_str));
    let args = ["machine", "exec", "--name", machine, "--interactive", "--", HELPER_PATH, ATTEND_ARGUMENT];
    let mut client = smolvm.command(&args).stdin(ChildStdio::piped()).spawn().with_context(attempt)?;
    let (mut down, up) = (client.stdin.take(), client.stdout.take());
    if let Some(down) = &mut down {
        // A client that has ended says why on its error output.
        let _ = write_frame(down, what);
    }
    let (ended, ends) = pipe_with(PipeFlags::CLOEXEC)?;
    let shared = Arc::new(Shared {
        down: Mutex::new(down),
        unread: Mutex::default(),
        taken: Condvar::new(),
        status: Mutex::default(),
        ended,
    });
    let hearing = shared.clone();
    thread::spawn(move || {
        let status = hear(&hearing, client, up, output, errors, told);
        *lock(&hearing.status) = Some(status);
        hearing.close();
        drop(ends);
        hearing.taken.notify_all();
    });
    match input {
        Some(input) => {
            let feeding = shared.clone();
            thread::spawn(move || feed(&feeding, File::from(input)));
        }
        None => drop(shared.send(&Down::InputEnd)),
    }
    Ok(MachineProcess(shared))
}

impl Shared {
    fn send(&self, frame: &Down) -> Result<()> {
        let gone = || Error::new(ErrorKind::NOT_FOUND, "the process has ended");
        Ok(frame.write(lock(&self.down).as_mut().ok_or_else(gone)?)?)
    }

    /// The helper sees the end of its channel, and ends the process if there is one.
    fn close(&self) {
        lock(&self.down).take();
    }

    fn has_ended(&self) -> bool {
        lock(&self.status).is_some()
    }
}

/// Passes on what the helper says, up to its last word, and sees the client out.
fn hear(
    shared: &Shared,
    mut client: Child,
    up: Option<impl Read>,
    mut output: Sink,
    mut errors: Sink,
    told: Option<File>,
) -> Result<ExitStatus> {
    let complaints = client.stderr.take().map(|from| {
        thread::spawn(move || {
            let mut said = vec![];
            let mut from = from;
            let _ = (&mut from).take(STDERR_KEPT).read_to_end(&mut said);
            let _ = std::io::copy(&mut from, &mut std::io::sink());
            said
        })
    });
    let up = up.ok_or_else(|| Error::new(ErrorKind::RUNTIME, "smolvm has no output"))?;
    let mut up = BufReader::with_capacity(CHUNK, up);
    let last = loop {
        match Up::read(&mut up) {
            Ok(Some(Up::Output(bytes))) => match output(&bytes) {
                Ok(()) => {}
                Err(error) => break Some(Err(error)),
            },
            Ok(Some(Up::Errors(bytes))) => match errors(&bytes) {
                Ok(()) => {}
                Err(error) => break Some(Err(error)),
            },
            Ok(Some(Up::Taken(bytes))) => {
                let mut unread = lock(&shared.unread);
                *unread = unread.saturating_sub(bytes as usize);
                shared.taken.notify_all();
            }
            Ok(Some(Up::Ended(code))) => break Some(Ok(ExitStatus { code })),
            Ok(Some(Up::Failed(why))) => {
                let why = format!("the bottle's helper: {}", why.escape_debug());
                break Some(Err(Error::new(ErrorKind::RUNTIME, why)));
            }
            Ok(None) | Err(_) => break None,
        }
    };
    if last.as_ref().is_none_or(Result::is_err) {
        // What is not in order is ended; the client takes what runs in the machine along.
        let _ = client.kill();
    }
    shared.close();
    let ended = client.wait()?;
    let status = last.unwrap_or_else(|| {
        let said = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let (code, signal) = (ended.code(), ended.signal().filter(|signal| *signal != 9));
        Err(cli::failure(&said, code, signal).context("smolvm gave up the process"))
    });
    if let (Err(error), Some(mut told)) = (&status, told) {
        // Who waits for the process's first word sees why there is none.
        let _ = told.write_all(error.to_string().as_bytes());
    }
    status
}

/// Host → process, until the host closes its end or the process is gone.
fn feed(shared: &Shared, mut from: File) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut fds = [PollFd::new(&from, PollFlags::IN), PollFd::new(&shared.ended, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Ok(_) if fds[1].revents().is_empty() => {}
            _ => return,
        }
        let sent = match from.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => {
                let _ = shared.send(&Down::InputEnd);
                return;
            }
            Ok(n) => {
                let mut unread = lock(&shared.unread);
                while *unread + n > WINDOW && !shared.has_ended() {
                    unread = shared.taken.wait(unread).unwrap_or_else(PoisonError::into_inner);
                }
                *unread += n;
                drop(unread);
                shared.send(&Down::Input(chunk[..n].to_vec()))
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

impl Process for MachineProcess {
    fn wait(&self, cancel: &Cancel) -> Result<ExitStatus> {
        loop {
            if let Some(status) = &*lock(&self.0.status) {
                return status.clone();
            }
            cancel.wait_readable(self.0.ended.as_fd(), None)?;
        }
    }

    fn resize(&self, req: &ResizeRequest) -> Result<()> {
        self.0.send(&Down::Resize(req.cols, req.rows)).context("resize the terminal")
    }

    fn signal(&self, req: &SignalRequest) -> Result<()> {
        match self.0.send(&Down::Signal(req.signal)) {
            // One that has ended needs none any more.
            Err(_) if self.0.has_ended() => Ok(()),
            sent => sent.with_context(|| format!("send signal {}", req.signal)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
