//! Where things are on this machine.

use anyhow::{Result, bail};
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
            bail!("HOME is not set to an absolute path: bottle keeps its manifest and state there");
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

    /// `~/.claude/skills`.
    pub fn skills(&self) -> PathBuf {
        self.home.join(".claude/skills")
    }

    /// A path as a person would write it.
    pub fn short(&self, path: &Path) -> String {
        match path.strip_prefix(&self.home) {
            Ok(rest) => format!("~/{}", rest.display()),
            Err(_) => path.display().to_string(),
        }
    }

    /// Who owns what is created from here: machine, user and state directory, hashed. It goes on every label, so that
    /// nobody's cleanup takes another's bottle for its own.
    pub fn owner(&self) -> String {
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let user = rustix::process::getuid().as_raw();
        let text = format!("{}\n{user}\n{}", machine.trim(), self.state().display());
        format!("{:x}", Sha256::digest(text))[..16].to_owned()
    }
}
