//! What the agents of abandoned bottles made is saved before a cleanup takes these away.

use crate::{
    paths::Paths,
    plugin::{self, Services},
    signals::Cancellation,
    state::{Abandoned, RESTORING},
    ui, work,
    work::Left,
};
use anyhow::Result;
use bottle_api::{AttachRequest, ErrorKind, error::StdError};
use std::sync::Arc;

/// Saves it, bottle by bottle. Returns the identities of those whose work could not be saved though they run.
pub(super) fn save(
    abandoned: &[Abandoned],
    paths: &Paths,
    services: &Arc<Services>,
    cancel: &Cancellation,
) -> Vec<String> {
    let with_things = abandoned.iter().filter(|bottle| !bottle.entries().is_empty());
    let failed = with_things.filter(|bottle| match save_one(bottle, paths, services, cancel) {
        Ok(()) => false,
        Err(error) => {
            ui::warn_of(format!("what the agent of {} made cannot be saved", bottle.identity), &error);
            true
        }
    });
    failed.map(|bottle| bottle.identity.clone()).collect()
}

fn save_one(bottle: &Abandoned, paths: &Paths, services: &Arc<Services>, cancel: &Cancellation) -> Result<()> {
    if bottle.dir().join(RESTORING).exists() {
        return Ok(()); // all that there is of it is saved
    }
    let (identity, metadata) = (&bottle.identity, &bottle.metadata);
    let backend = plugin::select(&metadata.backend, services)?;
    let req = AttachRequest { identity: identity.clone(), owner: paths.owner(), env: metadata.env.clone() };
    let running = match backend.attach(&req, cancel.fd()) {
        // Its agent never ran, or does not any more.
        Err(error) if error.downcast_ref::<StdError>().is_some_and(|e| e.0.kind == ErrorKind::NOT_FOUND) => {
            return Ok(());
        }
        running => running?,
    };
    let saved = work::save(&running, bottle.dir(), &Left::find(bottle.dir())?.came, true);
    ui::clear_progress();
    if saved.failed && !saved.any() {
        anyhow::bail!("nothing of it was saved");
    }
    saved.lines(identity).iter().for_each(ui::say);
    Ok(())
}
