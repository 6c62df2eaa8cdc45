//! `cargo xtask demo`: set-up included, one bottle and a table of what it could and could not do.

use crate::{
    run::{cargo, run},
    setup, stage,
};
use anyhow::Result;
use std::process::ExitCode;

/// Makes the lab, stages bottle, and runs the demo against them.
pub(crate) fn demo() -> Result<ExitCode> {
    setup::setup()?;
    stage::stage()?;
    run(cargo().args(["run", "--quiet", "--locked", "-p", "bottle-tests", "--bin", "demo"]))?;
    Ok(ExitCode::SUCCESS)
}
