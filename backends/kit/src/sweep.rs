//! Finding and removing what is left of bottles: by engine id or by the ledger entry's label, never by name alone. What
//! has nothing but a name like ours is found apart, when it is asked for, and goes by its id like the rest.

use crate::{
    builder, container,
    engine::{Engine, is_status},
    names::{AGENT, DAEMONS, ENTRY, Family, IDENTITY, OWN_IMAGE, OWNER, PREFIX, ROLE, Role, label_filter},
};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, WaitContainerOptionsBuilder,
};
use bottle_api::{
    ActiveBottle, CleanupItem, CleanupOutcome, CleanupRequest, Error, ErrorKind, Host, Result, error::Context,
};
use futures_util::StreamExt;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

/// How often, and how far apart, a cleanup looks for what is not there yet.
const LATE_LOOKS: u32 = 8;
const LATE_PAUSE: Duration = Duration::from_millis(250);

/// What a cleanup will remove, containers before the networks and images that they stand on.
pub struct Sweep {
    /// In the order of removal.
    pub items: Vec<CleanupItem>,
    /// Whose things they are.
    family: Family,
    /// Who was making them was killed, maybe just now: the engine may still be at it.
    killed: bool,
    /// What is not to be found after all.
    keep: Vec<String>,
}

/// The engine's filter by one property.
type Filter = HashMap<String, Vec<String>>;

/// Everything of this owner, or of every owner, that the engine has, running or not.
async fn owned(engine: &Engine, family: Family, owner: &str, every: bool) -> Result<Vec<CleanupItem>> {
    let any = || HashMap::from([("label".into(), vec![OWNER.into()])]);
    found(engine, family, owner, &if every { any() } else { label_filter(&[(OWNER, owner)]) }).await
}

/// What has a name like ours and no label: an earlier program of the kind made it, or anybody.
async fn unlabelled(engine: &Engine, family: Family, owner: &str) -> Result<Vec<CleanupItem>> {
    let mut items = found(engine, family, owner, &HashMap::from([("name".into(), vec![PREFIX.into()])])).await?;
    items.retain(|item| item.unlabelled && item.name.starts_with(PREFIX));
    Ok(items)
}

async fn found(engine: &Engine, family: Family, owner: &str, filter: &Filter) -> Result<Vec<CleanupItem>> {
    let item = |kind: &str, id, name: &str, labels| item(kind, id, name, labels, owner, family);
    let containers = ListContainersOptionsBuilder::default().all(true).filters(filter).build();
    let networks = ListNetworksOptionsBuilder::default().filters(filter).build();
    // An image inherits labels: what somebody made of a bottle's container is theirs, and has another role.
    let images = |role: Role| {
        let mut of_role = filter.clone();
        of_role.entry("label".into()).or_default().push(format!("{ROLE}={}", role.label()));
        // An image without labels is not looked for: the engine knows no filter by its name.
        of_role.remove("name");
        engine.docker.list_images(Some(ListImagesOptionsBuilder::default().filters(&of_role).build()))
    };
    let (containers, networks, images, built) = tokio::join!(
        container::list(engine, containers),
        engine.docker.list_networks(Some(networks)),
        images(Role::Workspace),
        images(Role::Built),
    );
    let containers = containers.context("list the engine's containers")?.into_iter().filter_map(|c| {
        let name = c.names.and_then(|n| n.into_iter().next()).unwrap_or_default();
        item("container", c.id, name.trim_start_matches('/'), c.labels)
    });
    let networks = networks
        .context("list the engine's networks")?
        .into_iter()
        .filter_map(|n| item("network", n.id, &n.name.unwrap_or_default(), n.labels));
    let (images, built) = (images.context("list the engine's images")?, built.context("list the engine's images")?);
    let images = images.into_iter().map(|i| ("image", i)).chain(built.into_iter().map(|i| (OWN_IMAGE, i)));
    let images = images.filter_map(|(kind, i)| {
        let name = i.repo_tags.into_iter().next().unwrap_or_else(|| i.id.clone());
        item(kind, Some(i.id), &name, Some(i.labels))
    });
    Ok(containers.chain(networks).chain(images).collect())
}

/// `None` for a thing of another backend's.
fn item(
    kind: &str,
    id: Option<String>,
    name: &str,
    labels: Option<HashMap<String, String>>,
    owner: &str,
    family: Family,
) -> Option<CleanupItem> {
    let mut labels = labels.unwrap_or_default();
    let ours = Family::of(labels.get(ROLE).map(String::as_str)) == family;
    ours.then(|| CleanupItem {
        kind: kind.into(),
        name: name.into(),
        id: id.unwrap_or_default(),
        identity: labels.remove(IDENTITY).unwrap_or_default(),
        uuid: labels.remove(ENTRY).unwrap_or_default(),
        foreign: labels.get(OWNER).is_none_or(|of| of != owner),
        unlabelled: !labels.contains_key(OWNER),
    })
}

/// Works out what a cleanup removes. An entry that has nothing behind it any more is kept, with an empty id, so that
/// the ledger hears of it.
pub async fn plan(engine: &Engine, family: Family, req: &CleanupRequest) -> Result<Sweep> {
    if req.unlabelled {
        return Ok(in_order(unlabelled(engine, family, &req.owner).await?, family));
    }
    let mut found = owned(engine, family, &req.owner, req.foreign).await?;
    let mut items = vec![];
    for entry in &req.entries {
        let of_entry = |i: &CleanupItem| {
            (!i.uuid.is_empty() && i.uuid == entry.uuid) || entry.id.as_ref().is_some_and(|id| *id == i.id)
        };
        match found.iter().position(of_entry) {
            // A kept state has it: the ledger hears that it is none of its own any more.
            Some(at) if req.keep.contains(&found[at].id) => {
                items.push(CleanupItem { id: String::new(), ..found.swap_remove(at) });
            }
            Some(at) => items.push(found.swap_remove(at)),
            None => items.push(CleanupItem { id: String::new(), ..entry.into() }),
        }
    }
    if req.sweep {
        items.extend(found.into_iter().filter(|item| is_left(item, req)));
    }
    Ok(Sweep { killed: req.sweep, keep: req.keep.clone(), ..in_order(items, family) })
}

/// Has nobody any use for it? What another owner's states go on from only that owner knows.
fn is_left(item: &CleanupItem, req: &CleanupRequest) -> bool {
    let is_kept = req.keep.contains(&item.id) || (item.kind == OWN_IMAGE && item.foreign);
    !req.live.contains(&item.identity) && !is_kept
}

fn in_order(mut items: Vec<CleanupItem>, family: Family) -> Sweep {
    items.sort_by_key(|i| i.kind != "container");
    Sweep { items, family, killed: false, keep: vec![] }
}

/// Removes the items, all bottles at once; of each bottle its containers at once, and a network as soon as nothing
/// stands on it any more.
pub async fn execute(engine: &Engine, host: &Host, sweep: Sweep, deadline: Duration) -> Result<CleanupOutcome> {
    let deadline = Instant::now() + deadline;
    let mut removals = Removals::new();
    let (killed, family, keep) = (sweep.killed, sweep.family, Arc::new(sweep.keep));
    for items in by_identity(sweep.items) {
        let containers = items.iter().filter(|item| is_container(item)).count();
        let standing = watch::Sender::new(containers);
        for item in items {
            let (engine, standing, keep) = (engine.clone(), standing.clone(), keep.clone());
            removals.spawn(async move {
                let removal = async {
                    let late = if killed && item.id.is_empty() { late(&engine, family, &item).await? } else { None };
                    let late = late.filter(|item| !keep.contains(&item.id));
                    remove_in_turn(&engine, late.as_ref().unwrap_or(&item), &standing).await
                };
                let removed = timeout_at(deadline, removal).await;
                let late = || Err(Error::new(ErrorKind::RUNTIME, "the deadline passed before it was gone"));
                (item, removed.unwrap_or_else(|_| late()))
            });
        }
    }
    settle(host, removals).await
}

/// Removals under way.
pub type Removals = JoinSet<(CleanupItem, Result<()>)>;

/// Waits for removals, and tells the ledger what is gone.
pub async fn settle(host: &Host, mut removals: Removals) -> Result<CleanupOutcome> {
    let (mut outcome, mut recorded) = (CleanupOutcome::default(), Ok(()));
    while let Some(removal) = removals.join_next().await {
        match removal? {
            (item, Ok(())) => {
                if !item.uuid.is_empty() {
                    recorded = recorded.and(host.ledger(&item.identity).gone(&(&item).into()));
                }
                outcome.removed.push(item);
            }
            (item, Err(error)) => outcome.left.push((item, error.to_string())),
        }
    }
    // Not before the last removal: what is under way is not given up.
    recorded.map(|()| outcome)
}

fn by_identity(items: Vec<CleanupItem>) -> impl Iterator<Item = Vec<CleanupItem>> {
    let mut bottles: BTreeMap<String, Vec<CleanupItem>> = BTreeMap::new();
    for item in items {
        bottles.entry(item.identity.clone()).or_default().push(item);
    }
    bottles.into_values()
}

fn is_container(item: &CleanupItem) -> bool {
    item.kind == "container"
}

/// Removes an item. What is no container is tried whenever one of its bottle's has gone, up to the last one:
/// `standing` counts them.
async fn remove_in_turn(engine: &Engine, item: &CleanupItem, standing: &watch::Sender<usize>) -> Result<()> {
    if is_container(item) {
        let removed = remove(engine, item).await;
        standing.send_modify(|containers| *containers -= 1);
        return removed;
    }
    let mut standing = standing.subscribe();
    let mut containers = *standing.borrow_and_update();
    while containers > 0 {
        standing.changed().await?;
        containers = *standing.borrow_and_update();
        if containers > 0 && remove(engine, item).await.is_ok() {
            return Ok(());
        }
    }
    remove(engine, item).await
}

/// What an entry without anything behind it may still come to: a request that was under way when its sender was killed
/// is carried out all the same, and the engine tells nobody when.
async fn late(engine: &Engine, family: Family, item: &CleanupItem) -> Result<Option<CleanupItem>> {
    for _ in 0..LATE_LOOKS {
        sleep(LATE_PAUSE).await;
        if let Some(found) = found(engine, family, "", &label_filter(&[(ENTRY, &item.uuid)])).await?.pop() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

async fn remove(engine: &Engine, item: &CleanupItem) -> Result<()> {
    if item.id.is_empty() {
        return Ok(());
    }
    let gone = match item.kind.as_str() {
        "container" => {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            match engine.docker.remove_container(&item.id, Some(options)).await {
                Err(error) if already_going(&error) => until_gone(engine, &item.id).await,
                gone => gone,
            }
        }
        "network" => engine.docker.remove_network(&item.id).await,
        "image" | OWN_IMAGE => match remove_image(engine, &item.id).await {
            Err(error) if item.kind == OWN_IMAGE && is_status(&error, 409) => return untag(engine, item).await,
            gone => gone,
        },
        other => return Err(Error::new(ErrorKind::UNSUPPORTED, format!("removing a {other}"))),
    };
    match gone {
        Err(error) if !is_status(&error, 404) => {
            Err(error).with_context(|| format!("remove the {} {}", item.kind, item.name))
        }
        _ => Ok(()),
    }
}

async fn remove_image(engine: &Engine, name: &str) -> Result<(), bollard::errors::Error> {
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    engine.docker.remove_image(name, Some(options), None).await.map(drop)
}

/// An image that another one was made of, or that a bottle still runs in, loses its name, and goes with the last of these.
async fn untag(engine: &Engine, item: &CleanupItem) -> Result<()> {
    let attempt = || format!("take its name from the image {}", item.name);
    let found = engine.docker.inspect_image(&item.id).await.with_context(attempt)?;
    for tag in found.repo_tags.into_iter().flatten().filter(|tag| builder::is_name(tag)) {
        match remove_image(engine, &tag).await {
            Err(error) if !is_status(&error, 404) => return Err(error).with_context(attempt),
            _ => {}
        }
    }
    Ok(())
}

/// Waits for the end of a removal that somebody else has begun.
async fn until_gone(engine: &Engine, container: &str) -> Result<(), bollard::errors::Error> {
    let options = WaitContainerOptionsBuilder::default().condition("removed").build();
    match engine.docker.wait_container(container, Some(options)).next().await {
        // Its exit code is of no interest.
        Some(Err(error)) if !matches!(error, bollard::errors::Error::DockerContainerWaitError { .. }) => Err(error),
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
    let running = container::list(engine, options).await.context("list the engine's containers")?;
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
