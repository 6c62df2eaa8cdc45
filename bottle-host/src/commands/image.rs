//! `image build`, `image ls`: the images that bottles are made of, before a start needs them.
//!
//! Only a backend knows what an image is. So both are its diagnosis: what is needed, whether it is there, and, asked to,
//! made ready first.

use crate::{
    cli::Image as What,
    paths::Paths,
    plugin::{self, Services},
    signals::Cancellation,
    state,
    ui::{self, hinted},
};
use anyhow::{Result, anyhow};
use bottle_api::{Diagnosis, Image, ImageBuild};
use serde::Serialize;

/// `image ls --json`.
#[derive(Serialize)]
struct Listing<'a> {
    version: u32,
    backend: &'a str,
    images: &'a [Image],
}

/// Runs `image`.
pub(super) fn run(backend: Option<&str>, what: &What) -> Result<u8> {
    let cancel = Cancellation::install()?;
    cancel.conclude(image(backend, what, &cancel))
}

fn image(backend: Option<&str>, what: &What, cancel: &Cancellation) -> Result<u8> {
    let paths = Paths::from_env()?;
    let backend = plugin::select(&plugin::chosen_name(backend), &Services::from_env())?;
    let name = &backend.info.name;
    match what {
        What::Build { claude } => {
            state::make_owner(&paths)?;
            let build = ImageBuild { claude: claude.clone().unwrap_or_default() };
            let built = backend.build_images(&paths.owner(), build, cancel.fd());
            ui::clear_progress();
            show(&images(name, built?)?)?;
        }
        What::Ls { json } => {
            let images = images(name, backend.diagnose(&paths.owner(), cancel.fd())?)?;
            match json {
                true => ui::json(&Listing { version: 1, backend: name, images: &images })?,
                false => show(&images)?,
            }
        }
    }
    Ok(0)
}

/// The images of a diagnosis; without them, what is missing says why.
fn images(backend: &str, diagnosis: Diagnosis) -> Result<Vec<Image>> {
    let missing = diagnosis.findings.into_iter().find(|finding| !finding.ok);
    match (diagnosis.images, missing) {
        (Some(images), _) => Ok(images),
        (None, Some(missing)) => Err(match missing.hint {
            Some(hint) => hinted(missing.found, hint),
            None => anyhow!(missing.found),
        }),
        (None, None) => {
            Err(hinted(format!("the backend {backend} has no images"), "Choose one that has with --backend."))
        }
    }
}

fn show(images: &[Image]) -> Result<()> {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let row = |image: &Image| {
        vec![
            image.name.clone(),
            image.role.clone(),
            image.state.clone(),
            or_dash(image.claude.as_deref().unwrap_or_default()),
            if image.id.is_empty() { "-".into() } else { format!("{} MB", image.bytes / 1_000_000) },
            or_dash(image.created.get(..16).unwrap_or_default()),
        ]
    };
    ui::table(&["IMAGE", "FOR", "STATE", "CLAUDE", "SIZE", "BUILT"], &images.iter().map(row).collect::<Vec<_>>())
}
