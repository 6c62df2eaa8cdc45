//! What leaves a bottle, judged before it goes; what comes in, looked at for instructions.
//!
//! ```text
//!            headers, URL, names, messages              body, as it comes
//!                      │                                       │
//!                      │                    ┌──── stream ──────┴───────┐
//!                      │                    │ gzip, br, zstd: decoded  │   unknown, broken, a bomb ─▶ Opaque
//!                      │                    │ windows that overlap     │
//!                      ▼                    └──────────┬───────────────┘
//!                ┌───────────────── window ────────────┴──────────────┐
//!                │ exact     secrets by value, in any of their forms  │
//!                │ patterns  keyword ▶ expression ▶ checksum, entropy │
//!                │ decode    base64, hex, escapes, … ─┐               │
//!                │     ▲                              │               │
//!                │     └────────── again, to depth 5 ─┘               │
//!                └─────────────┬──────────────────────────────────────┘
//!                              ▼
//!   fields, message ─▶ [`Finding`]: rule, place, decoders; never the value ─▶ the caller blocks, redacts or logs
//! ```
//!
//! * [`Rules`]: the built-in packs (`rules/*.yaml`) and those of users;
//! * [`ExactSet`]: secrets that are known by value;
//! * [`Scanner`]: both, and the judgement of hosts, URLs, headers, messages;
//! * [`Stream`]: a body that is held back until it is judged;
//! * [`Redactor`]: a body that goes on without its secrets;
//! * [`Session`]: secrets in pieces, over many requests.
//!
//! Nothing here does I/O, and nothing of ours is needed for it.

mod block;
mod checks;
mod decode;
mod exact;
mod fields;
mod filter;
mod finding;
mod forms;
mod host;
mod injection;
mod keccak;
mod keywords;
mod member;
mod message;
mod numbers;
mod redact;
pub mod rule;
mod rules;
mod scanner;
mod session;
mod shell;
mod span;
mod stream;
mod window;
mod words;

pub use exact::{ExactSet, Skipped};
pub use finding::{Finding, Kind};
pub use host::is_listed;
pub use redact::{Redacted, Redactor};
pub use rule::{Pack, Severity};
pub use rules::{Rules, RulesError};
pub use scanner::{Context, Options, Scanner};
pub use session::Session;
pub use stream::{Stream, Verdict};
