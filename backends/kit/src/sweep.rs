//! Finding and removing what is left of bottles: by engine id or by the ledger entry's label, never by name alone.

use crate::{
    engine::{Engine, is_status},
    names::{AGENT, DAEMONS, ENTRY, IDENTITY, OWNER, ROLE, Role, label_filter},
};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder,
};
use bottle_api::{
    ActiveBottle, CleanupItem, CleanupOutcome, CleanupRequest, Error, ErrorKind, Host, Result, error::Context,
};
use std::{collections::HashMap, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, timeout_at};

/// What a cleanup will remove, containers before the networks and images that they stand on.
pub struct Sweep {
    /// In the order of removal.
    pub items: Vec<CleanupItem>,
}

/// Everything of this owner, or of every owner, that the engine has, running or not.
async fn owned(engine: &Engine, owner: &str, every: bool) -> Result<Vec<CleanupItem>> {
    let filter =
        if every { HashMap::from([("label".into(), vec![OWNER.into()])]) } else { label_filter(&[(OWNER, owner)]) };
    let item = |kind: &str, id, name: &str, labels| item(kind, id, name, labels, owner);
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let networks = ListNetworksOptionsBuilder::default().filters(&filter).build();
    // An image inherits labels: what somebody made of a bottle's container is theirs, and has another role.
    let mut of_workspace = filter.clone();
    of_workspace.entry("label".into()).or_default().push(format!("{ROLE}={}", Role::Workspace.label()));
    let images = ListImagesOptionsBuilder::default().filters(&of_workspace).build();
    let (containers, networks, images) = tokio::join!(
        engine.docker.list_containers(Some(containers)),
        engine.docker.list_networks(Some(networks)),
        engine.docker.list_images(Some(images)),
    );
    let containers = containers.context("list the engine's containers")?.into_iter().map(|c| {
        let name = c.names.and_then(|n| n.into_iter().next()).unwrap_or_default();
        item("container", c.id, name.trim_start_matches('/'), c.labels)
    });
    let networks = networks
        .context("list the engine's networks")?
        .into_iter()
        .map(|n| item("network", n.id, &n.name.unwrap_or_default(), n.labels));
    let images = images.context("list the engine's images")?.into_iter().map(|i| {
        let name = i.repo_tags.into_iter().next().unwrap_or_else(|| i.id.clone());
        item("image", Some(i.id), &name, Some(i.labels))
    });
    Ok(containers.chain(networks).chain(images).collect())
}

fn item(
    kind: &str,
    id: Option<String>,
    name: &str,
    labels: Option<HashMap<String, String>>,
    owner: &str,
) -> CleanupItem {
    let mut labels = labels.unwrap_or_default();
    CleanupItem {
        kind: kind.into(),
        name: name.into(),
        id: id.unwrap_or_default(),
        identity: labels.remove(IDENTITY).unwrap_or_default(),
        uuid: labels.remove(ENTRY).unwrap_or_default(),
        foreign: labels.get(OWNER).is_none_or(|of| of != owner),
    }
}

/// Works out what a cleanup removes. An entry that has nothing behind it any more is kept, with an empty id, so that
/// the ledger hears of it.
pub async fn plan(engine: &Engine, req: &CleanupRequest) -> Result<Sweep> {
    let mut found = owned(engine, &req.owner, req.foreign).await?;
    let mut items = vec![];
    for entry in &req.entries {
        let of_entry = |i: &CleanupItem| i.uuid == entry.uuid || entry.id.as_ref().is_some_and(|id| *id == i.id);
        match found.iter().position(of_entry) {
            Some(at) => items.push(found.swap_remove(at)),
            None => items.push(CleanupItem { id: String::new(), ..entry.into() }),
        }
    }
    if req.sweep {
        items.extend(found.into_iter().filter(|i| !req.live.contains(&i.identity)));
    }
    items.sort_by_key(|i| i.kind != "container");
    Ok(Sweep { items })
}

/// Removes the items: all containers at once, then all networks and images.
pub async fn execute(engine: &Engine, host: &Host, sweep: Sweep, deadline: Duration) -> Result<CleanupOutcome> {
    let deadline = Instant::now() + deadline;
    let mut outcome = CleanupOutcome::default();
    let (containers, others): (Vec<_>, Vec<_>) = sweep.items.into_iter().partition(|i| i.kind == "container");
    for group in [containers, others] {
        let removals = group.into_iter().map(|item| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let removed = timeout_at(deadline, remove(&engine, &item)).await;
                let late = || Err(Error::new(ErrorKind::RUNTIME, "the deadline passed before it was gone"));
                (item, removed.unwrap_or_else(|_| late()))
            })
        });
        for removal in removals.collect::<Vec<_>>() {
            match removal.await? {
                (item, Ok(())) => {
                    if !item.uuid.is_empty() {
                        host.ledger(&item.identity).gone(&(&item).into())?;
                    }
                    outcome.removed.push(item);
                }
                (item, Err(error)) => outcome.left.push((item, error.to_string())),
            }
        }
    }
    Ok(outcome)
}

async fn remove(engine: &Engine, item: &CleanupItem) -> Result<()> {
    if item.id.is_empty() {
        return Ok(());
    }
    let gone = match item.kind.as_str() {
        "container" => {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            engine.docker.remove_container(&item.id, Some(options)).await
        }
        "network" => engine.docker.remove_network(&item.id).await,
        "image" => {
            let options = RemoveImageOptionsBuilder::default().force(true).build();
            engine.docker.remove_image(&item.id, Some(options), None).await.map(drop)
        }
        other => return Err(Error::new(ErrorKind::UNSUPPORTED, format!("removing a {other}"))),
    };
    match gone {
        Err(error) if !is_status(&error, 404) && !already_going(&error) => {
            Err(error).with_context(|| format!("remove the {} {}", item.kind, item.name))
        }
        _ => Ok(()),
    }
}

/// Somebody else is removing it at this moment.
fn already_going(error: &bollard::errors::Error) -> bool {
    is_status(error, 409) && error.to_string().contains("already in progress")
}

/// The running bottles of an owner: those whose agent container runs.
pub async fn active(engine: &Engine, owner: &str) -> Result<Vec<ActiveBottle>> {
    let filter = label_filter(&[(OWNER, owner), (ROLE, Role::Agent.label())]);
    let options = ListContainersOptionsBuilder::default().filters(&filter).build();
    let running = engine.docker.list_containers(Some(options)).await.context("list the engine's containers")?;
    Ok(running
        .into_iter()
        .map(|container| {
            let mut labels = container.labels.unwrap_or_default();
            let daemons = labels.remove(DAEMONS).unwrap_or_default();
            ActiveBottle {
                identity: labels.remove(IDENTITY).unwrap_or_default(),
                agent: labels.remove(AGENT).unwrap_or_default(),
                started: container.created.map(rfc3339).unwrap_or_default(),
                daemons: daemons.split(',').filter(|d| !d.is_empty()).map(str::to_owned).collect(),
            }
        })
        .collect())
}

fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|t| t.format(&Rfc3339).ok()).unwrap_or_default()
}
