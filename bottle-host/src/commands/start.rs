//! `start`: the life of a bottle, from the manifest to nothing left.
//!
//! ```text
//! manifest ─ resolve ─▶ spec ─ prepare ─▶ plan ─ preflight, y/N ─▶ secrets ─ launch ─▶ bottle ─ session ─▶ exit code
//!                                                                     └──────── on every way out ────────▶ teardown
//! ```

use crate::{
    cli::{Format, Start},
    commands::cleanup::take_away,
    fault,
    manifest::Manifest,
    paths::Paths,
    plan::{self, CAPABILITY, Resolved, environment},
    plugin::{self, Backend, Bottle, Plan, Services},
    preflight::Preflight,
    session::{self, Program, Streams, egress_log::EgressLog, terminal::Terminal},
    signals::Cancellation,
    state::{self, Metadata, State},
    ui::{self, UsageError},
};
use anyhow::{Context, Result, bail};
use bottle_api::{LaunchRequest, Secret};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How long a bottle may take to be torn down.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);

/// Runs `start`; the exit code is the agent's.
pub(super) fn run(backend: Option<&str>, args: &Start) -> Result<u8> {
    let cancel = Cancellation::install()?;
    let result = start(backend, args, &cancel);
    match (cancel.signal(), result) {
        (Some(signal), Err(error)) => {
            // Whatever went wrong went wrong because of the signal; what could not be removed was said already.
            ui::say(format!("stopped by signal {signal}: {error:#}"));
            Ok(u8::try_from(128 + signal).unwrap_or(125))
        }
        (_, result) => result,
    }
}

fn start(backend: Option<&str>, args: &Start, cancel: &Cancellation) -> Result<u8> {
    let paths = Paths::from_env()?;
    let manifest = Manifest::load(&paths)?;
    let (agent, bottle, bottle_source) = manifest.resolve(&paths, &args.agent)?;
    if args.yes && !agent.source.path.starts_with(paths.root()) {
        // Whoever wrote the working directory wrote its prompt: somebody has to have seen the preflight.
        let shown = agent.source.shown(&paths);
        return Err(UsageError(format!("{shown} comes with the working directory; start it without --yes")).into());
    }
    let slug = state::slug(&agent.name);
    let identity = state::new_identity(&slug)?;
    let mut resolved = plan::resolve(&paths, agent, bottle, &identity, &slug)?;
    let headless = args.prompt.is_some();
    if !headless && !args.dry_run && !Terminal::is_there() {
        return Err(UsageError("there is no terminal for the session; say --prompt TEXT to run headless".into()).into());
    }
    let services = Services::from_env();
    let backend = plugin::select(&plugin::chosen_name(backend), &services)?;
    resolved.spec.env = backend.env();

    let scratch = Scratch::create(&paths, args.dry_run, &resolved, &backend)?;
    let stage = scratch.stage();
    let mut life = Life { scratch: Some(scratch), services, backend };
    let plan = life.backend.prepare(&resolved.spec, &stage, cancel.fd())?;
    let preflight = Preflight::new(&paths, agent, bottle_source, &resolved, &life.backend.info, plan.summary()?);
    match args.format {
        Format::Json if args.dry_run => ui::json(&preflight)?,
        _ => preflight.show(),
    }
    if args.dry_run {
        ui::say("dry run: nothing was created");
        return Ok(0);
    }
    if !args.yes && !ui::confirm("launch this agent?")? {
        ui::say("aborted by user");
        return Ok(0);
    }
    let secrets = life.collect(&resolved)?;
    let argv = claude_argv(args, !agent.prompt.trim().is_empty());
    let code = life.live(plan, &resolved, secrets, argv, headless, cancel)?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Where `prepare` may write: the bottle's state, or for a dry run a directory that goes at once.
enum Scratch {
    DryRun(tempfile::TempDir),
    State(State),
}

impl Scratch {
    fn create(paths: &Paths, dry_run: bool, resolved: &Resolved, backend: &Backend) -> Result<Self> {
        if dry_run {
            return Ok(Self::DryRun(tempfile::tempdir()?));
        }
        let metadata = Metadata {
            identity: resolved.spec.identity.clone(),
            agent: resolved.spec.agent.clone(),
            backend: backend.info.name.clone(),
            started: OffsetDateTime::now_utc().format(&Rfc3339)?,
            pid: std::process::id(),
        };
        Ok(Self::State(State::create(paths, &metadata)?))
    }

    fn stage(&self) -> std::path::PathBuf {
        match self {
            Self::DryRun(dir) => dir.path().to_owned(),
            Self::State(state) => state.stage(),
        }
    }
}

/// The secrets of a launch: the sidecar's, and the agent's own environment.
struct Collected {
    sidecar: bottle_api::secret::Secrets,
    agent: BTreeMap<String, Secret>,
}

/// A bottle from its launch to its end. Dropped on any way out, it leaves nothing behind.
struct Life {
    scratch: Option<Scratch>,
    services: Arc<Services>,
    backend: Backend,
}

impl Life {
    fn collect(&self, resolved: &Resolved) -> Result<Collected> {
        Ok(Collected { agent: resolved.environment.collect()?, sidecar: resolved.sidecar_secrets()? })
    }

    fn live(
        &mut self,
        plan: Plan,
        resolved: &Resolved,
        secrets: Collected,
        argv: Vec<String>,
        headless: bool,
        cancel: &Cancellation,
    ) -> Result<i32> {
        let Some(Scratch::State(state)) = &self.scratch else { bail!("a dry run launches nothing") };
        self.services.keep_ledger(&resolved.spec.identity, state.ledger.clone());
        let req = LaunchRequest { policy: serde_json::to_value(&resolved.policy)? };
        let bottle = plan.launch(&req, &secrets.sidecar, cancel.fd()).context("launch the bottle");
        ui::clear_progress();
        let bottle = bottle?;
        fault::point("launched").map_err(bottle_api::Error::into_std)?;

        let log = EgressLog::follow(bottle.channel()?, &state.egress_log())?;
        let capability = secrets.sidecar.get(CAPABILITY).context("a bottle has a capability")?;
        let mut env = secrets.agent;
        env.extend(environment::base(&bottle.describe()?, capability, resolved.credential, &Terminal::kind()));
        let program = Program { argv, env, cwd: environment::WORKSPACE.into() };
        let ended = session(&bottle, &program, headless, cancel);
        let summary = log.finish();
        let closed = close(bottle);
        summary.lines().iter().for_each(ui::say);
        let code = ended?;
        closed?;
        self.settle(code)?;
        Ok(code)
    }

    /// The session is over and the bottle is gone: what remains of its state?
    fn settle(&mut self, code: i32) -> Result<()> {
        let state = match self.scratch.take() {
            Some(Scratch::State(state)) if state.ledger.entries().is_empty() => state,
            other => {
                self.scratch = other; // `drop` sees to it
                return Ok(());
            }
        };
        if code == 0 {
            return state.remove();
        }
        let log = state.keep_log()?;
        ui::say(format!("the agent ended with {code}; its egress log is {}", log.display()));
        Ok(())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        ui::clear_progress();
        let Some(Scratch::State(state)) = self.scratch.take() else {
            return;
        };
        let left = state.ledger.entries();
        if !left.is_empty()
            && let Err(error) = take_away(&self.backend, left, CLOSE_DEADLINE)
        {
            ui::error(&error.context("remove what the launch had created"));
        }
        if state.ledger.entries().is_empty() {
            if let Err(error) = state.remove() {
                ui::error(&error);
            }
        } else {
            ui::say("hint: `bottle cleanup` tries again to remove what is left");
        }
    }
}

fn session(bottle: &Bottle, program: &Program, headless: bool, cancel: &Cancellation) -> Result<i32> {
    let streams = if headless { Streams::Headless } else { Streams::Terminal(Terminal::raw()?) };
    session::run(bottle, program, streams, cancel)
}

fn close(bottle: Bottle) -> Result<()> {
    fault::point("close").map_err(bottle_api::Error::into_std)?;
    bottle.close(CLOSE_DEADLINE).context("tear the bottle down")
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
