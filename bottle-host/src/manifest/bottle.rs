//! A bottle's frontmatter, and what it comes to when it is folded with what it extends.

use super::{
    Agent,
    egress::Egress,
    env::Env,
    file::{Source, Step},
    git::{self, GitEntry, GitUser},
    limits::LimitFields,
    names::{NAME, plain_name},
    read::{Texts, some_word},
};
use crate::paths::Paths;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor},
};
use std::{borrow::Cow, fmt};

/// A bottle's frontmatter, as one file says it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys and values")]
#[schemars(title = "Frontmatter of a bottle")]
pub struct BottleFields {
    /// Bottles to begin with, folded from left to right.
    #[serde(skip_serializing_if = "Names::is_empty")]
    pub extends: Names,
    /// The agent's environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Env>,
    /// The remotes that the agent may use.
    #[serde(deserialize_with = "git::entries", skip_serializing_if = "Option::is_none")]
    pub git: Option<Vec<GitEntry>>,
    /// As whom the agent commits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_user: Option<GitUser>,
    /// What may be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Give the agent the tools by which it asks its operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervise: Option<bool>,
    /// The weakest boundary that will do.
    #[serde(deserialize_with = "some_word", skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Resource limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitFields>,
    /// May an agent that comes with a working directory live in it?
    #[serde(deserialize_with = "some_word", skip_serializing_if = "Option::is_none")]
    pub project_agents: Option<ProjectAgents>,
}

/// A bottle, folded with what it extends.
#[derive(Debug, Clone, Default)]
pub struct Bottle {
    /// The agent's environment.
    pub env: Env,
    /// The remotes that the agent may use.
    pub git: Vec<GitEntry>,
    /// As whom the agent commits.
    pub git_user: GitUser,
    /// What may be reached.
    pub egress: Egress,
    /// May the agent ask its operator?
    pub supervise: bool,
    /// The weakest boundary that will do.
    pub isolation: Isolation,
    /// Resource limits.
    pub limits: LimitFields,
    /// May an agent that comes with a working directory live in it?
    pub project_agents: ProjectAgents,
    /// The files that it was folded from, its own last.
    pub files: Vec<Source>,
}

impl BottleFields {
    /// These fields with another file's over them: `env` by name, `git_user` by field, everything else as a whole where
    /// it is declared.
    #[must_use]
    pub fn under(mut self, child: &Self) -> Self {
        match (&mut self.env, &child.env) {
            (Some(env), Some(child)) => env.0.extend(child.0.clone()),
            (env, child) => *env = child.clone().or(env.take()),
        }
        self.git = child.git.clone().or(self.git);
        self.git_user = match (self.git_user, &child.git_user) {
            (Some(user), Some(child)) => Some(user.under(child)),
            (user, child) => child.clone().or(user),
        };
        self.egress = child.egress.clone().or(self.egress);
        self.supervise = child.supervise.or(self.supervise);
        self.isolation = child.isolation.or(self.isolation);
        self.limits = child.limits.clone().or(self.limits);
        self.project_agents = child.project_agents.or(self.project_agents);
        self
    }

    /// The bottle that these fields come to.
    pub(super) fn into_bottle(self, files: Vec<Source>) -> Bottle {
        Bottle {
            env: self.env.unwrap_or_default(),
            git: self.git.unwrap_or_default(),
            git_user: self.git_user.unwrap_or_default(),
            egress: self.egress.unwrap_or_default(),
            supervise: self.supervise.unwrap_or_default(),
            isolation: self.isolation.unwrap_or_default(),
            limits: self.limits.unwrap_or_default(),
            project_agents: self.project_agents.unwrap_or_default(),
            files,
        }
    }
}

impl Bottle {
    /// Who an agent's commits are by: its own fields over the bottle's.
    pub fn git_user_of(&self, agent: &Agent) -> GitUser {
        self.git_user.clone().under(&agent.fields.git_user.clone().unwrap_or_default())
    }

    /// Where a value stands, `~/…/b.md:4:6: env.A` say: in the last file that has it, for that one won.
    pub fn place(&self, paths: &Paths, steps: &[Step<'_>]) -> String {
        let key = Step::joined(steps);
        match self.files.iter().rev().find_map(|file| file.place(paths, steps)) {
            Some(place) => format!("{place}: {key}"),
            None => key,
        }
    }
}

/// One name or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl Names {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(s),
            names => names.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name or a list of names")
    }
    fn visit_str<E: Error>(self, name: &str) -> Result<Names, E> {
        plain_name(name).map(|name| Names(vec![name])).map_err(E::custom)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<Names, A::Error> {
        Texts { parse: plain_name, empty: None }.visit_seq(names).map(Names)
    }
}

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let name = json_schema!({ "type": "string", "pattern": NAME });
        json_schema!({ "anyOf": [name, { "type": "array", "items": name, "uniqueItems": true }] })
    }
}

/// Strength of a boundary, weakest first. The namespace backend counts as `container`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A process of the user's.
    Process,
    /// A container: the kernel is shared.
    #[default]
    Container,
    /// A machine of its own.
    Vm,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Container => "container",
            Self::Vm => "vm",
        })
    }
}

impl Isolation {
    /// What a backend calls it. An unknown word is the weakest.
    pub fn of_backend(word: &str) -> Self {
        match word {
            "vm" => Self::Vm,
            "container" => Self::Container,
            _ => Self::Process,
        }
    }
}

/// `project_agents:`
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ProjectAgents {
    /// After somebody has approved what they say.
    #[default]
    Ask,
    /// Never.
    Deny,
}
