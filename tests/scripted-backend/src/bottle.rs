//! A scripted bottle, and the one program that runs in it.

use crate::{
    script::{at, at_drop, during, said},
    things::World,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::{
    Bottle, BottleInfo, Cancel, ChannelRequest, Error, ErrorKind, ExitStatus, GetRequest, HELPER_PATH, Process,
    PutRequest, ResizeRequest, Result, SignalRequest, StartRequest, Stdio,
    control::{ExecFrame, HELPER_READY, read_frame},
};
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

pub(crate) struct Scripted {
    world: World,
    identity: String,
}

impl Scripted {
    pub(crate) fn new(world: World, identity: &str) -> Self {
        Self { world, identity: identity.into() }
    }
}

impl Bottle for Scripted {
    type Process = Told;

    fn describe(&self) -> Result<BottleInfo> {
        at("describe")?;
        Ok(BottleInfo { name: "scripted".into(), sidecar_host: "sidecar".into(), ..BottleInfo::default() })
    }

    fn start(&self, req: &StartRequest, io: Stdio, cancel: &Cancel) -> Result<Told> {
        let is_probe = req.argv.get(1).is_some_and(|verb| verb == "probe");
        during(if is_probe { "probe" } else { "start" }, cancel)?;
        let (ended, running) = rustix::pipe::pipe()?;
        // There is no other program: whatever else is asked has nothing to say.
        let is_helper = req.argv.first().is_some_and(|program| program == HELPER_PATH);
        let thread = thread::spawn(move || {
            let _running = running;
            match (is_probe, is_helper) {
                (true, _) => look(io).unwrap_or(99),
                (false, true) => play(io).unwrap_or(99),
                (false, false) => 0,
            }
        });
        Ok(Told { ended, thread: Mutex::new(Some(thread)) })
    }

    fn put(&self, _req: &PutRequest, mut tar: File, cancel: &Cancel) -> Result<()> {
        during("put", cancel)?;
        Ok(std::io::copy(&mut tar, &mut std::io::sink()).map(drop)?)
    }

    fn get(&self, _req: &GetRequest, mut tar: File, cancel: &Cancel) -> Result<()> {
        during("get", cancel)?;
        Ok(tar.write_all(&[0; 1024])?)
    }

    fn channel(&self, _req: &ChannelRequest) -> Result<OwnedFd> {
        at("channel")?;
        let (mut ours, theirs) = UnixStream::pair()?;
        // A sidecar that says nothing, and ends when its channel does, or when it is told anything: to stop.
        thread::spawn(move || ours.read(&mut [0]));
        Ok(theirs.into())
    }

    fn close(&self, _deadline: Duration) -> Result<()> {
        at("close")?;
        self.world.of(&self.identity)?.iter().try_for_each(|item| self.world.remove(item))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        at_drop("drop-bottle");
    }
}

/// The one program: its prompt says what it does.
pub(crate) struct Told {
    ended: OwnedFd,
    thread: Mutex<Option<JoinHandle<i32>>>,
}

impl Process for Told {
    fn wait(&self, cancel: &Cancel) -> Result<ExitStatus> {
        during("wait", cancel)?;
        let mut fds = vec![PollFd::new(&self.ended, PollFlags::IN)];
        let cancelled = cancel.fd();
        fds.extend(cancelled.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        poll(&mut fds, None)?;
        if fds[0].revents().is_empty() {
            return Err(Cancel::error());
        }
        let thread = lock(&self.thread).take();
        let code = thread.and_then(|thread| thread.join().ok());
        Ok(ExitStatus { code: code.ok_or_else(|| Error::new(ErrorKind::RUNTIME, "it was waited for already"))? })
    }

    fn resize(&self, _req: &ResizeRequest) -> Result<()> {
        at("resize")
    }

    fn signal(&self, _req: &SignalRequest) -> Result<()> {
        at("signal")
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        at_drop("drop-process");
    }
}

/// Plays the helper as it looks around in a closed bottle; or in one with a hole, where the script says so.
fn look(io: Stdio) -> Result<i32> {
    let question: Option<serde_json::Value> = read_frame(&mut File::from(io.stdin))?;
    question.ok_or_else(|| Error::new(ErrorKind::PROTOCOL, "no question"))?;
    let report = include_str!("../../../bottle-host/src/probe/closed.json");
    let report = if said("open@probe") {
        report.replace("\"answered\": []", "\"answered\": [\"172.17.0.1:22\"]")
    } else {
        report.into()
    };
    Ok(File::from(io.stdout).write_all(report.as_bytes()).map(|()| 0)?)
}

/// Plays the in-bottle helper, then a program that ends with the number in its last argument, or tells what it was told;
/// `wait` waits for a variable's file to appear.
fn play(io: Stdio) -> Result<i32> {
    let (mut stdin, mut stdout) = (File::from(io.stdin), File::from(io.stdout));
    stdout.write_all(&[HELPER_READY])?;
    let frame: Option<ExecFrame> = read_frame(&mut stdin)?;
    let frame = frame.ok_or_else(|| Error::new(ErrorKind::PROTOCOL, "no frame"))?;
    match frame.argv.last().map(String::as_str).unwrap_or_default() {
        "wait" => {
            let until = frame.env.get("WAIT_FOR").and_then(|path| BASE64_STANDARD.decode(path).ok());
            let until = String::from_utf8(until.unwrap_or_default())?;
            while !std::path::Path::new(&until).exists() {
                thread::sleep(Duration::from_millis(10));
            }
            Ok(0)
        }
        "echo" => {
            let mut all = vec![];
            stdin.read_to_end(&mut all)?;
            stdout.write_all(&all)?;
            Ok(0)
        }
        told => {
            writeln!(stdout, "told: {told}")?;
            Ok(told.parse().unwrap_or(0))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
