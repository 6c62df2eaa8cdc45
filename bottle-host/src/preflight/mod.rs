//! The preflight: everything that a launch would do, shown before the y/N. Routes, credentials, sources and isolation
//! come from the host's own data; a backend adds a marked section of its own and nothing else.

mod text;

use crate::{
    manifest::{Agent, Bottle, GitUser, Isolation, LimitFields, Remote, Source, approval, env::Variable},
    paths::Paths,
    plan::Resolved,
    workspace::Shown,
};
use bottle_api::{BackendInfo, FileEntry, PlanSummary, WORKSPACE};
use bottle_policy::{Mode, Route};
use serde::Serialize;
use std::net::IpAddr;

/// The preflight as data: `--format json` prints it, [`Preflight::show`] draws it. Names only, never a value of
/// anything secret.
#[derive(Debug, Serialize)]
pub struct Preflight<'a> {
    /// Version of this shape.
    pub version: u32,
    /// The agent, its file, and the file that it shadows.
    pub agent: Named,
    /// The bottle.
    pub bottle: String,
    /// Its files: what it extends, its own last.
    pub bottle_files: Vec<String>,
    /// The weakest boundary that will do for it.
    pub isolation_floor: Isolation,
    /// Its limits, where they are not the backend's own.
    pub limits: LimitFields,
    /// One per launch.
    pub identity: String,
    /// The backend and the strength of its boundary.
    pub backend: BackendShown,
    /// The sidecar's daemons.
    pub daemons: Vec<String>,
    /// The agent's command line.
    pub command: Vec<String>,
    /// The system prompt.
    pub prompt: String,
    /// The agent's skills.
    pub skills: Vec<String>,
    /// The agent's variables, with where each value comes from.
    pub env: Vec<Variable>,
    /// Who commits in the bottle are by.
    pub git_user: GitUser,
    /// The files that go into the bottle, beside its certificate authority.
    pub files: Vec<FileShown>,
    /// The host's variable that holds the model's credential.
    pub model_credential: String,
    /// What becomes of what is not granted: `enforce` or `audit`.
    pub egress_mode: Mode,
    /// What may be reached.
    pub routes: Vec<RouteShown>,
    /// The repositories that are fetched from and pushed to, each through the gate.
    pub git: Vec<Remote>,
    /// Hosts that nothing goes to, whatever else is granted.
    pub blocklist: Vec<String>,
    /// The proxy, host and port, through which all of it is reached.
    pub upstream_proxy: Option<String>,
    /// Where the agent works, and what becomes of it.
    pub workspace: String,
    /// The working directory, where it comes along.
    pub cwd: Option<&'a Shown>,
    /// The image that the agent runs in, where it is the bottle's own: never in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What is weaker than the default.
    pub warnings: Vec<String>,
}

/// What the user asked for, as the manifest has it.
pub struct Asked<'a> {
    /// The agent.
    pub agent: &'a Agent,
    /// Its bottle, folded.
    pub bottle: &'a Bottle,
    /// The bottle's files, its own last.
    pub sources: &'a [&'a Source],
    /// The agent's command line.
    pub command: Vec<String>,
    /// How the agent stands.
    pub approval: approval::State,
    /// The image that the agent runs in, where it is the bottle's own.
    pub image: Option<String>,
    /// The working directory, where it comes along.
    pub cwd: Option<&'a Shown>,
    /// What an earlier session left, where this one resumes it.
    pub left: Option<String>,
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
    /// How it stands, should it come with the working directory.
    pub approval: approval::State,
}

/// The backend.
#[derive(Debug, Serialize)]
pub struct BackendShown {
    /// Its name.
    pub name: String,
    /// `process`, `container` or `vm`, as the plugin says.
    pub isolation: String,
    /// The plugin's own section.
    pub says: Says,
}

/// What a plugin adds: marked, and changing nothing of the host's.
#[derive(Debug, Serialize)]
pub struct Says {
    /// Label and value.
    pub lines: Vec<(String, String)>,
    /// What it calls weaker than its default.
    pub warnings: Vec<String>,
}

/// A file that goes into the bottle.
#[derive(Debug, Serialize)]
pub struct FileShown {
    /// Where.
    pub path: String,
    /// Permission bits, octal.
    pub mode: String,
    /// How long.
    pub bytes: usize,
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
    /// The address that is dialled, whatever the host's name says.
    pub address: Option<IpAddr>,
    /// It may be at a private address.
    pub allow_private: bool,
    /// TLS goes through unseen.
    pub tls_passthrough: bool,
}

impl<'a> Preflight<'a> {
    /// Gathers it.
    pub fn new(
        paths: &Paths,
        asked: &Asked<'a>,
        resolved: &Resolved,
        backend: &BackendInfo,
        says: PlanSummary,
    ) -> Self {
        let Asked { agent, bottle, sources, command, cwd, .. } = asked;
        let model = resolved.credential.host_variable();
        let model_secret = resolved.credential.auth().secret;
        let provision = &resolved.spec.provision;
        let steps = [&provision.prompt, &provision.skills, &provision.git, &provision.supervise];
        Self {
            version: 1,
            agent: Named {
                name: agent.name.clone(),
                file: agent.source.shown(paths),
                shadows: agent.shadows.as_ref().map(|s| s.shown(paths)),
                approval: asked.approval.clone(),
            },
            bottle: agent.fields.bottle.clone(),
            bottle_files: sources.iter().map(|source| source.shown(paths)).collect(),
            isolation_floor: bottle.isolation,
            limits: bottle.limits.clone(),
            identity: resolved.spec.identity.clone(),
            backend: BackendShown {
                name: backend.name.clone(),
                isolation: backend.isolation.clone(),
                says: Says { lines: says.lines, warnings: says.warnings },
            },
            daemons: resolved.spec.daemons.clone(),
            command: command.clone(),
            prompt: agent.prompt.trim().into(),
            skills: agent.fields.skills.clone(),
            env: bottle.env.shown(),
            git_user: bottle.git_user_of(agent),
            files: steps.into_iter().flatten().map(FileShown::from).collect(),
            model_credential: model.into(),
            egress_mode: resolved.policy.mode,
            upstream_proxy: resolved
                .policy
                .upstream_proxy
                .as_ref()
                .map(|proxy| format!("{}:{}", proxy.host, proxy.port)),
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
            git: bottle.git.iter().map(Remote::of).collect(),
            blocklist: resolved.policy.scan.blocklist.clone(),
            workspace: match (cwd, &asked.left) {
                (_, Some(left)) => {
                    format!("{WORKSPACE}, as it was left ({left}); what is made in it is saved at the end")
                }
                (Some(_), None) => format!("{WORKSPACE}; what is made in it is saved at the end"),
                (None, None) => format!("{WORKSPACE}, empty; what is made in it is saved at the end"),
            },
            cwd: *cwd,
            image: asked.image.clone(),
            warnings: resolved.warnings.clone(),
        }
    }
}

fn shown(route: &Route, credential: Option<String>, preset: Option<String>) -> RouteShown {
    RouteShown {
        host: route.host.clone(),
        ports: route.ports.clone(),
        paths: widest_first(&route.paths),
        methods: route.methods.clone(),
        credential,
        preset,
        address: route.address,
        allow_private: route.allow_private,
        tls_passthrough: route.tls_passthrough,
    }
}

/// The prefix that lets the most through must not hide behind others.
fn widest_first(paths: &[String]) -> Vec<String> {
    let mut paths = paths.to_vec();
    paths.sort_by_key(|path| path.trim_end_matches('/').matches('/').count() + usize::from(path != "/"));
    paths
}

impl From<&FileEntry> for FileShown {
    fn from(file: &FileEntry) -> Self {
        Self { path: file.path.clone(), mode: format!("{:04o}", file.mode), bytes: file.data.len() }
    }
}
