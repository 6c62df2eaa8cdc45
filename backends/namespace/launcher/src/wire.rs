//! What backend, launcher and PID 1 say to each other: one JSON document and descriptors per message, over sockets that
//! keep messages apart. All of them are ours; nothing of the agent's is ever read here.

use bottle_api::control::{GIT_GATE_DAEMON, Listener, listeners_of};
use rustix::{
    cmsg_space,
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The longest message, below what a socket's buffer takes by default.
const MAX_MESSAGE: usize = 128 << 10;
/// Descriptors that may come along.
const MAX_DESCRIPTORS: usize = 8;

/// The first argument of the labels that a launcher is found by: `--identity=…`.
pub const LABELS: [&str; 7] = ["identity", "owner", "entry", "agent", "daemons", "started", "socket"];

/// Backend → launcher, first. Descriptors: the socket at which processes are asked for; the sidecar's end of its channel
/// and its error output, where there is a sidecar.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Launch {
    /// The bottle's host name.
    pub hostname: String,
    /// The in-bottle helper's file.
    pub helper: String,
    /// The bundle, if there is to be one.
    pub sidecar: Option<Sidecar>,
    /// What else of this machine stands in the bottle, read-only.
    pub binds: Vec<Bind>,
    /// Links in the bottle: where, and to what.
    pub links: Vec<(String, String)>,
    /// How many processes and threads.
    pub pids: u64,
    /// Bytes of memory that files may take, at most, of each file system.
    pub files: u64,
    /// Control groups to enter, as `cgroup.procs` files.
    pub cgroups: Vec<String>,
    /// Defences to leave out.
    #[cfg(feature = "open-defences")]
    pub without: Vec<String>,
}

impl Launch {
    /// Is that defence up? Always, outside of tests.
    pub(crate) fn has(&self, defence: &str) -> bool {
        #[cfg(feature = "open-defences")]
        if self.without.iter().any(|name| name == defence) {
            return false;
        }
        let _ = defence;
        true
    }
}

/// The bundle.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sidecar {
    /// Its program's file.
    pub program: String,
    /// Its daemons, as the bundle's variable has them.
    pub daemons: String,
}

impl Sidecar {
    /// What its daemons listen at, in the order in which the bundle is to have it.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = Listener> {
        self.daemons.split(',').flat_map(listeners_of).copied()
    }

    /// Where git-gate stands among them, if it is one of them.
    pub(crate) fn git_gate(&self) -> Option<usize> {
        self.daemons.split(',').position(|daemon| daemon == GIT_GATE_DAEMON)
    }
}

/// A file or directory of this machine in the bottle.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Bind {
    /// On this machine.
    pub from: String,
    /// In the bottle.
    pub to: String,
}

/// A file that nobody in the bottle can change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub text: String,
}

/// Backend → launcher → PID 1, once the sidecar serves: the last files, after which nothing of the bottle's own system
/// can be written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finish {
    /// In this order.
    pub files: Vec<File>,
}

/// Launcher → backend; PID 1 → launcher.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Word {
    /// PID 1: the sidecar's listeners come along.
    Listeners,
    /// The bottle takes processes.
    Ready,
    /// It will not be: what was attempted and found.
    Failed {
        /// The step, a word of [`crate::wire`]'s.
        step: String,
        /// What was attempted, and what the kernel said.
        why: String,
        /// The kernel's error.
        errno: Option<i32>,
    },
}

/// Launcher → PID 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Order {
    /// The users of the namespace are set.
    Mapped,
    /// See [`Finish`].
    Finish(Finish),
    /// A client's connection comes along.
    Serve,
}

/// Client → PID 1, first; without a terminal the process's three streams come along.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// A terminal of this size (columns, rows).
    pub tty: Option<(u16, u16)>,
}

/// Client → PID 1, later.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Signal {
    /// By number.
    pub signal: i32,
}

/// PID 1 → client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Told {
    /// It runs; its terminal comes along, where it has one.
    Started,
    /// It could not be started.
    Refused {
        /// Why.
        why: String,
    },
    /// It has ended: its exit code, 128 + n for signal n.
    Ended {
        /// The code.
        code: i32,
    },
}

/// Two ends of a socket that keeps messages apart.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message.
pub fn send<T: Serialize>(socket: impl AsFd, value: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(invalid(format!("message of {} bytes, {MAX_MESSAGE} allowed", bytes.len())));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(invalid(format!("{} descriptors, {MAX_DESCRIPTORS} allowed", descriptors.len())));
    }
    retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message. `None`: the other end is closed.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let (mut ancillary, mut bytes) = (RecvAncillaryBuffer::new(&mut space), vec![0; MAX_MESSAGE]);
    let mut take = || {
        let into = &mut [IoSliceMut::new(&mut bytes)];
        retry_on_intr(|| recvmsg(&socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC))
    };
    // Where the other end was closed with words of ours unread that is told first, and once; its own last words follow.
    let received = match take() {
        Err(Errno::CONNRESET) => take()?,
        received => received?,
    };
    let mut descriptors = vec![];
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(invalid("a message that is too long".into()));
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors_and_the_end_is_seen() {
        let (ours, theirs) = pair().unwrap();
        let long = Exec { argv: vec!["x".repeat(100_000)], ..Exec::default() };
        send(&ours, &long, &[ours.as_fd(), theirs.as_fd()]).unwrap();
        send(&ours, &Order::Mapped, &[]).unwrap();
        let (exec, descriptors) = receive::<Exec>(&theirs).unwrap().unwrap();
        assert_eq!((exec.argv[0].len(), descriptors.len()), (100_000, 2));
        drop(descriptors);
        assert!(matches!(receive(&theirs).unwrap(), Some((Order::Mapped, _))));
        drop(ours);
        assert!(receive::<Order>(&theirs).unwrap().is_none());
    }

    #[test]
    fn last_words_are_heard_though_ours_were_not() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &Order::Mapped, &[]).unwrap();
        send(&theirs, &Told::Started, &[]).unwrap();
        drop(theirs);
        assert!(matches!(receive(&ours).unwrap(), Some((Told::Started, _))));
        assert!(receive::<Told>(&ours).unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        assert!(send(&ours, &"x".repeat(MAX_MESSAGE), &[]).is_err());
        rustix::io::write(&ours, b"{").unwrap();
        assert!(receive::<Exec>(&theirs).is_err());
    }
}
