//! `start`: from the manifest to a bottle's life.
//!
//! ```text
//! manifest ─ resolve ─▶ spec ─ prepare ─▶ plan ─ preflight, y/N ─▶ secrets ─▶ life ─▶ the agent's exit code
//! ```

use crate::{
    cli::{Format, Start},
    life::{Life, Session},
    manifest::{Agent, Bottle, Isolation, Manifest, ProjectAgents},
    paths::Paths,
    plan::{self, Resolved, credential::ModelCredential},
    plugin::{self, Backend, Services},
    preflight::Preflight,
    session::terminal::Terminal,
    signals::Cancellation,
    state::{self, Metadata, State},
    ui::{self, UsageError, hinted},
};
use anyhow::{Context, Result};
use bottle_api::BackendInfo;
use rustix::process::{Resource, Rlimit, setrlimit};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Runs `start`; the exit code is the agent's.
pub(super) fn run(backend: Option<&str>, args: &Start) -> Result<u8> {
    // Secrets pass through this process: a crash must not write them to a core file.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let cancel = Cancellation::install()?;
    cancel.conclude(start(backend, args, &cancel))
}

fn start(backend: Option<&str>, args: &Start, cancel: &Cancellation) -> Result<u8> {
    let paths = Paths::from_env()?;
    let manifest = Manifest::load(&paths)?;
    let (agent, bottle, sources) = manifest.resolve(&paths, &args.agent)?;
    check_project_agent(&paths, agent, &bottle, args.yes)?;
    let credential = ModelCredential::from_env()?;
    if !args.dry_run {
        state::make_owner(&paths)?;
    }
    let slug = state::slug(&agent.name);
    let identity = state::new_identity(&slug)?;
    let mut resolved = plan::resolve(&paths, agent, &bottle, credential, &identity, &slug)
        .with_context(|| format!("{}, bottle {}", agent.source.shown(&paths), agent.fields.bottle))?;
    let headless = args.prompt.is_some();
    if !headless && !args.dry_run && !Terminal::is_there() {
        return Err(UsageError("there is no terminal for the session; say --prompt TEXT to run headless".into()).into());
    }
    let services = Services::from_env();
    let backend = plugin::select(&plugin::chosen_name(backend), &services)?;
    resolved.spec.env = backend.env();
    check_isolation(&bottle, &backend.info)?;
    if args.raw_terminal {
        resolved.warnings.push("the agent may reach your clipboard and query your terminal (--raw-terminal)".into());
    }

    if args.dry_run {
        let stage = tempfile::tempdir()?;
        let plan = backend.prepare(&resolved.spec, stage.path(), cancel.fd())?;
        let preflight = Preflight::new(&paths, agent, &sources, &resolved, &backend.info, plan.summary()?);
        match args.format {
            Format::Json => ui::json(&preflight)?,
            Format::Text => preflight.show(),
        }
        ui::say("dry run: nothing was created");
        return Ok(0);
    }
    let state = State::create(&paths, &metadata(&resolved, &backend)?)?;
    let stage = state.stage();
    let life = Life::begin(state, &paths.owner(), services, backend);
    let plan = life.backend().prepare(&resolved.spec, &stage, cancel.fd())?;
    Preflight::new(&paths, agent, &sources, &resolved, &life.backend().info, plan.summary()?).show();
    if !args.yes && !ui::confirm("launch this agent?", cancel)? {
        ui::say("aborted by user");
        return Ok(0);
    }
    let session = Session {
        argv: claude_argv(args, !agent.prompt.trim().is_empty()),
        env: resolved.environment.collect(cancel)?,
        headless,
        raw_terminal: args.raw_terminal,
    };
    let code = life.live(plan, &resolved, &resolved.sidecar_secrets()?, session, cancel)?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Whoever wrote the working directory wrote its agents: somebody has to have seen the preflight, if the bottle lets
/// them in at all.
fn check_project_agent(paths: &Paths, agent: &Agent, bottle: &Bottle, yes: bool) -> Result<()> {
    if agent.source.path.starts_with(paths.root()) {
        return Ok(());
    }
    let shown = agent.source.shown(paths);
    if bottle.project_agents == ProjectAgents::Deny {
        let message = format!("{shown} comes with the working directory, and its bottle says `project_agents: deny`");
        return Err(hinted(message, format!("Copy what you trust to {}.", paths.short(&paths.root().join("agents")))));
    }
    if yes {
        return Err(UsageError(format!("{shown} comes with the working directory; start it without --yes")).into());
    }
    Ok(())
}

/// The bottle's floor against the backend's strength.
fn check_isolation(bottle: &Bottle, backend: &BackendInfo) -> Result<()> {
    if Isolation::of_backend(&backend.isolation) >= bottle.isolation {
        return Ok(());
    }
    let floor = format!("{:?}", bottle.isolation).to_lowercase();
    Err(hinted(
        format!(
            "the backend {} isolates by `{}`, and the bottle wants `{floor}` at least",
            backend.name,
            ui::printable(&backend.isolation)
        ),
        "Choose a stronger backend with --backend, or lower `isolation` in the bottle.",
    ))
}

fn metadata(resolved: &Resolved, backend: &Backend) -> Result<Metadata> {
    Ok(Metadata {
        identity: resolved.spec.identity.clone(),
        agent: resolved.spec.agent.clone(),
        backend: backend.info.name.clone(),
        env: backend.env(),
        started: OffsetDateTime::now_utc().format(&Rfc3339)?,
        pid: std::process::id(),
    })
}

fn claude_argv(args: &Start, has_prompt: bool) -> Vec<String> {
    let mut argv = vec!["claude".to_owned(), "--dangerously-skip-permissions".into()];
    if has_prompt {
        argv.extend(["--append-system-prompt-file".into(), plan::files::PROMPT_PATH.into()]);
    }
    argv.extend(args.arguments.iter().cloned());
    if let Some(prompt) = &args.prompt {
        argv.extend(["-p".into(), prompt.clone()]);
    }
    argv
}
