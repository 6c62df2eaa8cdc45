//! The agent's and the sidecar's image: built from the recipes in this crate when they are missing or differ. The sidecar of
//! a bottle that has remotes for git is another one, with git in it, that nobody else needs.
//!
//! An image carries the hash of what it was built from as a label. One without that label is somebody's own: it is
//! used as it is, and never built over. An agent's image that was asked for with another Claude Code than the pinned one
//! carries that version, too, and keeps it when it is built anew.

use crate::{
    build::{self, Build},
    engine::{About, Engine, Stop, is_status},
    names::{CLAUDE, RECIPE, ROLE, Role},
    pins::Pin,
};
use bollard::query_parameters::RemoveImageOptions;
use bottle_api::{
    BottleSpec, Error, ErrorKind, Host, Image, ImageBuild, Result, SIDECAR_ARTIFACT, control::GIT_GATE_DAEMON,
    error::Context,
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

const AGENT_ENV: &str = "CLAUDE_BOTTLE_IMAGE";
const SIDECAR_ENV: &str = "CLAUDE_BOTTLE_SIDECAR_IMAGE";
const BASE_ENV: &str = "CLAUDE_BOTTLE_BASE_IMAGE";
/// The host's variables that name images.
pub const IMAGE_ENV: &[&str] = &[AGENT_ENV, SIDECAR_ENV, BASE_ENV];

const AGENT_RECIPE: &str = include_str!("../recipes/agent.Dockerfile");
const SIDECAR_RECIPE: &str = include_str!("../recipes/sidecar.Dockerfile");
const GIT_SIDECAR_RECIPE: &str = include_str!("../recipes/sidecar-git.Dockerfile");
const DEFAULT_BASE: &str = "node:22-bookworm";

/// The host's variables that the backend was given.
type Env = BTreeMap<String, String>;

/// Name of the agent's image.
pub fn agent_tag(env: &Env) -> String {
    setting(env, AGENT_ENV, "claude-bottle:latest")
}

fn sidecar_tag(env: &Env) -> String {
    setting(env, SIDECAR_ENV, "claude-bottle-sidecars:latest")
}

/// Name of the sidecar's image with git in it: that of the other with `-git` behind its tag. What is named by its content
/// is somebody's own, and has what they need.
fn git_sidecar_tag(env: &Env) -> String {
    let usual = sidecar_tag(env);
    let has_tag = usual.rsplit('/').next().is_some_and(|name| name.contains(':'));
    match usual.contains('@') {
        true => usual,
        false => format!("{usual}{}-git", if has_tag { "" } else { ":latest" }),
    }
}

/// What the engine runs on, and the static program that is both sidecar and in-bottle helper there.
pub struct Platform {
    arch: String,
    /// The program's bytes.
    pub helper: Vec<u8>,
}

impl Platform {
    /// Reads the program that fits: the engine need not run on a machine like this one.
    pub async fn of(about: &About, host: &Host) -> Result<Self> {
        let path = host.artifact(SIDECAR_ARTIFACT, &format!("linux/{}", about.arch))?;
        let helper = tokio::fs::read(&path).await.with_context(|| format!("read {}", path.display()))?;
        Ok(Self { arch: about.arch.clone(), helper })
    }
}

/// The agent image's id, built if need be.
pub async fn agent(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    platform: &Platform,
    stop: &Stop,
) -> Result<String> {
    check(engine, &spec.env).await?;
    let found = find(engine, &agent_tag(&spec.env)).await?;
    let claude = claude(platform, found.as_ref())?;
    ensure(engine, host, agent_recipe(&spec.env, &claude)?, found, stop).await
}

/// An agent's image that is named by its id is there, or cannot be had.
pub async fn check(engine: &Engine, env: &Env) -> Result<()> {
    let tag = agent_tag(env);
    if tag.starts_with("sha256:") && find(engine, &tag).await?.is_none() {
        let message = format!("the image {tag} is gone from the engine at {}", engine.address);
        return Err(Error::new(ErrorKind::NOT_FOUND, message));
    }
    Ok(())
}

/// The sidecar image's id, built if need be; with git in it where git-gate is among the daemons.
pub async fn sidecar(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    platform: &Platform,
    stop: &Stop,
) -> Result<String> {
    let recipe = match spec.daemons.iter().any(|daemon| daemon == GIT_GATE_DAEMON) {
        true => git_sidecar_recipe(&spec.env, platform)?,
        false => sidecar_recipe(&spec.env, platform)?,
    };
    let found = find(engine, &recipe.build.tag).await?;
    ensure(engine, host, recipe, found, stop).await
}

/// Makes the images ready, the agent's with the version of Claude Code that was asked for; the sidecar's with git where
/// there is one already.
pub async fn make(
    engine: &Engine,
    host: &Host,
    env: &Env,
    platform: &Platform,
    wanted: &ImageBuild,
    stop: &Stop,
) -> Result<()> {
    let pinned = Pin::of(&platform.arch)?;
    let claude = if wanted.claude.is_empty() { pinned } else { pinned.at(&wanted.claude)? };
    let (agent_tag, sidecar_tag) = (agent_tag(env), sidecar_tag(env));
    let (agent, sidecar) = (find(engine, &agent_tag).await?, find(engine, &sidecar_tag).await?);
    for (tag, found, variable) in [(&agent_tag, &agent, AGENT_ENV), (&sidecar_tag, &sidecar, SIDECAR_ENV)] {
        if found.as_ref().is_some_and(|found| found.recipe.is_none()) {
            let message = format!("the image {tag} was not built by bottle, and is not built over");
            return Err(Error::new(ErrorKind::CONFLICT, message).hint(format!("Name another: {variable}=NAME.")));
        }
    }
    if !claude.is_pinned() {
        host.warn(format!("Claude Code {} is not the pinned version: npm alone vouches for it", claude.version));
    }
    ensure(engine, host, agent_recipe(env, &claude)?, agent, stop).await?;
    ensure(engine, host, sidecar_recipe(env, platform)?, sidecar, stop).await?;
    if let Some(found) = find(engine, &git_sidecar_tag(env)).await? {
        ensure(engine, host, git_sidecar_recipe(env, platform)?, Some(found), stop).await?;
    }
    Ok(())
}

/// The images as they are; the sidecar's with git only where it is there.
pub async fn list(engine: &Engine, env: &Env, platform: &Platform) -> Result<Vec<Image>> {
    let (agent_tag, sidecar_tag) = (agent_tag(env), sidecar_tag(env));
    let git_tag = git_sidecar_tag(env);
    let (agent, sidecar, git) =
        tokio::join!(find(engine, &agent_tag), find(engine, &sidecar_tag), find(engine, &git_tag));
    let (agent, sidecar, git) = (agent?, sidecar?, git?);
    let claude = claude(platform, agent.as_ref())?;
    let known = agent.as_ref().is_some_and(|found| found.recipe.is_some());
    let recipes = [agent_recipe(env, &claude)?.hash, sidecar_recipe(env, platform)?.hash];
    let mut images = vec![
        Image { claude: known.then_some(claude.version), ..image("agent", agent_tag, agent, &recipes[0]) },
        image("sidecar", sidecar_tag, sidecar, &recipes[1]),
    ];
    if git.is_some() {
        images.push(image("sidecar with git", git_tag, git, &git_sidecar_recipe(env, platform)?.hash));
    }
    Ok(images)
}

fn image(role: &str, name: String, found: Option<Found>, recipe: &str) -> Image {
    let state = match &found {
        None => "missing",
        Some(Found { recipe: None, .. }) => "own",
        Some(Found { recipe: Some(hash), .. }) if hash == recipe => "current",
        Some(_) => "outdated",
    };
    let Found { id, bytes, created, .. } = found.unwrap_or_default();
    Image { role: role.into(), name, state: state.into(), id, bytes, created, claude: None }
}

/// An image of the engine.
#[derive(Default)]
struct Found {
    id: String,
    recipe: Option<String>,
    /// The version that was asked for, where it is not the pinned one.
    claude: Option<String>,
    bytes: u64,
    created: String,
}

async fn find(engine: &Engine, tag: &str) -> Result<Option<Found>> {
    let found = match engine.docker.inspect_image(tag).await {
        Ok(found) => found,
        Err(error) if is_status(&error, 404) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("look for the image {tag}")),
    };
    let mut labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let nameless = || Error::new(ErrorKind::RUNTIME, format!("the engine gives no id for the image {tag}"));
    // One that was made of ours inherits its labels, and is not what the recipe makes.
    let is_built = labels.get(ROLE).is_some_and(|role| role == Role::Built.label());
    Ok(Some(Found {
        id: found.id.ok_or_else(nameless)?,
        recipe: labels.remove(RECIPE).filter(|_| !is_built),
        claude: labels.remove(CLAUDE),
        bytes: found.size.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default(),
        created: found.created.unwrap_or_default(),
    }))
}

/// The Claude Code that an agent's image has or is to have.
fn claude(platform: &Platform, found: Option<&Found>) -> Result<Pin> {
    let pinned = Pin::of(&platform.arch)?;
    match found.and_then(|found| found.claude.as_deref()) {
        Some(version) => pinned.at(version),
        None => Ok(pinned),
    }
}

/// An image as it should be.
struct Recipe {
    hash: String,
    build: Build,
}

fn agent_recipe(env: &Env, claude: &Pin) -> Result<Recipe> {
    let mut arguments = claude.arguments();
    arguments.insert("BASE".into(), setting(env, BASE_ENV, DEFAULT_BASE));
    let mut words: Vec<_> = arguments.iter().map(|(k, v)| format!("{k}={v}")).collect();
    words.sort();
    let hash = hash(&[AGENT_RECIPE.as_bytes(), words.join("\n").as_bytes()]);
    let mut labels = HashMap::from([(RECIPE.to_owned(), hash.clone())]);
    if !claude.is_pinned() {
        labels.insert(CLAUDE.into(), claude.version.clone());
    }
    let context = context(&[("Dockerfile", 0o644, AGENT_RECIPE.as_bytes())])?;
    Ok(Recipe { hash, build: Build { tag: agent_tag(env), what: "agent image", labels, arguments, context } })
}

fn sidecar_recipe(env: &Env, platform: &Platform) -> Result<Recipe> {
    with_program("sidecar image", sidecar_tag(env), SIDECAR_RECIPE, None, platform)
}

fn git_sidecar_recipe(env: &Env, platform: &Platform) -> Result<Recipe> {
    let base = setting(env, BASE_ENV, DEFAULT_BASE);
    with_program("sidecar image with git", git_sidecar_tag(env), GIT_SIDECAR_RECIPE, Some(base), platform)
}

/// A recipe for our program, on that base, if on any.
fn with_program(
    what: &'static str,
    tag: String,
    recipe: &str,
    base: Option<String>,
    platform: &Platform,
) -> Result<Recipe> {
    let hash = hash(&[recipe.as_bytes(), base.as_deref().unwrap_or_default().as_bytes(), &platform.helper]);
    let labels = HashMap::from([(RECIPE.to_owned(), hash.clone())]);
    let context = context(&[("Dockerfile", 0o644, recipe.as_bytes()), (SIDECAR_ARTIFACT, 0o755, &platform.helper)])?;
    let arguments = base.map(|base| ("BASE".to_owned(), base)).into_iter().collect();
    Ok(Recipe { hash, build: Build { tag, what, labels, arguments, context } })
}

async fn ensure(engine: &Engine, host: &Host, recipe: Recipe, found: Option<Found>, stop: &Stop) -> Result<String> {
    let outdated = match found {
        Some(found) if found.recipe.as_ref().is_none_or(|hash| *hash == recipe.hash) => return Ok(found.id),
        other => other.map(|found| found.id),
    };
    let tag = recipe.build.tag.clone();
    build::run(engine, host, recipe.build, stop).await?;
    let built = find(engine, &tag).await?;
    if let Some(old) = outdated {
        // It has lost its name to the new one. Another bottle may still run on it: then it stays.
        let _ = engine.docker.remove_image(&old, None::<RemoveImageOptions>, None).await;
    }
    let gone = || Error::new(ErrorKind::RUNTIME, format!("the image {tag} was built, and is gone again"));
    built.map(|built| built.id).ok_or_else(gone)
}

pub(crate) fn setting(env: &Env, name: &str, default: &str) -> String {
    env.get(name).filter(|v| !v.is_empty()).cloned().unwrap_or_else(|| default.into())
}

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    format!("{:x}", hasher.finalize())
}

fn context(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(vec![]);
    for (name, mode, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, *data)?;
    }
    Ok(tar.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_the_claude_that_was_asked_for_and_else_follows_the_pin() {
        let platform = Platform { arch: "amd64".into(), helper: vec![] };
        let found = |claude: Option<&str>| Found { claude: claude.map(str::to_owned), ..Found::default() };
        let (pinned, asked) =
            (claude(&platform, Some(&found(None))).unwrap(), claude(&platform, Some(&found(Some("1.2.3")))).unwrap());
        assert_eq!((pinned.is_pinned(), asked.version.as_str()), (true, "1.2.3"));
        let recipes = [&pinned, &asked].map(|pin| agent_recipe(&Env::new(), pin).unwrap());
        assert_ne!(recipes[0].hash, recipes[1].hash);
        assert_eq!(recipes[0].build.labels.get(CLAUDE), None);
        assert_eq!(recipes[1].build.labels[CLAUDE], "1.2.3");
        assert_eq!(recipes[1].build.arguments["CLAUDE_INTEGRITY"], "");
        let other = Env::from([(BASE_ENV.to_owned(), "mine".to_owned())]);
        assert_ne!(agent_recipe(&other, &pinned).unwrap().hash, recipes[0].hash);
    }

    #[test]
    fn the_sidecar_with_git_is_named_after_the_other_and_stands_on_the_base() {
        for (name, expected) in [
            (None, "claude-bottle-sidecars:latest-git"),
            (Some("mine"), "mine:latest-git"),
            (Some("mine:2"), "mine:2-git"),
            (Some("registry.example:5000/mine"), "registry.example:5000/mine:latest-git"),
            (Some("mine@sha256:00"), "mine@sha256:00"),
        ] {
            let env: Env = name.map(|name| (SIDECAR_ENV.to_owned(), name.to_owned())).into_iter().collect();
            assert_eq!(git_sidecar_tag(&env), expected);
        }
        let platform = Platform { arch: "amd64".into(), helper: vec![] };
        let other = Env::from([(BASE_ENV.to_owned(), "mine".to_owned())]);
        let recipes = [&Env::new(), &other].map(|env| {
            let plain = sidecar_recipe(env, &platform).unwrap();
            assert!(plain.build.arguments.is_empty());
            (git_sidecar_recipe(env, &platform).unwrap(), plain)
        });
        assert_eq!(recipes[0].0.build.arguments["BASE"], DEFAULT_BASE);
        assert_eq!(recipes[1].0.build.arguments["BASE"], "mine");
        assert!(recipes[0].0.hash != recipes[1].0.hash && recipes[0].1.hash == recipes[1].1.hash);
    }

    #[test]
    fn an_image_is_missing_current_outdated_or_somebodys_own() {
        let with = |recipe: Option<&str>| Some(Found { recipe: recipe.map(str::to_owned), ..Found::default() });
        for (found, state) in
            [(None, "missing"), (with(None), "own"), (with(Some("h")), "current"), (with(Some("g")), "outdated")]
        {
            assert_eq!(image("agent", "n".into(), found, "h").state, state);
        }
    }
}
