//! What host and sidecar say to each other once the bundle serves: frames of the control channel.

use crate::Proposal;
use serde::{Deserialize, Serialize};

/// The rule of a request that came to the proxy without any password, and was asked for one.
pub const CHALLENGE_RULE: &str = "challenge";

/// From the host.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Down {
    /// A new policy document. A bad one changes nothing. Answered by [`Up::Reloaded`].
    Reload {
        /// [`crate::Policy`] as JSON: whether it is one is said by who must understand it.
        policy: serde_json::Value,
    },
    /// End this daemon and start it anew, e.g. to have it read its configuration again.
    Restart {
        /// Which.
        daemon: String,
    },
    /// A piece of a program of the host's own that a daemon is. With the last piece the daemon is started; answered by
    /// [`Up::Serving`].
    Program {
        /// Which.
        daemon: String,
        /// Base64.
        bytes: String,
        /// It is the last one.
        last: bool,
    },
    /// How a proposal stands, whenever that changes or is asked for by [`Up::Asked`].
    Answer {
        /// The proposal's.
        id: String,
        /// How.
        answer: Answer,
    },
    /// The session is over: end in order, the last log lines included. A channel that closes ends everything at once.
    Stop,
}

/// From the sidecar.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Up {
    /// A line for the bottle's egress log.
    Log(LogLine),
    /// What became of a [`Down::Reload`].
    Reloaded {
        /// Why the old table still stands, if it does.
        error: Option<String>,
    },
    /// A daemon whose program came by [`Down::Program`] serves.
    Serving {
        /// Which.
        daemon: String,
    },
    /// An agent asks its operator for something. Answered by [`Down::Answer`], at first with [`Answer::Pending`] once the
    /// proposal cannot be lost any more.
    Proposal {
        /// Of its own: see [`crate::proposal::is_id`].
        id: String,
        /// What for.
        proposal: Proposal,
    },
    /// How does a proposal stand?
    Asked {
        /// The proposal's.
        id: String,
    },
    /// A daemon ended. It is started again, unless it ends again and again: then the bundle ends.
    DaemonEnded {
        /// Which.
        daemon: String,
        /// How.
        status: String,
    },
}

/// How a proposal stands.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// Nobody has decided.
    Pending,
    /// It was granted, and holds.
    Approved {
        /// What the operator says to it.
        note: String,
    },
    /// It was not.
    Rejected {
        /// Why not, in the operator's words.
        reason: String,
    },
    /// Nobody was asked, or nobody knows of it.
    Refused {
        /// Why.
        message: String,
    },
}

/// One request, allowed or not. No query, no header, no body, no value of any secret.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct LogLine {
    /// When it ended, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// The daemon that it is about: `egress`, `dns` or `git-gate`, and any in a line that tells of its end.
    pub daemon: String,
    /// `allow`, `deny`, or `audit`: it would have been refused, and was sent. The host itself adds lines of `ended`: a
    /// daemon did, and `rule` says how.
    pub decision: String,
    /// The rule that refused it, or the route's host.
    pub rule: String,
    /// Host and port that were asked for, or the name that was looked up; of git-gate upstream's.
    pub host: String,
    /// HTTP method; `CONNECT` for a tunnel without a request; the type of a DNS query; `fetch` or `push` of git-gate.
    pub method: String,
    /// Path without query; of git-gate the repository there, and the refs of a push.
    pub path: String,
    /// Status that the bottle was answered with.
    pub status: u16,
    /// Bytes of the request's body that were sent on.
    pub sent: u64,
    /// Bytes of the response's body that were passed back.
    pub received: u64,
    /// Milliseconds from the request's head to the response's end.
    pub ms: u64,
    /// What the scanner found and what went on all the same: rule and place. `redacted:` begins what was taken out first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
    /// Lines of allowed requests that were lost before this one because the host did not keep up.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// Further refusals by the same rule at the same host that this line stands for, because the host did not keep up.
    /// No refusal is lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeated: u64,
}

impl LogLine {
    /// Was it allowed, and nothing else?
    pub fn is_allowed(&self) -> bool {
        self.decision == "allow"
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}
