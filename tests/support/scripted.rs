//! A home whose only backend is the scripted one, and `bottle` run in it. No engine is needed.

use crate::bottle::{KillOnDrop, Run};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// How long the host waits for a backend that is told to hang, in milliseconds.
const PATIENCE_MS: u32 = 500;

/// A throw-away home, and the directory in which the backend's things are.
pub struct Scripted {
    dir: TempDir,
}

impl Scripted {
    /// A home with the agent `dev`.
    pub fn new() -> Result<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let home = Self { dir: tempfile::tempdir()? };
        for dir in ["things", "bin", "plugins", ".claude-bottle/bottles", ".claude-bottle/agents"] {
            fs::create_dir_all(home.path().join(dir))?;
        }
        // Beside a program of its own there are no other backends.
        for (from, to) in [
            ("stage/bin/bottle", "bin/bottle"),
            ("scripted/libbottle_backend_scripted.so", "plugins/libbottle_backend_scripted.so"),
        ] {
            let from = target.join(from);
            let copied =
                fs::hard_link(&from, home.path().join(to)).or_else(|_| fs::copy(&from, home.path().join(to)).map(drop));
            copied.with_context(|| format!("{}: run `cargo xtask stage` first", from.display()))?;
        }
        let wait_for = home.path().join("end").display().to_string();
        home.write(
            ".claude-bottle/bottles/box.md",
            &format!("---\nisolation: process\nenv: {{WAIT_FOR: {wait_for}}}\n---\n"),
        )?;
        home.write(".claude-bottle/agents/dev.md", "---\nbottle: box\n---\nYou are under test.\n")?;
        Ok(home)
    }

    /// The home's path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file below the home.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path().join(path), text)?)
    }

    /// `bottle` with these arguments and this script.
    pub fn command(&self, args: &[&str], script: &str) -> Command {
        let mut command = Command::new(self.path().join("bin/bottle"));
        self.prepare(&mut command, script);
        command.args(args);
        command
    }

    /// Gives another program the same environment.
    pub fn prepare(&self, command: &mut Command, script: &str) {
        command
            .env_clear()
            .env("HOME", self.path())
            .env("CLAUDE_BOTTLE_BACKEND", "scripted")
            .env("CLAUDE_BOTTLE_PLUGIN_PATH", self.path().join("plugins"))
            .env("CLAUDE_BOTTLE_OAUTH_TOKEN", "sk-ant-oat01-not-a-real-one")
            .env("SCRIPT_ROOT", self.path().join("things"))
            .env("SCRIPT", script)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if script.contains("hang") {
            command.env("CLAUDE_BOTTLE_FAULT_PATIENCE", PATIENCE_MS.to_string());
        }
    }

    /// Runs `bottle` to its end.
    pub fn run(&self, args: &[&str], script: &str) -> Result<Run> {
        Ok(self.command(args, script).output()?.into())
    }

    /// Starts `bottle` with a script.
    pub fn start(&self, args: &[&str], script: &str) -> Result<KillOnDrop> {
        Ok(KillOnDrop(self.command(args, script).spawn()?))
    }

    /// Lets every agent that was told to `wait` end.
    pub fn end(&self) -> Result<()> {
        self.write("end", "")
    }

    /// The backend's things, by the identity of their bottle.
    pub fn things(&self) -> Result<Vec<String>> {
        let mut found = vec![];
        for entry in fs::read_dir(self.path().join("things"))? {
            let label: serde_json::Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
            found.push(label["identity"].as_str().unwrap_or_default().to_owned());
        }
        found.sort();
        Ok(found)
    }

    /// What the state directory holds, but for the lock that bottle keeps there.
    pub fn state(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join(".claude-bottle/state")).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| !path.ends_with(".makers")).collect();
        found.sort();
        found
    }
}
