//! A bottle's two networks: one without any way out, and the sidecar's own.
//!
//! `internal` alone is not closed: a Docker 20.10 engine leaves its own address on the bridge, and with it every
//! listener of the machine within reach. `inhibit_ipv4` takes that address away. The egress network is a bridge of its
//! own, never the engine's default one, which every other container shares.

use crate::{
    blocks::{Block, DEFAULT_POOL, POOL_ENV, blocks, routes},
    engine::{Engine, Stop, is_status},
    names::{Role, labels},
};
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
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
    let pool = spec.env.get(POOL_ENV).map_or(DEFAULT_POOL, String::as_str);
    let name = role.base_name(&spec.identity);
    let ledger = host.ledger(&spec.identity);
    let mut entry = ledger.intent(role.kind(), &name)?;
    // The two networks begin at different places, so that they do not race for the same block.
    for block in blocks(pool, &name, &routes())? {
        stop.check()?;
        match engine.docker.create_network(request(spec, role, &name, block, &entry)).await {
            Ok(created) => {
                ledger.created(&mut entry, &created.id)?;
                return Ok(Network { id: created.id, block });
            }
            Err(error) if is_status(&error, 403) && error.to_string().contains("overlap") => {}
            Err(error) => return Err(error).with_context(|| format!("create the network {name} ({block})")),
        }
    }
    Err(Error::new(ErrorKind::CONFLICT, format!("every block of the address pool {pool} is taken"))
        .hint(format!("Name another one: {POOL_ENV}=172.30.0.0/16; or clean up: `bottle cleanup`.")))
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
