//! The preflight: everything that a launch would do, shown before the y/N. Routes, credentials, sources and isolation
//! come from the host's own data; a backend adds a marked section of its own and nothing else.

use crate::{
    manifest::{Agent, Source},
    paths::Paths,
    plan::Resolved,
    ui,
};
use bottle_api::{BackendInfo, Limits, PlanSummary, WORKSPACE};
use bottle_policy::Route;
use serde::Serialize;

/// The preflight as data: `--format json` prints it, [`Preflight::show`] draws it. Names only, never a value of
/// anything secret.
#[derive(Debug, Serialize)]
pub struct Preflight {
    /// Version of this shape.
    pub version: u32,
    /// The agent, its file, and the file that it shadows.
    pub agent: Named,
    /// The bottle.
    pub bottle: String,
    /// Its files: what it extends, its own last.
    pub bottle_files: Vec<String>,
    /// Its limits, where they are not the backend's own.
    pub limits: Vec<String>,
    /// One per launch.
    pub identity: String,
    /// The backend and the strength of its boundary.
    pub backend: BackendShown,
    /// First line and length of the system prompt.
    pub prompt: Option<String>,
    /// The agent's skills.
    pub skills: Vec<String>,
    /// Names of the agent's variables, with where each comes from.
    pub env: Vec<String>,
    /// The host's variable that holds the model's credential.
    pub model_credential: String,
    /// What may be reached.
    pub routes: Vec<RouteShown>,
    /// What becomes of the agent's work.
    pub workspace: String,
    /// What is weaker than the default.
    pub warnings: Vec<String>,
}

/// A thing of the manifest.
#[derive(Debug, Serialize)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// A file of the same name that is not used.
    pub shadows: Option<String>,
}

/// The backend.
#[derive(Debug, Serialize)]
pub struct BackendShown {
    /// Its name.
    pub name: String,
    /// `process`, `container` or `vm`, as the plugin says.
    pub isolation: String,
    /// The plugin's own section.
    pub says: PlanSummary,
}

/// A route.
#[derive(Debug, Serialize)]
pub struct RouteShown {
    /// The host.
    pub host: String,
    /// Its ports.
    pub ports: Vec<u16>,
    /// Path prefixes; empty: every path.
    pub paths: Vec<String>,
    /// Methods; empty: every method.
    pub methods: Vec<String>,
    /// The injected credential: `$` and the host's variable that holds it.
    pub credential: Option<String>,
    /// The preset that grants it.
    pub preset: Option<String>,
}

impl Preflight {
    /// Gathers it.
    pub fn new(
        paths: &Paths,
        agent: &Agent,
        sources: &[&Source],
        resolved: &Resolved,
        backend: &BackendInfo,
        says: PlanSummary,
    ) -> Self {
        let model = resolved.credential.host_variable();
        let model_secret = resolved.credential.auth().secret;
        let prompt = agent.prompt.trim();
        Self {
            version: 1,
            agent: Named {
                name: agent.name.clone(),
                file: agent.source.shown(paths),
                shadows: agent.shadows.as_ref().map(|s| s.shown(paths)),
            },
            bottle: agent.fields.bottle.clone(),
            bottle_files: sources.iter().map(|source| source.shown(paths)).collect(),
            limits: limits(&resolved.spec.limits),
            identity: resolved.spec.identity.clone(),
            backend: BackendShown { name: backend.name.clone(), isolation: backend.isolation.clone(), says },
            prompt: prompt.lines().next().map(|line| format!("{line} ({} characters)", prompt.chars().count())),
            skills: agent.fields.skills.clone(),
            env: resolved.environment.shown(),
            model_credential: model.into(),
            routes: resolved
                .policy
                .routes
                .iter()
                .map(|route| {
                    let name = |secret: &String| {
                        if *secret == model_secret { format!("${model}") } else { secret.clone() }
                    };
                    let preset = resolved.presets.get(&route.host).map(|preset| (*preset).to_owned());
                    shown(route, route.auth.as_ref().map(|auth| name(&auth.secret)), preset)
                })
                .collect(),
            workspace: format!("{WORKSPACE}, empty; what is made in it goes with the bottle"),
            warnings: resolved.warnings.clone(),
        }
    }

    /// For a person, on standard error, in 80 columns.
    pub fn show(&self) {
        let mut lines: Vec<(String, String)> = vec![];
        let mut line = |label: &str, value: String| lines.push((label.to_owned(), value));
        line("agent", format!("{}  {}", self.agent.name, self.agent.file));
        if let Some(shadowed) = &self.agent.shadows {
            line("", format!("shadows {shadowed}"));
        }
        line("bottle", format!("{}  {}", self.bottle, self.bottle_files.join(", ")));
        line("identity", self.identity.clone());
        line("backend", format!("{}, isolation: {}", self.backend.name, self.backend.isolation));
        line("workspace", self.workspace.clone());
        if !self.limits.is_empty() {
            line("limits", self.limits.join(", "));
        }
        line("prompt", self.prompt.clone().unwrap_or_else(|| "none".into()));
        line("skills", listed(&self.skills));
        line("env", listed(&self.env));
        line("model", format!("${}, injected by the sidecar; the bottle has a placeholder", self.model_credential));
        for (i, route) in self.routes.iter().enumerate() {
            line(if i == 0 { "egress" } else { "" }, route.line());
        }
        line("", "everything else is refused".into());
        ui::say("");
        lines.iter().for_each(|(label, value)| say_wrapped(label, value));
        for (i, (label, value)) in self.backend.says.lines.iter().enumerate() {
            say_wrapped(if i == 0 { &self.backend.name } else { "" }, &format!("{label}: {value}"));
        }
        for warning in self.warnings.iter().chain(&self.backend.says.warnings) {
            say_wrapped("WEAKER", warning);
        }
        ui::say("");
    }
}

impl RouteShown {
    fn line(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let mut line = format!("{}:{}", self.host, ports.join(","));
        if !self.methods.is_empty() {
            line += &format!(" {}", self.methods.join(","));
        }
        match self.paths.len() {
            0 => {}
            1..=3 => line += &format!(" {}", self.paths.join(" ")),
            n => line += &format!(" {} and {} more paths", self.paths[0], n - 1),
        }
        if let Some(credential) = &self.credential {
            line += &format!(" with {credential}");
        }
        if let Some(preset) = &self.preset {
            line += &format!(" ({preset})");
        }
        line
    }
}

fn shown(route: &Route, credential: Option<String>, preset: Option<String>) -> RouteShown {
    RouteShown {
        host: route.host.clone(),
        ports: route.ports.clone(),
        paths: route.paths.clone(),
        methods: route.methods.clone(),
        credential,
        preset,
    }
}

fn limits(limits: &Limits) -> Vec<String> {
    let memory = limits.memory.map(|bytes| format!("memory {} MiB", bytes >> 20));
    let cpus = limits.milli_cpus.map(|milli| format!("cpus {}", milli as f64 / 1000.0));
    let pids = limits.pids.map(|pids| format!("pids {pids}"));
    [memory, cpus, pids].into_iter().flatten().collect()
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

const LABEL_WIDTH: usize = 10;
/// Eighty columns without `bottle: ` and the label.
const VALUE_WIDTH: usize = 80 - 8 - LABEL_WIDTH - 2;

fn say_wrapped(label: &str, value: &str) {
    let mut rows = vec![String::new()];
    for word in value.split_inclusive(' ') {
        let row = rows.last_mut().map(|r| r.chars().count()).unwrap_or_default();
        if row > 0 && row + word.trim_end().chars().count() > VALUE_WIDTH {
            rows.push(String::new());
        }
        if let Some(row) = rows.last_mut() {
            row.push_str(word);
        }
    }
    for (i, row) in rows.iter().enumerate() {
        let label = if i == 0 { label } else { "" };
        ui::say(format!("{label:>LABEL_WIDTH$}  {}", row.trim_end()));
    }
}
