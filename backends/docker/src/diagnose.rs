//! What bottles need of an engine, for `doctor`, and their images, for `image`.

use bottle_api::{Diagnosis, Error, Finding, Host, Image, ImageBuild, Result};
use bottle_kit::{
    engine::{About, Engine, Stop},
    image::{self, Platform},
};
use std::collections::BTreeMap;

/// The engine answers: it, and the images, built first where that is asked for.
pub(crate) async fn images(
    host: &Host,
    engine: &Engine,
    about: &About,
    env: &BTreeMap<String, String>,
    build: Option<&ImageBuild>,
    stop: &Stop,
) -> Result<Diagnosis> {
    let platform = Platform::of(about, host).await?;
    if let Some(wanted) = build {
        image::make(engine, host, env, &platform, wanted, stop).await?;
    }
    let images = stop.or(image::list(engine, env, &platform)).await?;
    let mut findings = vec![found("Docker engine", engine_line(engine, about))];
    let runtime = about.runtime(&stop.or(engine.info()).await?);
    let runtime = runtime.map_or("not there: agents run on the engine's own runtime", |_| "agents run on it");
    findings.push(found("gVisor", runtime.into()));
    findings.extend(images.iter().map(finding));
    Ok(Diagnosis { findings, images: Some(images) })
}

/// A need that is not met.
pub(crate) fn missing(what: &str, error: Error) -> Finding {
    Finding { what: what.into(), ok: false, found: error.to_string(), hint: error.hint }
}

fn found(what: &str, found: String) -> Finding {
    Finding { what: what.into(), ok: true, found, hint: None }
}

fn engine_line(engine: &Engine, about: &About) -> String {
    let warning = about.warning().map(|warning| format!("; {warning}")).unwrap_or_default();
    format!("{} at {}, API {}{warning}", about.product, engine.address, about.api)
}

/// An image is never missing for long: the next start builds it, and only takes its time.
fn finding(image: &Image) -> Finding {
    let then = match image.state.as_str() {
        "missing" | "outdated" => ": the next start builds it; `bottle image build` does so now",
        _ => "",
    };
    found(&format!("{} image", image.role), format!("{}, {}{then}", image.name, image.state))
}
