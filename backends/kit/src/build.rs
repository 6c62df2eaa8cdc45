//! One build of an image: its progress, its failure in the engine's words, and nothing left where it did not end well.

use crate::{
    engine::{Engine, Stop, is_status},
    trouble,
};
use bollard::{
    body_full,
    models::BuildInfo,
    query_parameters::{BuildImageOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions},
};
use bottle_api::{Error, ErrorKind, Host, Progress, Result};
use futures_util::StreamExt;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::sleep;

/// Lines of a build's output that an error shows.
const LAST_WORDS: usize = 3;
const COLOURS: [&str; 2] = ["\x1b[91m", "\x1b[0m"];
/// How often, and how long apart, what a build has left is asked to go: the engine may still be at work on it.
const UNDO_TRIES: u32 = 40;
const UNDO_PAUSE: Duration = Duration::from_millis(50);

/// What is to be built.
pub(crate) struct Build {
    pub(crate) tag: String,
    /// `agent image`
    pub(crate) what: &'static str,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) arguments: HashMap<String, String>,
    /// A tar archive with the `Dockerfile`.
    pub(crate) context: Vec<u8>,
}

/// What a build has made on its way.
#[derive(Default)]
struct Traces {
    said: VecDeque<String>,
    /// The container of the step that runs.
    container: Option<String>,
    /// The image of the last step that this build ran itself; those before it hang on it.
    image: Option<String>,
}

/// Builds an image. An error or a cancellation takes away what the build has made.
pub(crate) async fn run(engine: &Engine, host: &Host, build: Build, stop: &Stop) -> Result<()> {
    let step = format!("build the {} {}", build.what, build.tag);
    host.step(&step);
    let options = BuildImageOptionsBuilder::default()
        .t(&build.tag)
        .labels(&build.labels)
        .buildargs(&build.arguments)
        .rm(true)
        .forcerm(true)
        .build();
    let mut traces = Traces::default();
    let built = {
        let mut events = engine.docker.build_image(options, None, Some(body_full(build.context.into())));
        let follow = async {
            while let Some(event) = events.next().await {
                let event = event.map_err(|error| failed(&step, &error.to_string(), &traces.said))?;
                if let Some(error) = event.error_detail.as_ref().and_then(|detail| detail.message.as_ref()) {
                    return Err(failed(&step, error, &traces.said));
                }
                for detail in traces.hear(&event) {
                    host.progress(&Progress { step: step.clone(), detail, done: false });
                }
            }
            Ok(())
        };
        stop.or(follow).await
    };
    if built.is_err() {
        traces.undo(engine).await;
    }
    host.progress(&Progress { step, done: true, ..Progress::default() });
    built
}

impl Traces {
    /// Notes what an event says; what of it tells a person something.
    fn hear(&mut self, event: &BuildInfo) -> Vec<String> {
        let mut telling = vec![];
        // The engine colours what a step writes to standard error.
        let said = event.stream.as_ref().map(|text| COLOURS.iter().fold(text.clone(), |text, c| text.replace(c, "")));
        for line in said.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(id) = line.strip_prefix("---> Running in ").filter(|id| is_id(id)) {
                self.container = Some(id.to_owned());
            } else if let Some(id) = line.strip_prefix("---> ") {
                // The image of a step: of one that has run just now, not of one that was there already.
                if is_id(id) && self.container.take().is_some() {
                    self.image = Some(id.to_owned());
                }
            } else if line.starts_with("Step ") {
                telling.push(line.to_owned());
            } else if !line.starts_with("Removing intermediate container") {
                self.said.push_back(line.to_owned());
                if self.said.len() > LAST_WORDS {
                    self.said.pop_front();
                }
                telling.push(line.to_owned());
            }
        }
        // Layers of a base image that is being fetched.
        let layer = event.id.as_deref().map(|id| format!("{id}: ")).unwrap_or_default();
        telling.extend(event.status.as_ref().map(|status| format!("{layer}{status}")));
        telling
    }

    /// As well as it goes: what cannot be removed is no reason to hide why the build ended.
    async fn undo(self, engine: &Engine) {
        if let Some(container) = self.container
            && let Ok(found) = engine.docker.inspect_container(&container, None).await
            && found.id.is_some_and(|id| id.starts_with(&container))
        {
            let force = || Some(RemoveContainerOptionsBuilder::default().force(true).v(true).build());
            persist(|| engine.docker.remove_container(&container, force())).await;
        }
        if let Some(image) = self.image
            && let Ok(found) = engine.docker.inspect_image(&image).await
            && found.id.is_some_and(|id| id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(&image)))
        {
            persist(|| async { engine.docker.remove_image(&image, None::<RemoveImageOptions>, None).await.map(drop) })
                .await;
        }
    }
}

/// What a step prints stands among the engine's own words, and must not name somebody's container.
fn is_id(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes something that the engine may hold for a moment longer.
async fn persist<F: Future<Output = Result<(), bollard::errors::Error>>>(remove: impl Fn() -> F) {
    for _ in 0..UNDO_TRIES {
        match remove().await {
            Err(error) if is_status(&error, 409) => sleep(UNDO_PAUSE).await,
            _ => return,
        }
    }
}

fn failed(step: &str, error: &str, said: &VecDeque<String>) -> Error {
    let hint = "The base image needs a shell, git, curl and npm; name another: CLAUDE_BOTTLE_BASE_IMAGE=NAME.";
    // The engine repeats the whole command of the step: its code is enough.
    let found = match error.rsplit_once("returned a non-zero code: ") {
        Some((_, code)) => format!("a command of the recipe failed with code {code}"),
        None => error.trim().to_owned(),
    };
    let mut failed = Error::new(ErrorKind::RUNTIME, format!("{step}: {found}"));
    let words: Vec<&str> = said.iter().map(String::as_str).collect();
    failed.chain.extend((!words.is_empty()).then(|| format!("its last words: {}", words.join(" | "))));
    if trouble::is_known(&failed.to_string()) { failed } else { failed.hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_build_has_made_is_taken_away() {
        let mut traces = Traces::default();
        let hear = |traces: &mut Traces, text: &str| {
            traces.hear(&BuildInfo { stream: Some(text.into()), ..BuildInfo::default() })
        };
        assert_eq!(hear(&mut traces, "Step 1/3 : FROM base\n"), ["Step 1/3 : FROM base"]);
        hear(&mut traces, " ---> 8b12a0194da3\n");
        hear(&mut traces, "Step 2/3 : RUN a\n ---> Using cache\n ---> c113bc4f37af\n");
        hear(&mut traces, "Step 3/3 : RUN b\n");
        hear(&mut traces, " ---> Running in 0a1b2c3d4e5f\n");
        assert_eq!((traces.image.as_deref(), traces.container.as_deref()), (None, Some("0a1b2c3d4e5f")));
        hear(&mut traces, "Removing intermediate container 0a1b2c3d4e5f\n ---> d12512524457\n");
        assert_eq!((traces.image.as_deref(), traces.container.as_deref()), (Some("d12512524457"), None));
        // A step that says what the engine says names nothing of somebody else's.
        hear(&mut traces, "Step 4/4 : RUN c\n ---> Running in 1b2c3d4e5f60\n ---> Running in postgres\n ---> nginx\n");
        assert_eq!(
            (traces.image.as_deref(), traces.container.as_deref()),
            (Some("d12512524457"), Some("1b2c3d4e5f60"))
        );
        hear(&mut traces, "\u{1b}[91mno such tool\n\u{1b}[0m");
        assert_eq!(traces.said, ["no such tool"]);
    }
}
