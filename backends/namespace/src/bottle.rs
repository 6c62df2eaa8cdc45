//! A running bottle in namespaces.

use crate::{
    find::Launcher,
    launch::Owned,
    process::{Door, NamespaceProcess},
};
use bottle_api::{
    AGENT_UID, Bottle, BottleInfo, Cancel, ChannelRequest, Error, ErrorKind, GetRequest, HELPER_PATH, HOME, Process,
    PutRequest, Result, SidecarChannel, StartRequest, Stdio,
    attend::{PACK_ARGUMENT, UNPACK_ARGUMENT},
    control::SIDECAR_NAMES,
};
use bottle_namespace::wire::Exec;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::geteuid,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

const CHUNK: usize = 64 << 10;
/// Of what a helper complains of, kept for messages.
const SAID_KEPT: u64 = 4096;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) struct NamespaceBottle {
    name: String,
    door: Door,
    /// Where this process launched it.
    owned: Mutex<Option<Owned>>,
    /// With whoever launched the bottle, until it is taken.
    channel: SidecarChannel,
}

impl NamespaceBottle {
    /// One that somebody else owns.
    pub(crate) fn of(launcher: Launcher) -> Self {
        let name = format!("claude-bottle-{}", launcher.label("identity"));
        let door = Door { path: launcher.label("socket").into(), launcher: launcher.pid.unsigned_abs() };
        Self { name, door, owned: Mutex::default(), channel: SidecarChannel::default() }
    }

    pub(crate) fn owned(name: String, door: Door, owned: Owned, channel: OwnedFd) -> Self {
        Self { name, door, owned: Mutex::new(Some(owned)), channel: channel.into() }
    }

    /// Runs the helper to its end: what it reads, and what is done with what it says.
    fn help(
        &self,
        arguments: [&str; 2],
        input: Option<File>,
        mut output: impl FnMut(&[u8]) -> Result<()>,
        cancel: &Cancel,
    ) -> Result<()> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((stdin, feed), (from, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
        let what =
            Exec { argv: [&[HELPER_PATH][..], &arguments].concat().into_iter().map(Into::into).collect(), ..exec() };
        let process = self.door.start(&what, Stdio { stdin, stdout, stderr: Some(stderr) })?;
        // Nothing of the machine's files goes into a bottle: what they hold goes through a pipe.
        let feeding = input.map(|mut input| thread::spawn(move || drop(io::copy(&mut input, &mut File::from(feed)))));
        let complaints = thread::spawn(move || {
            let (mut errors, mut said) = (File::from(errors), vec![]);
            let _ = (&mut errors).take(SAID_KEPT).read_to_end(&mut said);
            let _ = io::copy(&mut errors, &mut io::sink());
            said
        });
        let (mut from, mut chunk) = (File::from(from), vec![0; CHUNK]);
        let passed = loop {
            if let Err(error) = cancel.wait_readable(from.as_fd(), None) {
                break Err(error);
            }
            match from.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error.into()),
                Ok(0) => break Ok(()),
                Ok(n) => {
                    if let Err(error) = output(&chunk[..n]) {
                        break Err(error);
                    }
                }
            }
        };
        drop(from);
        let ended = passed.and_then(|()| process.wait(cancel));
        // One that is given up ends here.
        drop(process);
        let said = complaints.join().unwrap_or_default();
        feeding.map(thread::JoinHandle::join);
        match ended?.code {
            0 => Ok(()),
            code => {
                let said = String::from_utf8_lossy(&said).trim().escape_debug().to_string();
                let what = arguments.join(" ");
                Err(Error::new(ErrorKind::RUNTIME, format!("{what} in the bottle ended with {code}: {said}")))
            }
        }
    }
}

fn exec() -> Exec {
    let env = [("PATH", PATH), ("HOME", HOME), ("USER", "agent"), ("LANG", "C.UTF-8")];
    Exec {
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        cwd: "/".into(),
        ..Exec::default()
    }
}

impl Bottle for NamespaceBottle {
    type Process = NamespaceProcess;

    fn describe(&self) -> Result<BottleInfo> {
        Ok(BottleInfo {
            name: self.name.clone(),
            sidecar_host: "127.0.0.1".into(),
            sidecar_names: SIDECAR_NAMES.iter().map(|name| (*name).to_owned()).collect(),
            // Root's have none at all.
            unmapped_groups: !geteuid().is_root(),
        })
    }

    fn start(&self, req: &StartRequest, io: Stdio, cancel: &Cancel) -> Result<NamespaceProcess> {
        cancel.check()?;
        if (req.uid, req.gid) != (AGENT_UID, AGENT_UID) {
            return Err(Error::unsupported("a user in the bottle other than the agent's: there is no other"));
        }
        let mut what = Exec { argv: req.argv.clone(), tty: req.tty, ..exec() };
        what.env.extend(req.env.clone());
        if !req.cwd.is_empty() {
            what.cwd.clone_from(&req.cwd);
        }
        self.door.start(&what, io)
    }

    fn put(&self, req: &PutRequest, tar: File, cancel: &Cancel) -> Result<()> {
        if req.owner.is_some_and(|owner| owner != (AGENT_UID, AGENT_UID)) {
            return Err(Error::unsupported("another owner than the agent"));
        }
        self.help([UNPACK_ARGUMENT, &req.dest], Some(tar), |_| Ok(()), cancel)
    }

    fn get(&self, req: &GetRequest, tar: File, cancel: &Cancel) -> Result<()> {
        let (mut to, mut bytes) = (tar, 0);
        let output = |chunk: &[u8]| {
            bytes += chunk.len() as u64;
            if req.max_bytes > 0 && bytes > req.max_bytes {
                let message = format!("get {}: more than the {} bytes that are allowed", req.path, req.max_bytes);
                return Err(Error::new(ErrorKind::RUNTIME, message));
            }
            Ok(to.write_all(chunk)?)
        };
        self.help([PACK_ARGUMENT, &req.path], None, output, cancel)
    }

    fn channel(&self, req: &ChannelRequest) -> Result<OwnedFd> {
        self.channel.take(req)
    }

    fn close(&self, deadline: Duration) -> Result<()> {
        match self.owned.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(owned) => owned.end(deadline),
            None => Err(Error::unsupported("ending a bottle that another process owns")),
        }
    }
}
