//! Becoming the user that a process runs as, where no engine does so: no capability and no way to one, no core file, a
//! filter of system calls. What cannot be given up is an error, and nothing runs.

use anyhow::{Context, Result, ensure};
use rustix::{
    process::{Gid, Resource, Rlimit, Uid, ioctl_tiocsctty, setrlimit, setsid},
    stdio,
    thread::{
        CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use seccompiler::{apply_filter, compile_from_json};
use std::{env::consts::ARCH, fs, io::ErrorKind, os::unix::process::CommandExt, process::Command, process::ExitCode};

/// What a shell ends with where a program is not there, or cannot be run; errors of our own.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
const FAILED: u8 = 125;

/// Only what wants capabilities, a namespace or the machine itself: what Docker's own profile leaves out, too.
const FILTER: &str = include_str!("enter.json");
/// In this order: the second could not be set under the first's refusals, was it the stricter one.
const FILTERS: [&str; 2] = ["unknown", "refused"];

/// `enter UID GID PIDS TTY PROGRAM …`: becomes the program.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    let (code, why) = match prepare(words) {
        Ok(mut command) => {
            let error = command.exec();
            let program = command.get_program().to_string_lossy().into_owned();
            match error.kind() {
                ErrorKind::NotFound => (NOT_FOUND, format!("{program}: not found in the bottle")),
                _ => (NOT_RUN, format!("{program}: {error}")),
            }
        }
        Err(error) => (FAILED, format!("{error:#}")),
    };
    eprintln!("bottle-helper: {why}");
    ExitCode::from(code)
}

fn prepare(words: &[&str]) -> Result<Command> {
    let [uid, gid, pids, tty, program, arguments @ ..] = words else {
        anyhow::bail!("nothing to run is named");
    };
    let (uid, gid) = (uid.parse().context("a user's number")?, gid.parse().context("a group's number")?);
    if *tty == "tty" {
        setsid()?;
        ioctl_tiocsctty(stdio::stdin()).context("take the terminal")?;
    }
    if uid != 0 {
        let pids = (*pids != "-").then(|| pids.parse()).transpose().context("a number of processes")?;
        give_up(uid, gid, pids)?;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// There is one thread.
fn give_up(uid: u32, gid: u32, pids: Option<u64>) -> Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    if let Some(pids) = pids {
        setrlimit(Resource::Nproc, Rlimit { current: Some(pids), maximum: Some(pids) })?;
    }
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => {}
            result => result.context("put privileges out of reach")?,
        }
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[group])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    filter().context("filter system calls")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).map(str::trim);
    ensure!(bounding.is_some_and(|set| set.bytes().all(|b| b == b'0')), "capabilities are left: {bounding:?}");
    Ok(())
}

fn filter() -> Result<()> {
    let filters = compile_from_json(FILTER.as_bytes(), ARCH.try_into()?)?;
    for name in FILTERS {
        apply_filter(filters.get(name).with_context(|| format!("no filter is called {name}"))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_one_on_both_platforms() {
        for arch in ["x86_64", "aarch64"] {
            let filters = compile_from_json(FILTER.as_bytes(), arch.try_into().unwrap()).unwrap();
            assert!(FILTERS.iter().all(|name| filters.get(*name).is_some_and(|filter| !filter.is_empty())), "{arch}");
        }
    }
}
