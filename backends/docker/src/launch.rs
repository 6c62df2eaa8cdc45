//! From a plan to a running bottle, what can run together running together.
//!
//! ```text
//! agent image ──────┬─▶ with workspace ──▶ agent container ─┐
//! sidecar image ─┐  │                                        ├─▶ bottle
//! networks ──────┴──┴─▶ sidecar ─▶ ready ────────────────────┘
//! ```
//!
//! Branches are always waited for, an error in one or not: nothing may still be under way when the host begins to
//! clean up.

use crate::{CONTAINER_ENV, bottle::DockerBottle};
use bollard::models::{ContainerCreateBody, HostConfig};
use bottle_api::{
    AGENT_UID, BottleSpec, HELPER_PATH, Host, LaunchRequest, PutRequest, Result,
    provision::{FileEntry, pack},
    secret::Secrets,
};
use bottle_kit::{
    bundle,
    container::{self, endpoint, networking},
    derived,
    engine::{Engine, Stop},
    image,
    names::Role,
    network::{self, Network},
};
use std::path::Path;

const DEFAULT_MEMORY: u64 = 4 << 30;
const DEFAULT_PIDS: u64 = 4096;

/// The name that the agent's container gets, where it is free.
pub(crate) fn container_name(spec: &BottleSpec) -> String {
    pinned(spec).map_or_else(|| Role::Agent.base_name(&spec.slug), str::to_owned)
}

fn pinned(spec: &BottleSpec) -> Option<&str> {
    spec.env.get(CONTAINER_ENV).map(String::as_str).filter(|name| !name.is_empty())
}

/// Makes everything that the bottle consists of, up to provisioning. Returns its certificate authority too, PEM.
pub(crate) async fn launch(
    host: &Host,
    engine: &Engine,
    spec: &BottleSpec,
    workspace: Option<&Path>,
    req: &LaunchRequest,
    secrets: &Secrets,
    stop: &Stop,
) -> Result<(DockerBottle, String)> {
    host.step("make images and networks ready");
    let platform = image::Platform::of(engine, host).await?;
    let (agent_image, sidecar_image, internal, egress) = tokio::join!(
        image::agent(engine, host, spec, &platform, stop),
        image::sidecar(engine, host, spec, &platform, stop),
        network::create(engine, host, spec, Role::Internal, stop),
        network::create(engine, host, spec, Role::Egress, stop),
    );
    let (agent_image, sidecar_image, internal, egress) = (agent_image?, sidecar_image?, internal?, egress?);
    stop.check()?;
    host.step("start the sidecar and the agent's container");
    let agent = async {
        let image = match workspace {
            Some(archive) => derived::image(engine, host, spec, &agent_image, archive, stop).await?,
            None => agent_image,
        };
        start_agent(engine, host, spec, &image, platform.helper, &internal, stop).await
    };
    let (sidecar, agent) =
        tokio::join!(bundle::start(engine, host, spec, &sidecar_image, &internal, &egress, req, secrets, stop), agent,);
    let (sidecar, (id, name)) = (sidecar?, agent?);
    stop.check()?;
    let ca_pem = sidecar.ca_pem.clone();
    Ok((DockerBottle::new(host.clone(), engine.clone(), spec, (id, name), sidecar), ca_pem))
}

/// The agent's container, on the internal network alone, its first process the helper.
async fn start_agent(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    image: &str,
    helper: Vec<u8>,
    internal: &Network,
    stop: &Stop,
) -> Result<(String, String)> {
    let body = agent_body(spec, image, internal);
    let (id, name) = container::create(engine, host, spec, Role::Agent, pinned(spec), body, stop).await?;
    let helper = FileEntry::root(HELPER_PATH, helper).mode(0o755);
    container::put(engine, &id, &PutRequest { dest: "/".into(), owner: None }, pack(&[helper])?).await?;
    stop.check()?;
    container::start(engine, &id, &name).await?;
    Ok((id, name))
}

fn agent_body(spec: &BottleSpec, image: &str, internal: &Network) -> ContainerCreateBody {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let memory = signed(spec.limits.memory.unwrap_or(DEFAULT_MEMORY));
    let host_config = HostConfig {
        network_mode: Some(internal.id.clone()),
        // The engine's own resolver asks this one for every name that is not on the network.
        dns: Some(vec![bundle::sidecar_address(internal).to_string()]),
        dns_search: Some(vec![".".into()]),
        memory: Some(memory),
        memory_swap: Some(memory),
        nano_cpus: spec.limits.milli_cpus.map(|milli| signed(milli.saturating_mul(1_000_000))),
        pids_limit: Some(signed(spec.limits.pids.unwrap_or(DEFAULT_PIDS))),
        ..bundle::hardened()
    };
    ContainerCreateBody {
        image: Some(image.into()),
        user: Some(format!("{AGENT_UID}:{AGENT_UID}")),
        entrypoint: Some(vec![HELPER_PATH.into()]),
        cmd: Some(vec!["init".into()]),
        hostname: Some(spec.slug.clone()),
        host_config: Some(host_config),
        networking_config: Some(networking(&internal.id, endpoint(bundle::agent_address(internal), &[]))),
        ..ContainerCreateBody::default()
    }
}
