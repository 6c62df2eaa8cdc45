//! The safe side of a loaded backend's objects: `std` types in, `std` types out, and the checks that no plugin can skip.

use super::{
    call::{ANSWER, GRACE, LOOK, SILENCE, Until, call, drop_apart},
    services::{Lent, Services},
};
use crate::{manifest::env::MODEL_CREDENTIALS, plan};
use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{RArc, RErr, RSlice, RStr},
};
use anyhow::{Context, Result, anyhow};
use bottle_api::{
    ActiveBottle, AttachRequest, BackendInfo, BottleInfo, BottleSpec, BuilderRequest, Built, ChannelRequest,
    CleanupItem, CleanupOutcome, CleanupRequest, CommitRequest, CreateConfig, DeadlineRequest, Diagnosis, EnvRequest,
    Error, ErrorKind, ExitStatus, GetRequest, ImageBuild, LaunchRequest, PlanSummary, PutRequest, ResizeRequest,
    SignalRequest, StartRequest,
    abi::{
        AbiResult, AbiSecret, AbiStdio, BackendBox, CleanupBox, HandleBox, HostServices_TO, JsonBuf, JsonRef, PlanBox,
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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// In place of a descriptor: nobody may cancel the call.
pub const UNCANCELLED: i32 = -1;

/// A loaded backend. It is never dropped: its threads may be at work for as long as the process is.
pub struct Backend {
    raw: &'static BackendBox,
    caller: Arc<Caller>,
    /// What it says of itself.
    pub info: BackendInfo,
}

/// A resolved plan.
pub struct Plan(Object<Mutex<Option<PlanBox>>>);

/// What a cleanup would remove.
pub struct Cleanup(Object<Mutex<Option<CleanupBox>>>);

/// A running bottle. Dropped without [`Bottle::close`], it is torn down all the same.
pub struct Bottle(Object<HandleBox>);

/// A process in a bottle. Cheap to clone.
#[derive(Clone)]
pub struct Process(Arc<Object<ProcessBox>>);

/// Who is called, and who would know that it is alive.
struct Caller {
    name: String,
    services: Arc<Services>,
}

/// One of a plugin's objects. A call that was given up keeps a share in it.
struct Object<T: Send + 'static> {
    /// Taken on drop only.
    shared: Option<Arc<T>>,
    caller: Arc<Caller>,
}

impl Caller {
    fn call<T: Send + 'static>(
        &self,
        verb: &str,
        until: Until<'_>,
        cancel: i32,
        f: impl FnOnce() -> AbiResult<T> + Send + 'static,
    ) -> Result<T> {
        let answer = call(&self.name, verb, until, cancel, f)?;
        answer.into_result().map_err(|e| Error::from(e).into_std().into())
    }

    fn object<T: Send>(self: &Arc<Self>, object: T) -> Object<T> {
        Object { shared: Some(Arc::new(object)), caller: self.clone() }
    }
}

impl<T: Send + Sync> Object<T> {
    fn call<R: Send + 'static>(
        &self,
        verb: &str,
        until: Until<'_>,
        cancel: i32,
        f: impl FnOnce(&T) -> AbiResult<R> + Send + 'static,
    ) -> Result<R> {
        let shared = self.shared.clone().context("a backend's object is used after its end")?;
        self.caller.call(verb, until, cancel, move || f(&shared))
    }

    fn silent(&self, limit: Duration) -> Until<'_> {
        Until::Silent(limit, &self.caller.services)
    }
}

impl<T: Send + 'static> Object<Mutex<Option<T>>> {
    /// The object itself, for the call that it does not survive.
    fn take(&self) -> Result<T> {
        let taken = self.shared.as_ref().and_then(|shared| lock(shared).take());
        taken.context("a backend's object is used after its end")
    }
}

impl<T: Send + 'static> Drop for Object<T> {
    fn drop(&mut self) {
        if let Some(last) = self.shared.take().and_then(Arc::into_inner) {
            drop_apart(last);
        }
    }
}

impl Backend {
    pub(super) fn create(name: &str, module: PluginModuleRef, services: &Arc<Services>) -> Result<Self> {
        let backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        let config = json(&CreateConfig { log_level: services.log_level, backtrace })?;
        let lent = HostServices_TO::from_ptr(RArc::new(Lent(services.clone())), TD_Opaque);
        let caller = Arc::new(Caller { name: name.into(), services: services.clone() });
        let create = module.create();
        let until = || Until::Elapsed(ANSWER);
        let raw = caller.call("create", until(), UNCANCELLED, move || create(lent, config.as_slice().into()))?;
        let raw: &'static BackendBox = Box::leak(Box::new(raw));
        let info: BackendInfo = parse(caller.call("info", until(), UNCANCELLED, || raw.info(empty()))?)?;
        if info.name != name {
            return Err(anyhow!("it calls itself `{}` once loaded, and `{name}` in its descriptor", info.name));
        }
        if let Some(secret) = info.env.iter().find(|name| MODEL_CREDENTIALS.contains(&name.as_str())) {
            return Err(anyhow!("it asks for {secret}: no backend is given the model's credential"));
        }
        Ok(Self { raw, caller, info })
    }

    /// The host's values of the variables that the backend wants.
    pub fn env(&self) -> BTreeMap<String, String> {
        self.info.env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect()
    }

    /// The host's checks, then the backend's own, then its plan: no backend can skip the first.
    pub fn prepare(&self, spec: &BottleSpec, stage: &Path, cancel: i32) -> Result<Plan> {
        plan::validate(spec)?;
        let spec = json(spec)?;
        let checked = spec.clone();
        self.look("validate", cancel, move |b| b.validate(checked.as_slice().into(), cancel))?;
        let stage = stage.as_os_str().as_bytes().to_vec();
        let plan = self.look("resolve_plan", cancel, move |b| {
            b.resolve_plan(spec.as_slice().into(), RSlice::from_slice(&stage), cancel)
        })?;
        Ok(Plan(self.caller.object(Mutex::new(Some(plan)))))
    }

    /// Finds a running bottle again.
    pub fn attach(&self, req: &AttachRequest, cancel: i32) -> Result<Bottle> {
        let req = json(req)?;
        let handle = self.look("attach", cancel, move |b| b.attach(req.as_slice().into(), cancel))?;
        Ok(Bottle(self.caller.object(handle)))
    }

    /// The running bottles of an owner.
    pub fn list_active(&self, owner: &str, cancel: i32) -> Result<Vec<ActiveBottle>> {
        let req = json(&self.env_request(owner))?;
        parse(self.look("list_active", cancel, move |b| b.list_active(req.as_slice().into(), cancel))?)
    }

    /// What it needs, and whether it is there.
    pub fn diagnose(&self, owner: &str, cancel: i32) -> Result<Diagnosis> {
        let req = json(&self.env_request(owner))?;
        parse(self.look("diagnose", cancel, move |b| b.diagnose(req.as_slice().into(), cancel))?)
    }

    /// The same, once its images are made ready: that takes as long as it shows signs of life.
    pub fn build_images(&self, owner: &str, build: ImageBuild, cancel: i32) -> Result<Diagnosis> {
        let req = json(&EnvRequest { build: Some(build), ..self.env_request(owner) })?;
        let (raw, until) = (self.raw, Until::Silent(SILENCE, &self.caller.services));
        parse(self.caller.call("diagnose", until, cancel, move || raw.diagnose(req.as_slice().into(), cancel))?)
    }

    fn env_request(&self, owner: &str) -> EnvRequest {
        EnvRequest { env: self.env(), owner: owner.into(), ..EnvRequest::default() }
    }

    /// What a cleanup would remove.
    pub fn prepare_cleanup(&self, req: &CleanupRequest, cancel: i32) -> Result<Cleanup> {
        let req = json(req)?;
        let plan = self.look("prepare_cleanup", cancel, move |b| b.prepare_cleanup(req.as_slice().into(), cancel))?;
        Ok(Cleanup(self.caller.object(Mutex::new(Some(plan)))))
    }

    /// A bottle beside a running one, to make an image of.
    pub fn builder(&self, req: &BuilderRequest, cancel: i32) -> Result<Bottle> {
        let req = json(req)?;
        let handle = self.look("builder", cancel, move |b| b.builder(req.as_slice().into(), cancel))?;
        Ok(Bottle(self.caller.object(handle)))
    }

    /// A call that may have to ask the engine.
    fn look<T: Send + 'static>(
        &self,
        verb: &str,
        cancel: i32,
        f: impl FnOnce(&'static BackendBox) -> AbiResult<T> + Send + 'static,
    ) -> Result<T> {
        let raw = self.raw;
        self.caller.call(verb, Until::Elapsed(LOOK), cancel, move || f(raw))
    }
}

impl Plan {
    /// What the backend adds to the preflight.
    pub fn summary(&self) -> Result<PlanSummary> {
        let ask = |plan: &Mutex<Option<PlanBox>>| ask(plan, |plan| plan.summary(empty()));
        parse(self.0.call("summary", Until::Elapsed(ANSWER), UNCANCELLED, ask)?)
    }

    /// Makes the bottle run.
    pub fn launch(self, req: &LaunchRequest, secrets: &Secrets, cancel: i32) -> Result<Bottle> {
        let (req, secrets, plan) = (json(req)?, secrets.clone(), self.0.take()?);
        let caller = &self.0.caller;
        let handle = caller.call("launch", Until::Silent(SILENCE, &caller.services), cancel, move || {
            let lent: Vec<AbiSecret<'_>> = secrets
                .iter()
                .map(|(name, secret)| AbiSecret { name: RStr::from_str(name), bytes: secret.expose().into() })
                .collect();
            plan.launch(req.as_slice().into(), lent.as_slice().into(), cancel)
        })?;
        Ok(Bottle(caller.object(handle)))
    }
}

impl Cleanup {
    /// All of it.
    pub fn items(&self) -> Result<Vec<CleanupItem>> {
        let ask = |plan: &Mutex<Option<CleanupBox>>| ask(plan, |plan| plan.items(empty()));
        parse(self.0.call("items", Until::Elapsed(ANSWER), UNCANCELLED, ask)?)
    }

    /// Removes it. Nothing cuts this short but the deadline.
    pub fn execute(self, deadline: Duration) -> Result<CleanupOutcome> {
        let (req, plan) = (json(&deadline_request(deadline))?, self.0.take()?);
        let until = Until::Elapsed(deadline + GRACE);
        parse(self.0.caller.call("execute", until, UNCANCELLED, move || plan.execute(req.as_slice().into()))?)
    }
}

impl Bottle {
    /// Where things are.
    pub fn describe(&self) -> Result<BottleInfo> {
        parse(self.0.call("describe", Until::Elapsed(ANSWER), UNCANCELLED, |b| b.describe(empty()))?)
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
        let own = (stdin.try_clone_to_owned()?, stdout.try_clone_to_owned()?);
        let own_stderr = stderr.map(|fd| fd.try_clone_to_owned()).transpose()?;
        let req = json(req)?;
        let process = self.0.call("start", Until::Elapsed(LOOK), cancel, move |b| {
            let io = AbiStdio {
                stdin: own.0.as_raw_fd(),
                stdout: own.1.as_raw_fd(),
                stderr: own_stderr.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            };
            b.start(req.as_slice().into(), io, cancel)
        })?;
        Ok(Process(Arc::new(self.0.caller.object(process))))
    }

    /// Unpacks a tar stream in the bottle.
    pub fn put(&self, req: &PutRequest, tar: OwnedFd, cancel: i32) -> Result<()> {
        let req = json(req)?;
        let put = move |b: &HandleBox| b.put(req.as_slice().into(), tar.as_raw_fd(), cancel);
        self.0.call("put", self.0.silent(SILENCE), cancel, put)
    }

    /// Packs a path of the bottle into a tar stream.
    pub fn get(&self, req: &GetRequest, tar: OwnedFd, cancel: i32) -> Result<()> {
        let req = json(req)?;
        let get = move |b: &HandleBox| b.get(req.as_slice().into(), tar.as_raw_fd(), cancel);
        self.0.call("get", self.0.silent(SILENCE), cancel, get)
    }

    /// Makes an image of what is in a builder.
    pub fn commit(&self, req: &CommitRequest, cancel: i32) -> Result<Built> {
        let req = json(req)?;
        parse(self.0.call("commit", self.0.silent(SILENCE), cancel, move |b| b.commit(req.as_slice().into(), cancel))?)
    }

    /// The sidecar's control channel, once.
    #[allow(unsafe_code)]
    pub fn channel(&self) -> Result<OwnedFd> {
        let req = json(&ChannelRequest { name: "sidecar".into() })?;
        let open = move |b: &HandleBox| b.channel(req.as_slice().into());
        let fd = self.0.call("channel", Until::Elapsed(ANSWER), UNCANCELLED, open)?;
        if fd < 0 {
            return Err(anyhow!("the backend gave no descriptor for the sidecar's channel"));
        }
        // SAFETY: the ABI says that the descriptor is new and the caller's own.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Dropping it no longer tears the bottle down.
    pub fn detach(&self) -> Result<()> {
        self.0.call("detach", Until::Elapsed(ANSWER), UNCANCELLED, |b| b.detach(empty()))
    }

    /// Tears the bottle down. Nothing cuts this short but the deadline.
    pub fn close(&self, deadline: Duration) -> Result<()> {
        let req = json(&deadline_request(deadline))?;
        let close = move |b: &HandleBox| b.close(req.as_slice().into());
        self.0.call("close", Until::Elapsed(deadline + GRACE), UNCANCELLED, close)
    }
}

impl Process {
    /// Waits for its end, however long that takes.
    pub fn wait(&self, cancel: i32) -> Result<ExitStatus> {
        parse(self.0.call("wait", Until::Cancelled, cancel, move |p| p.wait(empty(), cancel))?)
    }

    /// Changes its terminal's size.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        let req = json(&ResizeRequest { cols, rows })?;
        let resize = move |p: &ProcessBox| p.resize(req.as_slice().into());
        self.0.call("resize", Until::Elapsed(ANSWER), UNCANCELLED, resize)
    }

    /// Sends it a signal, by its number on Linux.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let req = json(&SignalRequest { signal })?;
        let send = move |p: &ProcessBox| p.signal(req.as_slice().into());
        self.0.call("signal", Until::Elapsed(ANSWER), UNCANCELLED, send)
    }
}

/// Asks an object that another call may take away.
fn ask<T, R>(object: &Mutex<Option<T>>, f: impl FnOnce(&T) -> AbiResult<R>) -> AbiResult<R> {
    match lock(object).as_ref() {
        Some(object) => f(object),
        None => RErr(Error::new(ErrorKind::PROTOCOL, "a backend's object is used after its end").into()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn empty() -> JsonRef<'static> {
    RSlice::from_slice(b"{}")
}

fn deadline_request(deadline: Duration) -> DeadlineRequest {
    DeadlineRequest { deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX) }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

fn parse<T: DeserializeOwned>(bytes: JsonBuf) -> Result<T> {
    serde_json::from_slice(&bytes).context("the backend sent an unreadable answer")
}
