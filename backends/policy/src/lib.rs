//! The policy document of a bottle, and the decision over it.
//!
//! The host renders a [`Policy`], the sidecar parses it with unknown fields denied: an older sidecar refuses a
//! newer document, it never ignores a part of it. [`decide()`] is a pure function; nothing here does I/O.
//!
//! * [`document`]: what the document says;
//! * [`decide`](mod@decide): the verdict over one request;
//! * [`host`]: which hosts may be judged at all;
//! * [`path`]: the same of paths;
//! * [`target`]: where a request line leads;
//! * [`address`]: which addresses may be dialled;
//! * [`message`]: what host and sidecar say to each other;
//! * [`git`]: where repositories are;
//! * [`push`]: which refs a push may change, and how;
//! * [`dockerfile`]: what an image may be made by;
//! * [`proposal`]: what an agent may ask its operator for;
//! * [`seen`]: what of a text a person sees;
//! * [`probe`]: what the host asks the helper in a bottle before its agent runs.

pub mod address;
pub mod decide;
pub mod dockerfile;
pub mod document;
pub mod git;
pub mod host;
pub mod message;
pub mod path;
pub mod probe;
pub mod proposal;
pub mod push;
pub mod seen;
pub mod target;

pub use decide::{Denial, Request, Scheme, Verdict, decide, decide_tunnel};
pub use document::{Auth, AuthScheme, EnvSecret, Mode, Pack, Policy, Responses, Route, SCHEMA, Scan, UpstreamProxy};
pub use git::{GitHttps, GitLimits, GitRemote, GitSsh, GitUpstream};
pub use proposal::{Proposal, ProposedRoute};
pub use seen::is_seen;
