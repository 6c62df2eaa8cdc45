//! git-gate: what a push holds, judged before any of it leaves.
//!
//! ```text
//! agent ── push ──▶ git receive-pack, in a mirror of ours: objects in quarantine
//!                         │ pre-receive
//!                         ▼
//!    refs: bottle_policy::push ── objects: [`scan`] ── refused: nothing was kept, upstream was never asked
//!                         │ proc-receive
//!                         ▼
//!                 git push upstream ── its own answer ──▶ agent
//! ```
//!
//! * [`update`]: what a push wants to change, as git tells its hooks;
//! * [`git`]: how git is run: no configuration but ours, no program but its own, a deadline;
//! * [`scan`](mod@scan): every new object of a push, streamed through the scanner;
//! * [`leak`]: what was found: commit, file, line, rule, and never the value;
//! * [`change`]: which kind of change each ref would see, for the policy;
//! * [`mirror`]: a repository that says what upstream says, and the way there and back;
//! * [`transport`], [`agent`]: ssh, with one known host and one key that no file holds;
//! * [`hook`]: what git runs, and what it hands on;
//! * [`gate`]: one `git` entry: its mirror, its rules, and what its hooks are answered;
//! * [`greeting`], [`serve`](mod@serve): a client, from its first packet to its last.
//!
//! Nothing here listens or keeps a credential; how upstream is reached is told by whoever does.

pub mod agent;
pub mod change;
pub mod gate;
pub mod git;
pub mod greeting;
pub mod hook;
pub mod leak;
mod locate;
pub mod mirror;
mod objects;
mod packet;
pub mod scan;
pub mod serve;
pub mod transport;
mod tree;
pub mod update;
mod words;

pub use agent::KeyAgent;
pub use gate::{Decision, Gate};
pub use git::{Git, Repository};
pub use greeting::{Greeting, Service};
pub use leak::{At, Leak, Place};
pub use mirror::{Mirror, Trouble, Upstream, UpstreamError};
pub use scan::{Limits, PushScan, ScanError, scan};
pub use serve::{Found, serve};
pub use transport::{Ssh, TransportError};
pub use update::{ObjectId, Update, UpdateError};
