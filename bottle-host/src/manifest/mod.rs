//! What the user wrote: one Markdown file with YAML frontmatter per bottle and per agent.
//!
//! The file's stem is the name. Bottles live in `~/.claude-bottle/bottles/` only: a cloned repository may bring agents
//! of its own (`./.claude-bottle/agents/`), but never a boundary, so it can never point a credential at a host of its
//! choosing.

mod bottle;
mod file;
mod mistake;

pub use bottle::{Bottle, BottleFields, EnvValue, Isolation, ProjectAgents, Route, RouteAuth, is_variable};
pub use file::Source;

use crate::{
    paths::Paths,
    ui::{self, hinted},
};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;

/// An agent's frontmatter; the body is its system prompt.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFields {
    /// The bottle it lives in.
    pub bottle: String,
    /// Its skills, by directory name.
    #[serde(default)]
    pub skills: Vec<String>,
    // Claude Code's own subagent fields: accepted, so that one file can serve both, and ignored.
    #[serde(default, rename = "name")]
    _name: Ignored,
    #[serde(default, rename = "description")]
    _description: Ignored,
    #[serde(default, rename = "model")]
    _model: Ignored,
    #[serde(default, rename = "color")]
    _color: Ignored,
    #[serde(default, rename = "memory")]
    _memory: Ignored,
    #[serde(default, rename = "tools")]
    _tools: Ignored,
}

type Ignored = Option<serde_yaml::Value>;

/// An agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its name: the file's stem.
    pub name: String,
    /// What its frontmatter says.
    pub fields: AgentFields,
    /// The system prompt; may be empty.
    pub prompt: String,
    /// Its file.
    pub source: Source,
    /// The home file of the same name, which this one is used instead of.
    pub shadows: Option<Source>,
}

/// Everything that was found. A file that cannot be read does not hide the others.
pub struct Manifest {
    agents: BTreeMap<String, Result<Agent>>,
    bottles: BTreeMap<String, Result<(BottleFields, Source)>>,
}

impl Manifest {
    /// Reads all files of the home and of the working directory.
    pub fn load(paths: &Paths) -> Result<Self> {
        let (home, project) = (paths.root(), paths.cwd.join(".claude-bottle"));
        if project != home && project.join("bottles").is_dir() {
            ui::warn("ignoring ./.claude-bottle/bottles: bottles are defined in ~/.claude-bottle/bottles only");
        }
        let mut bottles = BTreeMap::new();
        for source in file::sources(&home.join("bottles"))? {
            let bottle = source.read().and_then(|text| Ok((text.parse()?, source.clone())));
            bottles.insert(source.name.clone(), bottle);
        }
        let mut agents: BTreeMap<String, Result<Agent>> = BTreeMap::new();
        let project = (project != home).then_some(&project);
        for dir in [Some(&home), project].into_iter().flatten() {
            for source in file::sources(&dir.join("agents"))? {
                let shadows = agents.get(&source.name).and_then(|a| Some(a.as_ref().ok()?.source.clone()));
                agents.insert(source.name.clone(), read_agent(&source, shadows));
            }
        }
        Ok(Self { agents, bottles })
    }

    /// Every agent, or why it cannot be read.
    pub fn agents(&self) -> impl Iterator<Item = (&str, &Result<Agent>)> {
        self.agents.iter().map(|(name, agent)| (name.as_str(), agent))
    }

    /// An agent and its bottle, folded with what that extends; the bottle's files, its own last.
    pub fn resolve(&self, paths: &Paths, name: &str) -> Result<(&Agent, Bottle, Vec<&Source>)> {
        let Some(agent) = self.agents.get(name) else {
            let known: Vec<&str> = self.agents.keys().map(String::as_str).collect();
            let dir = paths.short(&paths.root().join("agents"));
            return Err(match known.as_slice() {
                [] => hinted(format!("no agent `{name}`: there is none at all"), format!("Write one: {dir}/{name}.md")),
                _ => hinted(
                    format!("no agent `{name}`; there are: {}", known.join(", ")),
                    format!("Agents are {dir}/NAME.md."),
                ),
            });
        };
        let agent = as_ref(agent)?;
        let mut sources = vec![];
        let folded = self.fold(paths, &agent.fields.bottle, &agent.source, &mut vec![], &mut sources)?;
        Ok((agent, folded.into(), sources))
    }

    /// A bottle over all that it extends. `chain` is the way here, `named_by` its last file.
    fn fold<'m>(
        &'m self,
        paths: &Paths,
        name: &str,
        named_by: &Source,
        chain: &mut Vec<String>,
        sources: &mut Vec<&'m Source>,
    ) -> Result<BottleFields> {
        let Some(found) = self.bottles.get(name) else {
            let dir = paths.short(&paths.root().join("bottles"));
            let known: Vec<&str> = self.bottles.keys().map(String::as_str).collect();
            return Err(hinted(
                format!("{}: no bottle `{name}`", named_by.shown(paths)),
                match known.as_slice() {
                    [] => format!("Write it: {dir}/{name}.md"),
                    _ => format!("Bottles are {dir}/NAME.md; there are: {}.", known.join(", ")),
                },
            ));
        };
        let (fields, source) = as_ref(found)?;
        chain.push(name.to_owned());
        if chain[..chain.len() - 1].iter().any(|earlier| earlier == name) {
            let way = chain.join(" -> ");
            return Err(hinted(
                format!("{}: bottles extend one another in a circle: {way}", named_by.shown(paths)),
                "Take one `extends` of the circle out.",
            ));
        }
        let mut folded = BottleFields::default();
        for parent in &fields.extends.0 {
            folded = folded.under(&self.fold(paths, parent, source, chain, sources)?);
        }
        chain.pop();
        if !sources.iter().any(|s| s.name == source.name) {
            sources.push(source);
        }
        Ok(folded.under(fields))
    }
}

/// An error that is kept can be told more than once, as text.
fn as_ref<T>(kept: &Result<T>) -> Result<&T> {
    kept.as_ref().map_err(|error| match ui::hint_of(error) {
        Some(hint) => hinted(format!("{error:#}"), hint),
        None => anyhow::anyhow!("{error:#}"),
    })
}

fn read_agent(source: &Source, shadows: Option<Source>) -> Result<Agent> {
    let text = source.read()?;
    let fields: AgentFields = text.parse()?;
    for skill in &fields.skills {
        if !is_plain_name(skill) {
            bail!("{}: the skill `{skill}` is no plain directory name", source.path.display());
        }
    }
    if !is_plain_name(&fields.bottle) {
        bail!("{}: the bottle `{}` is no plain name", source.path.display(), fields.bottle);
    }
    Ok(Agent { name: source.name.clone(), fields, prompt: text.body, source: source.clone(), shadows })
}

/// `^[A-Za-z0-9][A-Za-z0-9._-]*$`
fn is_plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// Where a skill is, held below the skills' directory even when links are followed.
pub fn skill_dir(paths: &Paths, name: &str) -> Result<std::path::PathBuf> {
    let (root, dir) = (paths.skills(), paths.skills().join(name));
    if !dir.is_dir() {
        return Err(hinted(
            format!("skill `{name}`: there is no directory {}", paths.short(&dir)),
            format!("Create {}/SKILL.md, or take the skill out of the agent.", paths.short(&dir)),
        ));
    }
    let (real_root, real) = (root.canonicalize()?, dir.canonicalize().context("resolve the skill's directory")?);
    if !real.starts_with(&real_root) || real == real_root {
        bail!("skill `{name}`: {} leads out of {}", paths.short(&dir), paths.short(&root));
    }
    Ok(real)
}

/// For tests of modules that need a bottle.
#[cfg(test)]
pub(crate) fn bottle_from(yaml: &str) -> Bottle {
    let text = file::Text { path: "test.md".into(), yaml: yaml.into(), first_line: 1, body: String::new() };
    text.parse::<BottleFields>().unwrap().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let paths = Paths { home: dir.path().join("home"), cwd: dir.path().join("work") };
        std::fs::create_dir_all(&paths.cwd).unwrap();
        (dir, paths)
    }

    #[test]
    fn a_project_agent_wins_and_a_project_bottle_is_ignored() {
        let (_dir, paths) = home(&[
            ("home/.claude-bottle/bottles/b.md", "---\n---\n"),
            ("home/.claude-bottle/agents/a.md", "---\nbottle: b\n---\nhome"),
            ("work/.claude-bottle/agents/a.md", "---\nbottle: b\nmodel: opus\n---\nproject\n"),
            ("work/.claude-bottle/agents/c.md", "---\nbottle: evil\n---\n"),
            ("work/.claude-bottle/bottles/evil.md", "---\n---\n"),
        ]);
        let manifest = Manifest::load(&paths).unwrap();
        let (agent, ..) = manifest.resolve(&paths, "a").unwrap();
        assert_eq!((agent.prompt.as_str(), agent.shadows.is_some()), ("project\n", true));
        assert!(manifest.resolve(&paths, "c").unwrap_err().to_string().contains("no bottle `evil`"));
    }

    #[test]
    fn a_broken_file_does_not_hide_the_others() {
        let (_dir, paths) = home(&[
            ("home/.claude-bottle/bottles/b.md", "---\n---\n"),
            ("home/.claude-bottle/agents/good.md", "---\nbottle: b\n---\n"),
            ("home/.claude-bottle/agents/bad.md", "---\nbottle: [\n---\n"),
        ]);
        let manifest = Manifest::load(&paths).unwrap();
        assert!(manifest.resolve(&paths, "good").is_ok());
        assert!(manifest.resolve(&paths, "bad").is_err());
        assert_eq!(manifest.agents().count(), 2);
    }

    #[test]
    fn bottles_extend_one_another_and_the_child_wins() {
        let (_dir, paths) = home(&[
            ("home/.claude-bottle/bottles/base.md", "---\nenv: {A: base, B: base}\nlimits: {pids: 7}\n---\n"),
            (
                "home/.claude-bottle/bottles/net.md",
                "---\nextends: base\nenv: {B: net}\negress: {routes: [{host: a.example}]}\n---\n",
            ),
            ("home/.claude-bottle/bottles/other.md", "---\nenv: {A: other}\nisolation: vm\n---\n"),
            ("home/.claude-bottle/bottles/both.md", "---\nextends: [net, other]\n---\n"),
            (
                "home/.claude-bottle/bottles/closed.md",
                "---\nextends: [both]\negress: {routes: []}\nisolation: process\n---\n",
            ),
            ("home/.claude-bottle/bottles/ring.md", "---\nextends: ring2\n---\n"),
            ("home/.claude-bottle/bottles/ring2.md", "---\nextends: [base, ring]\n---\n"),
            ("home/.claude-bottle/bottles/lost.md", "---\nextends: nowhere\n---\n"),
            ("home/.claude-bottle/agents/a.md", "---\nbottle: both\n---\n"),
            ("home/.claude-bottle/agents/c.md", "---\nbottle: closed\n---\n"),
            ("home/.claude-bottle/agents/r.md", "---\nbottle: ring\n---\n"),
            ("home/.claude-bottle/agents/l.md", "---\nbottle: lost\n---\n"),
        ]);
        let manifest = Manifest::load(&paths).unwrap();
        let (_, both, sources) = manifest.resolve(&paths, "a").unwrap();
        let text = |t: &str| EnvValue::Literal(t.into());
        assert_eq!((&both.env["A"], &both.env["B"]), (&text("other"), &text("net")));
        assert_eq!((both.egress.routes.len(), both.isolation), (1, Isolation::Vm));
        assert_eq!(both.limits.pids.map(u32::from), Some(7));
        assert_eq!(sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["base", "net", "other", "both"]);
        let (_, closed, _) = manifest.resolve(&paths, "c").unwrap();
        assert_eq!((closed.egress.routes.len(), closed.isolation), (0, Isolation::Process));
        let ring = manifest.resolve(&paths, "r").unwrap_err().to_string();
        assert!(ring.contains("circle: ring -> ring2 -> ring"), "{ring}");
        let lost = manifest.resolve(&paths, "l").unwrap_err();
        assert!(lost.to_string().contains("lost.md: no bottle `nowhere`"), "{lost}");
        assert!(ui::hint_of(&lost).unwrap().contains("base, both"));
    }

    #[test]
    fn a_skill_stays_below_its_directory() {
        let (dir, paths) = home(&[("home/.claude/skills/ok/SKILL.md", "x"), ("elsewhere/SKILL.md", "x")]);
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), paths.skills().join("out")).unwrap();
        assert!(skill_dir(&paths, "ok").is_ok());
        for bad in ["out", "missing", ".", ".."] {
            assert!(skill_dir(&paths, bad).is_err(), "{bad}");
        }
    }
}
