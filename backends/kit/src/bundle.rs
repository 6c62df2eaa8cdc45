//! The sidecar bundle: its container on the bottle's networks, both or the one that there is, and its control channel over
//! the container's attached standard streams.
//!
//! The container's standard input closes when the host's connection does: that is how the sidecar learns of the host's
//! death.

use crate::{
    container::{self, endpoint, networking},
    engine::{Engine, Stop},
    names::Role,
    network::Network,
};
use bollard::{
    container::{AttachContainerResults, LogOutput},
    models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, NetworkConnectRequest, ResourcesUlimits},
    query_parameters::AttachContainerOptionsBuilder,
};
use bottle_api::{
    BottleSpec, Error, ErrorKind, Host, LaunchRequest, Result,
    control::{BIND_ENV, DAEMONS_ENV, First, PIPELOCK_DAEMON, SCRATCH_ENV, SIDECAR_NAMES, UIDS_ENV, handshake},
    error::Context,
    secret::Secrets,
};
use futures_util::StreamExt;
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, copy},
    net::UnixStream,
};

/// The bundle's user, which its daemons' follow; they exist in no image. It begins as root, to hand them out: see
/// [`UIDS_ENV`].
const FIRST_UID: u32 = 65200;
const SIDECAR_MEMORY: i64 = 512 << 20;
/// What pipelock may use beside that: it holds whole bodies.
const PIPELOCK_MEMORY: i64 = 1 << 30;
/// Pipelock's own directory, in memory.
const SCRATCH: &str = "/run/pipelock";
const SIDECAR_PIDS: i64 = 256;
/// How long the bundle may take from its start to `ready`.
const READY_TIME: Duration = Duration::from_secs(30);
/// Of the bundle's error output, kept for messages.
const STDERR_KEPT: usize = 4096;

/// A bundle that serves.
pub struct Bundle {
    /// Its address on the internal network.
    pub address: Ipv4Addr,
    /// The bottle's certificate authority.
    pub ca_pem: String,
    /// The control channel, after the handshake.
    pub channel: StdUnixStream,
}

/// The sidecar's address on a network. The first one is the gateway's, and nobody's on an internal network.
pub fn sidecar_address(network: &Network) -> Ipv4Addr {
    network.block.address(2)
}

/// The agent's address on the internal network.
pub fn agent_address(network: &Network) -> Ipv4Addr {
    network.block.address(3)
}

/// Creates the bundle in that role, starts it once its own network is there, where that is another one than the agent's,
/// hands it policy and secrets, and waits until it serves.
#[allow(clippy::too_many_arguments)] // what a launch has in hand, once
pub async fn start(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    role: Role,
    image: &str,
    internal: &Network,
    egress: Option<impl Future<Output = Result<Network>>>,
    req: &LaunchRequest,
    secrets: &Secrets,
    stop: &Stop,
) -> Result<Bundle> {
    let address = sidecar_address(internal);
    let body = body(spec, image, internal, address);
    let (id, name) = container::create(engine, host, spec, role, None, body, stop).await?;
    if let Some(egress) = egress {
        let egress = egress.await?;
        let leg = endpoint(sidecar_address(&egress), &[]);
        let leg = NetworkConnectRequest { container: id.clone(), endpoint_config: Some(leg) };
        engine.docker.connect_network(&egress.id, leg).await.context("connect the sidecar to its network")?;
    }
    let options = AttachContainerOptionsBuilder::default().stdin(true).stdout(true).stderr(true).stream(true).build();
    let attached = engine.docker.attach_container(&id, Some(options)).await.context("attach to the sidecar")?;
    stop.check()?;
    container::start(engine, &id, &name).await?;

    let (channel, far_end) = StdUnixStream::pair()?;
    far_end.set_nonblocking(true)?;
    let said = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(carry(attached, UnixStream::from_std(far_end)?, said.clone(), host.clone()));
    let (policy, secrets) = (req.policy.clone(), secrets.clone());
    let shake = tokio::task::spawn_blocking(move || -> Result<(First, StdUnixStream)> {
        let mut channel = channel;
        channel.set_read_timeout(Some(READY_TIME))?;
        let first = handshake(&mut channel, policy, &secrets)?;
        channel.set_read_timeout(None)?;
        Ok((first, channel))
    });
    match stop.or(async { shake.await? }).await {
        Ok((First::Ready { ca_pem }, channel)) => Ok(Bundle { address, ca_pem, channel }),
        Ok((First::Refused { message }, _)) => {
            Err(Error::new(ErrorKind::RUNTIME, format!("the sidecar refused to serve: {message}")))
        }
        Err(error) if error.kind == ErrorKind::CANCELLED => Err(error),
        Err(error) => {
            let said = String::from_utf8_lossy(&said.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
            let mut error = error.context("wait for the sidecar to serve").kind(ErrorKind::RUNTIME);
            error.chain.extend((!said.trim().is_empty()).then(|| format!("it said: {}", said.trim().escape_debug())));
            Err(error)
        }
    }
}

fn body(spec: &BottleSpec, image: &str, internal: &Network, address: Ipv4Addr) -> ContainerCreateBody {
    // The bundle's user comes first, each daemon's after that in the list's order.
    let pipelock = spec.daemons.iter().position(|name| name == PIPELOCK_DAEMON);
    let pipelock = pipelock.map(|place| FIRST_UID + 1 + u32::try_from(place).unwrap_or(u32::MAX));
    let memory = SIDECAR_MEMORY + pipelock.map_or(0, |_| PIPELOCK_MEMORY);
    let scratch = pipelock.map(|uid| {
        let options = format!("size=64m,mode=0700,uid={uid},gid={uid},noexec,nosuid,nodev");
        HashMap::from([(SCRATCH.to_owned(), options)])
    });
    let host_config = HostConfig {
        network_mode: Some(internal.id.clone()),
        readonly_rootfs: Some(true),
        memory: Some(memory),
        memory_swap: Some(memory),
        tmpfs: scratch,
        pids_limit: Some(SIDECAR_PIDS),
        cap_add: Some(["SETUID", "SETGID", "SETPCAP"].map(str::to_owned).into()),
        // A bundle may stand on two networks: it must never carry packets from one to the other.
        sysctls: Some(HashMap::from([
            ("net.ipv4.ip_forward".into(), "0".into()),
            ("net.ipv4.ip_unprivileged_port_start".into(), "0".into()),
        ])),
        ..hardened()
    };
    let mut env = vec![
        format!("{BIND_ENV}={address}"),
        format!("{DAEMONS_ENV}={}", spec.daemons.join(",")),
        format!("{UIDS_ENV}={FIRST_UID}"),
    ];
    env.extend(pipelock.map(|_| format!("{SCRATCH_ENV}={SCRATCH}")));
    ContainerCreateBody {
        image: Some(image.into()),
        user: Some("0:0".into()),
        env: Some(env),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        tty: Some(false),
        host_config: Some(host_config),
        networking_config: Some(networking(&internal.id, endpoint(address, &SIDECAR_NAMES))),
        ..ContainerCreateBody::default()
    }
}

/// What every container of a bottle has: no capabilities, no way to new ones, no core files, no log on the engine's
/// disk, no restart.
pub fn hardened() -> HostConfig {
    HostConfig {
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        privileged: Some(false),
        ulimits: Some(vec![ResourcesUlimits { name: Some("core".into()), soft: Some(0), hard: Some(0) }]),
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        ..HostConfig::default()
    }
}

/// Carries bytes between the control channel and the container's streams until either ends.
async fn carry(attached: AttachContainerResults, channel: UnixStream, said: Arc<Mutex<Vec<u8>>>, host: Host) {
    let AttachContainerResults { mut output, mut input } = attached;
    let (mut from_host, mut to_host) = channel.into_split();
    let down = tokio::spawn(async move {
        let _ = copy(&mut from_host, &mut input).await;
        let _ = input.shutdown().await;
    });
    while let Some(Ok(frame)) = output.next().await {
        match frame {
            LogOutput::StdErr { message } => {
                host.warn(format!("sidecar: {}", String::from_utf8_lossy(&message).trim_end().escape_debug()));
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                let room = STDERR_KEPT.saturating_sub(said.len());
                said.extend_from_slice(&message[..message.len().min(room)]);
            }
            other => {
                if to_host.write_all(&other.into_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }
    let _ = to_host.shutdown().await;
    down.abort();
}
