//! Git as it is run on this machine: with no configuration but what was written here, and none of its programs.

use super::Budget;
use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
};
use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

/// How much git may say.
const MAX_SAID: usize = 256 << 20;
/// Over whatever a repository says.
const SETTINGS: [&str; 7] = [
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "protocol.allow=never",
    "gc.auto=0",
    "pack.writeReverseIndex=false",
];

/// What the user ignores everywhere, in `scratch`.
const EXCLUDES: &str = "excludes";
const MAX_EXCLUDES: u64 = 1 << 20;

/// Copies what the user ignores everywhere to where [`git`] looks for it. It is data: no call of git's here reads the
/// configuration that names it.
pub(super) fn copy_excludes(home: &Path, scratch: &Path, budget: &Budget<'_>) -> Result<()> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), Into::into).join("git");
    let named = [home.join(".gitconfig"), config.join("config")].into_iter().find_map(|file| {
        let args = ["config", "--file", file.to_str()?, "--includes", "--type=path", "--get", "core.excludesFile"];
        let said = git(scratch, &[("HOME", home)], &args, budget).ok()?;
        Some(String::from_utf8_lossy(&said).trim_end_matches('\n').to_owned())
    });
    let from = match named.as_deref() {
        Some("") => return Ok(()),
        Some(name) => home.join(name),
        None => config.join("ignore"),
    };
    match File::open(&from) {
        Ok(file) => std::io::copy(&mut file.take(MAX_EXCLUDES), &mut File::create(scratch.join(EXCLUDES))?)
            .map(drop)
            .with_context(|| format!("read {}", from.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("read {}", from.display())),
    }
}

/// Runs git in `scratch`, and returns what it says.
pub(crate) fn git(scratch: &Path, env: &[(&str, &Path)], args: &[&str], budget: &Budget<'_>) -> Result<Vec<u8>> {
    git_told(scratch, env, args, Stdio::null(), budget)
}

/// The same with something to read.
pub(crate) fn git_told(
    scratch: &Path,
    env: &[(&str, &Path)],
    args: &[&str],
    input: Stdio,
    budget: &Budget<'_>,
) -> Result<Vec<u8>> {
    let complaints = scratch.join("complaints");
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", scratch)
        .env("LC_ALL", "C")
        .envs([
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
        ])
        .envs(env.iter().copied())
        .args(SETTINGS.iter().flat_map(|setting| ["-c", setting]))
        .args(["-c", &format!("core.excludesFile={}", scratch.join(EXCLUDES).display())])
        .args(args)
        // A relative entry of PATH must not lead into the repository.
        .current_dir(scratch)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(File::create(&complaints)?);
    let mut child = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(super::hinted("git is not installed", "apt-get install git"));
        }
        child => Reaped(child.context("run git")?),
    };
    let said = read(&mut child.0, budget)?;
    if !child.0.wait()?.success() {
        let why = fs::read(&complaints).unwrap_or_default();
        let why = String::from_utf8_lossy(&why[..why.len().min(500)]).trim().replace('\n', "; ");
        bail!("git {}: {why}", args.first().copied().unwrap_or_default());
    }
    Ok(said)
}

/// Reads to the end, for as long as there is time.
fn read(child: &mut Child, budget: &Budget<'_>) -> Result<Vec<u8>> {
    let mut stdout = child.stdout.take().context("git's output")?;
    let (mut said, mut chunk) = (vec![], vec![0; 64 << 10]);
    loop {
        budget.check()?;
        let look = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        if retry_on_intr(|| poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&look)))? == 0 {
            continue;
        }
        match stdout.read(&mut chunk)? {
            0 => return Ok(said),
            n => said.extend_from_slice(&chunk[..n]),
        }
        if said.len() > MAX_SAID {
            bail!("git says more than {} MiB", MAX_SAID >> 20);
        }
    }
}

/// A child that does not outlive its budget.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
