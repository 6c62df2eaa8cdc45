//! `start`: from the manifest to a bottle's life.
//!
//! ```text
//! manifest ─ resolve ─▶ spec ─ prepare ─▶ plan ─ preflight, y/N ─▶ secrets ─▶ life ─▶ the agent's exit code
//! ```

use super::{exit_code, forbid_core_files};
use crate::{
    cli::{Format, Start},
    life::{Life, Session},
    manifest::{Bottle, Isolation, Manifest, approval::Approval},
    paths::Paths,
    plan::{self, Resolved, credential::ModelCredential},
    plugin::{self, Backend, Services},
    preflight::{Asked, Preflight},
    session::terminal::Terminal,
    signals::Cancellation,
    state::{self, Holder, Metadata, OwnImage, State},
    supervise,
    ui::{self, UsageError, hinted},
    work::Left,
    workspace::{self, Collected, Which},
};
use anyhow::Result;
use bottle_api::{BackendInfo, ErrorKind, error::StdError};
use std::path::Path;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The variable by which a backend takes another image for the agent.
const IMAGE_ENV: &str = "CLAUDE_BOTTLE_IMAGE";

/// Runs `start`; the exit code is the agent's.
pub(super) fn run(backend: Option<&str>, args: &Start) -> Result<u8> {
    // Secrets pass through this process: a crash must not write them to a core file.
    forbid_core_files()?;
    let cancel = Cancellation::install()?;
    cancel.conclude(start(backend, args, None, &cancel))
}

/// Starts an agent in a new bottle, or in one that goes on from what an earlier one left.
pub(super) fn start(
    backend: Option<&str>,
    args: &Start,
    earlier: Option<&Metadata>,
    cancel: &Cancellation,
) -> Result<u8> {
    if args.format == Format::Json && !args.dry_run {
        return Err(UsageError("--format json prints the plan of a dry run; say --dry-run, too".into()).into());
    }
    let mut paths = Paths::from_env()?;
    if let Some(earlier) = earlier.filter(|earlier| earlier.directory.is_dir()) {
        paths.cwd.clone_from(&earlier.directory);
    }
    let manifest = Manifest::load(&paths)?;
    let (agent, bottle, sources) = manifest.resolve(&paths, &args.agent)?;
    let approval = Approval::of(&paths, agent, &bottle)?;
    approval.check(&paths, args.yes && !args.dry_run)?;
    let credential = ModelCredential::from_env()?;
    if !args.dry_run {
        state::make_owner(&paths)?;
    }
    let slug = state::slug(&agent.name);
    let identity = earlier.map_or_else(|| state::new_identity(&slug), |earlier| Ok(earlier.identity.clone()))?;
    let mut resolved = plan::resolve(&paths, agent, &bottle, credential, &identity, &slug)?;
    let headless = args.prompt.is_some();
    if !args.dry_run {
        check_terminal(args, &resolved)?;
    }
    let services = Services::from_env();
    let unnamed = !plugin::is_named(backend);
    let backend = plugin::select(&plugin::chosen_name(backend), &services)?;
    resolved.spec.env = backend.env();
    let image = earlier.and_then(|earlier| earlier.image.as_ref());
    if let Some(image) = image {
        use_image(&mut resolved, &backend.info, image)?;
    }
    check_isolation(&bottle, &backend.info)?;
    if Isolation::of_backend(&backend.info.isolation) < Isolation::default() {
        resolved.warnings.push("this backend's boundary is weaker than a container".into());
    }
    if args.raw_terminal {
        resolved.warnings.push("the agent may reach your clipboard and query your terminal (--raw-terminal)".into());
    }

    if bottle.supervise && earlier.is_some() {
        if let Err(error) = supervise::restore(&paths, &identity) {
            ui::warn_of("look in the audit log for proposals that were not queued", &error);
        }
        resolved.warnings.extend(supervise::grant_again(&paths, &identity, &mut resolved.policy)?);
    }

    let command = claude_argv(args, !agent.prompt.trim().is_empty(), bottle.supervise);
    let mut asked = Asked {
        agent,
        bottle: &bottle,
        sources: &sources,
        command,
        approval: approval.state().clone(),
        image: image.map(OwnImage::shown),
        cwd: None,
        left: None,
    };
    if args.dry_run {
        let stage = tempfile::tempdir()?;
        let collected = collect(&paths, args, stage.path(), &mut resolved, cancel)?;
        asked.cwd = collected.as_ref().map(|collected| &collected.shown);
        let plan = backend.prepare(&resolved.spec, stage.path(), cancel.fd());
        let plan = plan.map_err(|error| or_without_engine(error, unnamed))?;
        let says = plan.summary()?;
        let preflight = Preflight::new(&paths, &asked, &resolved, &backend.info, says);
        match args.format {
            Format::Json => ui::json(&preflight)?,
            Format::Text => {
                preflight.show(args.full);
                approval.show(&paths);
            }
        }
        ui::say("dry run: nothing was created");
        return Ok(0);
    }
    mention_leftovers(&paths);
    let metadata = metadata(&paths, &resolved, &backend, earlier)?;
    let state = match earlier {
        Some(_) => State::reopen(&paths, &metadata)?,
        None => State::create(&paths, &metadata)?,
    };
    let left = earlier.map(|_| Left::find(state.dir())).transpose()?;
    let stage = state.stage();
    let mut life = Life::begin(state, &resolved.spec, services, backend);
    let collected = collect(&paths, args, &stage, &mut resolved, cancel)?;
    asked.cwd = collected.as_ref().map(|collected| &collected.shown);
    if let Some(left) = &left {
        left.stage(&stage, &mut resolved.spec)?;
        asked.left = Some(left.shown());
    }
    let plan = life.backend().prepare(&resolved.spec, &stage, cancel.fd());
    let plan = plan.map_err(|error| match image {
        Some(_) => or_without_image(error, &identity),
        None => or_without_engine(error, unnamed),
    })?;
    let says = plan.summary()?;
    life.remember(&says.env)?;
    let info = &life.backend().info;
    Preflight::new(&paths, &asked, &resolved, info, says).show(args.full);
    approval.show(&paths);
    if !args.yes {
        if !ui::confirm("launch this agent?", cancel)? {
            ui::say("aborted by user");
            return Ok(0);
        }
        approval.record(&paths)?;
    }
    let session = Session {
        argv: asked.command,
        came: collected.map(|collected| collected.came).unwrap_or_default(),
        left,
        env: resolved.environment.collect(cancel)?,
        headless,
        raw_terminal: args.raw_terminal,
    };
    // Of what was asked for it is known only now.
    let asked_for = resolved.environment.asked().filter_map(|name| Some((name, session.env.get(name)?)));
    plan::recognised::warnings(asked_for).iter().for_each(ui::warn);
    let secrets = resolved.sidecar_secrets(&session.env, cancel)?;
    let code = life.live(plan, &resolved, &secrets, session, cancel)?;
    Ok(exit_code(code))
}

/// What is missing of the backend that nobody has named may not be needed at all.
fn or_without_engine(error: anyhow::Error, unnamed: bool) -> anyhow::Error {
    match error.downcast::<StdError>() {
        Ok(StdError(mut error)) if unnamed && error.kind == ErrorKind::PREREQUISITE => {
            let hint = error.hint.take().map(|hint| format!("{hint} Or do")).unwrap_or_else(|| "Do".into());
            StdError(error.hint(format!("{hint} without an engine: `bottle start --backend namespace …`."))).into()
        }
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

/// The image that the bottle is to go on from may be gone.
fn or_without_image(error: anyhow::Error, identity: &str) -> anyhow::Error {
    match error.downcast::<StdError>() {
        Ok(StdError(error)) if error.kind == ErrorKind::NOT_FOUND && error.hint.is_none() => {
            let hint = format!("Go on without what was approved for it: `bottle resume {identity} --forget-image`.");
            StdError(error.hint(hint)).into()
        }
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

/// The working directory, where it is to come along.
fn collect(
    paths: &Paths,
    args: &Start,
    stage: &Path,
    resolved: &mut Resolved,
    cancel: &Cancellation,
) -> Result<Option<Collected>> {
    let branch = format!("bottle/{}", resolved.spec.identity);
    let which = match &args.worktree {
        Some(named) if named.is_empty() => Which::Worktree(&branch),
        Some(named) => Which::Worktree(named),
        None if args.cwd_all => Which::All,
        None if args.cwd => Which::Unignored,
        None => return Ok(None),
    };
    let collected = workspace::collect(paths, which, stage, &mut resolved.spec, cancel)?;
    resolved.warnings.extend(collected.shown.warnings());
    Ok(Some(collected))
}

/// What a crash has left is taken away by `cleanup`, and remembered until then.
fn mention_leftovers(paths: &Paths) {
    let found = state::survey(paths, false).map(|found| found.abandoned).unwrap_or_default();
    let abandoned = found.iter().filter(|bottle| !bottle.entries().is_empty()).count();
    if abandoned > 0 {
        let bottles = ui::count(abandoned, "earlier bottle");
        ui::say(format!("hint: {bottles} did not end in order; `bottle cleanup` removes what is left"));
    }
}

/// What will need a terminal, before anything is made: the session, the y/N, secrets.
fn check_terminal(args: &Start, resolved: &Resolved) -> Result<()> {
    let key = resolved.keys.asked().next().map(|key| format!("the passphrase of {key}"));
    let what = match resolved.environment.asked().next().map(str::to_owned).or(key) {
        _ if args.prompt.is_none() && !Terminal::is_there() => {
            "there is no terminal for the session; say --prompt TEXT to run headless".into()
        }
        _ if ui::can_ask() => return Ok(()),
        _ if !args.yes => "there is no terminal to ask on; say --yes".into(),
        Some(name) => format!("there is no terminal to ask on for {name}; start bottle from one"),
        None => return Ok(()),
    };
    Err(UsageError(what).into())
}

/// The bottle's floor against the backend's strength.
fn check_isolation(bottle: &Bottle, backend: &BackendInfo) -> Result<()> {
    if Isolation::of_backend(&backend.isolation) >= bottle.isolation {
        return Ok(());
    }
    Err(hinted(
        format!(
            "the backend {} isolates by `{}`, and the bottle wants `{}` at least",
            backend.name,
            ui::printable(&backend.isolation),
            bottle.isolation
        ),
        "Choose a stronger backend with --backend, or lower `isolation` in the bottle.",
    ))
}

/// The bottle's own image instead of the backend's.
fn use_image(resolved: &mut Resolved, backend: &BackendInfo, image: &OwnImage) -> Result<()> {
    if !backend.env.iter().any(|name| name == IMAGE_ENV) {
        return Err(hinted(
            format!("the bottle has an image of its own, {}, and {} takes none", image.shown(), backend.name),
            format!(
                "Resume it on the backend that it ran on, or go on without what was approved for it: `bottle resume {} \
                 --forget-image`.",
                resolved.spec.identity
            ),
        ));
    }
    resolved.spec.env.insert(IMAGE_ENV.into(), image.id.clone());
    Ok(())
}

fn metadata(paths: &Paths, resolved: &Resolved, backend: &Backend, earlier: Option<&Metadata>) -> Result<Metadata> {
    Ok(Metadata {
        identity: resolved.spec.identity.clone(),
        agent: resolved.spec.agent.clone(),
        backend: backend.info.name.clone(),
        env: backend.env(),
        started: OffsetDateTime::now_utc().format(&Rfc3339)?,
        holder: Holder::own(),
        directory: earlier.map_or_else(|| paths.cwd.clone(), |earlier| earlier.directory.clone()),
        image: earlier.and_then(|earlier| earlier.image.clone()),
    })
}

fn claude_argv(args: &Start, has_prompt: bool, supervised: bool) -> Vec<String> {
    let mut argv = vec!["claude".to_owned(), "--dangerously-skip-permissions".into()];
    if has_prompt {
        argv.extend(["--append-system-prompt-file".into(), plan::files::PROMPT_PATH.into()]);
    }
    if supervised {
        // In one word: the client takes every further one for another file.
        argv.push(format!("--mcp-config={}", plan::files::SUPERVISE_PATH));
    }
    argv.extend(args.arguments.iter().cloned());
    if let Some(prompt) = &args.prompt {
        argv.extend(["-p".into(), prompt.clone()]);
    }
    argv
}
