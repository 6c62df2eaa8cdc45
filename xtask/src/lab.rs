//! `cargo xtask lab smolvm`: the real smolvm, and a real engine beside it, in an emulated machine of the lab's own.
//!
//! ```text
//! this machine ── QEMU, in software, with an emulated processor that has virtualisation
//!                   └─ the lab: this machine's own files, read-only; a kernel with a working /dev/kvm; no network
//!                        ├─ dockerd, test hosts, the staged `bottle`, the tests
//!                        └─ smolvm ── machines
//! ```
//!
//! What is downloaded is kept below `/var/tmp/bottle-lab/smolvm`. Nothing is installed but Debian packages.

use crate::{
    run::{cargo, output, root, run, sha256},
    setup, stage,
};
use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{self, Signal},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

const PLACE: &str = "/var/tmp/bottle-lab/smolvm";
const PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "qemu-system-common",
    "seabios",
    "busybox-static",
    "kmod",
    "cpio",
    "zstd",
    "docker.io",
    "perl-base",
];
/// All of the tests, their machine's boot included. What has not passed when the emulation hangs is run once more.
pub(crate) const BUDGET: Duration = Duration::from_secs(720);
/// The emulation has hung where the tests say nothing for so long.
const SILENCE: Duration = Duration::from_secs(240);
/// The same with every fault point.
pub(crate) const FULL_BUDGET: Duration = Duration::from_secs(2700);
const MEMORY_MB: &str = "6144";
/// How the tests tell of a step that they had to repeat.
const RETRY: &str = "lab: retry";
/// What the emulation ends with when it is out of time, and when it has not come up.
const HUNG: [i32; 2] = [124, 125];

/// Runs the tests of machines in the lab, or a command.
pub(crate) fn smolvm(words: &[&str]) -> Result<ExitCode> {
    let lab = Lab::prepare()?;
    stage::stage()?;
    let status = match words {
        [] => return Ok(told(&lab.tests(&[], false)?)),
        ["--full"] => return Ok(told(&lab.tests(&[], true)?)),
        ["--test", names @ ..] => return Ok(told(&lab.tests(names, false)?)),
        ["--record"] => return lab.record(),
        ["--", command @ ..] if !command.is_empty() => lab.boot(None, false, command)?.status()?,
        _ => bail!("usage: cargo xtask lab smolvm [--full | --record | --test NAME… | -- COMMAND…]"),
    };
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// What the tests in the lab came to.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<String>,
    pub(crate) retries: usize,
    /// The one that runs, and may never end.
    current: Option<String>,
    ended: Option<ExitStatus>,
}

impl Run {
    /// All passed.
    pub(crate) fn ok(&self) -> bool {
        self.ended.is_some_and(|status| status.success()) && self.failed.is_empty() && !self.passed.is_empty()
    }

    /// Reads a line of the tests' output: `test NAME ... ok`, or with a test's own lines in between.
    fn read(&mut self, line: &str) {
        self.retries += usize::from(line.contains(RETRY));
        let mut rest = line;
        if let Some((name, after)) = line.strip_prefix("test ").and_then(|named| named.split_once(" ... ")) {
            self.current = Some(name.to_owned());
            rest = after;
        }
        match rest {
            "ok" => self.passed.extend(self.current.take()),
            "FAILED" => self.failed.extend(self.current.take()),
            _ => {}
        }
    }

    fn hung(&self) -> bool {
        self.ended.and_then(|status| status.code()).is_none_or(|code| HUNG.contains(&code))
    }
}

/// The tests' lane, with a sample of the fault points.
pub(crate) fn tests() -> Result<Run> {
    Lab::prepare()?.tests(&[], false)
}

/// Every fault point.
pub(crate) fn every_fault() -> Result<Run> {
    Lab::prepare()?.tests(&["faults::faults"], true)
}

#[allow(clippy::print_stdout)] // the result is what it prints
fn told(run: &Run) -> ExitCode {
    println!("{} passed, {} failed, {} of their steps repeated", run.passed.len(), run.failed.len(), run.retries);
    if run.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Lab {
    scripts: PathBuf,
    place: PathBuf,
    smolvm: PathBuf,
    agent: PathBuf,
}

impl Lab {
    /// What is there already is not made again.
    fn prepare() -> Result<Self> {
        if !Path::new("/usr/bin/apt-get").exists() || cfg!(not(target_arch = "x86_64")) {
            bail!("the lab of smolvm is made of Debian's packages, on amd64");
        }
        setup::install_packages(PACKAGES)?;
        let (scripts, place) = (root().join("xtask/scripts/smolvm"), PathBuf::from(PLACE));
        fs::create_dir_all(&place)?;
        // One at a time: what is downloaded is everybody's.
        let lock = File::create(place.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let script = |name: &str| {
            let mut command = Command::new("bash");
            command.arg(scripts.join(name));
            command
        };
        run(script("l1-prep.sh").arg(&place))?;
        let smolvm = place.join("engine/smolvm");
        if !smolvm.exists() {
            let pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
            if !pip.is_ok_and(|out| out.status.success()) {
                setup::install_packages(&["python3-pip"])?;
            }
            run(script("prep-smolvm.sh").arg(place.join("engine")))?;
        }
        let agent = place.join(format!("agent-{}.tar", &sha256(&scripts.join("agent-image.sh"))?[..12]));
        if !agent.exists() {
            let draft = agent.with_extension("draft");
            run(script("agent-image.sh").arg(&draft))?;
            fs::rename(draft, &agent)?;
        }
        drop(lock);
        Ok(Self { scripts, place, smolvm, agent })
    }

    /// The lab, up, with a command in it.
    fn boot(&self, out: Option<&Path>, full: bool, command: &[&str]) -> Result<Command> {
        let mut boot = Command::new("nice");
        boot.args(["-n", "10", "bash"]).arg(self.scripts.join("l1.sh"));
        for (name, value) in [
            ("SMOLVM", &*self.smolvm),
            ("AGENT_TAR", &self.agent),
            ("BOTTLE_PATIENCE_SECS", Path::new("210")),
            ("RUST_BACKTRACE", Path::new("0")),
        ] {
            boot.arg("-e").arg(format!("{name}={}", value.display()));
        }
        if full {
            boot.args(["-e", "BOTTLE_FULL=1"]);
        }
        if let Some(out) = out {
            boot.arg("-o").arg(out);
        }
        boot.arg(&self.place).arg("bash").arg(self.scripts.join("l1-lab.sh")).arg(root()).args(command);
        let budget = if full { FULL_BUDGET } else { BUDGET };
        boot.env("L1_TIMEOUT", budget.as_secs().to_string()).env("L1_MEM", MEMORY_MB);
        Ok(boot)
    }

    /// Runs the tests; where the emulation has hung, those that have not ended once more.
    fn tests(&self, names: &[&str], full: bool) -> Result<Run> {
        let program = test_program()?;
        let program = program.to_str().context("a path of UTF-8")?;
        let command = [&[program, "--test-threads=1", "--nocapture"], names].concat();
        let mut run = Run::default();
        self.watch(full, &command, &mut run)?;
        if run.hung() {
            eprintln!("{RETRY}: the emulation has hung");
            run.retries += 1;
            run.current = None;
            let ended = [&run.passed[..], &run.failed[..]].concat();
            let skip: Vec<&str> = ended.iter().flat_map(|name| ["--skip", name]).collect();
            self.watch(full, &[&command[..], &skip].concat(), &mut run)?;
        }
        // One that never ended has not passed.
        run.failed.extend(run.current.take());
        Ok(run)
    }

    fn watch(&self, full: bool, command: &[&str], run: &mut Run) -> Result<()> {
        let mut child = self.boot(None, full, command)?.stdout(Stdio::piped()).spawn().context("boot the lab")?;
        let from = BufReader::new(child.stdout.take().context("its output")?);
        let (said, heard) = channel();
        thread::spawn(move || from.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        loop {
            match heard.recv_timeout(SILENCE) {
                Ok(line) => {
                    eprintln!("{line}");
                    run.read(&line);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    run.ended = Some(child.wait()?);
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    // By its script, which takes the emulator along.
                    signal::kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
                    child.wait()?;
                    run.ended = None;
                    return Ok(());
                }
            }
        }
    }

    /// Writes down anew what the real smolvm answers.
    fn record(&self) -> Result<ExitCode> {
        let to = root().join("backends/smolmachines/recorded");
        let (script, agent) = (self.scripts.join("record.sh"), self.agent.display().to_string());
        let script = script.to_str().context("a path of UTF-8")?;
        let mut boot = self.boot(Some(&to), false, &["bash", script, "/out", &agent])?;
        if boot.status()?.code().is_some_and(|code| HUNG.contains(&code)) {
            eprintln!("{RETRY}: the emulation has hung");
            run(&mut boot)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The program of the tests.
fn test_program() -> Result<PathBuf> {
    let args = ["test", "--locked", "--no-run", "--message-format=json-render-diagnostics", "-p", "bottle-tests"];
    let said = output(cargo().args(args).args(["--test", "machines"]))?;
    let mut found = said.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "machines").then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    found.next_back().context("cargo built no tests of machines")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_passed_when_it_says_so_whatever_it_says_before() {
        let mut run = Run::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test c ... 3 points",
            "lab: retry: x",
            "ok",
            "test d ... FAILED",
            "test e ... 1",
        ] {
            run.read(line);
        }
        assert_eq!((run.passed, run.failed, run.retries), (vec!["a::b".into(), "c".into()], vec!["d".into()], 1));
        assert_eq!(run.current.as_deref(), Some("e"));
    }
}
