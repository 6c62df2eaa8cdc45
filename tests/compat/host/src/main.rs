//! `compat-host PLUGIN…`: loads all of them into one process with bottle's own loader, calls every verb, and prints one
//! JSON object per plugin. Each file is written over once it is vetted: what is loaded is what was vetted.

use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{RArc, ROk, RResult, RSlice, RStr, RVec},
};
use anyhow::{Context, Result, anyhow};
use bottle_api::{
    BackendInfo, BottleInfo, ErrorKind,
    abi::{AbiError, AbiResult, AbiSecret, AbiStdio, BackendBox, HostServices, HostServices_TO, JsonBuf, JsonRef},
};
use bottle_host::plugin::{loader, vet};
use serde_json::{Value, json};
use std::{fs, os::fd::AsRawFd, path::Path};

const EMPTY: RSlice<'static, u8> = RSlice::from_slice(b"{}");

/// What an appended verb answers, where this host knows of it.
macro_rules! appended {
    ($object:expr) => {{
        #[cfg(feature = "v1_1")]
        let answer = verdict($object.appended(EMPTY));
        #[cfg(not(feature = "v1_1"))]
        let answer = "not called";
        answer
    }};
}
/// A host that answers every service.
struct Services;

impl HostServices for Services {
    fn log(&self, _: u32, _: RStr<'_>, _: RStr<'_>) {}
    fn progress(&self, _: JsonRef<'_>) {}
    fn ledger_intent(&self, req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        ROk(req.to_vec().into())
    }
    fn ledger_created(&self, _: JsonRef<'_>) -> AbiResult<()> {
        ROk(())
    }
    fn ledger_gone(&self, _: JsonRef<'_>) -> AbiResult<()> {
        ROk(())
    }
    fn artifact(&self, _: JsonRef<'_>) -> AbiResult<RVec<u8>> {
        ROk(b"/artifact".to_vec().into())
    }
    #[cfg(feature = "v1_1")]
    fn appended(&self, _: JsonRef<'_>) -> AbiResult<JsonBuf> {
        ROk(b"\"answers\"".to_vec().into())
    }
}

fn main() -> Result<()> {
    let loaded: Vec<_> = std::env::args().skip(1).map(|file| load(Path::new(&file))).collect();
    for backend in loaded {
        println!(
            "{}",
            backend.and_then(|backend| exercise(&backend)).unwrap_or_else(|e| json!({ "refused": format!("{e:#}") }))
        );
    }
    Ok(())
}

fn load(plugin: &Path) -> Result<BackendBox> {
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join(plugin.file_name().context("a plugin has a name")?);
    fs::copy(plugin, &copy)?;
    let vetted = vet::vet(&copy)?;
    fs::write(&copy, "swapped")?;
    let host = HostServices_TO::from_ptr(RArc::new(Services), TD_Opaque);
    done(loader::load(vetted)?.create()(host, EMPTY))
}

/// Calls every verb of 1.0, of which each must answer, and what this host knows of 1.1.
fn exercise(backend: &BackendBox) -> Result<Value> {
    let null = fs::File::open("/dev/null")?;
    let fd = null.as_raw_fd();
    let secret = [AbiSecret { name: "name".into(), bytes: RSlice::from_slice(&[0, 255]) }];
    let stage = RSlice::from_slice(b"/stage\xff");

    let info: BackendInfo = read(done(backend.info(EMPTY))?)?;
    done(backend.diagnose(EMPTY, -1))?;
    done(backend.validate(EMPTY, -1))?;
    let plan = done(backend.resolve_plan(EMPTY, stage, -1))?;
    done(plan.summary(EMPTY))?;
    let of_plan = appended!(plan);
    let bottle = done(plan.launch(EMPTY, secret.as_slice().into(), -1))?;
    let described: BottleInfo = read(done(bottle.describe(EMPTY))?)?;
    let process = done(bottle.start(EMPTY, AbiStdio { stdin: fd, stdout: fd, stderr: -1 }, fd))?;
    done(process.wait(EMPTY, -1))?;
    done(process.resize(EMPTY))?;
    done(process.signal(EMPTY))?;
    done(bottle.put(EMPTY, fd, -1))?;
    done(bottle.get(EMPTY, fd, -1))?;
    done(bottle.channel(EMPTY))?;
    done(done(backend.attach(EMPTY, -1))?.detach(EMPTY))?;
    done(backend.list_active(EMPTY, -1))?;
    let of_bottle = appended!(bottle);
    done(bottle.close(EMPTY))?;
    let cleanup = done(backend.prepare_cleanup(EMPTY, -1))?;
    done(cleanup.items(EMPTY))?;
    let of_cleanup = appended!(cleanup);
    done(cleanup.execute(EMPTY))?;

    let requires = RSlice::from_slice(b"{\"requires\":[\"appended\"]}");
    Ok(json!({
        "name": info.name,
        "verbs of 1.0": "all answer",
        "backend": appended!(backend),
        "plan": of_plan,
        "cleanup plan": of_cleanup,
        "bottle": of_bottle,
        "process": appended!(process),
        "host's service": described.name,
        "field": appended_field(&info),
        "required setting": verdict(backend.validate(requires, -1)),
    }))
}

fn verdict<T>(answer: AbiResult<T>) -> &'static str {
    match answer {
        ROk(_) => "answers",
        RResult::RErr(error) if error.kind == ErrorKind::UNSUPPORTED.0 => "UNSUPPORTED",
        RResult::RErr(_) => "another error",
    }
}

#[cfg(feature = "v1_1")]
fn appended_field(info: &BackendInfo) -> &str {
    if info.appended.is_empty() { "default" } else { &info.appended }
}

#[cfg(not(feature = "v1_1"))]
fn appended_field(_: &BackendInfo) -> &str {
    "not known"
}

fn done<T>(answer: AbiResult<T>) -> Result<T> {
    answer.into_result().map_err(|e: AbiError| anyhow!("{}", e.message))
}

fn read<T: serde::de::DeserializeOwned>(bytes: JsonBuf) -> Result<T> {
    Ok(serde_json::from_slice(&bytes)?)
}
