//! What the tests in the lab of smolvm share: one home, so that an image is packed and unpacked once.

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, Run, assert_only_log_left, eventually, report},
    lab::{Lab, output},
    running::Running,
    standin::Standin,
    wire::Authority,
};
use std::{env, fs, process::Command, sync::OnceLock};

/// The scripted agent's image.
pub(crate) const AGENT_IMAGE: &str = "bottle-lab-agent:1";
/// A host that the bottle grants, beside the model's.
pub(crate) const ALLOWED: &str = "allowed.example";

pub(crate) struct Place {
    pub(crate) lab: &'static Lab,
    pub(crate) standin: Standin,
    pub(crate) home: Home,
}

impl Place {
    /// The one home of machines.
    pub(crate) fn get() -> Result<&'static Self> {
        static PLACE: OnceLock<Place> = OnceLock::new();
        if PLACE.get().is_none() {
            let _ = PLACE.set(Self::new("smolmachines")?);
        }
        PLACE.get().context("a place")
    }

    /// A home of its own for a backend.
    pub(crate) fn new(backend: &str) -> Result<Self> {
        let (lab, authority) = (Lab::get(), Authority::new()?);
        let hosts = ["api.anthropic.com", ALLOWED];
        let standin = Standin::start(&authority, &hosts, &format!("Bearer {REAL_TOKEN}"))?;
        let home = Home::new(lab, &authority, &standin)?
            .with_env("CLAUDE_BOTTLE_BACKEND", backend)
            .with_env("CLAUDE_BOTTLE_IMAGE", AGENT_IMAGE)
            .with_env("SMOLVM", &env::var("SMOLVM").context("this runs in the lab: `cargo xtask lab smolvm`")?)
            .with_env("SMOLVM_VM_UID_DROP", "off")
            .with_env("SMOLVM_AGENT_READY_TIMEOUT_SECS", "120");
        let routes = hosts.map(|host| format!("    - {{host: {host}, address: {}}}\n", standin.address)).concat();
        let limits = "limits: {memory: 512m, cpus: 1, pids: 300}\nenv:\n  AGENT_SECRET: ${HOST_SECRET}\n";
        home.write(".claude-bottle/bottles/box.md", &format!("---\n{limits}egress:\n  routes:\n{routes}---\n"))?;
        Ok(Self { lab, standin, home })
    }

    /// A bottle that waits. The emulation hangs now and then: once more, then.
    pub(crate) fn start(&self) -> Result<Running<'_>> {
        let started = Running::start(self.lab, &self.home);
        started.or_else(|error| {
            report(format!("lab: retry: {error:#}"));
            self.clean()?;
            Running::start(self.lab, &self.home)
        })
    }

    /// Runs a command in a bottle.
    pub(crate) fn exec(&self, identity: &str, command: &[&str]) -> Result<Run> {
        self.home.run(&[&["exec", identity, "--"], command].concat())
    }

    /// One `cleanup` takes everything away, and another has nothing to do.
    pub(crate) fn clean(&self) -> Result<()> {
        let first = self.home.run(&["cleanup", "--yes"])?;
        ensure!(first.code == Some(0), "{first:?}");
        let second = self.home.run(&["cleanup", "--yes"])?;
        ensure!(second.code == Some(0) && second.stderr.contains("nothing to clean up"), "{second:?}");
        Ok(())
    }

    /// Runs smolvm on this home's machines.
    pub(crate) fn smolvm(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(env::var("SMOLVM")?);
        output(command.args(args).env("HOME", self.home.path()).env("SMOLVM_VM_UID_DROP", "off"))
    }

    /// Nothing of a bottle is left, but for its log: no machine either, and no process of one.
    pub(crate) fn nothing_left(&self, identity: &str) -> Result<()> {
        assert_only_log_left(self.lab, &self.home, identity)?;
        let machines = self.smolvm(&["machine", "ls", "-q"])?;
        ensure!(!machines.contains(identity), "left: {machines}");
        eventually("no process of a machine is left", || machine_processes(identity).is_empty().then_some(()))
    }
}

/// Processes of smolvm that a machine's name leads to.
pub(crate) fn machine_processes(identity: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
            let dir = line.split(" _boot-vm ").nth(1).and_then(|rest| rest.rsplit_once("/boot-config.json"));
            let name = dir.and_then(|(dir, _)| fs::read_to_string(format!("{}/name", dir.trim())).ok());
            let client = line.contains(" machine ") && line.contains(identity);
            (client || name.is_some_and(|name| name.contains(identity))).then_some(line)
        })
        .collect()
}
