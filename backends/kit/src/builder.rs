//! A container beside a bottle's own and made like it, in which root may install things; and the image that comes of it.
//!
//! The engine's own builder is not used: on an internal network it would ask the machine's resolver, and it takes neither
//! our resolver nor a certificate authority, capabilities or limits. What differs from the bottle's container is its user and
//! what that may do; everything else is read off it, so that nothing can be forgotten.

use crate::{
    bundle::hardened,
    container::{self, networking},
    engine::{Engine, Stop, is_status},
    names::{AGENT, IDENTITY, IMAGE, OWN_IMAGE, OWNER, Role, labels},
};
use bollard::{
    models::{ContainerConfig, ContainerCreateBody, EndpointSettings, HostConfig},
    query_parameters::{CommitContainerOptionsBuilder, InspectContainerOptionsBuilder, KillContainerOptions},
};
use bottle_api::{
    BottleSpec, BuilderRequest, Built, CommitRequest, Error, ErrorKind, HELPER_PATH, Host, PutRequest, Result,
    error::Context,
    provision::{FileEntry, pack},
};

/// What package managers need of root. Nothing of it leads out of the container: no devices, no raw packets, no mounts, and
/// none that a file could carry into the image.
const CAPABILITIES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];
/// What steps may leave, holes in files too: all of it is written out when it becomes an image.
const MAX_BYTES: i64 = 8 << 30;
/// How the names of these images begin; an identity and what tells one from another follow.
const NAME: &str = "claude-bottle:own-";

/// A builder that runs.
pub struct Builder {
    /// The engine's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The resolver that it was given: the sidecar.
    pub resolver: String,
    /// Whose it is: identity, owner and agent, and no more.
    pub spec: BottleSpec,
}

/// Makes a builder and has it run, beside the bottle whose agent's container that is.
pub async fn begin(
    engine: &Engine,
    host: &Host,
    bottle: &str,
    helper: &[u8],
    req: &BuilderRequest,
    stop: &Stop,
) -> Result<Builder> {
    let found = engine.docker.inspect_container(bottle, None).await.context("look at the bottle's container")?;
    let config = found.config.unwrap_or_default();
    let like = found.host_config.unwrap_or_default();
    let of = config.labels.unwrap_or_default();
    let label = |name: &str| of.get(name).cloned().unwrap_or_default();
    let spec = BottleSpec {
        identity: label(IDENTITY),
        // By identity: nobody else asks for this name.
        slug: label(IDENTITY),
        owner: label(OWNER),
        agent: label(AGENT),
        ..BottleSpec::default()
    };
    let image = if req.image.is_empty() { label(IMAGE) } else { req.image.clone() };
    if image.is_empty() {
        let message = "the bottle does not say what image it was made from";
        return Err(Error::new(ErrorKind::RUNTIME, message).hint("It is an older bottle's: resume it, and try again."));
    }
    let resolver = like.dns.iter().flatten().next().cloned().unwrap_or_default();
    let body = body(&image, like);
    let (id, name) = container::create(engine, host, &spec, Role::Builder, None, body, stop).await?;
    let helper = pack(&[FileEntry::root(HELPER_PATH, helper).mode(0o755)])?;
    container::put(engine, &id, &PutRequest { dest: "/".into(), owner: None }, helper).await?;
    stop.check()?;
    container::start(engine, &id, &name).await?;
    Ok(Builder { id, name, resolver, spec })
}

/// Of that image, and in all else like a container that has this configuration.
fn body(image: &str, like: HostConfig) -> ContainerCreateBody {
    let network = like.network_mode.clone().unwrap_or_default();
    let host_config = HostConfig {
        cap_add: Some(CAPABILITIES.map(str::to_owned).into()),
        network_mode: like.network_mode,
        runtime: like.runtime,
        dns: like.dns,
        dns_search: like.dns_search,
        memory: like.memory,
        memory_swap: like.memory_swap,
        nano_cpus: like.nano_cpus,
        pids_limit: like.pids_limit,
        ..hardened()
    };
    ContainerCreateBody {
        image: Some(image.into()),
        user: Some("0:0".into()),
        // An empty one takes the image's away: what is committed has none that the image had not.
        entrypoint: Some(vec![String::new()]),
        cmd: Some(vec![HELPER_PATH.into(), "init".into()]),
        working_dir: Some("/".into()),
        host_config: Some(host_config),
        networking_config: Some(networking(&network, EndpointSettings::default())),
        ..ContainerCreateBody::default()
    }
}

/// Ends what runs in a builder, and makes an image of what is in it: with the labels of its own, and the other settings of
/// the image that the builder is of.
pub async fn commit(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    container: &str,
    req: &CommitRequest,
    stop: &Stop,
) -> Result<Built> {
    match engine.docker.kill_container(container, None::<KillContainerOptions>).await {
        Err(error) if !is_status(&error, 409) => return Err(error).context("end what runs in the builder"),
        _ => {}
    }
    let sized = InspectContainerOptionsBuilder::default().size(true).build();
    let found = engine.docker.inspect_container(container, Some(sized)).await.context("look at the builder")?;
    let bytes = found.size_rw.unwrap_or_default();
    if bytes > MAX_BYTES {
        // Without this a file of holes would be written out.
        let message = format!("the steps have left {} MiB, {} at most", bytes >> 20, MAX_BYTES >> 20);
        return Err(Error::new(ErrorKind::UNSUPPORTED, message).hint("Have them remove what they do not need."));
    }
    let base = found.image.unwrap_or_default();
    let base = engine.docker.inspect_image(&base).await.context("look at the builder's image")?;
    let base = base.config.unwrap_or_default();
    stop.check()?;

    let (name, ledger) = (format!("{NAME}{}-{}", spec.identity, req.name), host.ledger(&spec.identity));
    let mut entry = ledger.intent(OWN_IMAGE, &name)?;
    let config = ContainerConfig {
        labels: Some(labels(spec, Role::Built, &entry)),
        user: base.user,
        entrypoint: base.entrypoint,
        cmd: base.cmd,
        working_dir: base.working_dir,
        ..ContainerConfig::default()
    };
    let options = CommitContainerOptionsBuilder::default().container(container).repo(&name).pause(false).build();
    let committed = engine.docker.commit_container(options, config).await;
    let id = committed.with_context(|| format!("make the image {name}"))?.id;
    ledger.created(&mut entry, &id)?;
    Ok(Built { id, name })
}

/// Is that an image's name of ours?
pub(crate) fn is_name(tag: &str) -> bool {
    tag.starts_with(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_has_what_the_bottle_has_and_of_rights_only_what_installing_takes() {
        let like = HostConfig {
            network_mode: Some("n".into()),
            runtime: Some("runsc".into()),
            dns: Some(vec!["10.0.0.2".into()]),
            dns_search: Some(vec![".".into()]),
            memory: Some(1),
            memory_swap: Some(1),
            nano_cpus: Some(2),
            pids_limit: Some(3),
            // What no bottle has, and a builder would not have either.
            binds: Some(vec!["/:/host".into()]),
            privileged: Some(true),
            cap_add: Some(vec!["SYS_ADMIN".into()]),
            ..HostConfig::default()
        };
        let body = body("i", like.clone());
        let own = body.host_config.unwrap();
        assert_eq!((&own.network_mode, &own.runtime, &own.dns), (&like.network_mode, &like.runtime, &like.dns));
        assert_eq!((own.memory, own.memory_swap, own.nano_cpus, own.pids_limit), (Some(1), Some(1), Some(2), Some(3)));
        assert_eq!((own.binds, own.privileged, own.mounts), (None, Some(false), None));
        assert_eq!(own.cap_drop, Some(vec!["ALL".into()]));
        assert_eq!(own.security_opt, Some(vec!["no-new-privileges".into()]));
        let added = own.cap_add.unwrap();
        assert!(added.iter().all(|cap| !cap.starts_with("SYS_") && !cap.starts_with("NET_") && cap != "MKNOD"));
        assert_eq!((body.env, body.working_dir.as_deref()), (None, Some("/")));
    }
}
