//! The image of one bottle alone: the agent image, with what the workspace begins with.
//!
//! Committed from a container that never runs, and not built: the engine would unpack the archive twice, and leave
//! images on the way that have no entry in any ledger. It carries the bottle's labels, is run by its id, and goes with
//! the bottle.

use crate::{
    container,
    engine::{Engine, Stop},
    image::setting,
    names::{Role, labels},
};
use bollard::{
    models::{ContainerConfig, ContainerCreateBody},
    query_parameters::{CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use bottle_api::{BottleSpec, Host, PutRequest, Result, error::Context};
use std::{fs::File, path::Path};

/// The host's variable that names the image; the name is for people, and may be another bottle's a moment later.
pub const DERIVED_ENV: &str = "CLAUDE_BOTTLE_DERIVED_IMAGE";

/// The image's name.
pub fn tag(spec: &BottleSpec) -> String {
    setting(&spec.env, DERIVED_ENV, &format!("claude-bottle:cwd-{}", spec.identity))
}

/// Makes the image from the agent's and an archive relative to `/`. Returns its id.
pub async fn image(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    agent_image: &str,
    archive: &Path,
    stop: &Stop,
) -> Result<String> {
    host.step("bring the working directory along");
    let (ledger, role) = (host.ledger(&spec.identity), Role::Workspace);
    // By identity: nobody else asks for this name.
    let name = role.base_name(&spec.identity);
    let mut carrier = ledger.intent(role.kind(), &name)?;
    let body = ContainerCreateBody {
        image: Some(agent_image.into()),
        // It never runs, and an engine makes none without: not every image has a command of its own.
        cmd: Some(vec!["true".into()]),
        labels: Some(labels(spec, role, &carrier)),
        network_disabled: Some(true),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let created = engine.docker.create_container(Some(options), body).await;
    let id = created.with_context(|| format!("create the container {name}"))?.id;
    ledger.created(&mut carrier, &id)?;
    stop.check()?;
    let tar = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
    container::put(engine, &id, &PutRequest { dest: "/".into(), owner: None }, tar).await?;
    stop.check()?;

    let tag = tag(spec);
    let mut entry = ledger.intent("image", &tag)?;
    let config = ContainerConfig { labels: Some(labels(spec, role, &entry)), ..ContainerConfig::default() };
    let options = CommitContainerOptionsBuilder::default().container(&id).repo(&tag).pause(false).build();
    let committed = engine.docker.commit_container(options, config).await;
    let image = committed.with_context(|| format!("make the image {tag}"))?.id;
    ledger.created(&mut entry, &image)?;

    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let removed = engine.docker.remove_container(&id, Some(options)).await;
    removed.with_context(|| format!("remove the container {name}"))?;
    ledger.gone(&carrier)?;
    Ok(image)
}
