//! The agent's and the sidecar's image: built from the recipes in this crate when they are missing or differ.
//!
//! An image carries the hash of what it was built from as a label. One without that label is somebody's own: it is
//! used as it is, and never built over.

use crate::{
    engine::{Engine, Stop, is_status},
    names::RECIPE,
};
use bollard::{
    body_full,
    query_parameters::{BuildImageOptionsBuilder, RemoveImageOptions},
};
use bottle_api::{BottleSpec, Error, ErrorKind, Host, Progress, Result, SIDECAR_ARTIFACT, error::Context};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};

/// The host's variables that name images.
pub const IMAGE_ENV: &[&str] = &["CLAUDE_BOTTLE_IMAGE", "CLAUDE_BOTTLE_SIDECAR_IMAGE", "CLAUDE_BOTTLE_BASE_IMAGE"];

const AGENT_RECIPE: &str = include_str!("../recipes/agent.Dockerfile");
const SIDECAR_RECIPE: &str = include_str!("../recipes/sidecar.Dockerfile");
const DEFAULT_BASE: &str = "node:22-bookworm";

/// Lines of a build's output that an error shows.
const LAST_WORDS: usize = 3;

/// The pinned client: `version V`, then `ARCH PACKAGE SHA512 SHA256` per platform.
const PINS: &str = include_str!("../recipes/claude.pins");

/// Where Claude Code's package for a platform is pinned.
#[derive(Debug, PartialEq)]
struct Pin {
    version: &'static str,
    package: &'static str,
    /// SHA-512 of the package's tarball, hexadecimal: npm's `dist.integrity`.
    integrity: &'static str,
    /// SHA-256 of the program inside, hexadecimal.
    sha256: &'static str,
}

impl Pin {
    fn of(arch: &str) -> Option<Self> {
        let mut lines = PINS.lines().filter(|line| !line.starts_with('#')).map(str::split_whitespace);
        let version = lines.next()?.nth(1)?;
        let mut words = lines.find_map(|mut words| (words.next() == Some(arch)).then_some(words))?;
        Some(Self { version, package: words.next()?, integrity: words.next()?, sha256: words.next()? })
    }
}

/// An image that is about to be built.
struct Recipe {
    tag: String,
    what: &'static str,
    hash: String,
    context: Vec<u8>,
    arguments: HashMap<String, String>,
}

/// Name of the agent's image.
pub fn agent_tag(spec: &BottleSpec) -> String {
    setting(spec, "CLAUDE_BOTTLE_IMAGE", "claude-bottle:latest")
}

/// What the engine runs on, and the static program that is both sidecar and in-bottle helper there.
pub struct Platform {
    arch: String,
    /// The program's bytes.
    pub helper: Vec<u8>,
}

impl Platform {
    /// Asks the engine, which need not run on a machine like this one, and reads the program that fits.
    pub async fn of(engine: &Engine, host: &Host) -> Result<Self> {
        let version = engine.docker.version().await.context("ask the engine for its version")?;
        let unknown = || Error::new(ErrorKind::RUNTIME, "the engine does not say what it runs on");
        let arch = version.arch.ok_or_else(unknown)?;
        let path = host.artifact(SIDECAR_ARTIFACT, &format!("linux/{arch}"))?;
        let helper = tokio::fs::read(&path).await.with_context(|| format!("read {}", path.display()))?;
        Ok(Self { arch, helper })
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
    let base = setting(spec, "CLAUDE_BOTTLE_BASE_IMAGE", DEFAULT_BASE);
    let arch = &platform.arch;
    let pin = Pin::of(arch).ok_or_else(|| {
        Error::new(
            ErrorKind::UNSUPPORTED,
            format!("the engine runs on {arch}; Claude Code is pinned for amd64 and arm64"),
        )
    })?;
    let arguments = HashMap::from([
        ("BASE".to_owned(), base),
        ("CLAUDE_VERSION".into(), pin.version.into()),
        ("CLAUDE_PACKAGE".into(), pin.package.into()),
        ("CLAUDE_INTEGRITY".into(), pin.integrity.into()),
        ("CLAUDE_SHA256".into(), pin.sha256.into()),
    ]);
    let mut words: Vec<_> = arguments.iter().map(|(k, v)| format!("{k}={v}")).collect();
    words.sort();
    let recipe = Recipe {
        tag: agent_tag(spec),
        what: "agent image",
        hash: hash(&[AGENT_RECIPE.as_bytes(), words.join("\n").as_bytes()]),
        context: context(&[("Dockerfile", 0o644, AGENT_RECIPE.as_bytes())])?,
        arguments,
    };
    ensure(engine, host, recipe, stop).await
}

/// The sidecar image's id, built if need be.
pub async fn sidecar(
    engine: &Engine,
    host: &Host,
    spec: &BottleSpec,
    platform: &Platform,
    stop: &Stop,
) -> Result<String> {
    let recipe = Recipe {
        tag: setting(spec, "CLAUDE_BOTTLE_SIDECAR_IMAGE", "claude-bottle-sidecars:latest"),
        what: "sidecar image",
        hash: hash(&[SIDECAR_RECIPE.as_bytes(), &platform.helper]),
        context: context(&[
            ("Dockerfile", 0o644, SIDECAR_RECIPE.as_bytes()),
            (SIDECAR_ARTIFACT, 0o755, &platform.helper),
        ])?,
        arguments: HashMap::new(),
    };
    ensure(engine, host, recipe, stop).await
}

async fn ensure(engine: &Engine, host: &Host, recipe: Recipe, stop: &Stop) -> Result<String> {
    let outdated = match engine.docker.inspect_image(&recipe.tag).await {
        Ok(found) => {
            let label = found.config.and_then(|c| c.labels).and_then(|mut l| l.remove(RECIPE));
            match found.id {
                Some(id) if label.is_none_or(|hash| hash == recipe.hash) => return Ok(id),
                id => id,
            }
        }
        Err(error) if is_status(&error, 404) => None,
        Err(error) => return Err(error).with_context(|| format!("look for the image {}", recipe.tag)),
    };
    let tag = recipe.tag.clone();
    stop.or(build(engine, host, recipe)).await?;
    let built = engine.docker.inspect_image(&tag).await.with_context(|| format!("look for the image {tag}"))?;
    if let Some(old) = outdated {
        // It has lost its name to the new one. Another bottle may still run on it: then it stays.
        let _ = engine.docker.remove_image(&old, None::<RemoveImageOptions>, None).await;
    }
    built.id.ok_or_else(|| Error::new(ErrorKind::RUNTIME, format!("the engine gives no id for the image {tag}")))
}

async fn build(engine: &Engine, host: &Host, recipe: Recipe) -> Result<()> {
    let step = format!("build the {} {}", recipe.what, recipe.tag);
    host.step(&step);
    let labels = HashMap::from([(RECIPE.to_owned(), recipe.hash)]);
    let options = BuildImageOptionsBuilder::default()
        .t(&recipe.tag)
        .labels(&labels)
        .buildargs(&recipe.arguments)
        .rm(true)
        .forcerm(true)
        .build();
    let mut events = engine.docker.build_image(options, None, Some(body_full(recipe.context.into())));
    let mut said = VecDeque::new();
    while let Some(event) = events.next().await {
        let event = event.map_err(|e| build_error(&step, &e.to_string(), &said))?;
        if let Some(error) = event.error_detail.and_then(|detail| detail.message) {
            return Err(build_error(&step, &error, &said));
        }
        for line in event.stream.iter().flat_map(|text| text.lines()).map(str::trim).filter(|l| is_telling(l)) {
            said.push_back(line.to_owned());
            if said.len() > LAST_WORDS {
                said.pop_front();
            }
            host.progress(&Progress { step: step.clone(), detail: line.to_owned(), done: false });
        }
    }
    host.progress(&Progress { step, done: true, ..Progress::default() });
    Ok(())
}

/// The engine's own book-keeping explains no failure.
fn is_telling(line: &str) -> bool {
    !line.is_empty() && !line.starts_with("--->") && !line.starts_with("Removing intermediate container")
}

fn build_error(step: &str, error: &str, said: &VecDeque<String>) -> Error {
    // The engine repeats the whole command of the step: its code is enough.
    let error = match error.rsplit_once("returned a non-zero code: ") {
        Some((_, code)) => format!("a command of the recipe failed with code {code}"),
        None => error.trim().to_owned(),
    };
    let mut failed = Error::new(ErrorKind::RUNTIME, format!("{step}: {error}"));
    let words: Vec<&str> = said.iter().map(String::as_str).collect();
    failed.chain.extend((!words.is_empty()).then(|| format!("its last words: {}", words.join(" | "))));
    failed.hint(
        "The base image has to be there, or within the engine's reach, and have a shell, git, curl and npm; name \
         another: CLAUDE_BOTTLE_BASE_IMAGE=NAME.",
    )
}

pub(crate) fn setting(spec: &BottleSpec, name: &str, default: &str) -> String {
    spec.env.get(name).filter(|v| !v.is_empty()).cloned().unwrap_or_else(|| default.into())
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
    fn both_platforms_are_pinned_by_whole_hashes() {
        for arch in ["amd64", "arm64"] {
            let pin = Pin::of(arch).unwrap();
            assert!(pin.package.starts_with("@anthropic-ai/claude-code-linux-"), "{pin:?}");
            assert_eq!((pin.integrity.len(), pin.sha256.len()), (128, 64), "{pin:?}");
        }
        assert_eq!(Pin::of("riscv64"), None);
    }
}
