//! Containers: created under a free name, started, and files in and out.

use crate::{
    engine::{Engine, Stop, is_status},
    names::{ROLE, Role, candidates, label_filter, labels},
};
use bollard::{
    body_try_stream,
    errors::Error as Failure,
    models::{ContainerCreateBody, ContainerSummary, EndpointIpamConfig, EndpointSettings, NetworkingConfig},
    query_parameters::{
        CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, ListContainersOptions,
        ListContainersOptionsBuilder, UploadToContainerOptionsBuilder,
    },
};
use bottle_api::{BottleSpec, Error, ErrorKind, GetRequest, Host, PutRequest, Result, error::Context};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::{collections::HashMap, fs::File, net::Ipv4Addr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

const CHUNK: usize = 128 << 10;
/// How often, and how far apart, a list is asked for that cannot be read.
const LOOKS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// Creates a container for a role under the first free name, announced to the ledger. Returns id and name.
pub async fn create(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    role: Role,
    pinned: Option<&str>,
    body: ContainerCreateBody,
    stop: &Stop,
) -> Result<(String, String)> {
    let base = pinned.map_or_else(|| role.base_name(&spec.slug), str::to_owned);
    let ledger = host.ledger(&spec.identity);
    let mut entry = ledger.intent(role.kind(), &base)?;
    let mut all = body.labels.clone().unwrap_or_default();
    all.extend(labels(spec, role, &entry));
    let body = ContainerCreateBody { labels: Some(all), ..body };
    for name in candidates(&base).take(if pinned.is_some() { 1 } else { usize::MAX }) {
        stop.check()?;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        match engine.docker.create_container(Some(options), body.clone()).await {
            Ok(created) => {
                entry.name.clone_from(&name);
                ledger.created(&mut entry, &created.id)?;
                return Ok((created.id, name));
            }
            Err(error) if is_status(&error, 409) => {}
            Err(error) => return Err(error).with_context(|| format!("create the container {name}")),
        }
    }
    Err(taken(&base, pinned.is_some()))
}

/// Is nobody using a name that somebody wants to be used and no other?
pub async fn check_free(engine: &Engine, name: &str) -> Result<()> {
    match engine.docker.inspect_container(name, None).await {
        Err(error) if is_status(&error, 404) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("look for a container named {name}")),
        Ok(_) => Err(taken(name, true)),
    }
}

fn taken(name: &str, pinned: bool) -> Error {
    let error = Error::new(ErrorKind::CONFLICT, format!("the container name {name} is taken"));
    error.hint(match pinned {
        true => format!("Remove it with `docker rm -f {name}`, or unset CLAUDE_BOTTLE_CONTAINER."),
        false => "Clean up what is left of old bottles: `bottle cleanup`.".into(),
    })
}

/// A container's place on a network: its address, and names that others there know it by.
pub fn endpoint(address: Ipv4Addr, aliases: &[&str]) -> EndpointSettings {
    EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(address.to_string()),
            ..EndpointIpamConfig::default()
        }),
        aliases: (!aliases.is_empty()).then(|| aliases.iter().map(|a| (*a).to_owned()).collect()),
        ..EndpointSettings::default()
    }
}

/// One network, for the creation of a container.
pub fn networking(network: &str, endpoint: EndpointSettings) -> NetworkingConfig {
    NetworkingConfig { endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])) }
}

/// Starts a container.
pub async fn start(engine: &Engine, id: &str, what: &str) -> Result<()> {
    engine.docker.start_container(id, None).await.with_context(|| format!("start {what}"))
}

/// A running container.
pub struct Running {
    /// The engine's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The resolver that it was given; empty: the engine's own.
    pub resolver: String,
}

/// Containers. For a moment Podman names a container that has just ended `stopped`, which no client of Docker's knows.
pub(crate) async fn list(engine: &Engine, options: ListContainersOptions) -> Result<Vec<ContainerSummary>, Failure> {
    for _ in 0..LOOKS {
        match engine.docker.list_containers(Some(options.clone())).await {
            Err(Failure::JsonDataError { .. }) => sleep(PAUSE).await,
            found => return found,
        }
    }
    engine.docker.list_containers(Some(options)).await
}

/// The running container with these labels, in that role.
pub async fn running(engine: &Engine, labels: &[(&str, &str)], role: Role) -> Result<Option<Running>> {
    let filter = label_filter(&[labels, &[(ROLE, role.label())]].concat());
    let options = ListContainersOptionsBuilder::default().filters(&filter).build();
    let found = list(engine, options).await.context("list the engine's containers")?;
    let Some(id) = found.into_iter().next().and_then(|container| container.id) else { return Ok(None) };
    let found = engine.docker.inspect_container(&id, None).await.context("look at the bottle's container")?;
    let name = found.name.unwrap_or_default().trim_start_matches('/').to_owned();
    let resolver = found.host_config.and_then(|config| config.dns?.into_iter().next()).unwrap_or_default();
    Ok(Some(Running { id, name, resolver }))
}

/// Unpacks a tar stream into a container, running or not.
pub async fn put(engine: &Engine, id: &str, req: &PutRequest, tar: File) -> Result<()> {
    if req.owner.is_some() {
        return Err(Error::unsupported("another owner than the archive's own"));
    }
    let chunks = stream::unfold(tokio::fs::File::from_std(tar), |mut tar| async move {
        let mut chunk = vec![0; CHUNK];
        match tar.read(&mut chunk).await {
            Ok(0) => None,
            Ok(n) => {
                chunk.truncate(n);
                Some((Ok(Bytes::from(chunk)), tar))
            }
            Err(error) => Some((Err(error), tar)),
        }
    });
    let options = UploadToContainerOptionsBuilder::default().path(&req.dest).build();
    engine
        .docker
        .upload_to_container(id, Some(options), body_try_stream(chunks))
        .await
        .with_context(|| format!("put files into {}", req.dest))
}

/// Packs a path of a container into a tar stream.
pub async fn get(engine: &Engine, id: &str, req: &GetRequest, tar: File) -> Result<()> {
    let options = DownloadFromContainerOptionsBuilder::default().path(&req.path).build();
    let mut chunks = engine.docker.download_from_container(id, Some(options));
    let mut tar = tokio::fs::File::from_std(tar);
    let mut bytes = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.with_context(|| format!("get {}", req.path))?;
        bytes += chunk.len() as u64;
        if req.max_bytes > 0 && bytes > req.max_bytes {
            let message = format!("get {}: more than the {} bytes that are allowed", req.path, req.max_bytes);
            return Err(Error::new(ErrorKind::RUNTIME, message));
        }
        tar.write_all(&chunk).await?;
    }
    Ok(tar.flush().await?)
}
