//! A container that never runs: files go into it, and an image or a tree comes out of it.

use crate::{
    container,
    engine::Engine,
    names::{Role, labels},
};
use bollard::{
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use bottle_api::{BottleSpec, Host, LedgerEntry, PutRequest, Result, error::Context, host::Ledger};
use std::fs::File;

/// The container, announced to the ledger. One that is dropped is left to it.
pub(crate) struct Carrier<'a> {
    /// The engine's id.
    pub(crate) id: String,
    engine: &'a Engine,
    name: String,
    ledger: Ledger,
    entry: LedgerEntry,
}

impl<'a> Carrier<'a> {
    /// Creates it from an image.
    pub(crate) async fn create(
        engine: &'a Engine,
        host: &Host,
        spec: &BottleSpec,
        role: Role,
        image: &str,
    ) -> Result<Self> {
        let ledger = host.ledger(&spec.identity);
        // By identity: nobody else asks for this name.
        let name = role.base_name(&spec.identity);
        let mut entry = ledger.intent(role.kind(), &name)?;
        let body = ContainerCreateBody {
            image: Some(image.into()),
            // An engine makes none without a command, and not every image has one of its own.
            cmd: Some(vec!["true".into()]),
            labels: Some(labels(spec, role, &entry)),
            network_disabled: Some(true),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let created = engine.docker.create_container(Some(options), body).await;
        let id = created.with_context(|| format!("create the container {name}"))?.id;
        ledger.created(&mut entry, &id)?;
        Ok(Self { id, engine, name, ledger, entry })
    }

    /// Unpacks an archive relative to `/`.
    pub(crate) async fn put(&self, tar: File) -> Result<()> {
        container::put(self.engine, &self.id, &PutRequest { dest: "/".into(), owner: None }, tar).await
    }

    /// Removes it.
    pub(crate) async fn remove(self) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let removed = self.engine.docker.remove_container(&self.id, Some(options)).await;
        removed.with_context(|| format!("remove the container {}", self.name))?;
        self.ledger.gone(&self.entry)
    }
}
