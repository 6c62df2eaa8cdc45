//! The image of one bottle alone: the agent image, with what the workspace begins with.
//!
//! Committed from a container that never runs, and not built: the engine would unpack the archive twice, and leave
//! images on the way that have no entry in any ledger. It carries the bottle's labels, is run by its id, and goes with
//! the bottle.

use crate::{
    carrier::Carrier,
    engine::{Engine, Stop},
    image::setting,
    names::{Role, labels},
};
use bollard::{models::ContainerConfig, query_parameters::CommitContainerOptionsBuilder};
use bottle_api::{BottleSpec, Host, Result, error::Context};
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
    let role = Role::Workspace;
    let carrier = Carrier::create(engine, host, spec, role, agent_image).await?;
    stop.check()?;
    let tar = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
    carrier.put(tar).await?;
    stop.check()?;

    let (tag, ledger) = (tag(spec), host.ledger(&spec.identity));
    let mut entry = ledger.intent("image", &tag)?;
    let config = ContainerConfig { labels: Some(labels(spec, role, &entry)), ..ContainerConfig::default() };
    let options = CommitContainerOptionsBuilder::default().container(&carrier.id).repo(&tag).pause(false).build();
    let committed = engine.docker.commit_container(options, config).await;
    let image = committed.with_context(|| format!("make the image {tag}"))?.id;
    ledger.created(&mut entry, &image)?;

    carrier.remove().await?;
    Ok(image)
}
