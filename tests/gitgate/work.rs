//! An agent's repository, whose remote is the gate: a real git, as an agent would run it.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A secret that the scanner knows by its value.
pub(crate) const SECRET: &str = "tok-5Jx9QvLm2RzT8wKb";

/// A clone, with one commit that upstream has: `base.txt`, and a larger `large.txt`.
pub(crate) struct Work {
    dir: PathBuf,
}

/// What a command of git's said, and whether it ended well.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Said {
    /// The one line in which git says why it failed, and nothing else it does.
    pub(crate) fn fails_with(&self, why: &str) -> Result<()> {
        let times = self.text.lines().filter(|line| line.contains(why)).count();
        ensure!(!self.ok && times == 1, "expected a failure and once `{why}`, got {} and {}", self.ok, self.text);
        Ok(())
    }
}

impl Work {
    /// A clone of that remote.
    pub(crate) fn clone(world: &World, remote: &str, name: &str, more: &[&str]) -> Result<Self> {
        let dir = world.path(name);
        let url = world.url(remote);
        let said = git(world.root(), &[&["clone", "-q"], more, &[&url, name]].concat());
        ensure!(said.ok, "clone {remote}: {}", said.text);
        Ok(Self { dir })
    }

    /// A copy of a clone, which costs no connection.
    pub(crate) fn copy(&self, world: &World, name: &str) -> Result<Self> {
        let dir = world.path(name);
        output(Command::new("cp").arg("-a").arg(&self.dir).arg(&dir))?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// Writes a file, and the directories to it.
    pub(crate) fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Commits everything.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git here, which has to end well.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_with(args, &[], b"")
    }

    /// The same with variables and an input.
    pub(crate) fn git_with(&self, args: &[&str], env: &[(&str, &str)], input: &[u8]) -> String {
        let mut command = plain(&self.dir);
        command.args(args).envs(env.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    /// Makes an object of these bytes, whether it is a good one or not.
    pub(crate) fn object(&self, kind: &str, bytes: &[u8]) -> String {
        self.git_with(&["hash-object", "-w", "--literally", "-t", kind, "--stdin"], &[], bytes)
    }

    /// Runs git here, however it ends.
    pub(crate) fn tries(&self, args: &[&str]) -> Said {
        git(&self.dir, args)
    }
}

/// Lines of numbers, which do not compress into nothing.
pub(crate) fn numbers(lines: u64) -> String {
    (0..lines).map(|n| format!("{} {}\n", n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 9973)).collect()
}

/// What does not compress.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(word).collect()
}

/// Runs git, however it ends.
pub(crate) fn git(dir: &Path, args: &[&str]) -> Said {
    said(plain(dir).args(args))
}

pub(crate) fn said(command: &mut Command) -> Said {
    let out = command.stdin(Stdio::null()).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    Said { ok: out.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// What a command says, which has to end well.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn plain(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command.envs([
        ("HOME", "/nonexistent"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.com"),
        ("GIT_COMMITTER_NAME", "C"),
        ("GIT_COMMITTER_EMAIL", "c@example.com"),
        ("LC_ALL", "C"),
    ]);
    command
}
