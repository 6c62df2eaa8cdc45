//! Git's hooks, which judge nothing: each hands what git tells it to the gate's daemon by a socket, and passes the answer
//! on. Where nobody answers, the push is refused.
//!
//! ```text
//! down: name of the hook, VARIABLE=… of the quarantine ─ end ─ OLD NEW REF … ─ end
//! up:   lines for the pusher ─ end ─ answers: `ok`, or for proc-receive one per ref ─ end
//! ```

use crate::packet;
use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, Read, Write},
    os::unix::{ffi::OsStrExt, net::UnixStream},
};

/// The variable that names the daemon's socket.
pub const SOCKET_ENV: &str = "BOTTLE_GATE_SOCKET";
/// The hook that is asked before anything is kept.
pub const PRE_RECEIVE: &str = "pre-receive";
/// The hook that does what a push asks for.
pub const PROC_RECEIVE: &str = "proc-receive";
/// What a hook hands on of its environment.
const VARIABLES: [&str; 1] = [crate::git::OBJECTS];
/// The only version of its talk with `proc-receive` that git has.
const VERSION: &[u8] = b"version=1";

/// Is it a program's name by which git runs a hook of ours?
pub fn is_hook(name: &str) -> bool {
    [PRE_RECEIVE, PROC_RECEIVE].contains(&name)
}

/// Runs as that hook. `false`: the push is refused.
pub fn run(name: &str) -> io::Result<bool> {
    let socket = env::var_os(SOCKET_ENV).ok_or_else(|| io::Error::other("this is run by git, not by hand"))?;
    let mut daemon = UnixStream::connect(socket)?;
    let (mut stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    match name {
        PRE_RECEIVE => {
            let updates = stdin.split(b'\n').collect::<io::Result<Vec<_>>>()?;
            let (told, answers) = ask(&mut daemon, name, &updates)?;
            tell(&told)?;
            Ok(answers == [b"ok"])
        }
        PROC_RECEIVE => {
            let hello = packet::read_list(&mut stdin)?;
            if hello.first().and_then(|hello| hello.split(|b| *b == 0).next()) != Some(VERSION) {
                return Err(io::Error::other("git speaks another version of proc-receive"));
            }
            packet::write_list(&mut stdout, [VERSION])?;
            let updates = packet::read_list(&mut stdin)?;
            let (told, answers) = ask(&mut daemon, name, &updates)?;
            tell(&told)?;
            packet::write_list(&mut stdout, answers)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// What git shows the pusher, each line behind `remote:`.
fn tell(told: &[Vec<u8>]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    told.iter().try_for_each(|line| stderr.write_all(&[line, &b"\n"[..]].concat()))
}

type Answer = (Vec<Vec<u8>>, Vec<Vec<u8>>);

fn ask(daemon: &mut (impl Read + Write), name: &str, updates: &[Vec<u8>]) -> io::Result<Answer> {
    let mut words = vec![name.as_bytes().to_vec()];
    for variable in VARIABLES {
        let value = env::var_os(variable);
        words.extend(value.map(|value| [variable.as_bytes(), b"=", value.as_bytes()].concat()));
    }
    packet::write_list(daemon, words)?;
    packet::write_list(daemon, updates)?;
    Ok((packet::read_list(daemon)?, packet::read_list(daemon)?))
}

/// What a hook asks, as the daemon hears it.
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) updates: Vec<Vec<u8>>,
    variables: Vec<(String, OsString)>,
}

impl Asked {
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "what came is no hook's");
        let mut words = packet::read_list(from)?.into_iter();
        let name = words.next().and_then(|name| String::from_utf8(name).ok()).ok_or_else(broken)?;
        let mut variables = vec![];
        for word in words {
            let at = word.iter().position(|b| *b == b'=').ok_or_else(broken)?;
            let variable = String::from_utf8_lossy(&word[..at]).into_owned();
            variables.push((variable, std::ffi::OsStr::from_bytes(&word[at + 1..]).to_owned()));
        }
        Ok(Self { name, updates: packet::read_list(from)?, variables })
    }

    /// A variable that the hook had.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.iter().find(|(variable, _)| variable == name).map(|(_, value)| value.clone())
    }
}
