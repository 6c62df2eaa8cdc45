//! A running bottle in Docker.

use bottle_api::{
    AttachRequest, Bottle, BottleInfo, BottleSpec, BuilderRequest, Built, Cancel, ChannelRequest, CleanupRequest,
    CommitRequest, Error, ErrorKind, GetRequest, Host, PutRequest, Result, SidecarChannel, StartRequest, Stdio,
    control::SIDECAR_NAMES,
};
use bottle_kit::{
    builder,
    bundle::Bundle,
    container,
    engine::{Engine, Stop, block_on},
    exec::{self, Exec},
    names::{Family, IDENTITY, OWN_IMAGE, OWNER, Role},
    sweep,
};
use std::{fs::File, os::fd::OwnedFd, time::Duration};

pub(crate) struct DockerBottle {
    host: Host,
    engine: Engine,
    identity: String,
    owner: String,
    container: String,
    info: BottleInfo,
    /// It is a builder, of that bottle.
    builds: Option<BottleSpec>,
    /// With whoever launched the bottle, until it is taken.
    channel: SidecarChannel,
}

impl DockerBottle {
    pub(crate) fn new(
        host: Host,
        engine: Engine,
        spec: &BottleSpec,
        (container, name): (String, String),
        bundle: Bundle,
    ) -> Self {
        let channel = OwnedFd::from(bundle.channel).into();
        let info = info(name, bundle.address.to_string());
        let (identity, owner) = (spec.identity.clone(), spec.owner.clone());
        Self { host, engine, identity, owner, container, info, builds: None, channel }
    }

    /// A bottle that somebody launched, by the labels of its agent's running container.
    pub(crate) async fn find(host: Host, engine: Engine, req: &AttachRequest) -> Result<Self> {
        let found = container::running(&engine, &[(IDENTITY, &req.identity), (OWNER, &req.owner)], Role::Agent).await?;
        let missing = || {
            let message = format!("the bottle {} does not run on the engine at {}", req.identity, engine.address);
            Error::new(ErrorKind::NOT_FOUND, message).hint("`bottle list active` shows the bottles that run.")
        };
        let found = found.ok_or_else(missing)?;
        let info = info(found.name, found.resolver);
        let (identity, owner, channel) = (req.identity.clone(), req.owner.clone(), SidecarChannel::default());
        Ok(Self { host, engine, identity, owner, container: found.id, info, builds: None, channel })
    }

    /// A builder beside this one.
    pub(crate) async fn builder(self, helper: &[u8], req: &BuilderRequest, stop: &Stop) -> Result<Self> {
        let made = builder::begin(&self.engine, &self.host, &self.container, helper, req, stop).await?;
        let info = info(made.name, made.resolver);
        Ok(Self { container: made.id, info, builds: Some(made.spec), ..self })
    }
}

/// The sidecar is its bottle's resolver.
fn info(name: String, sidecar_host: String) -> BottleInfo {
    let sidecar_names = SIDECAR_NAMES.iter().map(|n| (*n).to_owned()).collect();
    BottleInfo { name, sidecar_host, sidecar_names, ..BottleInfo::default() }
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
        self.channel.take(req)
    }

    fn close(&self, deadline: Duration) -> Result<()> {
        let req = CleanupRequest { sweep: true, owner: self.owner.clone(), ..CleanupRequest::default() };
        let outcome = block_on(async {
            let mut sweep = sweep::plan(&self.engine, Family::Containers, &req).await?;
            sweep.items.retain(|item| match self.builds {
                Some(_) => item.id == self.container,
                // The next session goes on from an image of its own.
                None => item.identity == self.identity && item.kind != OWN_IMAGE,
            });
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

    fn commit(&self, req: &CommitRequest, cancel: &Cancel) -> Result<Built> {
        let no_builder = || Error::new(ErrorKind::PROTOCOL, "only a builder becomes an image");
        let spec = self.builds.as_ref().ok_or_else(no_builder)?;
        block_on(async {
            let stop = Stop::follow(cancel)?;
            builder::commit(&self.engine, &self.host, spec, &self.container, req, &stop).await
        })
    }
}
