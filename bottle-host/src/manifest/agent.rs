//! An agent: its frontmatter, its prompt, and where both come from.

use super::{
    file::{Source, Step},
    git::GitUser,
    names::{NAME, plain_name},
    read::{text, texts},
};
use crate::{paths::Paths, ui::hinted};
use anyhow::{Context, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_yaml::Value;
use std::path::PathBuf;

/// An agent's frontmatter; the body is its system prompt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping with `bottle`")]
#[schemars(title = "Frontmatter of an agent")]
pub struct AgentFields {
    /// The bottle it lives in.
    #[serde(deserialize_with = "name")]
    #[schemars(regex(pattern = NAME))]
    pub bottle: String,
    /// Its skills, by directory name below ~/.claude/skills.
    #[serde(default, deserialize_with = "names", skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = NAME)), extend("uniqueItems" = true))]
    pub skills: Vec<String>,
    /// As whom it commits; over the bottle's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_user: Option<GitUser>,
    /// Claude Code's own, ignored: one file can serve both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub name: Option<Value>,
    /// Claude Code's own, ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub description: Option<Value>,
    /// Claude Code's own, ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub model: Option<Value>,
    /// Claude Code's own, ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub color: Option<Value>,
    /// Claude Code's own, ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub memory: Option<Value>,
    /// Claude Code's own, ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub tools: Option<Value>,
}

/// An agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its name: the file's stem.
    pub name: String,
    /// What its frontmatter says.
    pub fields: AgentFields,
    /// The system prompt; may be empty.
    pub prompt: String,
    /// The whole file: what is approved of an agent that comes with a working directory.
    pub text: String,
    /// Its file.
    pub source: Source,
    /// Does it come with the working directory?
    pub from_project: bool,
    /// The home file of the same name, which this one is used instead of.
    pub shadows: Option<Source>,
}

fn name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    text(d, plain_name)
}

fn names<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    texts(d, plain_name)
}

impl Agent {
    /// Where a value of its frontmatter stands.
    pub fn place(&self, paths: &Paths, steps: &[Step<'_>]) -> String {
        let place = self.source.place(paths, steps).unwrap_or_else(|| self.source.shown(paths));
        format!("{place}: {}", Step::joined(steps))
    }

    /// Where a skill is, held below the skills' directory even when links are followed.
    pub fn skill_dir(paths: &Paths, name: &str) -> Result<PathBuf> {
        let (root, dir) = (paths.skills(), paths.skills().join(name));
        let shown = paths.short(&dir);
        if !dir.is_dir() {
            return Err(hinted(
                format!("there is no directory {shown}"),
                format!("Create {shown}/SKILL.md, or take the skill out of the agent."),
            ));
        }
        let (real_root, real) = (root.canonicalize()?, dir.canonicalize().context("resolve the skill's directory")?);
        if !real.starts_with(&real_root) || real == real_root {
            return Err(hinted(
                format!("{shown} leads out of {}", paths.short(&root)),
                "A skill is a directory of its own there, not a link to another place: copy it.",
            ));
        }
        Ok(real)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skill_stays_below_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { home: dir.path().join("home"), cwd: dir.path().into() };
        for file in ["home/.claude/skills/ok", "elsewhere"] {
            std::fs::create_dir_all(dir.path().join(file)).unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), paths.skills().join("out")).unwrap();
        let dir_of = |name| Agent::skill_dir(&paths, name);
        assert!(dir_of("ok").is_ok());
        for bad in ["out", "missing", ".", ".."] {
            assert!(dir_of(bad).is_err(), "{bad}");
        }
    }
}
