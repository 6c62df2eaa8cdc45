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
    control::{
        BIND_ENV, DAEMONS_ENV, First, GIT_GATE_DAEMON, MIRRORS_ENV, PIPELOCK_DAEMON, SCRATCH_ENV, SIDECAR_NAMES,
        UIDS_ENV, handshake,
    },
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
/// What git-gate may use: its mirrors, which are in memory, and the git that works on them.
const GIT_GATE_MEMORY: i64 = 3 << 30;
/// Daemons that keep files, each in a directory in memory of its own: the variable that names it, where it is, its size, and
/// the memory that the bundle has for that daemon.
const WITH_FILES: [(&str, &str, &str, &str, i64); 2] = [
    (PIPELOCK_DAEMON, SCRATCH_ENV, "/run/pipelock", "64m", PIPELOCK_MEMORY),
    (GIT_GATE_DAEMON, MIRRORS_ENV, "/run/git-gate", "2g", GIT_GATE_MEMORY),
];
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
    let (mut memory, mut tmpfs) = (SIDECAR_MEMORY, HashMap::new());
    let mut env = vec![
        format!("{BIND_ENV}={address}"),
        format!("{DAEMONS_ENV}={}", spec.daemons.join(",")),
        format!("{UIDS_ENV}={FIRST_UID}"),
    ];
    // The bundle's user comes first, each daemon's after that in the list's order.
    for (daemon, uid) in spec.daemons.iter().zip(FIRST_UID + 1..) {
        let Some((_, variable, place, size, needs)) = WITH_FILES.iter().find(|(name, ..)| name == daemon) else {
            continue;
        };
        memory += needs;
        env.push(format!("{variable}={place}"));
        let options = format!("size={size},mode=0700,uid={uid},gid={uid},noexec,nosuid,nodev");
        tmpfs.insert((*place).to_owned(), options);
    }
    let host_config = HostConfig {
        network_mode: Some(internal.id.clone()),
        readonly_rootfs: Some(true),
        memory: Some(memory),
        memory_swap: Some(memory),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        pids_limit: Some(SIDECAR_PIDS),
        cap_add: Some(["SETUID", "SETGID", "SETPCAP"].map(str::to_owned).into()),
        // A bundle may stand on two networks: it must never carry packets from one to the other.
        sysctls: Some(HashMap::from([
            ("net.ipv4.ip_forward".into(), "0".into()),
            ("net.ipv4.ip_unprivileged_port_start".into(), "0".into()),
        ])),
        ..hardened()
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{DEFAULT_POOL, SMALL, blocks};

    #[test]
    fn a_daemon_that_keeps_files_has_a_place_of_its_own_in_memory() {
        let internal = Network { id: "n".into(), block: blocks(DEFAULT_POOL, SMALL, "x", &[]).unwrap()[0] };
        for (daemons, expected) in [
            (&["egress", "dns"][..], &[][..]),
            (&["egress", "dns", "git-gate"], &[("/run/git-gate", MIRRORS_ENV, 65203)]),
            (&["egress", "dns", "pipelock"], &[("/run/pipelock", SCRATCH_ENV, 65203)]),
            (
                &["egress", "dns", "git-gate", "pipelock"],
                &[("/run/git-gate", MIRRORS_ENV, 65203), ("/run/pipelock", SCRATCH_ENV, 65204)],
            ),
        ] {
            let daemons = daemons.iter().map(|name| (*name).to_owned()).collect();
            let spec = BottleSpec { daemons, ..BottleSpec::default() };
            let body = body(&spec, "i", &internal, sidecar_address(&internal));
            let (host, env) = (body.host_config.unwrap(), body.env.unwrap());
            let places = host.tmpfs.unwrap_or_default();
            assert_eq!(places.len(), expected.len(), "{places:?}");
            for (place, variable, user) in expected {
                let options = &places[*place];
                for option in [format!("uid={user}").as_str(), "mode=0700", "noexec", "nosuid", "nodev", "size="] {
                    assert!(options.contains(option), "{option}: {options}");
                }
                assert!(env.contains(&format!("{variable}={place}")), "{env:?}");
            }
            assert!(host.memory.unwrap() >= SIDECAR_MEMORY && host.memory == host.memory_swap);
        }
    }
}
