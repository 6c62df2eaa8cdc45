//! Our program under other names: what git and OpenSSH start of it.

use crate::daemon;
use anyhow::{Context, Result, bail};
use bottle_gate::{agent, hook};
use rustix::{io::dup, stdio};
use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    thread,
};

/// The name under which it connects ssh with the daemon, which dials.
const DIAL: &str = "dial";
/// The names are links in this directory, which is where git looks for its hooks.
const PLACE: &str = "programs";

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// A hook of git's.
    Hook(&'static str),
    /// What asks for the passphrase of a key.
    Askpass,
    /// ssh's way to upstream.
    Dial,
}

impl Program {
    /// The one that is meant by the name under which a program was started.
    pub(crate) fn named(path: &str) -> Option<Self> {
        match path.rsplit('/').next()? {
            hook::PRE_RECEIVE => Some(Self::Hook(hook::PRE_RECEIVE)),
            hook::PROC_RECEIVE => Some(Self::Hook(hook::PROC_RECEIVE)),
            agent::ASKPASS => Some(Self::Askpass),
            DIAL => Some(Self::Dial),
            _ => None,
        }
    }

    /// Runs as it. An error fails whoever started it: a push is refused, a key not taken, a host not reached.
    pub(crate) fn run(self, words: &[&str]) -> Result<()> {
        daemon::harden()?;
        match (self, words) {
            (Self::Hook(name), _) if hook::run(name)? => Ok(()),
            // The pusher was told why.
            (Self::Hook(_), _) => std::process::exit(1),
            (Self::Askpass, _) => Ok(agent::askpass()?),
            (Self::Dial, [socket, ..]) => dial(socket),
            (Self::Dial, []) => bail!("this is run by ssh, not by hand"),
        }
    }
}

/// Puts all of them below `dir`.
pub(super) fn put(dir: &Path) -> Result<PathBuf> {
    let (place, program) = (dir.join(PLACE), env::current_exe().context("find our own program")?);
    fs::create_dir(&place)?;
    for name in [hook::PRE_RECEIVE, hook::PROC_RECEIVE, agent::ASKPASS, DIAL] {
        symlink(&program, place.join(name)).with_context(|| format!("make {name} in {}", place.display()))?;
    }
    Ok(place)
}

/// As ssh is told it: the program that connects it with whoever listens at `socket`.
pub(super) fn dialler(programs: &Path, socket: &Path) -> String {
    format!("{} {}", programs.join(DIAL).display(), socket.display())
}

/// `dial SOCKET HOST PORT`: standard input and output to the daemon, which knows the host and the port itself.
fn dial(socket: &str) -> Result<()> {
    let daemon = UnixStream::connect(socket).context("git-gate does not listen")?;
    let (mut to, mut from) = (daemon.try_clone()?, daemon);
    // Without a buffer: ssh waits for every byte.
    let (mut stdin, mut stdout) = (File::from(dup(stdio::stdin())?), File::from(dup(stdio::stdout())?));
    thread::spawn(move || {
        let _ = pass(&mut stdin, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    // Ends where upstream does; what ssh still says then nobody hears.
    Ok(pass(&mut from, &mut stdout)?)
}

/// Copies to the end. By trait objects, so that `io::copy` cannot splice: a splice into a pipe holds the pipe's lock while it
/// waits for the socket, and ssh would wait for that lock with its answer before it in the pipe.
fn pass(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_program_or_none() {
        for (path, expected) in [
            ("/run/git-gate/programs/pre-receive", Some(Program::Hook("pre-receive"))),
            ("proc-receive", Some(Program::Hook("proc-receive"))),
            ("/x/askpass", Some(Program::Askpass)),
            ("/x/dial", Some(Program::Dial)),
            ("/bottle-sidecar", None),
            ("/x/post-receive", None),
            ("/x/dial/", None),
            ("", None),
        ] {
            assert_eq!(Program::named(path), expected, "{path}");
        }
    }
}
