//! What of the user's own programs stands in a bottle, read-only: Claude Code, and toolchains that are not part of the
//! system. All of it is named in the preflight.

use bottle_api::{Error, ErrorKind, Result, error::Context};
use bottle_namespace::wire::Bind;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Names Claude Code's program.
const CLAUDE_ENV: &str = "CLAUDE_BOTTLE_CLAUDE";
/// The host's variables that say where programs are.
pub(crate) const ENV: [&str; 3] = [CLAUDE_ENV, "HOME", "PATH"];
/// First in the agent's path, and empty on nearly every machine.
const PROGRAMS: &str = "/usr/local/sbin";
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

type Env = BTreeMap<String, String>;

impl Tools {
    pub(crate) fn find(env: &Env) -> Result<Self> {
        let claude = claude(env)?;
        let mut tools = Self { claude: text(&claude)?, ..Self::default() };
        tools.binds.push(Bind { from: tools.claude.clone(), to: format!("{PROGRAMS}/claude") });
        let Some(home) = env.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute()) else { return Ok(tools) };
        for dir in TOOLCHAINS.map(|dir| home.join(dir)) {
            if let Some(toolchain) = chosen(&dir, env) {
                tools.toolchain(&toolchain)?;
            }
        }
        Ok(tools)
    }

    /// A toolchain where it is on the machine, and its programs in the path. None that has a socket in it: whoever listens
    /// at one is outside.
    fn toolchain(&mut self, dir: &Path) -> Result<()> {
        if let Some(socket) = socket_below(dir)? {
            let message = format!("{} is a socket, and would be one in the bottle, too", socket.display());
            return Err(
                Error::new(ErrorKind::PREREQUISITE, message).hint("Remove it, or start bottle with another HOME.")
            );
        }
        let dir = text(dir)?;
        self.binds.push(Bind { from: dir.clone(), to: dir.clone() });
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

/// Claude Code's own program: what the variable names, or the first in the path.
fn claude(env: &Env) -> Result<PathBuf> {
    let missing = |why: String| {
        Error::new(ErrorKind::PREREQUISITE, why).hint(format!(
            "Install Claude Code for your user, `npm install -g @anthropic-ai/claude-code`; or name its program: \
             {CLAUDE_ENV}=/path/to/claude."
        ))
    };
    let named = env.get(CLAUDE_ENV).filter(|path| !path.is_empty()).map(PathBuf::from);
    let found = match &named {
        Some(path) => path.is_absolute().then(|| path.clone()),
        None => in_path(env, "claude"),
    };
    let real = found.and_then(|path| path.canonicalize().ok()).filter(|path| path.is_file());
    let Some(real) = real else {
        return Err(missing(match named {
            Some(path) => format!("{CLAUDE_ENV}={} names no program", path.display()),
            None => "Claude Code is not on this machine: there is no `claude` in your PATH".into(),
        }));
    };
    let metadata = fs::metadata(&real).with_context(|| format!("look at {}", real.display()))?;
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(missing(format!("{} cannot be executed", real.display())));
    }
    Ok(real)
}

fn in_path(env: &Env, name: &str) -> Option<PathBuf> {
    let path = env.get("PATH")?;
    std::iter::once(PathBuf::from(path.clone()))
        .flat_map(|path| path.to_string_lossy().split(':').map(PathBuf::from).collect::<Vec<_>>())
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The toolchain below a directory that the path leads to; else the only one. None that the system has already.
fn chosen(dir: &Path, env: &Env) -> Option<PathBuf> {
    let dir = dir.canonicalize().ok().filter(|dir| !SYSTEM.iter().any(|system| dir.starts_with(system)))?;
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
