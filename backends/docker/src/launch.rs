//! From a plan to a running bottle: each thing is made as soon as what it needs is there.
//!
//! ```text
//! agent image ──(with workspace)──┬─▶ agent container ─▶ helper put in ─▶ started ──┐
//! internal network ───────────────┤                                                 ├─▶ bottle
//! sidecar image ──────────────────┴─▶ sidecar ─┬─▶ connected, started ─▶ ready ─────┘
//! egress network ──────────────────────────────┘
//! ```
//!
//! Branches are always waited for, an error in one or not: nothing may still be under way when the host begins to
//! clean up.

use crate::{CONTAINER_ENV, DockerPlan, bottle::DockerBottle};
use bollard::models::{ContainerCreateBody, HostConfig};
use bottle_api::{
    AGENT_UID, BottleSpec, Error, HELPER_PATH, Host, LaunchRequest, PutRequest, Result,
    provision::{FileEntry, pack},
    secret::Secrets,
};
use bottle_kit::{
    bundle,
    container::{self, endpoint, networking},
    derived,
    engine::{Engine, Stop},
    image,
    names::{IMAGE, Role},
    network::{self, Network},
};
use futures_util::FutureExt;
use std::{collections::HashMap, fs::File};

const DEFAULT_MEMORY: u64 = 4 << 30;
const DEFAULT_PIDS: u64 = 4096;

/// The name that the agent's container gets, where it is free.
pub(crate) fn container_name(spec: &BottleSpec) -> String {
    pinned(spec).map_or_else(|| Role::Agent.base_name(&spec.slug), str::to_owned)
}

pub(crate) fn pinned(spec: &BottleSpec) -> Option<&str> {
    spec.env.get(CONTAINER_ENV).map(String::as_str).filter(|name| !name.is_empty())
}

/// Makes everything that the bottle consists of, up to provisioning. Returns its certificate authority too, PEM.
pub(crate) async fn launch(
    host: &Host,
    plan: &DockerPlan,
    req: &LaunchRequest,
    secrets: &Secrets,
    stop: &Stop,
) -> Result<(DockerBottle, String)> {
    let DockerPlan { spec, engine, platform, workspace, .. } = plan;
    host.step("make the bottle");
    let [internal, egress] =
        [Role::Internal, Role::Egress].map(|r| network::create(engine, host, spec, r, stop).shared());
    let sidecar = async {
        let (image, internal) = tokio::join!(image::sidecar(engine, host, spec, platform, stop), internal.clone());
        let (image, internal, egress) = (image?, internal?, Some(egress.clone()));
        bundle::start(engine, host, spec, Role::Sidecar, &image, &internal, egress, req, secrets, stop).await
    };
    let agent = async {
        let helper = async { pack(&[FileEntry::root(HELPER_PATH, &platform.helper[..]).mode(0o755)]) };
        let image = async {
            let image = image::agent(engine, host, spec, platform, stop).await?;
            let derived = match workspace {
                Some(archive) => derived::image(engine, host, spec, &image, archive, stop).await?,
                None => image.clone(),
            };
            Ok::<_, Error>((image, derived))
        };
        let (image, internal, helper) = tokio::join!(image, internal.clone(), helper);
        let (image, derived) = image?;
        let body = agent_body(spec, &derived, plan.runtime, &internal?);
        let body = ContainerCreateBody { labels: Some(HashMap::from([(IMAGE.to_owned(), image)])), ..body };
        start_agent(engine, host, spec, body, helper?, stop).await
    };
    // The networks first: making them takes the engine longest.
    let (.., sidecar, agent) = tokio::join!(internal.clone(), egress.clone(), sidecar, agent);
    let (sidecar, (id, name)) = (sidecar?, agent?);
    stop.check()?;
    let ca_pem = sidecar.ca_pem.clone();
    Ok((DockerBottle::new(host.clone(), engine.clone(), spec, (id, name), sidecar), ca_pem))
}

/// The agent's container, on the internal network alone, its first process the helper, which comes in an archive.
async fn start_agent(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    body: ContainerCreateBody,
    helper: File,
    stop: &Stop,
) -> Result<(String, String)> {
    let (id, name) = container::create(engine, host, spec, Role::Agent, pinned(spec), body, stop).await?;
    container::put(engine, &id, &PutRequest { dest: "/".into(), owner: None }, helper).await?;
    stop.check()?;
    container::start(engine, &id, &name).await?;
    Ok((id, name))
}

fn agent_body(spec: &BottleSpec, image: &str, runtime: Option<&str>, internal: &Network) -> ContainerCreateBody {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let memory = signed(spec.limits.memory.unwrap_or(DEFAULT_MEMORY));
    let host_config = HostConfig {
        network_mode: Some(internal.id.clone()),
        runtime: runtime.map(str::to_owned),
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
        // The image's own may have become a link, which a runtime of old would follow out (CVE-2024-21626).
        working_dir: Some("/".into()),
        hostname: Some(spec.slug.clone()),
        host_config: Some(host_config),
        networking_config: Some(networking(&internal.id, endpoint(bundle::agent_address(internal), &[]))),
        ..ContainerCreateBody::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_kit::blocks::{DEFAULT_POOL, SMALL, blocks};

    #[test]
    fn the_agent_runs_on_gvisor_where_the_engine_has_it_and_else_on_the_engines_own_runtime() {
        let internal = Network { id: "n".into(), block: blocks(DEFAULT_POOL, SMALL, "x", &[]).unwrap()[0] };
        for runtime in [None, Some("runsc")] {
            let asked = agent_body(&BottleSpec::default(), "i", runtime, &internal).host_config.unwrap();
            assert_eq!(asked.runtime.as_deref(), runtime);
        }
    }

    #[test]
    fn no_runtime_goes_to_a_directory_that_an_image_names() {
        let internal = Network { id: "n".into(), block: blocks(DEFAULT_POOL, SMALL, "x", &[]).unwrap()[0] };
        let body = agent_body(&BottleSpec::default(), "i", None, &internal);
        assert_eq!(body.working_dir.as_deref(), Some("/"));
    }
}
