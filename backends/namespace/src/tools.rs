//! What of the user's own programs stands in a bottle, read-only: Claude Code, and toolchains that are not part of the
//! system. All of it is named in the preflight.

use crate::claude::{self, CLAUDE_ENV, Claude};
use bottle_api::{Error, ErrorKind, Result, error::Context};
use bottle_namespace::wire::Bind;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

/// The host's variables that say where programs are.
pub(crate) const ENV: [&str; 3] = [CLAUDE_ENV, "HOME", "PATH"];
/// First in the agent's path, and empty on nearly every machine.
pub(crate) const PROGRAMS: &str = "/usr/local/sbin";
/// What every bottle has of the machine anyway.
const SYSTEM: [&str; 6] = ["/usr", "/bin", "/sbin", "/lib", "/nix/store", "/gnu/store"];
/// Directories of a home that hold toolchains, one below each.
const TOOLCHAINS: [&str; 3] = [".rustup/toolchains", ".nvm/versions/node", ".local/share/uv/python"];
/// Programs whose toolchain is looked for.
const WANTED: [&str; 4] = ["cargo", "node", "python3", "go"];
/// Files of a toolchain that are looked at, for sockets among them.
const MOST_FILES: usize = 200_000;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// Claude Code's program on this machine.
    pub(crate) claude: String,
    /// Toolchains, by their directories.
    pub(crate) found: Vec<String>,
    pub(crate) binds: Vec<Bind>,
    pub(crate) links: Vec<(String, String)>,
}

pub(crate) type Env = BTreeMap<String, String>;

impl Tools {
    pub(crate) fn find(env: &Env) -> Result<Self> {
        let claude = claude::find(env)?;
        let mut tools = Self { claude: text(&claude.program)?, ..Self::default() };
        let home = env.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        for dir in home.iter().flat_map(|home| TOOLCHAINS.map(|dir| home.join(dir))) {
            if let Some(toolchain) = chosen(&dir, env) {
                tools.toolchain(&toolchain)?;
            }
        }
        tools.claude(&claude)?;
        Ok(tools)
    }

    /// A program stands alone. A script stands in its package, where that is on the machine, and has what runs it beside it.
    fn claude(&mut self, claude: &Claude) -> Result<()> {
        let at = format!("{PROGRAMS}/claude");
        match &claude.package {
            // What the machine has there the bottle has.
            _ if Path::new(&at).canonicalize().is_ok_and(|there| there == claude.program) => {}
            Some(package) if !Path::new(&at).exists() => {
                self.bring(package)?;
                self.links.push((at, self.claude.clone()));
            }
            _ => self.binds.push(Bind { from: self.claude.clone(), to: at }),
        }
        if let Some(runs_it) = &claude.runs_it {
            let (file, at) = (text(&runs_it.file)?, format!("{PROGRAMS}/{}", runs_it.name));
            if !self.has(&runs_it.file) {
                self.binds.push(Bind { from: file, to: at });
            }
        }
        Ok(())
    }

    /// Does the bottle have what is at that path of the machine, at the same path?
    fn has(&self, path: &Path) -> bool {
        is_of_system(path) || self.binds.iter().any(|bind| bind.from == bind.to && path.starts_with(&bind.to))
    }

    /// A directory where it is on the machine. None that has a socket in it: whoever listens at one is outside.
    fn bring(&mut self, dir: &Path) -> Result<()> {
        if self.has(dir) {
            return Ok(());
        }
        if let Some(socket) = socket_below(dir)? {
            let message = format!("{} is a socket, and would be one in the bottle, too", socket.display());
            return Err(
                Error::new(ErrorKind::PREREQUISITE, message).hint("Remove it, or start bottle with another HOME.")
            );
        }
        let dir = text(dir)?;
        self.binds.push(Bind { from: dir.clone(), to: dir });
        Ok(())
    }

    /// A toolchain, and its programs in the path.
    fn toolchain(&mut self, dir: &Path) -> Result<()> {
        self.bring(dir)?;
        let dir = text(dir)?;
        for entry in fs::read_dir(Path::new(&dir).join("bin")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let at = format!("{PROGRAMS}/{name}");
            if name != "claude" && !Path::new(&at).exists() && self.links.iter().all(|(taken, _)| *taken != at) {
                self.links.push((at, format!("{dir}/bin/{name}")));
            }
        }
        self.found.push(dir);
        Ok(())
    }
}

/// The first of that name in the user's path.
pub(crate) fn in_path(env: &Env, name: &str) -> Option<PathBuf> {
    let dirs = env.get("PATH")?.split(':').map(Path::new).filter(|dir| dir.is_absolute());
    dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Does every bottle have it anyway?
pub(crate) fn is_of_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path.starts_with(system))
}

/// The toolchain below a directory that the path leads to; else the only one. None that the system has already.
fn chosen(dir: &Path, env: &Env) -> Option<PathBuf> {
    let dir = dir.canonicalize().ok().filter(|dir| !is_of_system(dir))?;
    let all: Vec<PathBuf> =
        fs::read_dir(&dir).ok()?.flatten().map(|entry| entry.path()).filter(|p| p.is_dir()).collect();
    let led_to = WANTED.iter().filter_map(|name| in_path(env, name)?.canonicalize().ok()).collect::<Vec<_>>();
    let used = all.iter().find(|toolchain| led_to.iter().any(|program| program.starts_with(toolchain)));
    let default = || {
        let settings = fs::read_to_string(dir.parent()?.join("settings.toml")).ok()?;
        let line = settings.lines().find_map(|line| line.strip_prefix("default_toolchain = "))?;
        let name = line.trim().trim_matches('"').to_owned();
        all.iter().find(|toolchain| toolchain.file_name().is_some_and(|file| *file == *name))
    };
    let only = || if let [only] = &all[..] { Some(only) } else { None };
    used.or_else(default).or_else(only).cloned()
}

fn socket_below(dir: &Path) -> Result<Option<PathBuf>> {
    let (mut dirs, mut seen) = (vec![dir.to_owned()], 0);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("look into {}", dir.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            seen += 1;
            if kind.is_socket() {
                return Ok(Some(entry.path()));
            }
            if kind.is_dir() {
                dirs.push(entry.path());
            }
            if seen > MOST_FILES {
                let message = format!("{} has more than {MOST_FILES} files", dir.display());
                return Err(Error::new(ErrorKind::PREREQUISITE, message).hint("Start bottle with another HOME."));
            }
        }
    }
    Ok(None)
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::new(ErrorKind::PREREQUISITE, format!("{} is not UTF-8", path.display())))
}
