//! Where bottles are measured: a home of the bench's own, images of its own, and an agent that is over at once, so that
//! Claude Code's start does not count.

use super::{engine::Engine, scratch};
use crate::run::{host_target, output, root, run};
use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The agent's image: one static program that passes for Claude.
pub(super) const IMAGE: &str = "bottle-bench-agent";
const SIDECAR_IMAGE: &str = "bottle-bench-sidecars";
/// Names of what is made without bottle.
pub(super) const AGENT: &str = "bottle-bench-agent";
pub(super) const SIDECAR: &str = "bottle-bench-sidecars";
pub(super) const INTERNAL: &str = "bottle-bench-net";
pub(super) const EGRESS: &str = "bottle-bench-egress";
/// Nobody else's, so that a network that is made twice is made from the same block.
const POOL: &str = "10.232.0.0/18";
/// The prompt with which the agent stays.
const STAY: &str = "stay";

const CLAUDE: &str = r#"fn main() {
    if std::env::args().any(|word| word == "stay") {
        println!("here");
        loop { std::thread::park() }
    }
}
"#;
const RECIPE: &str = "FROM scratch
COPY claude /usr/local/bin/claude
COPY --chown=1000:1000 home /home
COPY --chown=1000:1000 workspace /workspace
USER 1000:1000
";

/// The package, the engine, and the home.
pub(super) struct Place {
    pub(super) tree: PathBuf,
    pub(super) engine: Engine,
    /// The agent image's build context.
    pub(super) context: PathBuf,
    home: PathBuf,
}

impl Place {
    /// Makes home and image.
    pub(super) fn open(tree: &Path) -> Result<Self> {
        let lab = fs::read_to_string(root().join("target/lab/lab.json")).context("no lab; run `cargo xtask setup`")?;
        let lab: serde_json::Value = serde_json::from_str(&lab)?;
        let docker_host = lab["docker_host"].as_str().context("lab.json: docker_host")?;
        let socket = docker_host.strip_prefix("unix://").context("the lab's engine has a unix socket")?;
        let home = scratch("home")?;
        for (file, text) in
            [("bottles/box.md", "---\n---\n"), ("agents/measured.md", "---\nbottle: box\n---\nYou are measured.\n")]
        {
            let path = home.join(".claude-bottle").join(file);
            fs::create_dir_all(path.parent().context("a file has a directory")?)?;
            fs::write(path, text)?;
        }
        let engine = Engine { socket: socket.into() };
        let place = Self { tree: tree.to_owned(), engine, context: scratch("image")?, home };
        place.build_image()?;
        place.tidy()?;
        Ok(place)
    }

    /// Takes away what a bench that was interrupted has left. There is one at a time on an engine.
    fn tidy(&self) -> Result<()> {
        for image in [IMAGE, SIDECAR_IMAGE] {
            let left = output(self.docker().args(["ps", "-aq", "--filter", &format!("ancestor={image}")]))?;
            if !left.is_empty() {
                output(self.docker().args(["rm", "-f"]).args(left.split_whitespace()))?;
            }
        }
        for network in [INTERNAL, EGRESS] {
            // It is seldom there.
            self.docker().args(["network", "rm", network]).output()?;
        }
        Ok(())
    }

    fn build_image(&self) -> Result<()> {
        let (triple, _) = host_target()?;
        for dir in ["home/agent", "workspace"] {
            fs::create_dir_all(self.context.join(dir))?;
        }
        fs::write(self.context.join("Dockerfile"), RECIPE)?;
        let source = scratch("agent")?.join("claude.rs");
        fs::write(&source, CLAUDE)?;
        let flags = ["-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "--target", &triple, "-o"];
        run(Command::new("rustc").args(flags).arg(self.context.join("claude")).arg(source))?;
        output(self.docker().args(["build", "-q", "-t", IMAGE]).arg(&self.context)).map(drop)
    }

    /// The docker command, on the same engine.
    pub(super) fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.engine.socket.display())).stdin(Stdio::null());
        command
    }

    /// `bottle`, with the engine at that socket.
    pub(super) fn bottle(&self, socket: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(self.tree.join("bin/bottle"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("ANTHROPIC_API_KEY", "sk-ant-api03-none")
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("CLAUDE_BOTTLE_IMAGE", IMAGE)
            .env("CLAUDE_BOTTLE_SIDECAR_IMAGE", SIDECAR_IMAGE)
            .env("CLAUDE_BOTTLE_SUBNET_POOL", POOL)
            .current_dir(&self.home)
            .stdin(Stdio::null());
        command
    }

    /// A bottle up and down.
    pub(super) fn up_and_down(&self, socket: &Path) -> Result<()> {
        let out = self.bottle(socket, &["start", "measured", "--yes", "--prompt", "x"]).output()?;
        ensure!(out.status.success(), "bottle start: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
        Ok(())
    }

    /// A bottle that stays until it is dropped.
    pub(super) fn stay(&self) -> Result<Staying> {
        let args = ["start", "measured", "--yes", "--prompt", STAY];
        let mut child = self.bottle(&self.engine.socket, &args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().context("its output")?;
        let staying = Staying(child);
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said)?;
        ensure!(said.trim() == "here", "the bottle's agent did not start");
        Ok(staying)
    }

    /// The identity of the one bottle that runs.
    pub(super) fn identity(&self) -> Result<String> {
        let out = output(&mut self.bottle(&self.engine.socket, &["list", "active", "--json"]))?;
        let listed: serde_json::Value = serde_json::from_str(&out)?;
        Ok(listed["bottles"][0]["identity"].as_str().context("no bottle runs")?.to_owned())
    }
}

/// A bottle that runs.
pub(super) struct Staying(Child);

impl Drop for Staying {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).map(Pid::from_raw);
        let _ = pid.map(|pid| kill(pid, Signal::SIGTERM));
        let _ = self.0.wait();
    }
}
