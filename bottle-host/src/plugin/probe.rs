//! Loading a plugin in a child first: its constructors may end, crash or hang the process that loads them, and no look
//! at the file can tell.

use super::{Services, start, vet};
use crate::{
    cli,
    commands::forbid_core_files,
    ui::{hint_of, hinted, printable},
};
use anyhow::{Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, set_parent_process_death_signal},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

/// How long a plugin may take to load.
const PATIENCE_SECONDS: i64 = 10;

/// What a child says of a plugin that it could load.
#[derive(Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// How strongly the backend isolates.
    pub isolation: String,
    /// From the file to the backend, in microseconds: vetting, hashing, loading, creating.
    pub load_micros: u64,
}

/// What it says of another.
#[derive(Debug, Serialize, Deserialize)]
struct Failed {
    error: String,
    hint: Option<String>,
}

/// A child that loads a plugin.
pub struct Probe(Group);

/// Loads a plugin in a child. Nothing of the child is left afterwards.
pub fn probe(file: &Path) -> Result<Loaded> {
    Probe::begin(file)?.finish()
}

impl Probe {
    /// Begins: the child vets the file itself.
    pub fn begin(file: &Path) -> Result<Self> {
        // Not by its path: bottle may have been updated since it was started.
        let mut command = Command::new("/proc/self/exe");
        command.arg(cli::PROBE).arg(file).env_clear().process_group(0);
        Ok(Self(Group(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)))
    }

    /// Waits for what the child says.
    pub fn finish(self) -> Result<Loaded> {
        let Self(mut group) = self;
        if !group.ends_in_time()? {
            bail!("it was still loading after {PATIENCE_SECONDS} s");
        }
        group.kill();
        let status = group.0.wait()?;
        match serde_json::from_str(&last_line(group.0.stdout.take())) {
            Ok(Ok(loaded)) if status.success() => Ok(loaded),
            Ok(Err(Failed { error, hint: Some(hint) })) => Err(hinted(error, hint)),
            Ok(Err(Failed { error, hint: None })) => bail!("{error}"),
            _ => {
                let said = last_line(group.0.stderr.take());
                let colon = if said.is_empty() { "" } else { ": " };
                bail!("it ends the process that loads it ({status}){colon}{said}")
            }
        }
    }
}

/// What the child does: loads the plugin and says how that went.
pub fn answer(file: &Path) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    forbid_core_files()?;
    let began = Instant::now();
    let backend = vet::vet(file).and_then(|vetted| start(vetted, &Services::from_env()));
    let load_micros = u64::try_from(began.elapsed().as_micros())?;
    let answer = match &backend {
        Ok(backend) => Ok(Loaded { isolation: backend.info.isolation.clone(), load_micros }),
        Err(error) => Err(Failed { error: format!("{error:#}"), hint: hint_of(error).map(str::to_owned) }),
    };
    Ok(writeln!(io::stdout(), "\n{}", serde_json::to_string(&answer)?)?)
}

/// A child and what it started, none of which outlives this value.
struct Group(Child);

impl Group {
    fn ends_in_time(&self) -> Result<bool> {
        let process = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        let limit = Timespec { tv_sec: PATIENCE_SECONDS, tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
                Err(Errno::INTR) => {}
                ended => return Ok(ended? > 0),
            }
        }
    }

    /// The group is still the child's: it has not been waited for.
    fn kill(&self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.0.wait();
        }
    }
}

/// The last line that is in a pipe now; somebody may still hold its other end.
fn last_line(pipe: Option<impl Read + AsFd>) -> String {
    let mut bytes = vec![];
    if let Some(mut pipe) = pipe
        && ioctl_fionbio(&pipe, true).is_ok()
    {
        let _ = pipe.read_to_end(&mut bytes);
    }
    printable(String::from_utf8_lossy(&bytes).trim_end().lines().last().unwrap_or_default())
}
