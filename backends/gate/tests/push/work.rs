//! An agent's repository and the mirror that it pushes to, with the scan as its hook; a real git throughout.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// A secret that the scanner knows by its value.
pub(crate) const SECRET: &str = "tok-5Jx9QvLm2RzT8wKb";

/// Both, with one commit that upstream has.
pub(crate) struct Work {
    root: TempDir,
}

impl Work {
    /// With one commit: `base.txt`, and a larger `large.txt`.
    pub(crate) fn new() -> Self {
        let work = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(work.dir()).unwrap();
        work.git(&["init", "-q", "-b", "main", "."]);
        work.write("base.txt", b"base\n");
        work.write("large.txt", numbers(4000).as_bytes());
        work.commit("base");
        let mirror = work.mirror();
        let made = plain("git").args(["clone", "-q", "--bare"]).arg(work.dir()).arg(&mirror).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let hooks = work.root.path().join("hooks");
        fs::create_dir(&hooks).unwrap();
        symlink(hook(), hooks.join("pre-receive")).unwrap();
        work.in_mirror(&["config", "core.hooksPath", hooks.to_str().unwrap()]);
        work.in_mirror(&["config", "receive.fsckObjects", "false"]);
        work.git(&["remote", "add", "origin", mirror.to_str().unwrap()]);
        work
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("work")
    }

    pub(crate) fn mirror(&self) -> PathBuf {
        self.root.path().join("mirror.git")
    }

    /// Writes a file, and the directories to it.
    pub(crate) fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = self.dir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Commits everything.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in the agent's repository.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_with(args, &[], b"")
    }

    /// The same with variables and an input.
    pub(crate) fn git_with(&self, args: &[&str], env: &[(&str, &str)], input: &[u8]) -> String {
        said(plain("git").args(args).current_dir(self.dir()).envs(env.iter().copied()), input)
    }

    /// Runs git in the mirror.
    pub(crate) fn in_mirror(&self, args: &[&str]) -> String {
        said(plain("git").args(args).current_dir(self.mirror()), b"")
    }

    /// Makes an object of these bytes, whether it is a good one or not.
    pub(crate) fn object(&self, kind: &str, bytes: &[u8]) -> String {
        self.git_with(&["hash-object", "-w", "--literally", "-t", kind, "--stdin"], &[], bytes)
    }

    /// Pushes; what came of it, and what the pusher was told by the hook.
    pub(crate) fn push(&self, refs: &[String]) -> (bool, String) {
        self.push_with(refs, &[])
    }

    pub(crate) fn push_with(&self, refs: &[String], env: &[(&str, &str)]) -> (bool, String) {
        let mut command = plain("git");
        command.args(["push", "-q", "origin"]).args(refs).current_dir(self.dir()).env("TEST_SECRET", SECRET);
        let Output { status, stderr, .. } = command.envs(env.iter().copied()).output().unwrap();
        let text = String::from_utf8_lossy(&stderr).into_owned();
        let told = text.lines().filter_map(|line| line.strip_prefix("remote: ")).map(str::trim_end);
        let told = told.collect::<Vec<_>>().join("\n");
        // A push that failed for another reason is no answer.
        assert!(status.success() || !told.is_empty(), "{text}");
        (status.success(), told)
    }

    /// Everything that the mirror has: refs and objects.
    pub(crate) fn kept(&self) -> String {
        let refs = self.in_mirror(&["for-each-ref"]);
        let all = ["cat-file", "--batch-all-objects", "--batch-check", "--unordered"];
        let mut objects: Vec<String> = self.in_mirror(&all).lines().map(str::to_owned).collect();
        objects.sort();
        format!("{refs}\n{}", objects.join("\n"))
    }
}

/// Lines of numbers, which do not compress into nothing.
pub(crate) fn numbers(lines: u64) -> String {
    (0..lines).map(|n| format!("{} {}\n", n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 9973)).collect()
}

fn hook() -> &'static str {
    env!("CARGO_BIN_EXE_bottle-gate-test-scan")
}

fn plain(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    command.envs([
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.com"),
        ("GIT_COMMITTER_NAME", "C"),
        ("GIT_COMMITTER_EMAIL", "c@example.com"),
        ("LC_ALL", "C"),
    ]);
    command
}

fn said(command: &mut Command, input: &[u8]) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}
