//! From a plan to a running bottle.
//!
//! ```text
//! launcher ─┬─▶ namespaces, tree, listeners ──────────────┬─▶ the certificate, root's files ─▶ sealed ─▶ ready
//!           └─▶ sidecar ─ policy, secrets ─▶ it serves ───┘
//! ```
//!
//! The launcher is executed from a sealed copy in memory, under a name and labels of its own, with an empty environment.

use crate::{
    NamespacePlan,
    bottle::NamespaceBottle,
    cleanup::{self, PROCESSES},
    diagnose,
    find::{self, NAME},
    limits,
    process::Door,
};
use bottle_api::{
    Cancel, CleanupRequest, Error, ErrorKind, Host, LaunchRequest, LedgerEntry, Result, SIDECAR_ARTIFACT,
    control::{First, handshake},
    error::Context,
    secret::Secrets,
};
use bottle_namespace::wire::{self, File as RootFile, Finish, Launch, Sidecar, Word};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Its name as an artifact.
const LAUNCHER_ARTIFACT: &str = "bottle-namespace";
/// The door, in the stage directory.
const DOOR: &str = "namespace.sock";
const BACKLOG: i32 = 64;
/// How many processes a bottle has where nobody says.
const DEFAULT_PIDS: u64 = 4096;
/// What each of its file systems holds at most, where memory is not limited.
const FILES: u64 = 4 << 30;
/// How long the sidecar may take to serve, and the bottle to be there.
const READY_TIME: Duration = Duration::from_secs(30);
/// How long a launcher may take to say why it gave up.
const COMPLAINT_TIME: Duration = Duration::from_secs(1);
/// Of the sidecar's error output, kept for messages.
const SAID_KEPT: usize = 4096;

/// `linux/amd64` or `linux/arm64`: this machine's.
pub(crate) fn platform() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

/// A launcher that this process has started. Its bottle ends when this is dropped.
pub(crate) struct Owner {
    socket: OwnedFd,
    child: Child,
}

impl Owner {
    /// Starts a launcher under these labels and tells it what to make.
    pub(crate) fn start(host: &Host, labels: &[String], launch: &Launch, lent: &[BorrowedFd<'_>]) -> Result<Self> {
        let path = host.artifact(LAUNCHER_ARTIFACT, platform())?;
        let program = sealed(&path).with_context(|| format!("copy {}", path.display()))?;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.arg0(NAME).args(labels).env_clear().current_dir("/");
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("start the launcher")?;
        let owner = Self { socket, child };
        wire::send(&owner.socket, launch, lent).context("tell the launcher what to make")?;
        Ok(owner)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it what is written last, and waits until the bottle is ready.
    pub(crate) fn finish(&self, files: Vec<RootFile>, cancel: &Cancel) -> Result<()> {
        // A launcher that has given up says why.
        let sent = wire::send(&self.socket, &Finish { files }, &[]);
        loop {
            match self.word(cancel)? {
                Some(Word::Ready) => return Ok(sent?),
                Some(Word::Listeners) => {}
                Some(Word::Failed { step, why, errno }) => return Err(diagnose::explain(&step, &why, errno)),
                None => return Err(Error::new(ErrorKind::RUNTIME, "the launcher ended and did not say why")),
            }
        }
    }

    /// Why the launcher gave up, if it did: whatever ends the sidecar ends it too, or is told at once.
    fn complaint(&self) -> Option<Error> {
        loop {
            match self.word_within(COMPLAINT_TIME, &Cancel::never()).ok()?? {
                Word::Failed { step, why, errno } => return Some(diagnose::explain(&step, &why, errno)),
                Word::Ready => return None,
                Word::Listeners => {}
            }
        }
    }

    fn word(&self, cancel: &Cancel) -> Result<Option<Word>> {
        self.word_within(READY_TIME, cancel)
    }

    fn word_within(&self, time: Duration, cancel: &Cancel) -> Result<Option<Word>> {
        cancel.wait_readable(self.socket.as_fd(), Some(Instant::now() + time)).context("wait for the launcher")?;
        Ok(wire::receive::<Word>(&self.socket)?.map(|(word, _)| word))
    }

    /// Closes the socket that it lives by, and waits until it is gone; with it goes all that it has made.
    pub(crate) fn end(mut self, deadline: Duration) -> Result<()> {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        let time = Timespec { tv_sec: deadline.as_secs().try_into().unwrap_or(60), tv_nsec: 0 };
        let over = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time))? > 0;
        if !over {
            let _ = self.child.kill();
            return Err(Error::new(ErrorKind::DEADLINE, "the bottle's processes do not end"));
        }
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Owner {
    /// Whoever could not end it in order at least leaves no dead process behind.
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// What this process owns of a bottle.
pub(crate) struct Owned {
    host: Host,
    owner: Owner,
    entry: LedgerEntry,
    identity: String,
    whose: String,
    door: std::path::PathBuf,
}

impl Owned {
    /// Takes it away, processes first.
    pub(crate) fn end(self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        self.owner.end(deadline)?;
        let _ = fs::remove_file(&self.door);
        self.host.ledger(&self.identity).gone(&self.entry)?;
        let req = CleanupRequest { sweep: true, owner: self.whose.clone(), ..CleanupRequest::default() };
        let mut left = cleanup::plan(&req);
        left.retain(|item| item.identity == self.identity);
        let outcome = cleanup::execute(&self.host, left, until.saturating_duration_since(Instant::now()))?;
        match outcome.left.first() {
            None => Ok(()),
            Some((item, why)) => {
                let message = format!("the {} {} is left: {why}", item.kind, item.name);
                Err(Error::new(ErrorKind::RUNTIME, message).hint("Try again: `bottle cleanup`."))
            }
        }
    }
}

/// Makes the bottle, up to provisioning. Returns its certificate authority too, PEM.
pub(crate) fn launch(
    host: &Host,
    plan: &NamespacePlan,
    req: &LaunchRequest,
    secrets: &Secrets,
    cancel: &Cancel,
) -> Result<(NamespaceBottle, String)> {
    let spec = &plan.spec;
    let name = format!("claude-bottle-{}", spec.identity);
    let ledger = host.ledger(&spec.identity);
    let program = host.artifact(SIDECAR_ARTIFACT, platform())?.display().to_string();
    let cgroups = limits::make(host, spec)?;
    let path = plan.stage.join(DOOR);
    let door = open_door(&path)?;
    let daemons = spec.daemons.join(",");
    let mut wanted = Launch {
        hostname: spec.slug.clone(),
        helper: program.clone(),
        sidecar: Some(Sidecar { program, daemons: daemons.clone() }),
        binds: plan.tools.binds.clone(),
        links: plan.tools.links.clone(),
        pids: spec.limits.pids.unwrap_or(DEFAULT_PIDS),
        files: spec.limits.memory.unwrap_or(FILES).min(FILES),
        ..Launch::default()
    };
    wanted.cgroups = cgroups;
    let (mut channel, far) = UnixStream::pair()?;
    let (said, errors) = pipe_with(PipeFlags::CLOEXEC)?;
    let said = listen_to(said, host.clone());

    cancel.check()?;
    let mut entry = ledger.intent(PROCESSES, &name)?;
    let started = OffsetDateTime::now_utc().format(&Rfc3339)?;
    let socket = path.display().to_string();
    let labels = find::arguments([&spec.identity, &spec.owner, &entry.uuid, &spec.agent, &daemons, &started, &socket]);
    let owner = Owner::start(host, &labels, &wanted, &[door.as_fd(), far.as_fd(), errors.as_fd()])?;
    drop((door, far, errors));
    let pid = owner.pid();
    let start = find::start_of(pid.cast_signed()).unwrap_or_default();
    ledger.created(&mut entry, &format!("{pid}.{start}"))?;

    let shaken = shake(&mut channel, req, secrets, cancel);
    let ca_pem = match shaken {
        Ok(ca_pem) => ca_pem,
        Err(error) if error.kind == ErrorKind::CANCELLED => return Err(error),
        Err(error) => return Err(owner.complaint().unwrap_or_else(|| with_words(error, &said))),
    };
    let files = spec.provision.in_order(&ca_pem).into_iter().filter(|file| file.uid == 0);
    let files = files.map(|file| {
        let text = String::from_utf8(file.data).with_context(|| format!("{} is not UTF-8", file.path))?;
        Ok(RootFile { path: file.path, mode: file.mode, text })
    });
    owner.finish(files.collect::<Result<_>>()?, cancel)?;
    let door = Door { path: path.clone(), launcher: pid };
    let (identity, whose) = (spec.identity.clone(), spec.owner.clone());
    let owned = Owned { host: host.clone(), owner, entry, identity, whose, door: path };
    Ok((NamespaceBottle::owned(name, door, owned, channel.into()), ca_pem))
}

/// A socket that only this user can reach.
fn open_door(path: &Path) -> Result<OwnedFd> {
    let attempt = || format!("listen at {}", path.display());
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let (_dir, address) = Door::address(path)?;
    bind(&socket, &address).with_context(attempt)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(attempt)?;
    listen(&socket, BACKLOG).with_context(attempt)?;
    Ok(socket)
}

/// A copy of a program that nobody can change any more.
fn sealed(path: &Path) -> Result<OwnedFd> {
    let mut copy = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    io::copy(&mut File::open(path)?, &mut copy)?;
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    // Opened anew for reading: a program that is open for writing cannot be executed.
    Ok(File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?.into())
}

/// Hands over policy and secrets, and waits until the bundle serves.
fn shake(channel: &mut UnixStream, req: &LaunchRequest, secrets: &Secrets, cancel: &Cancel) -> Result<String> {
    let until = Instant::now() + READY_TIME;
    let mut patient = Patient { channel, cancel, until };
    match handshake(&mut patient, req.policy.clone(), secrets) {
        Ok(First::Ready { ca_pem }) => Ok(ca_pem),
        Ok(First::Refused { message }) => {
            Err(Error::new(ErrorKind::RUNTIME, format!("the sidecar refused to serve: {message}")))
        }
        Err(_) if cancel.is_cancelled() => Err(Cancel::error()),
        Err(error) => Err(Error::from(error).context("wait for the sidecar to serve").kind(ErrorKind::RUNTIME)),
    }
}

/// A channel whose reader can be cancelled.
struct Patient<'a> {
    channel: &'a mut UnixStream,
    cancel: &'a Cancel,
    until: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.cancel
            .wait_readable(self.channel.as_fd(), Some(self.until))
            .map_err(|error| io::Error::other(error.into_std()))?;
        self.channel.read(into)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.channel.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.channel.flush()
    }
}

/// Passes on what the sidecar complains of, and keeps the beginning.
fn listen_to(from: OwnedFd, host: Host) -> Arc<Mutex<String>> {
    let said: Arc<Mutex<String>> = Arc::default();
    let keeping = said.clone();
    thread::spawn(move || {
        for line in BufReader::new(File::from(from)).split(b'\n').map_while(io::Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().escape_debug().to_string();
            host.warn(format!("sidecar: {line}"));
            let mut said = keeping.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() + line.len() < SAID_KEPT {
                said.push_str(&line);
            }
        }
    });
    said
}

fn with_words(mut error: Error, said: &Mutex<String>) -> Error {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    error.chain.extend((!said.is_empty()).then(|| format!("it said: {said}")));
    error
}
