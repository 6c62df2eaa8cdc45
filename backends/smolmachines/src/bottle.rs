//! A running bottle in a machine.

use crate::{
    cleanup,
    cli::Smolvm,
    machine,
    process::{self, MachineProcess, Sink},
};
use bottle_api::{
    AttachRequest, Bottle, BottleInfo, Cancel, ChannelRequest, CleanupRequest, Error, ErrorKind, GetRequest,
    HELPER_PATH, Host, PutRequest, Result, SidecarChannel, StartRequest, Stdio,
    attend::{Attend, PACK_ARGUMENT, SETTLE_ARGUMENT, UNPACK_ARGUMENT},
    control::SIDECAR_NAMES,
};
use bottle_kit::engine::block_on;
use std::{collections::BTreeMap, fs::File, io::Write, net::Ipv4Addr, os::fd::OwnedFd, time::Duration};

pub(crate) struct MachineBottle {
    host: Host,
    smolvm: Smolvm,
    env: BTreeMap<String, String>,
    identity: String,
    owner: String,
    machine: String,
    sidecar: Ipv4Addr,
    /// How many processes the agent may have.
    pids: Option<u64>,
    /// With whoever launched the bottle, until it is taken.
    channel: SidecarChannel,
}

/// Whose bottle it is, and what leads to it.
pub(crate) struct Whose {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) identity: String,
    pub(crate) owner: String,
}

impl MachineBottle {
    pub(crate) fn new(
        host: Host,
        smolvm: Smolvm,
        whose: Whose,
        machine: String,
        sidecar: Ipv4Addr,
        pids: Option<u64>,
        channel: Option<OwnedFd>,
    ) -> Self {
        let Whose { env, identity, owner } = whose;
        Self {
            host,
            smolvm,
            env,
            identity,
            owner,
            machine,
            sidecar,
            pids,
            channel: channel.map(Into::into).unwrap_or_default(),
        }
    }

    /// A bottle that somebody launched, by the labels of its running machine.
    pub(crate) async fn find(host: Host, req: &AttachRequest) -> Result<Self> {
        let smolvm = Smolvm::require(&req.env).await?;
        let found = machine::find(&smolvm, &req.identity, &req.owner).await?;
        let unknown =
            || Error::new(ErrorKind::RUNTIME, format!("the machine {} does not say where its sidecar is", found.name));
        let (sidecar, pids) = (found.sidecar().ok_or_else(unknown)?, found.pids());
        let whose = Whose { env: req.env.clone(), identity: req.identity.clone(), owner: req.owner.clone() };
        Ok(Self::new(host, smolvm, whose, found.name, sidecar, pids, None))
    }

    /// Makes the fresh machine a bottle, from inside.
    pub(crate) fn settle(&self, cancel: &Cancel) -> Result<()> {
        let argv = [HELPER_PATH, SETTLE_ARGUMENT, &self.sidecar.to_string()];
        process::run(&self.smolvm, &self.machine, &argv, None, ignore(), cancel)
    }
}

fn ignore() -> Sink {
    Box::new(|_| Ok(()))
}

impl Bottle for MachineBottle {
    type Process = MachineProcess;

    fn describe(&self) -> Result<BottleInfo> {
        Ok(BottleInfo {
            name: self.machine.clone(),
            sidecar_host: self.sidecar.to_string(),
            sidecar_names: SIDECAR_NAMES.iter().map(|name| (*name).to_owned()).collect(),
            ..BottleInfo::default()
        })
    }

    fn start(&self, req: &StartRequest, io: Stdio, cancel: &Cancel) -> Result<MachineProcess> {
        cancel.check()?;
        let what = Attend {
            argv: req.argv.clone(),
            env: req.env.clone(),
            cwd: req.cwd.clone(),
            uid: req.uid,
            gid: req.gid,
            tty: req.tty,
            pids: self.pids,
        };
        process::start(&self.smolvm, &self.machine, &what, io)
    }

    fn put(&self, req: &PutRequest, tar: File, cancel: &Cancel) -> Result<()> {
        if req.owner.is_some() {
            return Err(Error::unsupported("another owner than the archive's own"));
        }
        let argv = [HELPER_PATH, UNPACK_ARGUMENT, &req.dest];
        process::run(&self.smolvm, &self.machine, &argv, Some(tar.into()), ignore(), cancel)
    }

    fn get(&self, req: &GetRequest, tar: File, cancel: &Cancel) -> Result<()> {
        let (path, max) = (req.path.clone(), req.max_bytes);
        let (mut to, mut bytes) = (tar, 0);
        let output: Sink = Box::new(move |chunk| {
            bytes += chunk.len() as u64;
            if max > 0 && bytes > max {
                let message = format!("get {path}: more than the {max} bytes that are allowed");
                return Err(Error::new(ErrorKind::RUNTIME, message));
            }
            Ok(to.write_all(chunk)?)
        });
        let argv = [HELPER_PATH, PACK_ARGUMENT, &req.path];
        process::run(&self.smolvm, &self.machine, &argv, None, output, cancel)
    }

    fn channel(&self, req: &ChannelRequest) -> Result<OwnedFd> {
        self.channel.take(req)
    }

    fn close(&self, deadline: Duration) -> Result<()> {
        let (env, owner) = (self.env.clone(), self.owner.clone());
        let req = CleanupRequest { sweep: true, owner, env, ..CleanupRequest::default() };
        let outcome = block_on(async {
            let mut cleanup = cleanup::Cleanup::plan(&req).await?;
            cleanup.keep_only(&self.identity);
            cleanup.execute(&self.host, deadline).await
        })?;
        match outcome.left.first() {
            None => Ok(()),
            Some((item, why)) => Err(Error::new(
                ErrorKind::RUNTIME,
                format!("the {} {} of the bottle {} is left: {why}", item.kind, item.name, self.identity),
            )
            .hint("Try again: `bottle cleanup`.")),
        }
    }
}
