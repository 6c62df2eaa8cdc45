//! PID 1 of a bottle: makes it, gives up everything that making it took, and then starts what it is asked to start.
//!
//! ```text
//! users mapped ─ loopback, listeners ─▶ launcher; sources, tree, masks ─ last files ─ sealed, no privileges ─▶ ready
//! ```
//!
//! What a process must not have PID 1 has given up before there is any, so nothing can be forgotten later: one Landlock
//! domain and one set of filters hold them all. When the launcher's socket closes, PID 1 ends, and with it, by the
//! kernel's word, every process of the bottle.

use crate::{
    confine, exec,
    exec::Process,
    ids::Ids,
    masks,
    sources::Sources,
    sys, tree,
    wire::{self, Exec, Launch, Order, Signal, Told, Word},
};
use anyhow::{Context, Result, bail};
use bottle_api::{AGENT_UID, control::Listener};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Gid, Uid},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with},
    process::{Resource, WaitOptions, set_parent_process_death_signal, umask, wait},
    system::sethostname,
    thread::{CapabilitySet, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use seccompiler::BpfProgram;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
};

/// Among the first whom the kernel ends when memory runs out.
const OOM_SCORE: &str = "500";
/// Processes that PID 1 may have beyond the agent's: a command can be run beside a fork bomb.
const SPARE: u64 = 16;
const OPEN_FILES: u64 = 65536;
const LOCKED_MEMORY: u64 = 64 << 20;
const QUEUED_MESSAGES: u64 = 819_200;
/// As the sidecar's own.
const BACKLOG: i32 = 4096;

/// Everything from the clone on. Returns where the launcher is gone, or the bottle cannot be made.
pub(crate) fn run(launch: &Launch, ids: Ids, control: &OwnedFd, filters: &[BpfProgram]) -> i32 {
    let mut step = "join";
    if let Err(error) = make(launch, ids, control, filters, &mut step) {
        let errno = error.chain().find_map(|cause| {
            let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            io.or_else(|| cause.downcast_ref::<Errno>().map(|errno| errno.raw_os_error()))
        });
        let word = Word::Failed { step: step.into(), why: format!("{error:#}"), errno };
        let _ = wire::send(control, &word, &[]);
        return 1;
    }
    match serve(launch, control) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn make(launch: &Launch, ids: Ids, control: &OwnedFd, filters: &[BpfProgram], step: &mut &'static str) -> Result<()> {
    let mut at = |name: &'static str| *step = name;
    die_with_parent()?;
    let Some((Order::Mapped, _)) = wire::receive(control)? else { bail!("the launcher is gone") };
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    fs::write("/proc/self/oom_score_adj", OOM_SCORE).context("set oom_score_adj")?;
    confine::hide(launch.has("hide"))?;
    // First of all: while the rest is made the sidecar comes to serve.
    at("network");
    let hostname = launch.hostname.get(..launch.hostname.len().min(63)).unwrap_or("bottle");
    sethostname(hostname.as_bytes()).context("name the bottle")?;
    sys::loopback_up().context("switch the loopback on")?;
    if let Some(sidecar) = &launch.sidecar {
        let listeners = sidecar.listeners().map(listener).collect::<Result<Vec<_>>>()?;
        let lent: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        wire::send(control, &Word::Listeners, &lent)?;
    }
    at("sources");
    tree::part()?;
    let sources = Sources::take(launch)?;
    at("users");
    become_agent(ids, AGENT_UID)?;
    confine::hide(launch.has("hide"))?;
    at("proc");
    let early = tree::Early::make(launch.has("hide"))?;
    at("tree");
    tree::turn()?;
    tree::put_up(launch, sources, early)?;
    let counts = launch.has("counts").then(masks::Counts::open).transpose()?;
    if launch.has("masks") {
        masks::cover()?;
    }
    at("files");
    let Some((Order::Finish(finish), _)) = wire::receive(control)? else { bail!("the launcher is gone") };
    finish.files.iter().try_for_each(tree::write)?;
    at("seal");
    tree::seal()?;
    counts.map_or(Ok(()), masks::Counts::close)?;
    at("confine");
    for (resource, value) in [
        (Resource::Core, 0),
        (Resource::Nofile, OPEN_FILES),
        (Resource::Nproc, launch.pids.saturating_add(SPARE)),
        (Resource::Memlock, LOCKED_MEMORY),
        (Resource::Msgqueue, QUEUED_MESSAGES),
    ] {
        confine::limit(resource, value)?;
    }
    confine::give_up_capabilities(CapabilitySet::empty())?;
    if launch.has("landlock") {
        confine::landlock(&tree::WRITABLE, false)?;
    }
    if launch.has("seccomp") {
        confine::filter(filters)?;
    }
    Ok(())
}

/// A dead launcher's bottle ends: the kernel says so, and the socket says so. The first goes where the user changes.
pub(crate) fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).context("end with the launcher")
}

/// Where root makes the bottle, it has a user of its own from here on.
pub(crate) fn become_agent(ids: Ids, inner: u32) -> Result<()> {
    if ids.apart {
        set_thread_groups(&[])?;
        let (user, group) = (Uid::from_raw(inner), Gid::from_raw(inner));
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        die_with_parent()?;
    }
    Ok(())
}

/// A socket of the bottle's own network that the sidecar listens at.
fn listener(what: Listener) -> Result<OwnedFd> {
    let attempt = || format!("listen for the sidecar: {what:?}");
    let (kind, port) = match what {
        Listener::Tcp(port) => (SocketType::STREAM, port),
        Listener::Udp(port) => (SocketType::DGRAM, port),
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).with_context(attempt)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).with_context(attempt)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG).with_context(attempt)?;
    }
    Ok(socket)
}

/// Somebody who asked for a process, or is about to.
struct Client {
    socket: OwnedFd,
    process: Option<Process>,
}

fn serve(launch: &Launch, control: &OwnedFd) -> Result<()> {
    let children = sys::signals(&[libc::SIGCHLD])?;
    let mut clients: Vec<Client> = vec![];
    wire::send(control, &Word::Ready, &[])?;
    loop {
        let (children_at, first_client) = (1, 2);
        let mut fds = vec![PollFd::new(control, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        fds.extend(clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::IN)));
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            result => drop(result?),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[children_at] {
            let _ = rustix::io::read(&children, &mut [0; 128]);
        }
        let mut gone: Vec<bool> = vec![false; clients.len()];
        for (place, client) in clients.iter_mut().enumerate().filter(|(place, _)| ready[first_client + place]) {
            gone[place] = !hear(client, launch.pids);
        }
        let mut gone = gone.into_iter();
        clients.retain(|_| !gone.next().unwrap_or(false));
        reap(&mut clients);
        if ready[0] {
            match wire::receive::<Order>(control)? {
                None => return Ok(()),
                Some((Order::Serve, descriptors)) => {
                    clients.extend(descriptors.into_iter().map(|socket| Client { socket, process: None }));
                }
                Some(_) => bail!("an order that comes too late"),
            }
        }
    }
}

/// `false`: the client is gone, and its process, if it still runs, goes with it.
fn hear(client: &mut Client, pids: u64) -> bool {
    let heard = match &client.process {
        None => match wire::receive::<Exec>(&client.socket) {
            Ok(Some((what, streams))) => {
                let (told, terminal) = match exec::start(&what, &streams, pids) {
                    Ok((process, terminal)) => {
                        client.process = Some(process);
                        (Told::Started, terminal)
                    }
                    Err(error) => (Told::Refused { why: format!("{error:#}") }, None),
                };
                let lent: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                wire::send(&client.socket, &told, &lent).is_ok() && client.process.is_some()
            }
            _ => false,
        },
        Some(process) => match wire::receive::<Signal>(&client.socket) {
            Ok(Some((Signal { signal }, _))) => {
                process.signal(signal);
                true
            }
            _ => false,
        },
    };
    if let (false, Some(process)) = (heard, &client.process) {
        process.signal(libc::SIGKILL);
    }
    heard
}

/// Takes away what has ended, and tells whoever asked for it.
fn reap(clients: &mut Vec<Client>) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let of = |client: &Client| client.process.as_ref().is_some_and(|process| process.pid == pid);
        if let Some(place) = clients.iter().position(of) {
            let killed = status.terminating_signal().map(|signal| 128 + signal);
            let code = status.exit_status().or(killed).unwrap_or(255);
            let _ = wire::send(&clients[place].socket, &Told::Ended { code }, &[]);
            clients.remove(place);
        }
    }
}
