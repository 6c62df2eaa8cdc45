//! A program on a terminal of its own: a pseudoterminal pair, whose other end the test holds.

use crate::bottle::{KillOnDrop, eventually};
use anyhow::{Context, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::{self, File},
    io::Write,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

/// A program, its terminal, and what it has shown there.
pub struct Pty {
    child: KillOnDrop,
    master: Option<Arc<File>>,
    /// Kept open, so that the terminal's modes can be looked at when the program has ended.
    slave: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<Reader>,
}

/// Reads what is shown, until it is dropped.
struct Reader {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Pty {
    /// Starts a program in a session of its own, with this terminal as the session's.
    pub fn start(command: &Command, cols: u16, rows: u16) -> Result<Self> {
        Self::start_by(&[], command, cols, rows)
    }

    /// The same by way of another program, which becomes it.
    pub fn start_by(way: &[&str], command: &Command, cols: u16, rows: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, vec![])?;
        let slave = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let end = || anyhow::Ok(slave.try_clone()?);
        let mut inner = Command::new("setsid");
        inner.arg("--ctty").args(way).arg(command.get_program()).args(command.get_args());
        inner.env_clear().envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        inner.current_dir(command.get_current_dir().context("a working directory")?);
        tcsetwinsize(&master, size(cols, rows))?;
        let child = KillOnDrop(inner.stdin(end()?).stdout(end()?).stderr(end()?).spawn()?);
        let mut pty = Self { child, master: Some(Arc::new(master.into())), slave, shown: Arc::default(), reader: None };
        pty.read_on()?;
        Ok(pty)
    }

    /// From now on nobody reads what the program writes.
    pub fn read_no_more(&mut self) {
        self.reader = None;
    }

    /// Reads again what the program writes.
    pub fn read_on(&mut self) -> Result<()> {
        let (master, shown) = (self.master()?, self.shown.clone());
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let thread = thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                let mut fds = [PollFd::new(&*master, PollFlags::IN), PollFd::new(&stopped, PollFlags::IN)];
                if poll(&mut fds, None).is_err() || !fds[1].revents().is_empty() {
                    return;
                }
                let Ok(n @ 1..) = rustix::io::read(&*master, &mut chunk[..]) else { return };
                if let Ok(mut shown) = shown.lock() {
                    shown.extend_from_slice(&chunk[..n]);
                }
            }
        });
        self.reader = Some(Reader { stop: Some(stop), thread: Some(thread) });
        Ok(())
    }

    /// The terminal goes away.
    pub fn hang_up(&mut self) {
        self.reader = None;
        self.master = None;
    }

    /// Everything shown so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.shown.lock().map(|shown| shown.clone()).unwrap_or_default()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Forgets what was shown so far.
    pub fn clear(&self) {
        if let Ok(mut shown) = self.shown.lock() {
            shown.clear();
        }
    }

    /// Waits until this has been shown.
    pub fn until(&self, what: &str) -> Result<()> {
        eventually(what, || self.text().contains(what).then_some(())).with_context(|| self.text())
    }

    /// Types.
    pub fn press(&self, keys: &[u8]) -> Result<()> {
        Ok((&*self.master()?).write_all(keys)?)
    }

    /// Gives the terminal another size.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        Ok(tcsetwinsize(self.master()?.as_fd(), size(cols, rows))?)
    }

    /// The terminal's modes, as text to compare.
    pub fn modes(&self) -> Result<String> {
        Ok(format!("{:?}", tcgetattr(&self.slave)?))
    }

    /// The program's process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid(), signal)?)
    }

    /// A line of `/proc/PID/status`.
    pub fn status(&self, name: &str) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.context("a line of the process's status")?.trim().to_owned())
    }

    /// Waits for the program's end; its exit code, or none where a signal ended it.
    pub fn wait(&mut self) -> Result<Option<i32>> {
        let ended = eventually("the program ends", || self.child.0.try_wait().transpose());
        let code = ended.with_context(|| self.text())??.code();
        if self.reader.take().is_some() {
            self.drain()?;
        }
        Ok(code)
    }

    /// Reads what is there, and waits for nothing.
    fn drain(&self) -> Result<()> {
        let (master, mut chunk) = (self.master()?, [0; 4096]);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        while poll(&mut [PollFd::new(&*master, PollFlags::IN)], Some(&at_once))? > 0 {
            let Ok(n @ 1..) = rustix::io::read(&*master, &mut chunk[..]) else { break };
            if let Ok(mut shown) = self.shown.lock() {
                shown.extend_from_slice(&chunk[..n]);
            }
        }
        Ok(())
    }

    fn master(&self) -> Result<Arc<File>> {
        ensure!(self.master.is_some(), "the terminal has gone away");
        self.master.clone().context("a terminal")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop = None;
        self.thread.take().map(JoinHandle::join);
    }
}

fn size(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}
