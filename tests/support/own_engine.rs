//! A Docker engine of a test's own, to be killed. It stands in a network namespace of its own: two engines on one machine
//! share bridges and rules, and each that starts takes the other's rules away.

use crate::{
    bottle::{eventually, is_running},
    lab::{Lab, output},
};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// What the engine consists of. What watches over containers is apart, and outlives it.
const PROGRAMS: [&str; 2] = ["dockerd", "containerd"];

/// The engine, up until it is dropped.
pub struct OwnEngine {
    dir: TempDir,
    namespace: String,
    /// A lab on it, without any image.
    pub lab: Lab,
}

impl OwnEngine {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let known = Lab::get();
        let dir = tempfile::tempdir_in("/var/tmp")?;
        let namespace = format!("bottle-test-{}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &namespace]))?;
        let lab = Lab {
            docker_host: format!("unix://{}", dir.path().join("docker.sock").display()),
            base_image: known.base_image.clone(),
            stage: known.stage.clone(),
            dist: known.dist.clone(),
        };
        let engine = Self { dir, namespace, lab };
        output(Command::new("ip").args(["-n", &engine.namespace, "link", "set", "lo", "up"]))?;
        engine.start_again()?;
        Ok(engine)
    }

    /// Starts it over whatever it has left when it was killed.
    pub fn start_again(&self) -> Result<()> {
        let status = self.script().env("DOCKERD_SWEEP", "0").status()?;
        ensure!(status.success(), "the engine does not start: {status}");
        self.lab.docker(&["version"]).map(drop)
    }

    /// Sends SIGKILL to all of it, and waits for its end. Containers live on.
    pub fn kill(&self) -> Result<()> {
        let own = self.dir.path().display().to_string();
        let read = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let all = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours =
            all.filter(|pid| PROGRAMS.contains(&read(*pid, "comm").trim_end()) && read(*pid, "cmdline").contains(&own));
        let ours: Vec<i32> = ours.collect();
        ensure!(ours.len() == PROGRAMS.len(), "the engine's processes: {ours:?}");
        for pid in &ours {
            kill_process(Pid::from_raw(*pid).context("a process")?, Signal::KILL)?;
        }
        eventually("the engine is gone", || ours.iter().all(|pid| !is_running(*pid)).then_some(()))
    }

    fn script(&self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("xtask/scripts/engine.sh");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg("bash").arg(root);
        // Nobody waits for a daemon's streams.
        command.env("DOCKERD_DIR", self.dir.path()).env("DOCKERD_REUSE", "0").stdout(Stdio::null());
        command
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        let _ = self.script().arg("--stop").status();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}
