//! The launch probe: a bottle is looked at from inside, as the agent's user, before its agent runs. What is not closed,
//! cannot be read, or comes late ends the launch.
//!
//! It is built on `start` alone, so that no backend can leave it out: the in-bottle helper looks, `verdict` judges.

mod verdict;

use crate::{
    plan::policy::own_addresses,
    plugin::Bottle,
    signals::Cancellation,
    ui::{self, hinted},
};
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::{AGENT_UID, BottleInfo, HELPER_PATH, Secret, StartRequest, control::write_frame};
use bottle_policy::probe::{Question, Report};
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};
use zeroize::{Zeroize, Zeroizing};

/// How long a report may take: on a machine that starts fifty bottles at once it is still late after this.
const PATIENCE: Duration = Duration::from_secs(20);
/// A report is a few kilobytes.
const MAX_REPORT: usize = 1 << 20;
/// Where engines listen, beside where the backend's variables say that one does.
const ENGINES: [&str; 5] = [
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
];
/// Whoever answers on none of these is told from nobody by the kernel's list of neighbours.
const PORTS: [u16; 3] = [22, 80, 443];

/// Looks at a bottle from inside. An error says what is open.
pub fn check(
    bottle: &Bottle,
    info: &BottleInfo,
    capability: &Secret,
    env: &BTreeMap<String, String>,
    cancel: &Cancellation,
) -> Result<()> {
    let report = ask(bottle, question(info, capability, env), cancel).context("probe the bottle from inside")?;
    let open = verdict::open(&report, info.unmapped_groups);
    if open.is_empty() {
        return Ok(());
    }
    let message = format!("the bottle is not closed, so no agent was started in it: {}", open.join("; "));
    Err(hinted(
        ui::printable(&message),
        format!(
            "See what the engine has connected to {} while it starts; `bottle doctor` checks the backend.",
            info.name
        ),
    ))
}

fn question(info: &BottleInfo, capability: &Secret, env: &BTreeMap<String, String>) -> Question {
    let password = Zeroizing::new([b"bottle:", capability.expose()].concat());
    let sockets = env.values().filter_map(|value| value.strip_prefix("unix://"));
    // The machine's own, the clouds' metadata services, and resolvers that everybody can reach.
    let outside: [IpAddr; 5] = [
        [169, 254, 169, 254].into(),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254].into(),
        [1, 1, 1, 1].into(),
        [8, 8, 8, 8].into(),
        [0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111].into(),
    ];
    Question {
        sidecar: info.sidecar_host.clone(),
        authorization: format!("Basic {}", BASE64_STANDARD.encode(&password)),
        targets: own_addresses().into_iter().filter(|ip| !ip.is_loopback()).chain(outside).collect(),
        ports: PORTS.to_vec(),
        sockets: ENGINES.into_iter().chain(sockets).map(str::to_owned).collect(),
    }
}

/// Has the helper look.
fn ask(bottle: &Bottle, mut question: Question, cancel: &Cancellation) -> Result<Report> {
    let req = StartRequest {
        argv: vec![HELPER_PATH.into(), "probe".into()],
        uid: AGENT_UID,
        gid: AGENT_UID,
        ..StartRequest::default()
    };
    let (stdin, to_process) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_process, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let process = bottle.start(&req, stdin.as_fd(), stdout.as_fd(), None, cancel.fd())?;
    drop((stdin, stdout));
    // A helper that takes no question says why.
    let _ = write_frame(&mut File::from(to_process), &question);
    question.authorization.zeroize();
    let said = read_all(from_process.into(), cancel)?;
    drop(process);
    serde_json::from_slice(&said).map_err(|_| {
        let said = String::from_utf8_lossy(&said[..said.len().min(500)]).trim().escape_debug().to_string();
        anyhow::anyhow!("the bottle's helper sent no report: {said}")
    })
}

fn read_all(mut from: File, cancel: &Cancellation) -> Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut said = vec![];
    let mut chunk = vec![0; 64 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !cancel.wait_readable_within(&from, left)? {
            bail!("no report within {} s", PATIENCE.as_secs());
        }
        match from.read(&mut chunk)? {
            0 => return Ok(said),
            n if said.len() + n > MAX_REPORT => bail!("the report does not end"),
            n => said.extend_from_slice(&chunk[..n]),
        }
    }
}
