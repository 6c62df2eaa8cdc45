//! `info`: an agent as it is resolved, without a backend and without the value of anything secret.

use crate::{
    cli::Info,
    manifest::{
        Agent, Bottle, GitUser, Isolation, LimitFields, Manifest, ProjectAgents, Remote, Route, Source,
        approval::{self, Approval},
        egress::Mode,
        env::Variable,
    },
    paths::Paths,
    ui::{self, layout},
};
use anyhow::Result;
use serde::Serialize;
use std::io::{self, Write};

/// What `--json` prints; a change that breaks a reader raises `version`.
#[derive(Serialize)]
struct Shown {
    version: u32,
    agent: String,
    file: String,
    /// The home file of the same name that is not used.
    shadows: Option<String>,
    /// How an agent that comes with the working directory stands.
    approval: approval::State,
    bottle: String,
    /// What the bottle was folded from, its own name last.
    bottle_chain: Vec<String>,
    bottle_files: Vec<String>,
    isolation: Isolation,
    project_agents: ProjectAgents,
    supervise: bool,
    limits: LimitFields,
    skills: Vec<String>,
    prompt_characters: usize,
    env: Vec<Variable>,
    git: Vec<Remote>,
    git_user: GitUser,
    egress_mode: Mode,
    presets: Vec<Preset>,
    routes: Vec<Route>,
    blocklist: Vec<String>,
}

#[derive(Serialize)]
struct Preset {
    name: &'static str,
    hosts: &'static [&'static str],
}

/// Runs `info`.
pub(super) fn run(args: &Info) -> Result<u8> {
    let paths = Paths::from_env()?;
    let manifest = Manifest::load(&paths)?;
    let (agent, bottle, sources) = manifest.resolve(&paths, &args.agent)?;
    let shown = Shown::new(&paths, agent, &bottle, &sources)?;
    if args.json {
        ui::json(&shown)?;
    } else {
        io::stdout().write_all(shown.text().as_bytes())?;
    }
    Ok(0)
}

impl Shown {
    fn new(paths: &Paths, agent: &Agent, bottle: &Bottle, sources: &[&Source]) -> Result<Self> {
        let egress = &bottle.egress;
        Ok(Self {
            version: 2,
            agent: agent.name.clone(),
            file: agent.source.shown(paths),
            shadows: agent.shadows.as_ref().map(|s| s.shown(paths)),
            approval: Approval::of(paths, agent, bottle)?.state().clone(),
            bottle: agent.fields.bottle.clone(),
            bottle_chain: sources.iter().map(|s| s.name.clone()).collect(),
            bottle_files: sources.iter().map(|s| s.shown(paths)).collect(),
            isolation: bottle.isolation,
            project_agents: bottle.project_agents,
            supervise: bottle.supervise,
            limits: bottle.limits.clone(),
            skills: agent.fields.skills.clone(),
            prompt_characters: agent.prompt.trim().chars().count(),
            env: bottle.env.shown(),
            git: bottle.git.iter().map(Remote::of).collect(),
            git_user: bottle.git_user_of(agent),
            egress_mode: egress.mode,
            presets: egress.presets.iter().map(|p| Preset { name: p.name(), hosts: p.hosts() }).collect(),
            routes: egress.routes.clone(),
            blocklist: egress.blocklist.clone(),
        })
    }

    /// For a person, in 80 columns.
    fn text(&self) -> String {
        let mut rows: Vec<(&str, Vec<String>)> = vec![
            ("agent", vec![format!("{}  {}", self.agent, self.file)]),
            ("shadows", self.shadows.iter().cloned().collect()),
            ("approval", self.approval_line().into_iter().map(str::to_owned).collect()),
            ("bottle", [vec![self.chain()], self.bottle_files.clone()].concat()),
            ("isolation", vec![format!("{} at least", self.isolation)]),
            ("lets in", vec![self.lets_in().into()]),
            ("limits", or(vec![self.limits.shown().join(", ")], "the backend's own")),
            ("skills", or(vec![self.skills.join(", ")], "none")),
            ("prompt", vec![format!("{} characters", self.prompt_characters)]),
            ("env", or(self.env.iter().map(Variable::line).collect(), "none")),
            ("git", or(self.git.iter().flat_map(Remote::lines).collect(), "none")),
            ("git user", or(self.git_user.shown().into_iter().collect(), "none")),
            ("supervise", vec![if self.supervise { "yes" } else { "no" }.into()]),
        ];
        let mut egress = vec!["api.anthropic.com, with the model's credential".to_owned()];
        if self.egress_mode == Mode::Audit {
            egress.insert(0, "AUDIT: everything is judged and nothing refused".into());
        }
        egress.extend(self.routes.iter().map(route_line));
        egress.extend(self.presets.iter().map(|p| format!("{}: {}", p.name, p.hosts.join(", "))));
        if !self.blocklist.is_empty() {
            egress.push(format!("never {}", self.blocklist.join(", ")));
        }
        rows.push(("egress", egress));
        let lines = rows.iter().flat_map(|(label, values)| layout::lines(label, values, 80));
        lines.map(|line| line + "\n").collect()
    }

    /// The bottle's own name first.
    fn chain(&self) -> String {
        self.bottle_chain.iter().rev().map(String::as_str).collect::<Vec<_>>().join(", over ")
    }

    fn lets_in(&self) -> &'static str {
        match self.project_agents {
            ProjectAgents::Ask => "agents of a working directory, once approved",
            ProjectAgents::Deny => "agents of ~/.claude-bottle alone",
        }
    }

    fn approval_line(&self) -> Option<&'static str> {
        match self.approval {
            approval::State::NotNeeded => None,
            approval::State::Approved => Some("it comes with the working directory, and is approved"),
            approval::State::Needed => {
                Some("it comes with the working directory, and is not approved: start it once without --yes")
            }
            approval::State::Denied => {
                Some("it comes with the working directory, and its bottle lets none of those in")
            }
        }
    }
}

fn route_line(route: &Route) -> String {
    let mut line = route.host.clone();
    if !route.ports.is_empty() {
        line += &format!(":{}", route.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(","));
    }
    for words in [&route.methods, &route.path_allowlist].into_iter().filter(|words| !words.is_empty()) {
        line += &format!(" {}", words.join(", "));
    }
    if let Some(auth) = &route.auth {
        line += &format!(" with ${} as {}", auth.token_ref, word(&auth.scheme));
    }
    if let Some(address) = route.address {
        line += &format!(" AT {address}");
    }
    let flags = [(route.allow_private, " PRIVATE ADDRESSES"), (route.tls_passthrough, " TLS UNSEEN")];
    flags.iter().filter(|(set, _)| *set).for_each(|(_, flag)| line += flag);
    if let Some(responses) = &route.responses {
        line += &format!(" responses: {}", word(responses));
    }
    line
}

/// A word of a set, as a manifest writes it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn or(values: Vec<String>, none: &str) -> Vec<String> {
    if values.iter().all(String::is_empty) { vec![none.into()] } else { values }
}
