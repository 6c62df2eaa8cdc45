//! `cargo xtask demo`: one bottle and a table of what it could and could not do. On bare Linux by default, which needs
//! nothing but cargo; with `--backend docker` the lab is made first, and the real Claude Code runs.

use crate::{
    run::{cargo, root, run},
    setup, stage,
};
use anyhow::{Result, bail};
use std::process::{Command, ExitCode};

/// Stages bottle, and runs the demo of a backend.
pub(crate) fn demo(backend: &str) -> Result<ExitCode> {
    let program = match backend {
        "namespace" => "demo-namespace",
        "docker" => {
            setup::setup()?;
            "demo"
        }
        other => bail!("no demo of {other}: namespace, docker"),
    };
    stage::stage()?;
    run(cargo().args(["run", "--quiet", "--locked", "-p", "bottle-tests", "--bin", program]))?;
    Ok(ExitCode::SUCCESS)
}

/// The demo on namespaces once more, by somebody who is not root.
pub(crate) fn by_a_user() -> Result<()> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "--"]);
    run(command.arg(root().join("target/debug/demo-namespace")).current_dir("/"))
}
