//! Whether an engine can hold a bottle to its limits. One that cannot takes them all the same, and says nothing.

use crate::address::Address;
use bollard::models::SystemInfo;
use bottle_api::{Error, ErrorKind, Host, Limits, Result};

/// Refuses limits of the manifest that the engine would ignore; of our own defaults, warns.
pub fn check(engine: &Address, info: &SystemInfo, host: &Host, limits: &Limits) -> Result<()> {
    for (what, asked) in unenforced(info, limits) {
        if asked {
            let message = format!("the engine at {engine} cannot limit {what}, as the bottle's `limits` want");
            return Err(Error::new(ErrorKind::PREREQUISITE, message).hint(format!(
                "Give the engine the cgroup controllers (`docker info` names what is missing), or take `{what}` out of `limits`."
            )));
        }
        host.warn(format!("the engine at {engine} cannot limit {what}: a bottle may use all of the machine's"));
    }
    Ok(())
}

/// What the engine cannot limit, and whether the manifest asks for it.
fn unenforced(info: &SystemInfo, limits: &Limits) -> Vec<(&'static str, bool)> {
    let all = [
        ("memory", info.memory_limit, limits.memory.is_some(), true),
        ("pids", info.pids_limit, limits.pids.is_some(), true),
        ("cpus", info.cpu_cfs_quota, limits.milli_cpus.is_some(), false),
    ];
    let lacking = all.into_iter().filter(|(_, can, asked, default)| *can != Some(true) && (*asked || *default));
    lacking.map(|(what, _, asked, _)| (what, asked)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_enforced_is_told_and_what_can_is_not() {
        let all = Limits { memory: Some(1), milli_cpus: Some(1), pids: Some(1) };
        let can = |memory, pids, cpus| SystemInfo {
            memory_limit: memory,
            pids_limit: pids,
            cpu_cfs_quota: cpus,
            ..SystemInfo::default()
        };
        for (info, limits, expected) in [
            (can(Some(true), Some(true), Some(true)), &all, &[][..]),
            (can(Some(false), Some(true), Some(true)), &all, &[("memory", true)]),
            (can(Some(true), None, Some(true)), &all, &[("pids", true)]),
            (can(Some(true), Some(true), Some(false)), &all, &[("cpus", true)]),
            // Nobody asked for any, and two have a default.
            (can(None, None, None), &Limits::default(), &[("memory", false), ("pids", false)]),
        ] {
            assert_eq!(unenforced(&info, limits), expected);
        }
    }
}
