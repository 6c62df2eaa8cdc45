//! What the user wrote: one Markdown file with YAML frontmatter per bottle and per agent.
//!
//! The file's stem is the name. Bottles live in `~/.claude-bottle/bottles/` only: a cloned repository may bring agents
//! of its own (`./.claude-bottle/agents/`), but never a boundary, so it can never point a credential at a host of its
//! choosing.

mod agent;
pub mod approval;
mod bottle;
pub mod egress;
pub mod env;
mod file;
mod git;
mod limits;
mod mistake;
mod names;
mod read;
mod remote;
mod schema;
mod upstream;
mod yaml;

pub use agent::{Agent, AgentFields};
pub use bottle::{Bottle, BottleFields, Isolation, Names, ProjectAgents};
pub use egress::{Egress, Route};
pub use env::EnvValue;
pub use file::{Source, Step, parse_text};
pub use git::{GitEntry, GitUser};
pub use limits::LimitFields;
pub use remote::Remote;
pub use schema::{Kind, schema};
pub use upstream::{Transport, Upstream};
pub use yaml::{Frontmatter, print};

use crate::{
    paths::Paths,
    ui::{self, hinted},
};
use anyhow::Result;
use std::{collections::BTreeMap, path::Path};

/// `extends` of `extends`: more than anybody means.
const MAX_CHAIN: usize = 32;

impl Frontmatter for BottleFields {}

impl Frontmatter for AgentFields {
    const IGNORED: &'static [&'static str] = &["name", "description", "model", "color", "memory", "tools"];
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
        // Started in the home itself, both are the same.
        let real = |dir: &Path| dir.canonicalize().ok();
        let project = Some(&project).filter(|dir| real(dir).is_some() && real(dir) != real(&home));
        if project.is_some_and(|dir| dir.join("bottles").is_dir()) {
            ui::warn("ignoring ./.claude-bottle/bottles: bottles are defined in ~/.claude-bottle/bottles only");
        }
        let mut bottles = BTreeMap::new();
        for mut source in file::sources(&home.join("bottles"))? {
            let bottle = source.read(paths).map(|(fields, _)| (fields, source.clone()));
            bottles.insert(source.name, bottle);
        }
        let mut agents: BTreeMap<String, Result<Agent>> = BTreeMap::new();
        for (dir, from_project) in [(Some(&home), false), (project, true)] {
            for mut source in dir.map_or(Ok(vec![]), |dir| file::sources(&dir.join("agents")))? {
                let name = source.name.clone();
                let shadows = agents.get(&name).and_then(|a| Some(a.as_ref().ok()?.source.clone()));
                let agent = source.read(paths).map(|(fields, text)| Agent {
                    name: name.clone(),
                    fields,
                    prompt: text.body,
                    text: text.whole,
                    source,
                    from_project,
                    shadows,
                });
                agents.insert(name, agent);
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
                    match mistake::nearest(name, &known) {
                        Some(near) => format!("Do you mean `{near}`?"),
                        None => format!("Agents are {dir}/NAME.md."),
                    },
                ),
            });
        };
        let agent = as_ref(agent)?;
        let mut sources = vec![];
        let named = agent.place(paths, &[Step::Key("bottle")]);
        let folded = self.fold(paths, &agent.fields.bottle, &named, &mut vec![], &mut sources, &mut BTreeMap::new())?;
        let bottle = folded.into_bottle(sources.iter().map(|source| (*source).clone()).collect());
        Ok((agent, bottle, sources))
    }

    /// A bottle over all that it extends. `named` is the place of its name, `chain` the way here, `done` what was folded
    /// already.
    fn fold<'m>(
        &'m self,
        paths: &Paths,
        name: &str,
        named: &str,
        chain: &mut Vec<String>,
        sources: &mut Vec<&'m Source>,
        done: &mut BTreeMap<String, BottleFields>,
    ) -> Result<BottleFields> {
        if let Some(folded) = done.get(name) {
            return Ok(folded.clone());
        }
        let Some(found) = self.bottles.get(name) else {
            let dir = paths.short(&paths.root().join("bottles"));
            let known: Vec<&str> = self.bottles.keys().map(String::as_str).collect();
            return Err(hinted(
                format!("{named}: there is no bottle `{name}`"),
                match known.as_slice() {
                    [] => format!("Write it: {dir}/{name}.md"),
                    _ => match mistake::nearest(name, &known) {
                        Some(near) => format!("Do you mean `{near}`? There are: {}.", known.join(", ")),
                        None => format!("Bottles are {dir}/NAME.md; there are: {}.", known.join(", ")),
                    },
                },
            ));
        };
        let (fields, source) = as_ref(found)?;
        if chain.iter().any(|earlier| earlier == name) {
            if chain.last().is_some_and(|last| last == name) {
                return Err(hinted(format!("{named}: the bottle `{name}` extends itself"), "Take its own name out."));
            }
            let way = chain.join(" -> ");
            return Err(hinted(
                format!("{named}: bottles extend one another in a circle: {way} -> {name}"),
                "Take one `extends` of the circle out.",
            ));
        }
        if chain.len() == MAX_CHAIN {
            let hint = "Let a bottle extend several, `extends: [a, b]`, instead of one after another.";
            return Err(hinted(format!("{named}: `extends` goes through more than {MAX_CHAIN} bottles"), hint));
        }
        chain.push(name.to_owned());
        let mut folded = BottleFields::default();
        for (i, parent) in fields.extends.0.iter().enumerate() {
            let steps = [Step::Key("extends"), Step::Index(i)];
            let place = source.place(paths, &steps).or_else(|| source.place(paths, &steps[..1]));
            let named = format!("{}: extends", place.unwrap_or_else(|| source.shown(paths)));
            folded = folded.under(&self.fold(paths, parent, &named, chain, sources, done)?);
        }
        chain.pop();
        sources.push(source);
        let folded = folded.under(fields);
        done.insert(name.to_owned(), folded.clone());
        Ok(folded)
    }
}

/// An error that is kept can be told more than once, as text.
fn as_ref<T>(kept: &Result<T>) -> Result<&T> {
    kept.as_ref().map_err(|error| match ui::hint_of(error) {
        Some(hint) => hinted(format!("{error:#}"), hint),
        None => anyhow::anyhow!("{error:#}"),
    })
}

/// For tests of modules that need a bottle.
#[cfg(test)]
pub(crate) fn bottle_from(yaml: &str) -> Bottle {
    parse_text::<BottleFields>("test.md", &format!("---\n{yaml}\n---\n")).unwrap().into_bottle(vec![])
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
        assert_eq!((&both.env.0["A"], &both.env.0["B"]), (&text("other"), &text("net")));
        assert_eq!((both.egress.routes.len(), both.isolation), (1, Isolation::Vm));
        assert_eq!(both.limits.pids.map(u32::from), Some(7));
        assert_eq!(sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["base", "net", "other", "both"]);
        let (_, closed, _) = manifest.resolve(&paths, "c").unwrap();
        assert_eq!((closed.egress.routes.len(), closed.isolation), (0, Isolation::Process));
        let ring = manifest.resolve(&paths, "r").unwrap_err().to_string();
        assert!(ring.contains("circle: ring -> ring2 -> ring"), "{ring}");
        let lost = manifest.resolve(&paths, "l").unwrap_err();
        assert!(lost.to_string().contains("lost.md:2:10: extends: there is no bottle `nowhere`"), "{lost}");
        assert!(ui::hint_of(&lost).unwrap().contains("base, both"));
    }

    #[test]
    fn what_a_child_declares_replaces_and_only_env_and_git_user_are_merged() {
        let parent: BottleFields = parse_text(
            "p.md",
            "---\nenv: {A: p, B: p}\ngit: [{Name: x, Upstream: 'https://h.example/x'}]\ngit_user: {name: P, email: p@x}\n\
             egress: {mode: audit, routes: [{host: a.example}]}\nsupervise: true\nlimits: {pids: 5, cpus: 2}\n---\n",
        )
        .unwrap();
        let over = |yaml: &str| {
            let child = parse_text::<BottleFields>("c.md", &format!("---\n{yaml}\n---\n")).unwrap();
            let folded = parent.clone().under(&child).into_bottle(vec![]);
            let user = [folded.git_user.name, folded.git_user.email].map(Option::unwrap_or_default).join(" ");
            let egress = (folded.egress.mode == egress::Mode::Audit, folded.egress.routes.len());
            (folded.env.0.len(), folded.git.len(), user, egress, folded.supervise, folded.limits.shown().join(" "))
        };
        let p = || over("{}");
        assert_eq!(p(), (2, 1, "P p@x".into(), (true, 1), true, "cpus 2 pids 5".into()));
        assert_eq!(over("env: {}"), p());
        assert_eq!(over("env: {B: c, C: c}"), (3, 1, "P p@x".into(), (true, 1), true, "cpus 2 pids 5".into()));
        assert_eq!(over("git: []"), (2, 0, "P p@x".into(), (true, 1), true, "cpus 2 pids 5".into()));
        assert_eq!(over("git_user: {email: c@x}"), (2, 1, "P c@x".into(), (true, 1), true, "cpus 2 pids 5".into()));
        assert_eq!(over("egress: {}"), (2, 1, "P p@x".into(), (false, 0), true, "cpus 2 pids 5".into()));
        assert_eq!(over("supervise: false"), (2, 1, "P p@x".into(), (true, 1), false, "cpus 2 pids 5".into()));
        assert_eq!(over("limits: {cpus: 1}"), (2, 1, "P p@x".into(), (true, 1), true, "cpus 1".into()));
    }
}
