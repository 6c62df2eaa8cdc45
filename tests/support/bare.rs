//! A bottle of namespaces alone: its launcher, driven as the backend drives it, without a host, a sidecar or a lab. Single
//! defences can be left out, and calls of the kernel taken away, to see what holds.

use crate::{bottle::Run, lab};
use anyhow::{Context, Result, anyhow, bail};
use bottle_api::{
    Secret,
    control::{CAPABILITY, First, handshake},
    secret::Secrets,
};
use bottle_namespace::wire::{self, Exec, Finish, Launch, Sidecar, Told, Word};
use bottle_policy::Policy;
use rustix::{
    fs::{Gid, Uid},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::geteuid,
    thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
use std::{
    fs::{self, File},
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::chown, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};
use tempfile::TempDir;

/// Nobody's number, who is an ordinary user all the same.
pub const USER: u32 = 54_321;

/// What the sidecar of a bare bottle asks for.
pub const PASSWORD: &str = "a-capability";

/// Who makes a bottle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The machine's root.
    Root,
    /// Anybody.
    User,
}

impl Who {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Root, Self::User];

    /// Does something as them, in a thread of its own, in which these calls of the kernel answer that they do not exist.
    pub fn act<T: Send>(self, missing: &[i64], what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        assert!(geteuid().is_root(), "these tests make users: run them as root");
        let missing = missing.to_vec();
        thread::scope(|scope| {
            let acting = scope.spawn(move || {
                if self == Self::User {
                    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
                    set_thread_groups(&[])?;
                    set_thread_res_gid(group, group, group)?;
                    set_thread_res_uid(user, user, user)?;
                }
                if !missing.is_empty() {
                    set_no_new_privs(true)?;
                    let rules = missing.into_iter().map(|call| (call, vec![])).collect();
                    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
                    let arch = std::env::consts::ARCH.try_into()?;
                    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
                    let program: seccompiler::BpfProgram = filter.try_into()?;
                    apply_filter(&program)?;
                }
                what()
            });
            acting.join().map_err(|_| anyhow!("the acting thread panicked"))?
        })
    }
}

/// `bottle-namespace` or `bottle-sidecar`, as staged; the first with its defences in reach.
pub fn artifact(name: &str) -> PathBuf {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let stage = lab::stage();
    match name {
        "bottle-namespace" => stage.with_file_name("open-defences").join(format!("{name}-{arch}")),
        _ => stage.join(format!("libexec/bottle/{name}-{arch}")),
    }
}

/// A running bottle.
pub struct Bare {
    who: Who,
    owner: Option<OwnedFd>,
    /// To the sidecar, where there is one.
    channel: Option<UnixStream>,
    /// The launcher.
    pub launcher: Child,
    dir: TempDir,
}

impl Bare {
    /// Makes one, with all its defences but these.
    pub fn start(who: Who, without: &[&str]) -> Result<Self> {
        let without = without.iter().map(|name| (*name).to_owned()).collect();
        Self::start_with(who, Launch { without, pids: 200, files: 64 << 20, ..Launch::default() }, &[])
    }

    /// Makes one with a sidecar that judges by that policy. Its password is [`PASSWORD`].
    pub fn start_beside_sidecar(who: Who, policy: &Policy) -> Result<Self> {
        let program = artifact("bottle-sidecar").display().to_string();
        let sidecar = Some(Sidecar { program, daemons: "egress,dns".into() });
        let launch = Launch { sidecar, pids: 200, files: 64 << 20, ..Launch::default() };
        Self::start_by(&artifact("bottle-namespace"), who, launch, &[], policy)
    }

    /// Makes what is asked for, on a kernel without these calls.
    pub fn start_with(who: Who, launch: Launch, missing: &[i64]) -> Result<Self> {
        Self::start_by(&artifact("bottle-namespace"), who, launch, missing, &Policy::default())
    }

    /// Makes one by another launcher than the staged one, which is told to leave defences out.
    pub fn start_by_program(program: &Path, without: &[&str]) -> Result<Self> {
        let without = without.iter().map(|name| (*name).to_owned()).collect();
        let launch = Launch { without, pids: 200, files: 64 << 20, ..Launch::default() };
        Self::start_by(program, Who::Root, launch, &[], &Policy::default())
    }

    fn start_by(program: &Path, who: Who, launch: Launch, missing: &[i64], policy: &Policy) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        if who == Who::User {
            chown(dir.path(), Some(USER), Some(USER))?;
        }
        let helper = artifact("bottle-sidecar").display().to_string();
        let launch = Launch { hostname: "bare".into(), helper, ..launch };
        let door = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let path = dir.path().join("door");
        bind(&door, &SocketAddrUnix::new(&path)?)?;
        listen(&door, 8)?;
        if who == Who::User {
            chown(&path, Some(USER), Some(USER))?;
        }
        let (owner, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let launcher = who.act(missing, || {
            let mut command = Command::new(program);
            command.env_clear().stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
            command.spawn().context("start the launcher")
        })?;
        let mut bare = Self { who, owner: Some(owner), channel: None, launcher, dir };
        bare.make(&launch, &door, policy)?;
        Ok(bare)
    }

    fn make(&mut self, launch: &Launch, door: &OwnedFd, policy: &Policy) -> Result<()> {
        let owner = self.owner.as_ref().context("an owner")?;
        if launch.sidecar.is_none() {
            wire::send(owner, launch, &[door.as_fd()])?;
        } else {
            let ((mut channel, far), errors) = (UnixStream::pair()?, rustix::stdio::stderr());
            wire::send(owner, launch, &[door.as_fd(), far.as_fd(), errors])?;
            drop(far);
            let mut secrets = Secrets::default();
            secrets.insert(CAPABILITY, Secret::new(PASSWORD));
            let first = handshake(&mut channel, serde_json::to_value(policy)?, &secrets)?;
            anyhow::ensure!(matches!(first, First::Ready { .. }), "{first:?}");
            self.channel = Some(channel);
        }
        let finished = wire::send(owner, &Finish { files: vec![] }, &[]);
        loop {
            match wire::receive::<Word>(owner)? {
                Some((Word::Ready, _)) => return Ok(finished?),
                Some((Word::Listeners, _)) => {}
                Some((Word::Failed { step, why, errno }, _)) => bail!("{step}: {why} ({errno:?})"),
                None => bail!("the launcher ended"),
            }
        }
    }

    /// Runs a shell script in it.
    pub fn sh(&self, script: &str) -> Result<Run> {
        self.run(&["/bin/bash", "-c", script])
    }

    /// Runs a program in it to its end.
    pub fn run(&self, argv: &[&str]) -> Result<Run> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((stdin, input), (from, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
        drop(input);
        let env = [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/home/agent")];
        let what = Exec {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            cwd: "/workspace".into(),
            tty: None,
        };
        let socket = self.who.act(&[], || {
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            connect(&socket, &SocketAddrUnix::new(self.dir.path().join("door"))?)?;
            Ok(socket)
        })?;
        wire::send(&socket, &what, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        drop((stdin, stdout, stderr));
        match wire::receive::<Told>(&socket)? {
            Some((Told::Started, _)) => {}
            other => bail!("not started: {other:?}"),
        }
        let errors = thread::spawn(move || {
            let mut text = String::new();
            File::from(errors).read_to_string(&mut text).map(|_| text)
        });
        let mut said = String::new();
        File::from(from).read_to_string(&mut said)?;
        let stderr = errors.join().map_err(|_| anyhow!("the reader panicked"))??;
        match wire::receive::<Told>(&socket)? {
            Some((Told::Ended { code }, _)) => Ok(Run { code: Some(code), stdout: said, stderr }),
            other => bail!("it has not ended: {other:?}: {said}"),
        }
    }

    /// The bottle's processes, as this machine sees them: those below the launcher, dead ones excepted.
    pub fn processes(&self) -> Vec<i32> {
        below(self.launcher.id().cast_signed())
    }

    /// The owner is gone.
    pub fn abandon(&mut self) {
        self.owner = None;
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.owner = None;
        let _ = self.launcher.wait();
    }
}

/// The launchers of a bottle that the backend has started, and its first processes, which carry their words: the launcher
/// is the first of them.
pub fn launchers(identity: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let label = format!("--identity={identity}\0");
    let mut found: Vec<i32> = entries
        .filter(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with("bottle-namespace\0") && line.contains(&label)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// A process's living children and theirs.
pub fn below(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let alive = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    let children: Vec<i32> = children.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    children.into_iter().flat_map(|child| [vec![child], below(child)].concat()).filter(alive).collect()
}

/// The real Claude Code, out of the lab's base image, once.
pub fn claude(lab: &lab::Lab) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/lab/claude-of-the-image");
    static ONCE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ONCE.lock().map_err(|_| anyhow!("another test panicked"))?;
    if !path.exists() {
        let id = lab.docker(&["create", &lab.base_image])?;
        let (id, draft) = (id.trim().to_owned(), path.with_extension("new"));
        let copied = lab.docker(&["cp", &format!("{id}:/usr/local/bin/claude"), &draft.display().to_string()]);
        lab.docker(&["rm", &id])?;
        copied?;
        fs::rename(draft, &path)?;
    }
    Ok(path)
}
