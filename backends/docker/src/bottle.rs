//! A running bottle in Docker.

use bottle_api::{
    Bottle, BottleInfo, BottleSpec, Cancel, ChannelRequest, CleanupRequest, Error, ErrorKind, GetRequest, Host,
    PutRequest, Result, StartRequest, Stdio, control::SIDECAR_NAMES,
};
use bottle_kit::{
    bundle::Bundle,
    container,
    engine::{Engine, Stop, block_on},
    exec::{self, Exec},
    sweep,
};
use std::{
    fs::File,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub(crate) struct DockerBottle {
    host: Host,
    engine: Engine,
    identity: String,
    owner: String,
    container: String,
    info: BottleInfo,
    /// The bottle's certificate authority, for provisioning.
    pub(crate) ca_pem: String,
    channel: Mutex<Option<OwnedFd>>,
}

impl DockerBottle {
    pub(crate) fn new(
        host: Host,
        engine: Engine,
        spec: &BottleSpec,
        (container, name): (String, String),
        bundle: Bundle,
    ) -> Self {
        Self {
            host,
            engine,
            identity: spec.identity.clone(),
            owner: spec.owner.clone(),
            container,
            info: BottleInfo {
                name,
                sidecar_host: bundle.address.to_string(),
                sidecar_names: SIDECAR_NAMES.iter().map(|n| (*n).to_owned()).collect(),
            },
            ca_pem: bundle.ca_pem,
            channel: Mutex::new(Some(bundle.channel.into())),
        }
    }
}

impl Bottle for DockerBottle {
    type Process = Exec;

    fn describe(&self) -> Result<BottleInfo> {
        Ok(self.info.clone())
    }

    fn start(&self, req: &StartRequest, io: Stdio, _cancel: &Cancel) -> Result<Exec> {
        block_on(exec::start(&self.engine, &self.container, req, io))
    }

    fn put(&self, req: &PutRequest, tar: File, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        block_on(container::put(&self.engine, &self.container, req, tar))
    }

    fn get(&self, req: &GetRequest, tar: File, cancel: &Cancel) -> Result<()> {
        block_on(async { Stop::follow(cancel)?.or(container::get(&self.engine, &self.container, req, tar)).await })
    }

    fn channel(&self, req: &ChannelRequest) -> Result<OwnedFd> {
        if req.name != "sidecar" {
            return Err(Error::unsupported(&format!("a channel named {}", req.name)));
        }
        let taken = || Error::new(ErrorKind::CONFLICT, "the sidecar's channel was taken already");
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(taken)
    }

    fn close(&self, deadline: Duration) -> Result<()> {
        let req = CleanupRequest { sweep: true, owner: self.owner.clone(), ..CleanupRequest::default() };
        let outcome = block_on(async {
            let mut sweep = sweep::plan(&self.engine, &req).await?;
            sweep.items.retain(|item| item.identity == self.identity);
            sweep::execute(&self.engine, &self.host, sweep, deadline).await
        })?;
        match outcome.left.first() {
            None => Ok(()),
            Some((item, why)) => Err(Error::new(
                ErrorKind::RUNTIME,
                format!("the {} {} of the bottle {} is left: {why}", item.kind, item.name, self.info.name),
            )
            .hint("Try again: `bottle cleanup`.")),
        }
    }
}
