//! `info`: an agent as it is resolved, without a backend and without the value of anything secret.

use crate::{
    cli::Info,
    manifest::{EnvValue, Manifest},
    paths::Paths,
    ui,
};
use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
struct Shown {
    agent: String,
    file: String,
    shadows: Option<String>,
    bottle: String,
    /// What it extends, its own last.
    bottle_files: Vec<String>,
    isolation: String,
    skills: Vec<String>,
    prompt_characters: usize,
    env: Vec<String>,
    routes: Vec<String>,
}

/// Runs `info`.
pub(super) fn run(args: &Info) -> Result<u8> {
    let paths = Paths::from_env()?;
    let manifest = Manifest::load(&paths)?;
    let (agent, bottle, sources) = manifest.resolve(&paths, &args.agent)?;
    let shown = Shown {
        agent: agent.name.clone(),
        file: agent.source.shown(&paths),
        shadows: agent.shadows.as_ref().map(|s| s.shown(&paths)),
        bottle: agent.fields.bottle.clone(),
        bottle_files: sources.iter().map(|s| s.shown(&paths)).collect(),
        isolation: format!("{:?}", bottle.isolation).to_lowercase(),
        skills: agent.fields.skills.clone(),
        prompt_characters: agent.prompt.trim().chars().count(),
        env: bottle
            .env
            .iter()
            .map(|(name, value)| match value {
                EnvValue::Literal(_) => name.clone(),
                EnvValue::Host(variable) => format!("{name} (secret, from ${variable})"),
                EnvValue::Asked(_) => format!("{name} (secret, asked for)"),
            })
            .collect(),
        routes: bottle
            .egress
            .routes
            .iter()
            .map(|r| match &r.auth {
                Some(auth) => format!("{} with ${}", r.host, auth.token_ref),
                None => r.host.clone(),
            })
            .collect(),
    };
    if args.json {
        ui::json(&shown)?;
        return Ok(0);
    }
    let or_none = |words: &[String]| if words.is_empty() { "none".into() } else { words.join(", ") };
    let mut rows = vec![vec!["agent".into(), format!("{}  {}", shown.agent, shown.file)]];
    rows.extend(shown.shadows.iter().map(|file| vec!["shadows".into(), file.clone()]));
    rows.extend([
        vec!["bottle".into(), format!("{}  {}", shown.bottle, shown.bottle_files.join(", "))],
        vec!["isolation".into(), format!("{} at least", shown.isolation)],
        vec!["skills".into(), or_none(&shown.skills)],
        vec!["prompt".into(), format!("{} characters", shown.prompt_characters)],
        vec!["env".into(), or_none(&shown.env)],
        vec!["routes".into(), or_none(&shown.routes)],
    ]);
    ui::table(&["WHAT", "VALUE"], &rows)?;
    Ok(0)
}
