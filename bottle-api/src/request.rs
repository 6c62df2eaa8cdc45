//! The requests and answers of the verbs: JSON on the wire, these types on both ends.

use crate::spec::{Finding, Image};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a plugin is given once, when it is created.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateConfig {
    /// The most verbose level worth sending to the host: 0 off, 1 error … 5 trace.
    pub log_level: u32,
    /// Are backtraces wanted with a panic?
    pub backtrace: bool,
}

/// Calls that need nothing but the host's variables: `diagnose`, `list_active`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnvRequest {
    /// The host's values of the variables that the backend named.
    pub env: BTreeMap<String, String>,
    /// Only things with this owner are ours.
    pub owner: String,
    /// `diagnose`: first make the images ready that bottles are made of.
    pub build: Option<ImageBuild>,
}

/// How images are to be made ready.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageBuild {
    /// Claude Code's version; empty: the one that the backend pins.
    pub claude: String,
}

/// `diagnose`'s answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Diagnosis {
    /// One per need.
    pub findings: Vec<Finding>,
    /// The images that bottles are made of; `None` where the backend has none, or cannot look.
    pub images: Option<Vec<Image>>,
}

/// `attach`: find a running bottle again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachRequest {
    /// Which.
    pub identity: String,
    /// Only things with this owner are ours.
    pub owner: String,
    /// The host's variables.
    pub env: BTreeMap<String, String>,
}

/// `builder`: a bottle to make an image of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BuilderRequest {
    /// The running bottle beside which it is made.
    pub identity: String,
    /// Only things with this owner are ours.
    pub owner: String,
    /// The image to go on from; empty: the one that the bottle runs in.
    pub image: String,
    /// The host's variables.
    pub env: BTreeMap<String, String>,
}

/// `commit`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CommitRequest {
    /// What tells this image from the bottle's others: letters, digits and dashes.
    pub name: String,
}

/// `commit`'s answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Built {
    /// The engine's id, as in the ledger.
    pub id: String,
    /// The image's name, for people.
    pub name: String,
}

/// `launch`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchRequest {
    /// The policy document for the sidecar, opaque to a backend.
    pub policy: serde_json::Value,
}

/// A thing in the host's ledger: announced before it is made, confirmed after.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct LedgerEntry {
    /// The entry's own id; the thing carries it as a label.
    pub uuid: String,
    /// The bottle it belongs to.
    pub identity: String,
    /// The backend's own word for what it is: `network`, `container`…
    pub kind: String,
    /// Its name, for people. Never enough to remove it by.
    pub name: String,
    /// The engine's id, once created.
    pub id: Option<String>,
}

/// `prepare_cleanup`: find what earlier bottles left behind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanupRequest {
    /// Entries of the ledger whose owner is gone.
    pub entries: Vec<LedgerEntry>,
    /// Beyond those: anything that carries our labels and belongs to none of `live`.
    pub sweep: bool,
    /// With `sweep`: what carries our labels with another owner, too.
    pub foreign: bool,
    /// Instead of all that: what carries no label of ours, and a name like ours.
    pub unlabelled: bool,
    /// Identities whose owner is alive: never touched.
    pub live: Vec<String>,
    /// Ids of images that a kept state goes on from: never touched, and no business of a ledger's any more.
    pub keep: Vec<String>,
    /// Only things with this owner are ours.
    pub owner: String,
    /// The host's variables.
    pub env: BTreeMap<String, String>,
}

/// One thing that a cleanup will remove.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CleanupItem {
    /// The backend's word for what it is.
    pub kind: String,
    /// Its name, for people.
    pub name: String,
    /// The engine's id; empty where an entry of the ledger has nothing behind it any more.
    pub id: String,
    /// The bottle it belongs to.
    pub identity: String,
    /// The ledger's entry, where there is one.
    pub uuid: String,
    /// It has another owner.
    pub foreign: bool,
    /// Nothing but its name says that it may have been a bottle's.
    pub unlabelled: bool,
}

impl From<&LedgerEntry> for CleanupItem {
    fn from(entry: &LedgerEntry) -> Self {
        Self {
            kind: entry.kind.clone(),
            name: entry.name.clone(),
            id: entry.id.clone().unwrap_or_default(),
            identity: entry.identity.clone(),
            uuid: entry.uuid.clone(),
            foreign: false,
            unlabelled: false,
        }
    }
}

impl From<&CleanupItem> for LedgerEntry {
    fn from(item: &CleanupItem) -> Self {
        Self {
            uuid: item.uuid.clone(),
            identity: item.identity.clone(),
            kind: item.kind.clone(),
            name: item.name.clone(),
            id: Some(item.id.clone()).filter(|id| !id.is_empty()),
        }
    }
}

/// `execute`'s and `close`'s request.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadlineRequest {
    /// Milliseconds from now. What is not done by then is reported as left.
    pub deadline_ms: u64,
}

/// `execute`'s answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanupOutcome {
    /// Gone now, or already gone.
    pub removed: Vec<CleanupItem>,
    /// Still there, each with the reason.
    pub left: Vec<(CleanupItem, String)>,
}

/// `describe`'s answer: where the bottle's sidecar is, as the bottle sees it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct BottleInfo {
    /// The bottle's own name in the backend's engine.
    pub name: String,
    /// Address or name of the sidecar, from inside.
    pub sidecar_host: String,
    /// Names of the sidecar, from inside: no proxy for these.
    pub sidecar_names: Vec<String>,
    /// Its processes are in groups of whoever started it, which no unprivileged user can give up. They have no number in the
    /// bottle: only what is bound into it could be of theirs, and the plan's warnings name them. Any other group is a hole.
    pub unmapped_groups: bool,
}

/// `start`: a process in the bottle.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StartRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment beside the instance's own. Never a secret: those travel by the helper.
    pub env: BTreeMap<String, String>,
    /// Working directory; empty: the instance's own.
    pub cwd: String,
    /// Numeric user and group.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// A terminal of this size (columns, rows), or none.
    pub tty: Option<(u16, u16)>,
}

/// `wait`'s answer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ExitStatus {
    /// The process's exit code; 128 + n for signal n.
    pub code: i32,
}

/// `resize`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResizeRequest {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// `signal`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SignalRequest {
    /// The signal's number on Linux.
    pub signal: i32,
}

/// `put`: unpack a tar stream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PutRequest {
    /// Directory to unpack in; it exists.
    pub dest: String,
    /// Owner of everything in it, where not the archive's own.
    pub owner: Option<(u32, u32)>,
}

/// `get`: pack a path into a tar stream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GetRequest {
    /// Path in the bottle.
    pub path: String,
    /// Give up after this many bytes of archive; 0: no limit.
    pub max_bytes: u64,
}

/// `channel`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelRequest {
    /// `sidecar`.
    pub name: String,
}

/// An event of `progress`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What is being done, in a few words: `build the agent image`.
    pub step: String,
    /// A line of detail, where there is one.
    pub detail: String,
    /// The step is over.
    pub done: bool,
}

/// `artifact`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ArtifactRequest {
    /// See [`crate::SIDECAR_ARTIFACT`].
    pub name: String,
    /// `linux/amd64`, `linux/arm64`.
    pub platform: String,
}
