//! The adapter between an author's plain traits and the ABI's objects, driven through the ABI in one process.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

use abi_stable::{
    sabi_trait::prelude::TD_Opaque,
    std_types::{RArc, RErr, ROk, RResult, RSlice, RStr, RVec},
};
use bottle_api::{
    abi::{AbiError, AbiResult, AbiSecret, AbiStdio, BackendBox, HostServices, HostServices_TO, JsonBuf, JsonRef},
    secret::Secrets,
    *,
};
use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

static CLOSED: AtomicU32 = AtomicU32::new(0);
/// The tests count the closings of one process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A host that lends nothing.
struct NoHost;

impl HostServices for NoHost {
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
        RErr(Error::new(ErrorKind::NOT_FOUND, "none").into())
    }
}

/// Does what the spec's agent name says.
struct Scripted;
struct Told(String);
struct Nothing;

impl Plan for Told {
    fn summary(&self) -> PlanSummary {
        assert_ne!(self.0, "panic in summary");
        PlanSummary::default()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        assert_ne!(self.0, "panic in drop");
    }
}

impl CleanupPlan for Nothing {
    fn items(&self) -> Vec<CleanupItem> {
        vec![]
    }
}

impl Backend for Scripted {
    type Plan = Told;
    type Bottle = Told;
    type Cleanup = Nothing;

    fn new(_: Host) -> Result<Self> {
        Ok(Self)
    }
    fn info(&self) -> BackendInfo {
        BackendInfo { name: "scripted".into(), features: vec!["known-here".into()], ..BackendInfo::default() }
    }
    fn resolve_plan(&self, spec: &BottleSpec, _: &Path, cancel: &Cancel) -> Result<Told> {
        cancel.check()?;
        match spec.agent.as_str() {
            "panic in resolve" => panic!("as told"),
            "fail" => Err(Error::new(ErrorKind::CONFLICT, "as told").hint("tell it otherwise").context("resolve")),
            other => Ok(Told(other.to_owned())),
        }
    }
    fn launch(&self, plan: Told, _: &LaunchRequest, secrets: &Secrets, _: &Cancel) -> Result<Told> {
        if secrets.get("s").map(Secret::expose) != Some(&[0, 255][..]) {
            return Err(Error::new(ErrorKind::PROTOCOL, "the secret did not arrive"));
        }
        Ok(Told(plan.0.clone()))
    }
    fn list_active(&self, _: &EnvRequest, _: &Cancel) -> Result<Vec<ActiveBottle>> {
        Ok(vec![])
    }
    fn builder(&self, req: &BuilderRequest, _: &Cancel) -> Result<Told> {
        Ok(Told(req.image.clone()))
    }
    fn prepare_cleanup(&self, _: &CleanupRequest, _: &Cancel) -> Result<Nothing> {
        Ok(Nothing)
    }
    fn cleanup(&self, _: Nothing, _: Duration) -> Result<CleanupOutcome> {
        std::thread::spawn(|| panic!("in a thread")).join().map_err(|_| Error::new(ErrorKind::PANIC, "a thread"))?;
        Ok(CleanupOutcome::default())
    }
}

impl Bottle for Told {
    type Process = Never;
    fn describe(&self) -> Result<BottleInfo> {
        Ok(BottleInfo { name: self.0.clone(), ..BottleInfo::default() })
    }
    fn start(&self, _: &StartRequest, _: Stdio, _: &Cancel) -> Result<Never> {
        Ok(Never)
    }
    fn put(&self, _: &PutRequest, _: File, _: &Cancel) -> Result<()> {
        Err(Error::unsupported("putting files"))
    }
    fn get(&self, _: &GetRequest, _: File, _: &Cancel) -> Result<()> {
        Err(Error::unsupported("getting files"))
    }
    fn channel(&self, _: &ChannelRequest) -> Result<OwnedFd> {
        Err(Error::unsupported("channels"))
    }
    fn close(&self, _: Duration) -> Result<()> {
        CLOSED.fetch_add(1, Ordering::SeqCst);
        assert_ne!(self.0, "panic in close");
        Ok(())
    }
}

struct Never;
impl Process for Never {
    fn wait(&self, _: &Cancel) -> Result<ExitStatus> {
        Ok(ExitStatus { code: 0 })
    }
}

fn backend() -> BackendBox {
    let host = HostServices_TO::from_ptr(RArc::new(NoHost), TD_Opaque);
    bottle_api::__private::make_backend::<Scripted>(host, RSlice::from_slice(b"{}")).unwrap()
}

fn spec(agent: &str, requires: &[&str]) -> Vec<u8> {
    let requires = requires.iter().map(|r| (*r).to_owned()).collect();
    serde_json::to_vec(&BottleSpec { agent: agent.into(), requires, ..BottleSpec::default() }).unwrap()
}

fn resolve(agent: &str, cancel: i32) -> RResult<bottle_api::abi::PlanBox, AbiError> {
    backend().resolve_plan(spec(agent, &[]).as_slice().into(), RSlice::from_slice(b"/stage"), cancel)
}

fn launch(agent: &str) -> bottle_api::abi::HandleBox {
    let secrets = [AbiSecret { name: "s".into(), bytes: RSlice::from_slice(&[0, 255]) }];
    resolve(agent, -1).unwrap().launch(RSlice::from_slice(b"{}"), secrets.as_slice().into(), -1).unwrap()
}

const DEADLINE: &[u8] = b"{\"deadline_ms\":1000}";

#[test]
fn a_setting_that_must_be_understood_is_refused_where_it_is_not() {
    for (requires, ok) in [(&[][..], true), (&["known-here"], true), (&["known-here", "deny-everything"], false)] {
        let answer = backend().validate(spec("x", requires).as_slice().into(), -1);
        assert_eq!(answer.is_ok(), ok, "{requires:?}");
        if let RErr(error) = answer {
            assert_eq!(error.kind, ErrorKind::UNSUPPORTED.0);
            assert!(error.message.contains("`deny-everything`") && error.hint.is_some(), "{error:?}");
        }
    }
}

#[test]
fn a_panic_is_an_error_wherever_it_happens() {
    let _guard = ONE_AT_A_TIME.lock();
    let RErr(error) = resolve("panic in resolve", -1) else { panic!("resolved") };
    assert_eq!(error.kind, ErrorKind::PANIC.0);
    assert!(error.message.contains("as told at ") && error.message.contains("adapter.rs:"), "{error:?}");
    let plan = resolve("panic in summary", -1).unwrap();
    assert_eq!(plan.summary(RSlice::from_slice(b"{}")).unwrap_err().kind, ErrorKind::PANIC.0);
    drop(resolve("panic in drop", -1).unwrap()); // contained
    let handle = launch("panic in close");
    assert_eq!(handle.close(RSlice::from_slice(DEADLINE)).unwrap_err().kind, ErrorKind::PANIC.0);
    let cleanup = backend().prepare_cleanup(RSlice::from_slice(b"{}"), -1).unwrap();
    assert!(cleanup.execute(RSlice::from_slice(DEADLINE)).is_err());
}

#[test]
fn an_error_keeps_kind_message_hint_and_chain() {
    let RErr(error) = resolve("fail", -1) else { panic!("resolved") };
    let error = Error::from(error);
    assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::CONFLICT, Some("tell it otherwise")));
    assert_eq!((error.message.as_str(), error.chain.as_slice()), ("resolve", &["as told".to_owned()][..]));
}

#[test]
fn a_bottle_is_closed_once_by_call_or_by_drop_and_not_once_detached() {
    let _guard = ONE_AT_A_TIME.lock();
    let closed = |run: fn(&bottle_api::abi::HandleBox)| {
        let before = CLOSED.load(Ordering::SeqCst);
        let handle = launch("quiet");
        run(&handle);
        drop(handle);
        CLOSED.load(Ordering::SeqCst) - before
    };
    assert_eq!(closed(|_| ()), 1);
    assert_eq!(closed(|h| h.close(RSlice::from_slice(DEADLINE)).unwrap()), 1);
    assert_eq!(closed(|h| (0..3).for_each(|_| h.close(RSlice::from_slice(DEADLINE)).unwrap())), 1);
    assert_eq!(closed(|h| h.detach(RSlice::from_slice(b"{}")).unwrap()), 0);
}

#[test]
fn a_builder_is_closed_as_any_bottle_and_commits_only_where_its_author_says_how() {
    let _guard = ONE_AT_A_TIME.lock();
    let before = CLOSED.load(Ordering::SeqCst);
    let builder = backend().builder(RSlice::from_slice(b"{\"image\":\"some\"}"), -1).unwrap();
    let info: BottleInfo = serde_json::from_slice(&builder.describe(RSlice::from_slice(b"{}")).unwrap()).unwrap();
    assert_eq!(info.name, "some");
    let error = builder.commit(RSlice::from_slice(b"{}"), -1).unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::UNSUPPORTED.0, "this backend does not support building images")
    );
    drop(builder);
    assert_eq!(CLOSED.load(Ordering::SeqCst) - before, 1);
}

#[test]
fn cancellation_and_unreadable_requests_are_errors() {
    let (readable, writable) = rustix::pipe::pipe().unwrap();
    assert!(resolve("x", readable.as_raw_fd()).is_ok());
    rustix::io::write(&writable, b"x").unwrap();
    let RErr(error) = resolve("x", readable.as_raw_fd()) else { panic!("resolved") };
    assert_eq!(error.kind, ErrorKind::CANCELLED.0);
    let junk = backend().list_active(RSlice::from_slice(b"not json"), -1);
    assert_eq!(junk.unwrap_err().kind, ErrorKind::PROTOCOL.0);
    let none = AbiStdio { stdin: -1, stdout: -1, stderr: -1 };
    let _guard = ONE_AT_A_TIME.lock();
    assert!(launch("quiet").start(RSlice::from_slice(b"{}"), none, -1).is_err());
}
