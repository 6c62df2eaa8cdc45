//! The FFI-safe surface: what really crosses the dylib boundary.
//!
//! ```text
//! ┌─ WHEN CHANGING THE ABI ─────────────────────────────────────────────────────────────────┐
//! │ Structs here never change. Traits grow only at the end, every new method with a default │
//! │ body, and `#[sabi(last_prefix_field)]` never moves. New data goes into the JSON that    │
//! │ every verb takes and gives. tests/abi_snapshot.rs shows any other change in review.     │
//! └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Every verb takes one JSON request (shapes in [`crate::request`]) and, beside it, only bytes, descriptors and
//! objects. Descriptors are borrowed for the call: the callee duplicates what it keeps. A `cancel` descriptor
//! becomes readable once the call is to be given up, and is never read from; `-1` means it cannot be cancelled.
#![allow(non_local_definitions, clippy::unnecessary_cast)] // abi_stable 0.11.3 macro output
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::undocumented_unsafe_blocks)] // the same

use crate::error::{BUILDING, Error};
use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_trait,
    sabi_types::VersionStrings,
    std_types::{RArc, RBox, RErr, ROption, RResult, RSlice, RStr, RString, RVec},
};

pub type JsonBuf = RVec<u8>;
pub type JsonRef<'a> = RSlice<'a, u8>;
pub type AbiResult<T> = RResult<T, AbiError>;

/// [`crate::Error`] on its way across.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct AbiError {
    pub kind: u32,
    pub message: RString,
    pub hint: ROption<RString>,
    pub chain: RVec<RString>,
    /// A JSON object for fields invented later, or empty.
    pub extra: JsonBuf,
}

/// One secret, lent for the call.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct AbiSecret<'a> {
    pub name: RStr<'a>,
    pub bytes: RSlice<'a, u8>,
}

/// Standard streams of a process. With a terminal, `stderr` is -1: there is one stream.
#[repr(C)]
#[derive(StableAbi, Debug, Clone, Copy)]
pub struct AbiStdio {
    pub stdin: i32,
    pub stdout: i32,
    pub stderr: i32,
}

/// What the host lends a plugin for the life of the process.
#[sabi_trait]
pub trait HostServices: Send + Sync + 'static {
    /// `level`: 1 error … 5 trace.
    fn log(&self, level: u32, target: RStr<'_>, message: RStr<'_>);
    fn progress(&self, event: JsonRef<'_>);
    fn ledger_intent(&self, req: JsonRef<'_>) -> AbiResult<JsonBuf>;
    fn ledger_created(&self, req: JsonRef<'_>) -> AbiResult<()>;
    fn ledger_gone(&self, req: JsonRef<'_>) -> AbiResult<()>;
    /// The bytes of a host path.
    #[sabi(last_prefix_field)]
    fn artifact(&self, req: JsonRef<'_>) -> AbiResult<RVec<u8>>;
}

#[sabi_trait]
pub trait BottleBackend: Send + Sync + 'static {
    fn info(&self, req: JsonRef<'_>) -> AbiResult<JsonBuf>;
    fn diagnose(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<JsonBuf>;
    /// Extra preconditions only: the host's own checks came first and cannot be skipped.
    fn validate(&self, spec: JsonRef<'_>, cancel: i32) -> AbiResult<()>;
    fn resolve_plan(
        &self,
        spec: JsonRef<'_>,
        stage_dir: RSlice<'_, u8>,
        cancel: i32,
    ) -> AbiResult<BottlePlan_TO<RBox<()>>>;
    fn attach(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<BottleHandle_TO<RBox<()>>>;
    fn list_active(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<JsonBuf>;
    #[sabi(last_prefix_field)]
    fn prepare_cleanup(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<BottleCleanupPlan_TO<RBox<()>>>;
    /// A bottle beside a running one, to make an image of.
    fn builder(&self, _req: JsonRef<'_>, _cancel: i32) -> AbiResult<BottleHandle_TO<RBox<()>>> {
        RErr(Error::unsupported(BUILDING).into())
    }
}

/// A plugin's own plan behind a vtable: no downcasts, and it can be launched on its own backend only.
#[sabi_trait]
pub trait BottlePlan: Send + 'static {
    fn summary(&self, req: JsonRef<'_>) -> AbiResult<JsonBuf>;
    #[sabi(last_prefix_field)]
    fn launch(
        self,
        req: JsonRef<'_>,
        secrets: RSlice<'_, AbiSecret<'_>>,
        cancel: i32,
    ) -> AbiResult<BottleHandle_TO<RBox<()>>>;
}

#[sabi_trait]
pub trait BottleCleanupPlan: Send + 'static {
    fn items(&self, req: JsonRef<'_>) -> AbiResult<JsonBuf>;
    /// Takes a deadline and no cancellation.
    #[sabi(last_prefix_field)]
    fn execute(self, req: JsonRef<'_>) -> AbiResult<JsonBuf>;
}

#[sabi_trait]
pub trait BottleHandle: Send + Sync + 'static {
    fn describe(&self, req: JsonRef<'_>) -> AbiResult<JsonBuf>;
    fn start(&self, req: JsonRef<'_>, io: AbiStdio, cancel: i32) -> AbiResult<BottleProcess_TO<RBox<()>>>;
    /// `tar`: a descriptor that the archive is read from.
    fn put(&self, req: JsonRef<'_>, tar: i32, cancel: i32) -> AbiResult<()>;
    /// `tar`: a descriptor that the archive is written to.
    fn get(&self, req: JsonRef<'_>, tar: i32, cancel: i32) -> AbiResult<()>;
    /// A new descriptor, owned by the caller.
    fn channel(&self, req: JsonRef<'_>) -> AbiResult<i32>;
    /// Dropping the handle no longer closes the bottle.
    fn detach(&self, req: JsonRef<'_>) -> AbiResult<()>;
    /// Takes a deadline and no cancellation; once only, a second call does nothing.
    #[sabi(last_prefix_field)]
    fn close(&self, req: JsonRef<'_>) -> AbiResult<()>;
    /// Of a builder: what is in it becomes an image.
    fn commit(&self, _req: JsonRef<'_>, _cancel: i32) -> AbiResult<JsonBuf> {
        RErr(Error::unsupported(BUILDING).into())
    }
}

#[sabi_trait]
pub trait BottleProcess: Send + Sync + 'static {
    fn wait(&self, req: JsonRef<'_>, cancel: i32) -> AbiResult<JsonBuf>;
    fn resize(&self, req: JsonRef<'_>) -> AbiResult<()>;
    #[sabi(last_prefix_field)]
    fn signal(&self, req: JsonRef<'_>) -> AbiResult<()>;
}

pub type HostServicesRef = HostServices_TO<RArc<()>>;
pub type BackendBox = BottleBackend_TO<RBox<()>>;
pub type PlanBox = BottlePlan_TO<RBox<()>>;
pub type CleanupBox = BottleCleanupPlan_TO<RBox<()>>;
pub type HandleBox = BottleHandle_TO<RBox<()>>;
pub type ProcessBox = BottleProcess_TO<RBox<()>>;

/// What a plugin file exports.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef, prefix_fields = PluginModulePrefix)))]
#[sabi(missing_field(option))]
pub struct PluginModule {
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(HostServicesRef, JsonRef<'_>) -> AbiResult<BackendBox>,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "bottle_backend";
    const NAME: &'static str = "bottle backend";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}
