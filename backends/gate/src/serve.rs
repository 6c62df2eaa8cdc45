//! A client, from its first packet to its last: greeted, judged, and handed to git.

use crate::{
    gate::{Decision, Gate},
    git::{Children, left},
    greeting::{Greeting, Service},
    packet,
};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a client may take to say what it wants.
const GREETING: Duration = Duration::from_secs(30);
/// How long a client that fetches may be silent: git's own word for it, in seconds.
const SILENCE: u64 = 600;
/// How long a client may go on sending what nobody reads any more.
const LINGER: Duration = Duration::from_secs(30);
/// How long one client may be served.
const LONGEST: Duration = Duration::from_secs(1800);

/// What the name of a remote leads to.
pub enum Found {
    /// A gate, and the socket at which its hooks are answered.
    Gate(Arc<Gate>, PathBuf),
    /// One that cannot be served, and why.
    Shut(String),
    /// None.
    Nothing,
}

/// Serves one client to its end. `find`: what a name leads to, asked once, of a client that knows the capability; it may
/// have it wait. Returns what was decided, but for a push that reached its hooks: they have told of it.
pub fn serve(
    mut client: TcpStream,
    capability: &str,
    find: impl FnOnce(&str) -> Found,
) -> io::Result<Option<Decision>> {
    client.set_write_timeout(Some(GREETING))?;
    let mut patient = Until { client: &client, end: Instant::now() + GREETING };
    let greeting = packet::read(&mut patient).ok().flatten().as_deref().and_then(Greeting::parse);
    // Who does not know the capability learns nothing, not even of names.
    let Some(greeting) = greeting.filter(|greeting| greeting.is_from(capability)) else {
        return refuse(&mut client, "git-capability", None, "", "this is no remote of this bottle's");
    };
    let (service, name) = (Some(greeting.service), greeting.name.as_str());
    let (gate, socket) = match find(name) {
        Found::Gate(gate, socket) => (gate, socket),
        Found::Shut(why) => return refuse(&mut client, "git-remote", service, name, &format!("{name}: {why}")),
        Found::Nothing => {
            let why = match name.split_once(".git") {
                // Its URL begins like that of a remote, which is all that git looks at.
                Some((remote, _)) => format!(
                    "this is not the remote `{remote}` but a repository whose URL begins like it; it needs an entry of its \
                     own under `git` in the manifest"
                ),
                None => format!("this bottle has no remote `{name}`; its manifest names them under `git`"),
            };
            // The name is the client's own, and may be anything.
            return refuse(&mut client, "git-remote", service, "", &why);
        }
    };
    if let Err(error) = gate.mirror.refresh(greeting.service) {
        return refuse(&mut client, "git-upstream", service, name, &format!("{name}: {error}"));
    }
    // Git takes a time that is over for a pause.
    client.set_read_timeout(None)?;
    client.set_write_timeout(None)?;
    let served = gate.mirror.serving();
    let mut command = gate.mirror.service(&greeting, &socket, SILENCE);
    let [stdin, stdout] = [client.try_clone()?, client.try_clone()?].map(|end| Stdio::from(OwnedFd::from(end)));
    let mut children = Children::default();
    children.start(command.stdin(stdin).stdout(stdout))?;
    drop(command);
    let watch = children.watch(LONGEST)?;
    let ended = children.wait(watch);
    drop(served);
    let allowed = ended.as_ref().is_ok_and(|ended| ended.iter().all(ExitStatus::success));
    if !allowed {
        gate.mirror.litters();
    }
    let heard = ended.and_then(|_| linger(client));
    // For whoever comes next: this client has its answer, and waits for nothing more.
    gate.mirror.tidy();
    heard?;
    Ok((greeting.service == Service::UploadPack).then(|| Decision {
        allowed,
        rule: "git-fetch",
        service,
        remote: gate.name.clone(),
        refs: String::new(),
        told: vec![],
    }))
}

/// A client that has until then, however little it sends at a time.
struct Until<'a> {
    client: &'a TcpStream,
    end: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = left(self.end);
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.client.set_read_timeout(Some(left))?;
        (&mut &*self.client).read(to)
    }
}

/// Reads what a client still sends to a git that has said its last word. A connection that is closed before would be reset,
/// and its client would lose that word.
fn linger(mut client: TcpStream) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(LINGER))?;
    let (started, mut buffer) = (Instant::now(), vec![0; 64 << 10]);
    while started.elapsed() < LINGER && client.read(&mut buffer).is_ok_and(|length| length > 0) {}
    Ok(())
}

/// Git shows its user the whole of it.
fn refuse(
    client: &mut TcpStream,
    rule: &'static str,
    service: Option<Service>,
    remote: &str,
    why: &str,
) -> io::Result<Option<Decision>> {
    packet::write(client, format!("ERR {why}").as_bytes())?;
    client.flush()?;
    let (remote, told) = (remote.into(), vec![why.into()]);
    Ok(Some(Decision { allowed: false, rule, service, remote, refs: String::new(), told }))
}
