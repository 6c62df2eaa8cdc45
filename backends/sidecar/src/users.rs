//! Whom the bundle and its daemons run as: each as a user of its own, where the backend allows for it.
//!
//! A daemon that was broken into can then neither signal nor look at another. Only root may hand out users, so the
//! bundle begins as root with three capabilities. It has given them up, out of reach, before it reads a byte from
//! outside; it looks, and does not serve if it has not.

use crate::daemon;
use anyhow::{Context, Result, bail, ensure};
use bottle_api::control::UIDS_ENV;
use rustix::{
    process::{Gid, Uid, geteuid, parent_process_death_signal, set_parent_process_death_signal},
    thread::{
        CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};
use std::{env, fs, os::unix::process::CommandExt, process::Command};

/// The first of the users: the bundle's own. `None`: all share the one that it was started as.
pub(crate) struct Users(Option<u32>);

impl Users {
    /// As the backend says. No process that is started from now on comes to have a capability.
    pub(crate) fn from_env() -> Result<Self> {
        let Some(first) = env::var_os(UIDS_ENV) else { return Ok(Self(None)) };
        let first = first.to_str().and_then(|text| text.parse().ok()).filter(|uid| *uid > 0);
        let first = first.with_context(|| format!("{UIDS_ENV} is no user's number"))?;
        ensure!(geteuid().is_root(), "{UIDS_ENV} is set, and the bundle was not started as root");
        for capability in [CapabilitySet::SETUID, CapabilitySet::SETGID, CapabilitySet::SETPCAP] {
            remove_capability_from_bounding_set(capability).context("put privileges out of reach")?;
        }
        Ok(Self(Some(first)))
    }

    /// Has a command run as the user of the daemon at that place in the list.
    pub(crate) fn assign(&self, command: &mut Command, place: usize) -> Result<()> {
        if let Some(first) = self.0 {
            let id = first + 1 + u32::try_from(place)?;
            command.uid(id).gid(id);
        }
        Ok(())
    }

    /// Ends the privilege for good. Every process that is to have another user has been started; there is one thread.
    pub(crate) fn settle(self) -> Result<()> {
        if let Some(id) = self.0 {
            let with_parent = parent_process_death_signal()?;
            give_up(id).context("give up the bundle's privileges")?;
            // A change of user takes that away, too, where the bundle has a parent to end with.
            set_parent_process_death_signal(with_parent)?;
            let status = fs::read_to_string("/proc/self/status")?;
            if let Some(line) = privileged(&status, id) {
                bail!("the bundle still has privileges: {line}");
            }
            // Another user's memory is readable again.
            daemon::harden()?;
        }
        Ok(())
    }
}

fn give_up(id: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// The line of a process's status that is not as it must be, or the name of one that is missing.
fn privileged(status: &str, id: u32) -> Option<String> {
    let ids = [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
    let none = "0".repeat(16);
    let expected = [("Uid", &ids), ("Gid", &ids), ("Groups", &String::new()), ("Threads", &"1".into())];
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| (name, &none));
    expected.into_iter().chain(sets).find_map(|(name, value)| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        (line.map(str::trim) != Some(value)).then(|| format!("{name} is {}", line.unwrap_or("not there").trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privilege_that_is_left_is_seen() {
        let status = "Uid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t \nThreads:\t1\nCapInh:\t0000000000000000\n\
                      CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
                      CapAmb:\t0000000000000000\n";
        assert_eq!(privileged(status, 7), None);
        for (from, to) in [
            ("Uid:\t7", "Uid:\t0"),
            ("Gid:\t7\t7", "Gid:\t7\t0"),
            ("Groups:\t ", "Groups:\t0 "),
            ("Threads:\t1", "Threads:\t2"),
            ("CapBnd:\t0", "CapBnd:\t8"),
            ("CapAmb:\t0000000000000000\n", ""),
        ] {
            let changed = status.replace(from, to);
            assert!(changed != status && privileged(&changed, 7).is_some(), "{from:?}");
        }
    }
}
