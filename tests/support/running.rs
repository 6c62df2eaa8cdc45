//! A bottle that runs and waits, for tests that act in it by `bottle exec` and look at it from outside.

use crate::{
    bare,
    bottle::{Home, KillOnDrop, Run, assert_only_log_left, eventually},
    lab::Lab,
    target::Target,
};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

/// The bottle, until it is ended or dropped.
pub struct Running<'a> {
    lab: &'a Lab,
    home: &'a Home,
    /// The `bottle start` that owns it.
    pub owner: KillOnDrop,
    /// Its identity.
    pub identity: String,
}

impl<'a> Running<'a> {
    /// Starts the agent `dev`, whose Claude waits for ever.
    pub fn start(lab: &'a Lab, home: &'a Home) -> Result<Self> {
        let known = home.identities();
        let prompt = "@@bash until [ -e /nowhere ]; do sleep 5; done";
        let owner = home.start(&["start", "dev", "--yes", "--prompt", prompt], &[])?;
        let identity = eventually("the bottle takes commands", || {
            let new = home.identities().into_iter().find(|identity| !known.contains(identity))?;
            // The file is there a moment before anybody listens.
            UnixStream::connect(home.state().join(&new).join("control.sock")).is_ok().then_some(new)
        })?;
        Ok(Self { lab, home, owner, identity })
    }

    /// Runs a shell script in the bottle, as its agent.
    pub fn sh(&self, script: &str) -> Result<Run> {
        run(&mut self.home.command(&["exec", &self.identity, "--", "bash"]), script)
    }

    /// The engine's id of its container in that role: `agent`, `sidecar`.
    pub fn container(&self, role: &str) -> Result<String> {
        let labels =
            [format!("label=claude-bottle.identity={}", self.identity), format!("label=claude-bottle.role={role}")];
        let ids = self.lab.docker(&["ps", "-q", "--no-trunc", "--filter", &labels[0], "--filter", &labels[1]])?;
        Ok(ids.lines().next().with_context(|| format!("a container in the role {role}"))?.to_owned())
    }

    /// The network of that role: `internal`, `egress`.
    pub fn network(&self, role: &str) -> Result<String> {
        let labels =
            [format!("label=claude-bottle.identity={}", self.identity), format!("label=claude-bottle.role={role}")];
        let ids = self.lab.docker(&["network", "ls", "-q", "--filter", &labels[0], "--filter", &labels[1]])?;
        Ok(ids.lines().next().with_context(|| format!("a network in the role {role}"))?.to_owned())
    }

    /// The machine's bridge behind a network.
    pub fn bridge(&self, role: &str) -> Result<String> {
        Ok(format!("br-{}", self.network(role)?))
    }

    /// The address of a container on a network, both by role.
    pub fn address(&self, container: &str, network: &str) -> Result<Ipv4Addr> {
        let format = "{{range .NetworkSettings.Networks}}{{.NetworkID}} {{.IPAddress}}\n{{end}}";
        let all = self.lab.docker(&["inspect", "-f", format, &self.container(container)?])?;
        let network = self.network(network)?;
        let line = all.lines().find(|line| line.starts_with(&network)).context("the container is on the network")?;
        Ok(line.split_whitespace().nth(1).context("an address")?.parse()?)
    }

    /// The machine's ids of the processes in that role. In namespaces the sidecar's stand in this machine's network, and the
    /// agent's do not.
    pub fn processes(&self, role: &str) -> Result<Vec<i32>> {
        if self.home.target() != Target::Docker {
            let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
            let own = network("self")?;
            let top = *bare::launchers(&self.identity).first().context("a launcher")?;
            let is_sidecars = |pid: &i32| network(&pid.to_string()).is_ok_and(|of| of == own);
            return Ok(bare::below(top).into_iter().filter(|pid| is_sidecars(pid) == (role == "sidecar")).collect());
        }
        let table = self.lab.docker(&["top", &self.container(role)?, "-eo", "pid"])?;
        table.lines().skip(1).map(|line| Ok(line.trim().parse()?)).collect()
    }

    /// The machine's id of the first process in that role.
    pub fn first_process(&self, role: &str) -> Result<i32> {
        if self.home.target() != Target::Docker {
            return self.processes(role)?.first().copied().context("a first process");
        }
        Ok(self.lab.docker(&["inspect", "-f", "{{.State.Pid}}", &self.container(role)?])?.trim().parse()?)
    }

    /// Ends it with SIGTERM, and sees that it leaves nothing but its log. What its owner said.
    pub fn end(self) -> Result<Run> {
        kill_process(Pid::from_child(&self.owner), Signal::TERM)?;
        let run = self.owner.finish()?;
        ensure!(run.code == Some(128 + 15), "{run:?}");
        assert_only_log_left(self.lab, self.home, &self.identity)?;
        Ok(run)
    }
}

/// Runs a shell with a script on its standard input.
pub fn run(shell: &mut Command, script: &str) -> Result<Run> {
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(script.as_bytes())?;
    Ok(child.wait_with_output()?.into())
}
