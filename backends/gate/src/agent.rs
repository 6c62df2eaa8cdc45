//! The one key of a remote over ssh, in OpenSSH's own agent: it comes by a pipe, and no file ever holds it.

use crate::git::{Children, Git};
use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};
use thiserror::Error;
use zeroize::Zeroizing;

/// The variable by which `ssh-add` runs our program to ask for the passphrase, and it finds us.
pub const ASKPASS_ENV: &str = "BOTTLE_ASKPASS_SOCKET";
/// The name under which our program answers for the passphrase.
pub const ASKPASS: &str = "askpass";
/// What a program says that asks; whoever ends the asking says nothing.
const ASK: u8 = b'?';
/// How long an agent may take to start, and to take a key.
const LIMIT: Duration = Duration::from_secs(30);

/// Why there is no agent with the key.
#[derive(Debug, Error)]
pub enum AgentError {
    /// OpenSSH's programs could not be run.
    #[error("ssh-agent could not be run: {0}")]
    Io(#[from] io::Error),
    /// It ended, or said nothing.
    #[error("ssh-agent did not start")]
    Agent,
    /// The key.
    #[error("ssh-add did not take the key: it is no private key, or its passphrase is another")]
    Key,
}

/// An agent. It ends with this.
pub struct KeyAgent {
    _agent: Children,
    socket: PathBuf,
}

impl KeyAgent {
    /// Starts one, and gives it the key. `dir` is nobody else's; in it `askpass` is our program.
    pub fn start(programs: &Git, dir: &Path, key: &[u8], passphrase: &[u8]) -> Result<Self, AgentError> {
        let socket = dir.join("agent.sock");
        let mut agent = Children::default();
        let mut command = programs.program("ssh-agent");
        let started = agent.start(command.args(["-D", "-a"]).arg(&socket).stdout(Stdio::piped()))?;
        let said = started.stdout.take().ok_or(AgentError::Agent)?;
        // It says where it listens once it does, and goes on.
        let watch = agent.watch(LIMIT)?;
        let mut line = String::new();
        BufReader::new(said.take(4096)).read_line(&mut line)?;
        drop(watch);
        if !line.starts_with("SSH_AUTH_SOCK=") {
            return Err(AgentError::Agent);
        }
        let asked = dir.join("askpass.sock");
        let listener = UnixListener::bind(&asked)?;
        let added = thread::scope(|scope| {
            scope.spawn(|| answer(&listener, passphrase));
            let added = add(
                programs.program("ssh-add").stdout(Stdio::null()).env("SSH_AUTH_SOCK", &socket).envs([
                    ("SSH_ASKPASS", dir.join(ASKPASS).as_os_str()),
                    ("SSH_ASKPASS_REQUIRE", OsStr::new("force")),
                    (ASKPASS_ENV, asked.as_os_str()),
                ]),
                key,
            );
            // Nobody asks any more.
            let _ = UnixStream::connect(&asked).map(drop);
            added
        });
        fs::remove_file(&asked)?;
        match added? {
            true => Ok(Self { _agent: agent, socket }),
            false => Err(AgentError::Key),
        }
    }

    /// Where ssh finds it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn add(command: &mut Command, key: &[u8]) -> io::Result<bool> {
    let mut children = Children::default();
    let stdin = children.start(command.args(["-q", "-"]).stdin(Stdio::piped()))?.stdin.take();
    let watch = children.watch(LIMIT)?;
    // It may have ended without reading; how it ended says why.
    let _ = stdin.map(|mut stdin| stdin.write_all(key));
    Ok(children.wait(watch)?.iter().all(std::process::ExitStatus::success))
}

/// Answers once. A wrong passphrase is asked for again: then nobody answers, and `ssh-add` gives up.
fn answer(listener: &UnixListener, passphrase: &[u8]) {
    for (asked, asking) in listener.incoming().enumerate() {
        let said = asking.and_then(|mut asking| {
            let mut word = [0];
            let for_it = asking.read(&mut word)? > 0;
            if for_it && asked == 0 {
                asking.write_all(passphrase)?;
            }
            Ok(for_it)
        });
        if !said.unwrap_or(false) {
            return;
        }
    }
}

/// `askpass`: asks the process that has started `ssh-add`, and says it to that.
pub fn askpass() -> io::Result<()> {
    let socket = env::var_os(ASKPASS_ENV).ok_or_else(|| io::Error::other("this is run by ssh-add, not by hand"))?;
    let mut asked = UnixStream::connect(socket)?;
    asked.write_all(&[ASK])?;
    let mut passphrase = Zeroizing::new(vec![]);
    asked.read_to_end(&mut passphrase)?;
    if passphrase.is_empty() {
        return Err(io::Error::other("it was asked for before"));
    }
    // ssh-add reads a line.
    passphrase.push(b'\n');
    io::stdout().lock().write_all(&passphrase)
}
