//! A bottle's networks: one without any way out, and the sidecar's own; where the agent is in a machine of its own, the
//! sidecar's alone, which that machine reaches through this one.
//!
//! `internal` alone is not closed: a Docker 20.10 engine leaves its own address on the bridge, and with it every
//! listener of the machine within reach. `inhibit_ipv4` takes that address away. The egress network is a bridge of its
//! own, never the engine's default one, which every other container shares.

use crate::{
    blocks::{BRIDGE, BRIDGE_POOL, Block, DEFAULT_POOL, POOL_ENV, SMALL, blocks, routes},
    engine::{Engine, Stop, is_status},
    names::{ENTRY, Role, label_filter, labels},
};
use bollard::{
    models::{Ipam, IpamConfig, NetworkCreateRequest},
    query_parameters::ListNetworksOptionsBuilder,
};
use bottle_api::{BottleSpec, Error, ErrorKind, Host, Result, error::Context};
use std::collections::HashMap;

/// The bridge driver's option that leaves the machine without an address on the network.
const INHIBIT_IPV4: &str = "com.docker.network.bridge.inhibit_ipv4";

/// A network that was created.
#[derive(Debug, Clone)]
pub struct Network {
    /// The engine's id.
    pub id: String,
    /// Its addresses.
    pub block: Block,
}

/// Creates one of the bottle's networks, on a free block of the pool, announced to the ledger.
///
/// Its name carries the identity, not a number: an engine of version 20.10 takes two networks of one name, and can then
/// use neither, even by id. Only a name that nobody else can think of is safe from that.
pub async fn create(engine: &Engine, host: &Host, spec: &BottleSpec, role: Role, stop: &Stop) -> Result<Network> {
    let (pool, size) = pool(spec, role);
    let name = role.base_name(&spec.identity);
    let ledger = host.ledger(&spec.identity);
    let mut entry = ledger.intent(role.kind(), &name)?;
    // The two networks begin at different places, so that they do not race for the same block.
    let seed = if role == Role::Bridge { &spec.slug } else { &name };
    for block in blocks(pool, size, seed, &routes())? {
        stop.check()?;
        match engine.docker.create_network(request(spec, role, &name, block, &entry)).await {
            Ok(created) => {
                ledger.created(&mut entry, &created.id)?;
                return Ok(Network { id: created.id, block });
            }
            Err(error) if is_status(&error, 403) && error.to_string().contains("overlap") => {}
            // There already: a success where our entry's label is on it, and on nothing else.
            Err(error) if is_status(&error, 409) => match labelled(engine, &entry.uuid).await? {
                Some(id) => {
                    ledger.created(&mut entry, &id)?;
                    return Ok(Network { id, block });
                }
                None => return Err(error).with_context(|| format!("create the network {name}: it is somebody else's")),
            },
            Err(error) => return Err(error).with_context(|| format!("create the network {name} ({block})")),
        }
    }
    Err(Error::new(ErrorKind::CONFLICT, format!("every block of the address pool {pool} is taken"))
        .hint(format!("Name another one: {POOL_ENV}=172.30.0.0/16; or clean up: `bottle cleanup`.")))
}

/// The addresses that a network is made of: the pool, and one network's size.
fn pool(spec: &BottleSpec, role: Role) -> (&str, u8) {
    let (pool, size) = if role == Role::Bridge { (BRIDGE_POOL, BRIDGE) } else { (DEFAULT_POOL, SMALL) };
    (spec.env.get(POOL_ENV).map_or(pool, String::as_str), size)
}

/// The block that a bottle's bridge will probably have. Somebody may take it before.
pub fn candidate(spec: &BottleSpec) -> Result<Option<Block>> {
    let (pool, size) = pool(spec, Role::Bridge);
    Ok(blocks(pool, size, &spec.slug, &routes())?.first().copied())
}

async fn labelled(engine: &Engine, entry: &str) -> Result<Option<String>> {
    let options = ListNetworksOptionsBuilder::default().filters(&label_filter(&[(ENTRY, entry)])).build();
    let found = engine.docker.list_networks(Some(options)).await.context("look for the network")?;
    Ok(found.into_iter().find_map(|network| network.id))
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
