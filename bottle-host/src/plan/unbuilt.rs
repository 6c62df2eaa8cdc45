//! What a manifest may say and this bottle cannot enforce yet: it is read, checked and shown, and never started, for a
//! bottle must not run without what it says. Whoever builds one of these takes its line out.

use crate::{
    manifest::{Bottle, Step},
    paths::Paths,
    ui::hinted,
};
use anyhow::Result;

/// Refuses a bottle that says any of it.
pub fn check(paths: &Paths, bottle: &Bottle) -> Result<()> {
    match said(bottle).first() {
        Some(steps) => Err(hinted(
            format!(
                "{}: this is not built yet, and a bottle does not run without what it says",
                bottle.place(paths, steps)
            ),
            "Take it out, or wait for the version that has it; `bottle info` shows the rest.",
        )),
        None => Ok(()),
    }
}

/// What a bottle says of it.
pub fn said(bottle: &Bottle) -> Vec<Vec<Step<'_>>> {
    use Step::Key;
    let mut said = vec![];
    if !bottle.git.is_empty() {
        said.push(vec![Key("git")]);
    }
    if bottle.supervise {
        said.push(vec![Key("supervise")]);
    }
    said
}
