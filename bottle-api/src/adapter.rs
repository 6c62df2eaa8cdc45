//! Joins the author's plain traits to the ABI's objects: JSON in and out, descriptors duplicated, panics contained.
#![allow(unsafe_code)]

use crate::{
    abi::{self, *},
    backend::{Backend, Bottle, CleanupPlan, Plan, Process, Stdio},
    error::{Error, ErrorKind, Result},
    guard::{Guarded, adopt_host, contain, guard},
    host::Cancel,
    request::*,
    secret::{Secret, Secrets},
    spec::{API_FEATURES, BottleSpec},
};
use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{ROk, RSlice, RString, RVec},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    ffi::OsStr,
    fs::File,
    os::{
        fd::{BorrowedFd, IntoRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a bottle that is dropped without `close` may take to be torn down.
const DROP_DEADLINE_MS: u64 = 30_000;

/// Creates the backend behind its ABI object. Called by [`crate::export_backend!`] only.
pub fn make_backend<B: Backend>(host: HostServicesRef, config: JsonRef<'_>) -> AbiResult<BackendBox> {
    guard(|| {
        let backend = B::new(adopt_host(host, from_json(config)?))?;
        Ok(BottleBackend_TO::from_value(BackendObject(Guarded::new(Arc::new(backend))), TD_Opaque))
    })
}

struct BackendObject<B: Backend>(Guarded<Arc<B>>);
struct PlanObject<B: Backend>(Guarded<(Arc<B>, B::Plan)>);
struct CleanupObject<B: Backend>(Guarded<(Arc<B>, B::Cleanup)>);
struct ProcessObject<P: Process>(Guarded<P>);
struct HandleObject<T: Bottle> {
    bottle: Guarded<T>,
    /// Nothing left to do on drop: closed, detached, or attached to somebody else's bottle.
    settled: AtomicBool,
}

impl<T: Bottle> HandleObject<T> {
    fn boxed(bottle: T, owned: bool) -> HandleBox {
        let object = Self { bottle: Guarded::new(bottle), settled: AtomicBool::new(!owned) };
        BottleHandle_TO::from_value(object, TD_Opaque)
    }
}

impl<B: Backend> abi::BottleBackend for BackendObject<B> {
    fn info(&self, _req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.0.info()))
    }

    fn diagnose(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.0.diagnose(&from_json(req)?, &borrow_cancel(cancel)?)?))
    }

    fn validate(&self, spec: JsonRef<'_>, cancel: i32) -> AbiResult<()> {
        guard(|| self.0.validate(&read_spec(&**self.0, spec)?, &borrow_cancel(cancel)?))
    }

    fn resolve_plan(&self, spec: JsonRef<'_>, stage_dir: RSlice<'_, u8>, cancel: i32) -> AbiResult<PlanBox> {
        guard(|| {
            let stage_dir = Path::new(OsStr::from_bytes(stage_dir.as_slice()));
            let plan = self.0.resolve_plan(&read_spec(&**self.0, spec)?, stage_dir, &borrow_cancel(cancel)?)?;
            let object = PlanObject::<B>(Guarded::new((Arc::clone(&self.0), plan)));
            Ok(BottlePlan_TO::from_value(object, TD_Opaque))
        })
    }

    fn attach(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<HandleBox> {
        guard(|| {
            let bottle = self.0.attach(&from_json(req)?, &borrow_cancel(cancel)?)?;
            Ok(HandleObject::boxed(bottle, false))
        })
    }

    fn list_active(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.0.list_active(&from_json(req)?, &borrow_cancel(cancel)?)?))
    }

    fn prepare_cleanup(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<CleanupBox> {
        guard(|| {
            let plan = self.0.prepare_cleanup(&from_json(req)?, &borrow_cancel(cancel)?)?;
            let object = CleanupObject::<B>(Guarded::new((Arc::clone(&self.0), plan)));
            Ok(BottleCleanupPlan_TO::from_value(object, TD_Opaque))
        })
    }

    fn builder(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<HandleBox> {
        guard(|| {
            let builder = self.0.builder(&from_json(req)?, &borrow_cancel(cancel)?)?;
            Ok(HandleObject::boxed(builder, true))
        })
    }
}

impl<B: Backend> abi::BottlePlan for PlanObject<B> {
    fn summary(&self, _req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.0.1.summary()))
    }

    fn launch(self, req: JsonRef<'_>, secrets: RSlice<'_, AbiSecret<'_>>, cancel: i32) -> AbiResult<HandleBox> {
        guard(|| {
            let mut own = Secrets::default();
            for secret in secrets.as_slice() {
                own.insert(secret.name.as_str(), Secret::new(secret.bytes.as_slice()));
            }
            let (backend, plan) = self.0.take();
            let bottle = backend.launch(plan, &from_json(req)?, &own, &borrow_cancel(cancel)?)?;
            Ok(HandleObject::boxed(bottle, true))
        })
    }
}

impl<B: Backend> abi::BottleCleanupPlan for CleanupObject<B> {
    fn items(&self, _req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.0.1.items()))
    }

    fn execute(self, req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        guard(|| {
            let deadline = read_deadline(req)?;
            let (backend, plan) = self.0.take();
            to_json(&backend.cleanup(plan, deadline)?)
        })
    }
}

impl<T: Bottle> abi::BottleHandle for HandleObject<T> {
    fn describe(&self, _req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.bottle.describe()?))
    }

    fn start(&self, req: JsonRef<'_>, io: AbiStdio, cancel: i32) -> AbiResult<ProcessBox> {
        guard(|| {
            let io = Stdio {
                stdin: borrow_fd(io.stdin)?,
                stdout: borrow_fd(io.stdout)?,
                stderr: (io.stderr >= 0).then(|| borrow_fd(io.stderr)).transpose()?,
            };
            let process = self.bottle.start(&from_json(req)?, io, &borrow_cancel(cancel)?)?;
            Ok(BottleProcess_TO::from_value(ProcessObject(Guarded::new(process)), TD_Opaque))
        })
    }

    fn put(&self, req: JsonRef<'_>, tar: i32, cancel: i32) -> AbiResult<()> {
        guard(|| self.bottle.put(&from_json(req)?, File::from(borrow_fd(tar)?), &borrow_cancel(cancel)?))
    }

    fn get(&self, req: JsonRef<'_>, tar: i32, cancel: i32) -> AbiResult<()> {
        guard(|| self.bottle.get(&from_json(req)?, File::from(borrow_fd(tar)?), &borrow_cancel(cancel)?))
    }

    fn channel(&self, req: JsonRef<'_>) -> AbiResult<i32> {
        guard(|| Ok(self.bottle.channel(&from_json(req)?)?.into_raw_fd()))
    }

    fn detach(&self, _req: JsonRef<'_>) -> AbiResult<()> {
        self.settled.store(true, Ordering::SeqCst);
        ROk(())
    }

    fn close(&self, req: JsonRef<'_>) -> AbiResult<()> {
        if self.settled.swap(true, Ordering::SeqCst) {
            return ROk(());
        }
        guard(|| self.bottle.close(read_deadline(req)?))
    }

    fn commit(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.bottle.commit(&from_json(req)?, &borrow_cancel(cancel)?)?))
    }
}

impl<T: Bottle> Drop for HandleObject<T> {
    fn drop(&mut self) {
        if !self.settled.swap(true, Ordering::SeqCst) {
            contain(|| drop(self.bottle.close(Duration::from_millis(DROP_DEADLINE_MS))));
        }
    }
}

impl<P: Process> abi::BottleProcess for ProcessObject<P> {
    fn wait(&self, _req: JsonRef<'_>, cancel: i32) -> AbiResult<JsonBuf> {
        guard(|| to_json(&self.0.wait(&borrow_cancel(cancel)?)?))
    }

    fn resize(&self, req: JsonRef<'_>) -> AbiResult<()> {
        guard(|| self.0.resize(&from_json(req)?))
    }

    fn signal(&self, req: JsonRef<'_>) -> AbiResult<()> {
        guard(|| self.0.signal(&from_json(req)?))
    }
}

fn from_json<T: DeserializeOwned>(json: JsonRef<'_>) -> Result<T> {
    serde_json::from_slice(json.as_slice())
        .map_err(|e| Error::new(ErrorKind::PROTOCOL, format!("the host sent an unreadable request: {e}")))
}

fn to_json<T: Serialize>(value: &T) -> Result<JsonBuf> {
    Ok(serde_json::to_vec(value)?.into())
}

fn read_deadline(req: JsonRef<'_>) -> Result<Duration> {
    Ok(Duration::from_millis(from_json::<DeadlineRequest>(req)?.deadline_ms))
}

/// Reads a spec, refusing any must-understand setting that neither this crate nor the backend knows.
fn read_spec<B: Backend>(backend: &B, json: JsonRef<'_>) -> Result<BottleSpec> {
    let spec: BottleSpec = from_json(json)?;
    let own = backend.info().features;
    match spec.requires.iter().find(|r| !API_FEATURES.contains(&r.as_str()) && !own.contains(r)) {
        None => Ok(spec),
        Some(unknown) => Err(Error::new(
            ErrorKind::UNSUPPORTED,
            format!(
                "this bottle needs `{unknown}`, which this backend (built with bottle-api {}) does not know",
                env!("CARGO_PKG_VERSION")
            ),
        )
        .hint("Update the backend plugin, or take the setting out of the manifest.")),
    }
}

/// The plugin's own duplicate of a descriptor that the host lends for the call.
fn borrow_fd(fd: i32) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Error::new(ErrorKind::PROTOCOL, "the host lent no descriptor where one is needed"));
    }
    // SAFETY: the ABI says that the host keeps the descriptor open for the length of the call.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?)
}

fn borrow_cancel(fd: i32) -> Result<Cancel> {
    Ok(if fd < 0 { Cancel::never() } else { Cancel::from_fd(borrow_fd(fd)?) })
}

impl From<Error> for AbiError {
    fn from(e: Error) -> Self {
        Self {
            kind: e.kind.0,
            message: e.message.into(),
            hint: e.hint.map(Into::into).into(),
            chain: e.chain.into_iter().map(RString::from).collect(),
            extra: RVec::new(),
        }
    }
}

impl From<AbiError> for Error {
    fn from(e: AbiError) -> Self {
        Self {
            kind: ErrorKind(e.kind),
            message: e.message.into(),
            hint: e.hint.into_option().map(Into::into),
            chain: e.chain.into_iter().map(Into::into).collect(),
        }
    }
}
