//! `schema`: the JSON Schema of the manifest's frontmatter.

use crate::{
    manifest::{Kind, schema},
    ui,
};
use anyhow::Result;
use std::collections::BTreeMap;

/// Runs `schema`.
pub(super) fn run(kind: Option<Kind>) -> Result<u8> {
    match kind {
        Some(kind) => ui::json(&schema(kind))?,
        None => ui::json(&BTreeMap::from([("agent", schema(Kind::Agent)), ("bottle", schema(Kind::Bottle))]))?,
    }
    Ok(0)
}
