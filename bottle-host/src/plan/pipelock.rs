//! Pipelock: a program of the operator's own, as a second hop behind the sidecar's proxy.

use super::{host_variable, upstream};
use crate::ui::{self, hinted};
use anyhow::{Context, Result};
use bottle_policy::Policy;
use object::{
    Endianness,
    elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP},
    read::elf::{FileHeader, ProgramHeader},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The host's variable that names the program.
pub const ENV: &str = "CLAUDE_BOTTLE_PIPELOCK";

/// The program, if there is to be one, and the policy can be held behind it.
pub fn program(policy: &Policy) -> Result<Option<PathBuf>> {
    let Some(path) = host_variable(ENV).map(PathBuf::from) else { return Ok(None) };
    check_policy(policy)?;
    let shown = ui::printable(&path.display().to_string());
    check_program(&path).map_err(|error| {
        let hint = "Name pipelock's own release binary for Linux, by its path; or unset the variable.";
        hinted(format!("{ENV}: {shown}: {error:#}"), hint)
    })?;
    Ok(Some(path))
}

fn check_policy(policy: &Policy) -> Result<()> {
    if policy.upstream_proxy.is_some() {
        return Err(hinted(
            format!(
                "{ENV} and {} are both set: pipelock cannot be told of another proxy behind it",
                upstream::PROXY_ENV
            ),
            format!("unset {ENV}, or unset {}", upstream::PROXY_ENV),
        ));
    }
    match policy.routes.iter().find(|route| route.address.is_some()) {
        None => Ok(()),
        Some(route) => Err(hinted(
            format!("the route {} has an `address`, and pipelock ({ENV}) resolves names itself", route.host),
            format!("unset {ENV}, or take the `address` out of the route"),
        )),
    }
}

/// The sidecar has no loader and no libraries: what runs there brings all of it along.
fn check_program(path: &Path) -> Result<()> {
    let file = fs::read(path).context("it cannot be read")?;
    let header = FileHeader64::<Endianness>::parse(&*file).context("it is no program for Linux")?;
    let endian = header.endian()?;
    let own = if cfg!(target_arch = "x86_64") { EM_X86_64 } else { EM_AARCH64 };
    anyhow::ensure!(header.e_machine(endian) == own, "it is a program for another processor");
    let segments = header.program_headers(endian, &*file).context("it is no program for Linux")?;
    let dynamic = segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP);
    anyhow::ensure!(!dynamic, "it is not static: it wants a loader, and the sidecar has none");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_policy::{Route, UpstreamProxy};

    #[test]
    fn what_cannot_be_held_behind_it_is_refused_by_name() {
        let proxy = UpstreamProxy { host: "proxy.example".into(), port: 3128, tls: false, secret: None };
        let chained = Policy { upstream_proxy: Some(proxy), ..Policy::default() };
        let route = Route { address: Some([10, 0, 0, 1].into()), ..Route::to("forge.example") };
        let pinned = Policy { routes: vec![route], ..Policy::default() };
        for (policy, words) in [(chained, [ENV, upstream::PROXY_ENV]), (pinned, ["forge.example", "`address`"])] {
            let error = check_policy(&policy).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        assert!(check_policy(&Policy { routes: vec![Route::to("a.example")], ..Policy::default() }).is_ok());
    }

    #[test]
    fn a_program_that_could_not_run_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        // This test needs a loader, as nearly every program of a distribution does.
        let own = std::env::current_exe().unwrap();
        for (path, word) in [(script, "no program"), (dir.path().join("gone"), "cannot be read"), (own, "not static")] {
            let error = format!("{:#}", check_program(&path).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
