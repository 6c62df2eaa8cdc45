//! What the user wants and what a backend tells about itself.
//!
//! Rules for all data that crosses: new fields are `#[serde(default)]`, unknown ones are ignored, open sets are
//! strings. A setting that must not be ignored is named in [`BottleSpec::requires`], so that a plugin which does
//! not know it refuses the bottle instead of building a weaker one.

use crate::provision::Provision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The must-understand settings that this version of the crate can represent.
pub const API_FEATURES: &[&str] = &[];

/// In [`BottleSpec::requires`] where [`BottleSpec::workspace`] is set, and in the [`BackendInfo::features`] of a backend
/// that unpacks it.
pub const WORKSPACE_FEATURE: &str = "workspace";

/// What the user wants, resolved by the host: all that a backend may know before the y/N. No secret is in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct BottleSpec {
    /// `<slug>-<5 random base36>`: one per launch.
    pub identity: String,
    /// The agent's name made safe, at most 40 characters.
    pub slug: String,
    /// The agent's name in the manifest.
    pub agent: String,
    /// The manifest's bottle it lives in.
    pub bottle: String,
    /// Who owns what this launch creates: machine, user and state directory, hashed. Goes on every label.
    pub owner: String,
    /// The sidecar's daemons, by name.
    pub daemons: Vec<String>,
    /// Resource limits; what is absent is the backend's own default.
    pub limits: Limits,
    /// Files for the bottle, step by step.
    pub provision: Provision,
    /// The host's values of the variables that [`BackendInfo::env`] names.
    pub env: BTreeMap<String, String>,
    /// What the workspace begins with: a file of the stage directory, a tar archive relative to `/` of nothing but
    /// [`crate::WORKSPACE`]. None: it begins empty. See [`WORKSPACE_FEATURE`].
    pub workspace: Option<String>,
    /// Settings in use that a backend must understand or refuse.
    pub requires: Vec<String>,
}

/// Resource limits.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// What a backend says about itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct BackendInfo {
    /// The name that it was exported under.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// `process`, `container` or `vm`: the strength of its boundary.
    pub isolation: String,
    /// Must-understand settings that it knows beyond [`API_FEATURES`].
    pub features: Vec<String>,
    /// Names of the host's variables that it wants; the host passes those and no others.
    pub env: Vec<String>,
}

/// What a plugin adds to the preflight, in a section of its own. Data, not text: the host owns the layout.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct PlanSummary {
    /// Label and value, in the order to show.
    pub lines: Vec<(String, String)>,
    /// What is weaker than the default.
    pub warnings: Vec<String>,
    /// Values of the host's variables that lead back to where this plan goes, should what they lead through change: they
    /// are remembered over the host's own.
    pub env: BTreeMap<String, String>,
}

/// A running bottle, for `list active`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct ActiveBottle {
    /// See [`BottleSpec::identity`].
    pub identity: String,
    /// The agent's name.
    pub agent: String,
    /// Start time, RFC 3339.
    pub started: String,
    /// The sidecar's daemons, by name.
    pub daemons: Vec<String>,
}

/// An image that bottles are made of.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Image {
    /// What it is for: `agent`, `sidecar`…
    pub role: String,
    /// Its name.
    pub name: String,
    /// `current`, `outdated` (built from another recipe: the next start builds it anew), `own` (not built by bottle, used
    /// as it is) or `missing`.
    pub state: String,
    /// The engine's id; empty where it is missing.
    pub id: String,
    /// Claude Code's version, where the backend knows it.
    pub claude: Option<String>,
    /// Bytes on the engine's disk.
    pub bytes: u64,
    /// When it was built, RFC 3339; empty where it is missing.
    pub created: String,
}

/// One thing that a backend needs and whether it is there, for `doctor`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Finding {
    /// What is needed.
    pub what: String,
    /// Is it there?
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to type to get it.
    pub hint: Option<String>,
}
