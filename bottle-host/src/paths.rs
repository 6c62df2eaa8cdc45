//! Where things are on this machine.

use crate::ui::hinted;
use anyhow::Result;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The places that bottle reads and writes.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The user's home.
    pub home: PathBuf,
    /// The directory that bottle was started in.
    pub cwd: PathBuf,
}

impl Paths {
    /// From the environment; a home that is not absolute is an error.
    pub fn from_env() -> Result<Self> {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        if !home.is_absolute() {
            return Err(hinted(
                "HOME is not set to an absolute path: bottle keeps its manifest and state below it",
                "export HOME=/your/home",
            ));
        }
        Ok(Self { home, cwd: std::env::current_dir()? })
    }

    /// `~/.claude-bottle`: manifest and state.
    pub fn root(&self) -> PathBuf {
        self.home.join(".claude-bottle")
    }

    /// `~/.claude-bottle/state`: a directory per identity.
    pub fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// `~/.claude-bottle/queue`: what the agents of each identity ask their operator for.
    pub fn queue(&self) -> PathBuf {
        self.root().join("queue")
    }

    /// `~/.claude-bottle/audit`: what was asked, decided and done.
    pub fn audit(&self) -> PathBuf {
        self.root().join("audit")
    }

    /// `~/.claude-bottle/owner`: the random part of [`Paths::owner`].
    pub fn owner_file(&self) -> PathBuf {
        self.root().join("owner")
    }

    /// `~/.claude/skills`.
    pub fn skills(&self) -> PathBuf {
        self.home.join(".claude/skills")
    }

    /// A path as a person writes it, `~/` being the home.
    pub fn expand(&self, path: &str) -> PathBuf {
        path.strip_prefix("~/").map_or_else(|| path.into(), |rest| self.home.join(rest))
    }

    /// A path as a person would write it.
    pub fn short(&self, path: &Path) -> String {
        match path.strip_prefix(&self.home) {
            Ok(rest) => format!("~/{}", rest.display()),
            Err(_) => path.display().to_string(),
        }
    }

    /// Who owns what is created from here: machine, user, state directory and a random id of its own, hashed. It goes
    /// on every label, so that nobody's cleanup takes another's bottle for its own, not even on a cloned machine.
    pub fn owner(&self) -> String {
        let (machine, own) = (machine(), std::fs::read_to_string(self.owner_file()).unwrap_or_default());
        let user = rustix::process::getuid().as_raw();
        let text = format!("{}\n{user}\n{}\n{own}", machine, self.state().display());
        format!("{:x}", Sha256::digest(text))[..16].to_owned()
    }
}

/// The machine's id, hashed: machine-id(5) asks that it is not shown.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let id = read("/etc/machine-id");
    // A container often has none; its own name is better than taking all such machines for one.
    let id = if id.is_empty() { read("/proc/sys/kernel/hostname") } else { id };
    format!("{:x}", Sha256::digest(format!("bottle machine {id}")))[..16].to_owned()
}
