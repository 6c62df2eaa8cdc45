//! What bottles need of this machine, for `doctor`, and what a launch that failed says about it. Each need is tried, not
//! guessed: a bottle is made without a sidecar, in which nothing runs.

use crate::{find, git, launch, launch::Owner, limits, tools::Tools};
use bottle_api::{Cancel, Error, ErrorKind, Finding, Host, Result, SIDECAR_ARTIFACT};
use bottle_namespace::wire::Launch;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{getegid, geteuid, getgroups},
};
use std::{collections::BTreeMap, fs, os::fd::AsFd, path::Path, time::Duration};

const END_TIME: Duration = Duration::from_secs(10);
/// Whoever is in one of these groups may be root as soon as a file of the group's is in reach.
const STRONG: [&str; 8] = ["docker", "podman", "kvm", "disk", "sudo", "wheel", "lxd", "shadow"];

/// All rows.
pub(crate) fn findings(host: &Host, env: &BTreeMap<String, String>, cancel: &Cancel) -> Vec<Finding> {
    let mut rows = vec![row("namespaces", attempt(host, cancel))];
    rows.push(row("Claude Code", Tools::find(env).map(|tools| tools.claude)));
    rows.push(fine("Landlock", landlock()));
    rows.push(fine("limits", limits::ability()));
    rows.push(fine("git-gate", git_gate()));
    let strong = strong_groups();
    if !strong.is_empty() {
        rows.push(fine("groups", format!("yours go along into a bottle: {}", strong.join(", "))));
    }
    rows
}

/// For the preflight.
pub(crate) fn warnings() -> Vec<String> {
    let strong = strong_groups();
    let warning = || {
        format!(
            "you are in {}: what such a group may read, the agent may read where it stands in the bottle",
            strong.join(", ")
        )
    };
    (!strong.is_empty()).then(warning).into_iter().collect()
}

/// An ordinary user cannot give up groups. Root's bottles have none.
fn strong_groups() -> Vec<String> {
    if geteuid().is_root() {
        return vec![];
    }
    let own: Vec<u32> = getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect();
    let file = fs::read_to_string("/etc/group").unwrap_or_default();
    let named = file.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(':').collect();
        let id: u32 = words.get(2)?.parse().ok()?;
        let counts = own.contains(&id) && id != getegid().as_raw() && STRONG.contains(words.first()?);
        counts.then(|| words[0].to_owned())
    });
    named.collect()
}

/// A bottle in which nothing runs, made and ended.
fn attempt(host: &Host, cancel: &Cancel) -> Result<String> {
    let helper = host.artifact(SIDECAR_ARTIFACT, launch::platform())?.display().to_string();
    let (door, _far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let labels = find::arguments(["doctor", "", "doctor", "", "", "", ""]);
    let wanted = Launch { hostname: "doctor".into(), helper, pids: 16, files: 1 << 20, ..Launch::default() };
    let owner = Owner::start(host, &labels, &wanted, &[door.as_fd()])?;
    owner.finish(vec![], cancel)?;
    owner.end(END_TIME)?;
    let whom = if geteuid().is_root() { "a user of its own, never root" } else { "your own user" };
    Ok(format!("a bottle was made and ended, as {whom}"))
}

fn landlock() -> String {
    let known = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    match known.split(',').any(|name| name.trim() == "landlock") {
        true => "it holds bottles, too".into(),
        false if known.is_empty() => "used where the kernel has it".into(),
        false => "not in this kernel: bottles do without their second lock".into(),
    }
}

/// Most bottles do without.
fn git_gate() -> String {
    match git::find() {
        Ok(git) => format!("remotes are served by {git}"),
        Err(error) => {
            let hint = error.hint.as_deref().unwrap_or_default();
            format!("bottles with `git` do not start here: {error}. {hint}")
        }
    }
}

fn fine(what: &str, found: String) -> Finding {
    Finding { what: what.into(), ok: true, found, hint: None }
}

fn row(what: &str, found: Result<String>) -> Finding {
    match found {
        Ok(found) => fine(what, found),
        Err(error) => Finding { what: what.into(), ok: false, found: error.to_string(), hint: error.hint },
    }
}

/// What a launch that failed means here, and what to type.
pub(crate) fn explain(step: &str, why: &str, errno: Option<i32>) -> Error {
    let denied = errno == Some(1) || errno == Some(13);
    let setting = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let restricted = setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" && !geteuid().is_root();
    let (says, hint) = match step {
        "clone" | "map" | "network" | "users" | "tree" if denied && restricted => (
            "AppArmor keeps ordinary users from making namespaces",
            "Allow it for bottle: write `abi <abi/4.0>, profile bottle /**/bottle flags=(unconfined) { userns, }` to \
             /etc/apparmor.d/bottle and run `sudo apparmor_parser -r /etc/apparmor.d/bottle`; or for everybody, \
             `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`.",
        ),
        "clone" if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" && !geteuid().is_root() => (
            "this machine keeps ordinary users from making user namespaces",
            "`sudo sysctl kernel.unprivileged_userns_clone=1`.",
        ),
        "clone" if errno == Some(28) || setting("/proc/sys/user/max_user_namespaces") == "0" => (
            "no more user namespaces may be made here",
            "`sudo sysctl user.max_user_namespaces=10000`; within another sandbox there may be no way.",
        ),
        "clone" => (
            "no namespaces can be made here",
            "In a container, start that one with `--security-opt seccomp=unconfined`, or use another backend: --backend docker.",
        ),
        "proc" if denied => (
            "no /proc can be made here: this machine's own is partly covered, as in a container",
            "Start the container with `--security-opt systempaths=unconfined`, or use another backend: --backend docker.",
        ),
        "users" => ("a bottle cannot have a user of its own here", "Start bottle as an ordinary user."),
        "confine" => (
            "the agent cannot be held here, and so it is not started",
            "The kernel needs seccomp filters (CONFIG_SECCOMP_FILTER); use another backend: --backend docker.",
        ),
        _ => ("the bottle cannot be made", "`bottle doctor` tries each need of this backend."),
    };
    let hint = if Path::new("/.dockerenv").exists() && step == "clone" {
        "This is a container: start it with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`."
    } else {
        hint
    };
    Error::new(ErrorKind::PREREQUISITE, format!("{why} ({step})")).context(says).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_that_fails_says_what_to_type() {
        for step in ["begin", "seccomp", "users", "clone", "map", "sources", "proc", "tree", "network", "confine"] {
            for errno in [None, Some(1), Some(13), Some(28)] {
                let error = explain(step, "the kernel's words", errno);
                assert!(error.hint.is_some() && error.to_string().contains("the kernel's words"), "{step}");
            }
        }
    }
}
