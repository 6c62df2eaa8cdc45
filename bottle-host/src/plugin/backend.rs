//! The safe side of a loaded backend's objects: `std` types in, `std` types out, and the checks that no plugin can skip.

use super::services::{Lent, Services};
use crate::plan;
use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{RArc, RSlice, RStr},
};
use anyhow::{Context, Result, anyhow};
use bottle_api::{
    ActiveBottle, AttachRequest, BackendInfo, BottleInfo, BottleSpec, ChannelRequest, CleanupItem, CleanupOutcome,
    CleanupRequest, CreateConfig, DeadlineRequest, Diagnosis, EnvRequest, Error, ExitStatus, LaunchRequest,
    PlanSummary, ResizeRequest, SignalRequest, StartRequest,
    abi::{
        AbiResult, AbiSecret, AbiStdio, BackendBox, CleanupBox, HandleBox, HostServices_TO, JsonBuf, PlanBox,
        PluginModuleRef, ProcessBox,
    },
    secret::Secrets,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

/// In place of a descriptor: nobody may cancel the call.
pub const UNCANCELLED: i32 = -1;

/// A loaded backend.
pub struct Backend {
    raw: BackendBox,
    /// What it says of itself.
    pub info: BackendInfo,
}

/// A resolved plan.
pub struct Plan(PlanBox);

/// What a cleanup would remove.
pub struct Cleanup(CleanupBox);

/// A running bottle. Dropped without [`Bottle::close`], it is torn down all the same.
pub struct Bottle(HandleBox);

/// A process in a bottle. Cheap to clone.
#[derive(Clone)]
pub struct Process(Arc<ProcessBox>);

impl Backend {
    pub(super) fn create(name: &str, module: PluginModuleRef, services: &Arc<Services>) -> Result<Self> {
        let backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        let config = CreateConfig { log_level: services.log_level, backtrace };
        let lent = HostServices_TO::from_ptr(RArc::new(Lent(services.clone())), TD_Opaque);
        let raw = done(module.create()(lent, json(&config)?.as_slice().into()))?;
        let info: BackendInfo = parse(done(raw.info(RSlice::from_slice(b"{}")))?)?;
        if info.name != name {
            return Err(anyhow!("it calls itself `{}` once loaded, and `{name}` in its descriptor", info.name));
        }
        Ok(Self { raw, info })
    }

    /// The host's values of the variables that the backend wants.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.info.env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect()
    }

    /// The host's checks, then the backend's own, then its plan: no backend can skip the first.
    pub fn prepare(&self, spec: &BottleSpec, stage: &Path, cancel: i32) -> Result<Plan> {
        plan::validate(spec)?;
        let spec = json(spec)?;
        done(self.raw.validate(spec.as_slice().into(), cancel))?;
        let stage = RSlice::from_slice(stage.as_os_str().as_bytes());
        Ok(Plan(done(self.raw.resolve_plan(spec.as_slice().into(), stage, cancel))?))
    }

    /// Finds a running bottle again. It lives on when the handle is dropped.
    pub fn attach(&self, req: &AttachRequest, cancel: i32) -> Result<Bottle> {
        Ok(Bottle(done(self.raw.attach(json(req)?.as_slice().into(), cancel))?))
    }

    /// The running bottles of an owner.
    pub fn list_active(&self, owner: &str, cancel: i32) -> Result<Vec<ActiveBottle>> {
        let req = json(&EnvRequest { env: self.env(), owner: owner.into() })?;
        parse(done(self.raw.list_active(req.as_slice().into(), cancel))?)
    }

    /// What it needs, and whether it is there.
    pub fn diagnose(&self, owner: &str, cancel: i32) -> Result<Diagnosis> {
        let req = json(&EnvRequest { env: self.env(), owner: owner.into() })?;
        parse(done(self.raw.diagnose(req.as_slice().into(), cancel))?)
    }

    /// What a cleanup would remove.
    pub fn prepare_cleanup(&self, req: &CleanupRequest, cancel: i32) -> Result<Cleanup> {
        Ok(Cleanup(done(self.raw.prepare_cleanup(json(req)?.as_slice().into(), cancel))?))
    }
}

impl Plan {
    /// What the backend adds to the preflight.
    pub fn summary(&self) -> Result<PlanSummary> {
        parse(done(self.0.summary(RSlice::from_slice(b"{}")))?)
    }

    /// Makes the bottle run.
    pub fn launch(self, req: &LaunchRequest, secrets: &Secrets, cancel: i32) -> Result<Bottle> {
        let lent: Vec<AbiSecret<'_>> = secrets
            .iter()
            .map(|(name, secret)| AbiSecret { name: RStr::from_str(name), bytes: secret.expose().into() })
            .collect();
        Ok(Bottle(done(self.0.launch(json(req)?.as_slice().into(), lent.as_slice().into(), cancel))?))
    }
}

impl Cleanup {
    /// All of it.
    pub fn items(&self) -> Result<Vec<CleanupItem>> {
        parse(done(self.0.items(RSlice::from_slice(b"{}")))?)
    }

    /// Removes it. Nothing cuts this short but the deadline.
    pub fn execute(self, deadline: Duration) -> Result<CleanupOutcome> {
        parse(done(self.0.execute(json(&deadline_request(deadline))?.as_slice().into()))?)
    }
}

impl Bottle {
    /// Where things are.
    pub fn describe(&self) -> Result<BottleInfo> {
        parse(done(self.0.describe(RSlice::from_slice(b"{}")))?)
    }

    /// Starts a process with these ends of pipes as its streams.
    pub fn start(
        &self,
        req: &StartRequest,
        stdin: BorrowedFd<'_>,
        stdout: BorrowedFd<'_>,
        stderr: Option<BorrowedFd<'_>>,
        cancel: i32,
    ) -> Result<Process> {
        let io = AbiStdio {
            stdin: stdin.as_raw_fd(),
            stdout: stdout.as_raw_fd(),
            stderr: stderr.map_or(-1, |fd| fd.as_raw_fd()),
        };
        Ok(Process(Arc::new(done(self.0.start(json(req)?.as_slice().into(), io, cancel))?)))
    }

    /// The sidecar's control channel, once.
    #[allow(unsafe_code)]
    pub fn channel(&self) -> Result<OwnedFd> {
        let req = json(&ChannelRequest { name: "sidecar".into() })?;
        let fd = done(self.0.channel(req.as_slice().into()))?;
        if fd < 0 {
            return Err(anyhow!("the backend gave no descriptor for the sidecar's channel"));
        }
        // SAFETY: the ABI says that the descriptor is new and the caller's own.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Tears the bottle down. Nothing cuts this short but the deadline.
    pub fn close(&self, deadline: Duration) -> Result<()> {
        done(self.0.close(json(&deadline_request(deadline))?.as_slice().into()))
    }
}

impl Process {
    /// Waits for its end.
    pub fn wait(&self, cancel: i32) -> Result<ExitStatus> {
        parse(done(self.0.wait(RSlice::from_slice(b"{}"), cancel))?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        done(self.0.signal(json(&SignalRequest { signal })?.as_slice().into()))
    }

    /// Changes its terminal's size.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        done(self.0.resize(json(&ResizeRequest { cols, rows })?.as_slice().into()))
    }
}

fn deadline_request(deadline: Duration) -> DeadlineRequest {
    DeadlineRequest { deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX) }
}

fn done<T>(result: AbiResult<T>) -> Result<T> {
    result.into_result().map_err(|e| Error::from(e).into_std().into())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

fn parse<T: DeserializeOwned>(bytes: JsonBuf) -> Result<T> {
    serde_json::from_slice(&bytes).context("the backend sent an unreadable answer")
}
