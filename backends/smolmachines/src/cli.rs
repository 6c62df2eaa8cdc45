//! The `smolvm` program: found, asked for its version once, and run with nothing of this process's environment but what
//! it needs. What weakens its policies is never passed on.

use bottle_api::{Error, ErrorKind, Result, error::Context};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Names the program.
pub(crate) const PROGRAM_ENV: &str = "SMOLVM";
/// The host's variables that it is run with.
pub(crate) const PASSED: [&str; 11] = [
    "PATH",
    "HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "SMOLVM_LIB_DIR",
    "SMOLVM_AGENT_ROOTFS",
    "SMOLVM_VM_UID_DROP",
    "SMOLVM_AGENT_READY_TIMEOUT_SECS",
    "SMOLVM_START_TIMEOUT_SECS",
    "SMOLVM_MAX_IMAGE_BYTES",
];
/// From this version on every network policy that a bottle needs is enforced.
const OLDEST: (u32, u32) = (1, 14);
const INSTALL: &str =
    "Install it: `curl -sSL https://smolmachines.com/install.sh | bash`; or name it: SMOLVM=/path/to/smolvm.";

/// How long an answer may take that needs no machine to move.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(120);

type Env = BTreeMap<String, String>;

/// The program, as it is here. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Smolvm(Arc<Inner>);

struct Inner {
    program: PathBuf,
    env: Vec<(String, String)>,
    version: Version,
    /// It knows `--error-format json`.
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A failure, as `--error-format json` has it.
#[derive(Deserialize)]
struct Failure {
    error: Said,
}

#[derive(Deserialize)]
struct Said {
    code: String,
    message: String,
}

impl Smolvm {
    /// The program that the variables name, whatever its version. `None` where there is none.
    pub(crate) async fn find(env: &Env) -> Result<Option<Self>> {
        static KNOWN: Mutex<BTreeMap<PathBuf, (Version, bool)>> = Mutex::new(BTreeMap::new());
        let Some(program) = locate(env)? else { return Ok(None) };
        let passed = PASSED.iter().filter_map(|name| Some(((*name).to_owned(), env.get(*name)?.clone()))).collect();
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&program).copied();
        let (version, json) = known.unwrap_or((Version(0, 0, 0), true));
        let mut found = Inner { program, env: passed, version, json };
        if known.is_none() {
            let name = format!("ask {} for its version", found.program.display());
            let asked = Self(Arc::new(Inner { env: found.env.clone(), program: found.program.clone(), ..found }));
            let (said, json) = match asked.run(&["--version"], ANSWER_TIME).await {
                Ok(said) => (said, true),
                // One that does not know the format of errors that it is asked for.
                Err(_) => {
                    let plain = Inner { env: found.env.clone(), program: found.program.clone(), version, json: false };
                    (Self(Arc::new(plain)).run(&["--version"], ANSWER_TIME).await.with_context(|| name.clone())?, false)
                }
            };
            let unreadable = || {
                let message = format!("{name}: it says `{}`", said.trim().escape_debug());
                Error::new(ErrorKind::PREREQUISITE, message).hint(INSTALL)
            };
            (found.version, found.json) = (version_in(&said).ok_or_else(unreadable)?, json);
            let known = (found.version, found.json);
            KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(found.program.clone(), known);
        }
        Ok(Some(Self(Arc::new(found))))
    }

    /// The program, new enough for a bottle.
    pub(crate) async fn require(env: &Env) -> Result<Self> {
        let found = Self::find(env).await?;
        let missing = || {
            let message = "no smolvm is installed: no program of that name is in a directory of PATH";
            Error::new(ErrorKind::PREREQUISITE, message).hint(INSTALL)
        };
        let found = found.ok_or_else(missing)?;
        let Version(major, minor, _) = found.0.version;
        if (major, minor) < OLDEST {
            let message = format!(
                "{} is smolvm {}; bottle needs {}.{} or newer, for older ones let a machine reach more than its policy says",
                found.0.program.display(),
                found.0.version,
                OLDEST.0,
                OLDEST.1
            );
            return Err(Error::new(ErrorKind::PREREQUISITE, message).hint(INSTALL));
        }
        Ok(found)
    }

    pub(crate) fn version(&self) -> Version {
        self.0.version
    }

    pub(crate) fn program(&self) -> &Path {
        &self.0.program
    }

    /// It, to be run with these arguments: nothing comes in, and no signal of this process's terminal reaches it.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.0.program);
        command.env_clear().envs(self.0.env.iter().map(|(name, value)| (name, value)));
        command.args(self.0.json.then_some(["--error-format", "json"]).into_iter().flatten());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command
    }

    /// Runs it to its end; its standard output. Dropped before, it is killed.
    pub(crate) async fn run<S: AsRef<OsStr>>(&self, args: &[S], time: Duration) -> Result<String> {
        self.run_as(args, time, &AtomicU32::new(0)).await
    }

    /// The same; `pid` is its process's as soon as there is one.
    pub(crate) async fn run_as<S: AsRef<OsStr>>(&self, args: &[S], time: Duration, pid: &AtomicU32) -> Result<String> {
        let attempt = || format!("run {}", self.0.program.display());
        let child = tokio::process::Command::from(self.command(args)).kill_on_drop(true).spawn();
        let child = child.with_context(attempt)?;
        pid.store(child.id().unwrap_or_default(), Ordering::SeqCst);
        let output = tokio::time::timeout(time, child.wait_with_output())
            .await
            .map_err(|_| Error::new(ErrorKind::DEADLINE, format!("smolvm does not end within {} s", time.as_secs())))?;
        let output = output.with_context(attempt)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(failure(&output.stderr, output.status.code(), output.status.signal())),
        }
    }
}

/// The program's file.
fn locate(env: &Env) -> Result<Option<PathBuf>> {
    if let Some(named) = env.get(PROGRAM_ENV).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(named);
        if path.is_absolute() && is_program(&path) {
            return Ok(Some(path));
        }
        let message = format!("{PROGRAM_ENV}={named} names no program");
        return Err(Error::new(ErrorKind::PREREQUISITE, message)
            .hint(format!("Name it whole, {PROGRAM_ENV}=/path/to/smolvm, or unset it.")));
    }
    let path = env.get("PATH").map(String::as_str).unwrap_or_default();
    let files = path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join("smolvm"));
    Ok(files.into_iter().find(|file| is_program(file)))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// `smolvm 1.32.2`
fn version_in(said: &str) -> Option<Version> {
    let mut numbers = said.trim().strip_prefix("smolvm ")?.split(['.', '-', '+', ' ']).map(str::parse);
    Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What it says of a failure. It warns, and tells of its progress, on the same stream: the last line that is a failure
/// counts, or the last line.
pub(crate) fn failure(stderr: &[u8], code: Option<i32>, signal: Option<i32>) -> Error {
    let stderr = String::from_utf8_lossy(stderr);
    let lines = || stderr.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    if let Some(Failure { error }) = lines().find_map(|line| serde_json::from_str(line).ok()) {
        let kind = match error.code.as_str() {
            "NOT_FOUND" => ErrorKind::NOT_FOUND,
            "KVM_UNAVAILABLE" | "HYPERVISOR_UNAVAILABLE" => ErrorKind::PREREQUISITE,
            _ if error.message.contains("already exists") => ErrorKind::CONFLICT,
            _ => ErrorKind::RUNTIME,
        };
        let failed = Error::new(kind, format!("smolvm: {}", error.message.escape_debug()));
        return match kind {
            ErrorKind::PREREQUISITE => failed.hint("`bottle doctor` says what machines need."),
            _ => failed,
        };
    }
    let last = lines().next().map(|line| line.strip_prefix("Error: ").unwrap_or(line).escape_debug().to_string());
    let kind = match &last {
        Some(line) if line.contains("already exists") => ErrorKind::CONFLICT,
        Some(line) if line.contains("not found: ") => ErrorKind::NOT_FOUND,
        _ => ErrorKind::RUNTIME,
    };
    let ended = match (code, signal) {
        (Some(code), _) => format!("it ended with {code}"),
        (None, Some(signal)) => format!("signal {signal} ended it"),
        (None, None) => "it ended".into(),
    };
    Error::new(kind, format!("smolvm: {}", last.unwrap_or(ended)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let read = |said: &str| version_in(said);
        assert_eq!(read(include_str!("../recorded/version.out")), Some(Version(1, 32, 2)));
        assert_eq!(read("smolvm 1.9.3-rc.1\n"), Some(Version(1, 9, 3)));
        assert!(read("smolvm 1.9.3") < read("smolvm 1.14.0"));
        for bad in ["", "smolvm", "smolvm one", "1.32.2", "SmolVM 0.0.36"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_recorded_failure_is_told_from_the_others() {
        for (recorded, kind, says) in [
            (include_str!("../recorded/exec-no-machine.err"), ErrorKind::NOT_FOUND, "vm not found: nope"),
            (include_str!("../recorded/delete-no-machine.err"), ErrorKind::NOT_FOUND, "vm not found: nope"),
            (include_str!("../recorded/create-again.err"), ErrorKind::CONFLICT, "already exists"),
            (include_str!("../recorded/create-no-image.err"), ErrorKind::RUNTIME, "No such file or directory"),
            (include_str!("../recorded/create-bad-name.err"), ErrorKind::RUNTIME, "invalid character"),
            (include_str!("../recorded/exec-stopped.err"), ErrorKind::RUNTIME, "is not running"),
            (include_str!("../recorded/usage.err"), ErrorKind::RUNTIME, "smolvm: "),
            ("Error: vm not found: nope\n", ErrorKind::NOT_FOUND, "smolvm: vm not found: nope"),
            ("", ErrorKind::RUNTIME, "it ended with 1"),
        ] {
            let failed = failure(recorded.as_bytes(), Some(1), None);
            assert_eq!(failed.kind, kind, "{recorded}");
            assert!(failed.message.contains(says), "{}", failed.message);
        }
    }

    #[test]
    fn warnings_before_a_failure_do_not_hide_it() {
        let said = "Warning: could not resolve 'x'\n{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"gone\"}}\nbye\n";
        assert_eq!(failure(said.as_bytes(), Some(1), None).message, "smolvm: gone");
    }

    #[test]
    fn the_program_is_named_or_in_the_path_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("smolvm");
        std::fs::write(&file, "").unwrap();
        let env = |name: &str, value: &Path| Env::from([(name.to_owned(), value.display().to_string())]);
        assert_eq!(locate(&env("PATH", dir.path())).unwrap(), None, "it cannot be run");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(locate(&env("PATH", dir.path())).unwrap(), Some(file.clone()));
        assert_eq!(locate(&env(PROGRAM_ENV, &file)).unwrap(), Some(file));
        assert_eq!(locate(&Env::new()).unwrap(), None);
        assert!(locate(&env(PROGRAM_ENV, dir.path())).is_err());
        assert!(locate(&env(PROGRAM_ENV, Path::new("smolvm"))).is_err());
    }
}
