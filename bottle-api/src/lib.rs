//! The contract between the `bottle` host and its backends.
//!
//! A backend author writes plain Rust, and reads:
//!
//! * [`backend`]: the traits to implement ([`Backend`], [`Plan`], [`Bottle`], [`Process`], [`CleanupPlan`]), and what a
//!   bottle must look like from inside;
//! * [`spec`], [`request`], [`provision`]: the data that crosses, all of it JSON that grows by defaulted fields;
//! * [`host`]: what the host lends a backend (log, progress, the ledger, artifacts); [`error`] and [`secret`];
//! * [`control`]: how the sidecar bundle is run, and the channel to it; [`attend`]: how a process runs in a bottle into
//!   which there is but a pipe. They need nothing of the ABI (feature `abi` off).
//!
//! [`export_backend!`] joins a backend to the stable ABI below it ([`abi`], [`descriptor`]), which nobody else needs to
//! read.

#[cfg(feature = "abi")]
pub mod abi;
#[cfg(feature = "abi")]
mod adapter;
pub mod attend;
#[cfg(feature = "abi")]
pub mod backend;
pub mod control;
#[cfg(feature = "abi")]
pub mod descriptor;
#[cfg(feature = "abi")]
pub mod error;
#[cfg(feature = "abi")]
mod export;
#[cfg(feature = "abi")]
mod guard;
#[cfg(feature = "abi")]
pub mod host;
#[cfg(feature = "abi")]
pub mod provision;
#[cfg(feature = "abi")]
pub mod request;
pub mod secret;
#[cfg(feature = "abi")]
pub mod spec;

#[cfg(feature = "abi")]
pub use crate::{
    backend::{Backend, Bottle, CleanupPlan, Plan, Process, SidecarChannel, Stdio},
    error::{Error, ErrorKind, Result},
    host::{Cancel, Host},
    provision::{FileEntry, Provision},
    request::*,
    spec::*,
};
pub use secret::Secret;

/// Where every backend puts the in-bottle helper (artifact [`SIDECAR_ARTIFACT`]) before it starts anything.
/// As the instance's first process it is run with the one argument `init`.
pub const HELPER_PATH: &str = "/usr/local/libexec/bottle-helper";

/// The artifact that is both the sidecar bundle's program and the helper inside a bottle: one static binary.
pub const SIDECAR_ARTIFACT: &str = "bottle-sidecar";

/// The agent's home, owned by [`AGENT_UID`].
pub const HOME: &str = "/home/agent";

/// Where the agent works, owned by [`AGENT_UID`].
pub const WORKSPACE: &str = "/workspace";

/// The uid and gid that an agent runs as, in every backend. Never root.
pub const AGENT_UID: u32 = 1000;

/// What [`export_backend!`] expands to needs these; nothing else does.
#[cfg(feature = "abi")]
#[doc(hidden)]
pub mod __private {
    pub use crate::adapter::make_backend;
    pub use abi_stable;
}
