//! A bottle's two networks: one without any way out, and the sidecar's own.
//!
//! `internal` alone is not closed: a Docker 20.10 engine leaves its own address on the bridge, and with it every
//! listener of the machine within reach. `inhibit_ipv4` takes that address away. The egress network is a bridge of its
//! own, never the engine's default one, which every other container shares.

use crate::{
    blocks::{Block, DEFAULT_POOL, POOL_ENV, blocks, routes},
    engine::{Engine, Stop, is_status},
    names::{MAX_SUFFIX, Role, candidates, labels},
};
use bollard::{
    models::{Ipam, IpamConfig, NetworkCreateRequest},
    query_parameters::ListNetworksOptionsBuilder,
};
use bottle_api::{BottleSpec, Error, ErrorKind, Host, Result, error::Context};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The bridge driver's option that leaves the machine without an address on the network.
const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";

/// How long somebody else may take to give up a name that is ours.
const NAME_TIME: Duration = Duration::from_secs(10);

/// A network that was created.
#[derive(Debug, Clone)]
pub struct Network {
    /// The engine's id.
    pub id: String,
    /// Its addresses.
    pub block: Block,
}

/// Creates one of the bottle's networks under a name that is its own, on a free block of the pool, announced to the
/// ledger.
pub async fn create(engine: &Engine, host: &Host, spec: &BottleSpec, role: Role, stop: &Stop) -> Result<Network> {
    let base = role.base_name(&spec.slug);
    let mut taken: HashSet<String> = named(engine, &base).await?.into_iter().map(|n| n.name).collect();
    for name in candidates(&base) {
        if taken.contains(&name) {
            continue;
        }
        if let Some(network) = create_named(engine, host, spec, role, &name, stop).await? {
            return Ok(network);
        }
        taken.extend(named(engine, &base).await?.into_iter().map(|n| n.name));
    }
    Err(Error::new(ErrorKind::CONFLICT, format!("every network name from {base} to {base}-{MAX_SUFFIX} is taken"))
        .hint("Clean up what is left of old bottles: `bottle cleanup`."))
}

/// Creates the network, or nothing where somebody else came first to the name.
async fn create_named(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    role: Role,
    name: &str,
    stop: &Stop,
) -> Result<Option<Network>> {
    let pool = spec.env.get(POOL_ENV).map_or(DEFAULT_POOL, String::as_str);
    let ledger = host.ledger(&spec.identity);
    let mut entry = ledger.intent(role.kind(), name)?;
    // The two networks begin at different places, so that they do not race for the same block.
    for block in blocks(pool, &format!("{} {}", spec.identity, role.label()), &routes())? {
        stop.check()?;
        match engine.docker.create_network(request(spec, role, name, block, &entry)).await {
            Ok(created) => {
                ledger.created(&mut entry, &created.id)?;
                if owns_name(engine, name, &created.id).await? {
                    return Ok(Some(Network { id: created.id, block }));
                }
                engine.docker.remove_network(&created.id).await.with_context(|| format!("give up the name {name}"))?;
                ledger.gone(&entry)?;
                return Ok(None);
            }
            Err(error) if is_status(&error, 403) && error.to_string().contains("overlap") => {}
            Err(error) if is_status(&error, 409) => {
                ledger.gone(&entry)?;
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("create the network {name} ({block})")),
        }
    }
    Err(Error::new(ErrorKind::CONFLICT, format!("every block of the address pool {pool} is taken"))
        .hint(format!("Name another one: {POOL_ENV}=172.30.0.0/16; or clean up: `bottle cleanup`.")))
}

/// A 20.10 engine takes any number of networks of one name, and then can use none of them. Of those that are made at
/// the same moment the first keeps the name; it waits until the others have let go.
async fn owns_name(engine: &Engine, name: &str, id: &str) -> Result<bool> {
    let deadline = Instant::now() + NAME_TIME;
    loop {
        let same: Vec<Named> = named(engine, name).await?.into_iter().filter(|n| n.name == name).collect();
        let Some(first) = same.iter().min_by_key(|n| (&n.created, &n.id)) else {
            return Ok(false);
        };
        if first.id != id {
            return Ok(false);
        }
        if same.len() == 1 {
            return Ok(true);
        }
        if Instant::now() > deadline {
            let message = format!("another network is named {name}, and stays");
            return Err(Error::new(ErrorKind::CONFLICT, message).hint("Remove it: `docker network rm`, by its id."));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

struct Named {
    id: String,
    name: String,
    created: String,
}

/// Networks whose name contains `part`.
async fn named(engine: &Engine, part: &str) -> Result<Vec<Named>> {
    let filter = HashMap::from([("name", vec![part])]);
    let options = ListNetworksOptionsBuilder::default().filters(&filter).build();
    let networks = engine.docker.list_networks(Some(options)).await.context("list the engine's networks")?;
    let named = networks.into_iter().filter_map(|n| {
        Some(Named { id: n.id?, name: n.name?, created: n.created.map(|t| t.to_string()).unwrap_or_default() })
    });
    Ok(named.collect())
}

fn request(
    spec: &BottleSpec,
    role: Role,
    name: &str,
    block: Block,
    entry: &bottle_api::LedgerEntry,
) -> NetworkCreateRequest {
    let internal = role == Role::Internal;
    let config = IpamConfig {
        subnet: Some(block.to_string()),
        gateway: Some(block.address(1).to_string()),
        ..IpamConfig::default()
    };
    NetworkCreateRequest {
        name: name.into(),
        driver: Some("bridge".into()),
        internal: Some(internal),
        enable_ipv6: Some(false),
        options: internal.then(|| HashMap::from([(INHIBIT_IPV4.into(), "true".into())])),
        labels: Some(labels(spec, role, entry)),
        ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
        ..NetworkCreateRequest::default()
    }
}
