//! The bottle's end of a process in an engine that offers no more than a pipe: `bottle_api::attend` has the frames.

use anyhow::{Context, Result};
use bottle_api::{
    attend::{Attend, Down, Up},
    control::read_frame,
};
use rustix::{
    fs::{Gid, Uid, fchown},
    process::{Pid, Signal, kill_process_group},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use std::{
    fs::File,
    io::{self, Read, Stdout, Write},
    os::{
        fd::OwnedFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
};

const CHUNK: usize = 64 << 10;

/// The way up, a frame at a time.
#[derive(Clone)]
struct Channel(Arc<Mutex<Stdout>>);

impl Channel {
    fn send(&self, frame: &Up) -> io::Result<()> {
        frame.write(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Passes a stream on until it ends, or nobody listens any more.
    fn pass(&self, mut from: impl Read + Send + 'static, as_frame: fn(Vec<u8>) -> Up) -> JoinHandle<()> {
        let up = self.clone();
        thread::spawn(move || {
            let mut chunk = vec![0; CHUNK];
            loop {
                match from.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // A terminal's end is an error.
                    Ok(0) | Err(_) => return,
                    Ok(n) => {
                        if up.send(&as_frame(chunk[..n].to_vec())).is_err() {
                            return;
                        }
                    }
                }
            }
        })
    }
}

/// Runs a process for whoever holds the other end.
pub(crate) fn run() -> ExitCode {
    let up = Channel(Arc::new(Mutex::new(io::stdout())));
    match attend(&up) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = up.send(&Up::Failed(format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn attend(up: &Channel) -> Result<u8> {
    let start: Attend = read_frame(&mut io::stdin())?.context("the channel closed before it said what to run")?;
    let mut process = Process::start(&start)?;
    let outputs: Vec<_> = [
        process.output.take().map(|from| up.pass(from, Up::Output)),
        process.errors.take().map(|from| up.pass(from, Up::Errors)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (queue, queued) = channel();
    let (input, fed) = (process.input.take(), up.clone());
    thread::spawn(move || feed(input, &queued, &fed));
    let held = process.held();
    thread::spawn(move || {
        while let Ok(Some(frame)) = Down::read(&mut io::stdin()) {
            match frame {
                Down::Input(bytes) => drop(queue.send(Some(bytes))),
                Down::InputEnd => drop(queue.send(None)),
                Down::Resize(cols, rows) => held.resize(cols, rows),
                Down::Signal(number) => held.signal(number),
            }
        }
        // Nobody is there any more.
        held.signal(Signal::KILL.as_raw());
        std::process::exit(1);
    });
    let status = process.child.wait()?;
    outputs.into_iter().for_each(|thread| drop(thread.join()));
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    up.send(&Up::Ended(code))?;
    Ok(u8::try_from(code).unwrap_or(255))
}

/// Writes what arrives to the process, and says how much of it is through. One that reads no more takes it all.
fn feed(mut input: Option<File>, queued: &Receiver<Option<Vec<u8>>>, up: &Channel) {
    while let Ok(chunk) = queued.recv() {
        let Some(bytes) = chunk else {
            input = None;
            continue;
        };
        if input.as_mut().is_some_and(|to| to.write_all(&bytes).is_err()) {
            input = None;
        }
        let _ = up.send(&Up::Taken(bytes.len() as u32));
    }
}

/// A process and the near ends of its streams.
struct Process {
    child: Child,
    input: Option<File>,
    output: Option<File>,
    errors: Option<File>,
    terminal: Option<Arc<OwnedFd>>,
}

/// What signals and sizes go to.
struct Held {
    group: Pid,
    terminal: Option<Arc<OwnedFd>>,
}

impl Process {
    fn start(start: &Attend) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        let pids = start.pids.map_or_else(|| "-".to_owned(), |pids| pids.to_string());
        let terminal = if start.tty.is_some() { "tty" } else { "-" };
        command.args(["enter", &start.uid.to_string(), &start.gid.to_string(), &pids, terminal]).args(&start.argv);
        command.envs(&start.env);
        if !start.cwd.is_empty() {
            command.current_dir(&start.cwd);
        }
        let spawn = |command: &mut Command| command.spawn().context("start the process");
        match start.tty {
            None => {
                let pipes = || Stdio::piped();
                command.process_group(0).stdin(pipes()).stdout(pipes()).stderr(pipes());
                let mut child = spawn(&mut command)?;
                let input = child.stdin.take().map(|fd| File::from(OwnedFd::from(fd)));
                let output = child.stdout.take().map(|fd| File::from(OwnedFd::from(fd)));
                let errors = child.stderr.take().map(|fd| File::from(OwnedFd::from(fd)));
                Ok(Self { child, input, output, errors, terminal: None })
            }
            Some((cols, rows)) => {
                let (ours, theirs) = open_terminal(start, cols, rows).context("open a terminal")?;
                command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
                let child = spawn(&mut command)?;
                // With a copy of its end open the terminal would never end.
                drop(command);
                let (input, output) = (Some(ours.try_clone()?.into()), Some(ours.try_clone()?.into()));
                Ok(Self { child, input, output, errors: None, terminal: Some(Arc::new(ours)) })
            }
        }
    }

    fn held(&self) -> Held {
        Held { group: Pid::from_child(&self.child), terminal: self.terminal.clone() }
    }
}

/// A terminal that is the user's own: both its ends.
fn open_terminal(start: &Attend, cols: u16, rows: u16) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    fchown(&theirs, Some(Uid::from_raw(start.uid)), Some(Gid::from_raw(start.gid)))?;
    tcsetwinsize(&ours, size(cols, rows))?;
    Ok((ours, theirs))
}

fn size(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Held {
    fn resize(&self, cols: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            let _ = tcsetwinsize(terminal, size(cols, rows));
        }
    }

    /// To the process and its group; on a terminal, to whoever is in its foreground, too.
    fn signal(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else { return };
        let front = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal).ok());
        // The keeper on a terminal is no aim by itself: it ends when its program does.
        let groups = match front {
            Some(front) if front != self.group && signal != Signal::KILL => vec![front],
            Some(front) if front != self.group => vec![front, self.group],
            _ => vec![self.group],
        };
        for group in groups {
            let _ = kill_process_group(group, signal);
        }
    }
}
