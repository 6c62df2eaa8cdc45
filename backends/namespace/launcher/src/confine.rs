//! What a process in a namespace of ours gives up, for good and for all that it starts. What cannot be given up is an
//! error; only Landlock, which an older kernel does not have, is an addition.

use crate::seccomp;
use anyhow::{Context, Result, ensure};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};
use seccompiler::BpfProgram;
use std::fs;

/// The newest rules that are used where the kernel knows them.
const RULES: ABI = ABI::V6;

/// Nobody of the same user may look into this process: no memory, no descriptors, no program.
pub(crate) fn hide(hidden: bool) -> Result<()> {
    let behaviour = if hidden { DumpableBehavior::NotDumpable } else { DumpableBehavior::Dumpable };
    set_dumpable_behavior(behaviour).context("hide this process")
}

/// A limit that nobody below can lift; one that is lower already stays.
pub(crate) fn limit(resource: Resource, value: u64) -> Result<()> {
    let most = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
        .with_context(|| format!("limit {resource:?}"))
}

/// Every capability and every way to one, but for those `kept`.
pub(crate) fn give_up_capabilities(kept: CapabilitySet) -> Result<()> {
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => {}
            result => result.context("put privileges out of reach")?,
        }
    }
    clear_ambient_capability_set().context("clear the ambient set")?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    set_no_new_privs(true)?;
    let status = fs::read_to_string("/proc/self/status")?;
    for (name, expected) in [("CapInh", none), ("CapPrm", kept), ("CapEff", kept), ("CapBnd", kept), ("CapAmb", none)] {
        let set = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let bits = set.and_then(|set| u64::from_str_radix(set, 16).ok());
        ensure!(bits == Some(expected.bits()), "other capabilities are left: {name} {set:?}");
    }
    Ok(())
}

/// Files may be changed below these paths alone, and nobody outside of the domain is sent a signal or found at an abstract
/// socket. A second lock on doors that the namespaces close already: an older kernel does without. But `keep_in`: no door of
/// a namespace closes abstract sockets, and a kernel that cannot is an error.
pub(crate) fn landlock(writable: &[&str], keep_in: bool) -> Result<()> {
    let ruleset = if keep_in { kept_in()? } else { Ruleset::default() };
    let ruleset = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?;
    let ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/")?, AccessFs::from_read(RULES)))?;
    let rules = writable.iter().map(|path| Ok(PathBeneath::new(PathFd::new(path)?, AccessFs::from_all(RULES))));
    let ruleset = rules.collect::<Result<Vec<_>>>()?.into_iter().try_fold(ruleset, |set, rule| set.add_rule(rule))?;
    ruleset.restrict_self()?;
    Ok(())
}

/// Abstract sockets stay within the domain, or it is an error.
fn kept_in() -> Result<Ruleset> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.scope(Scope::AbstractUnixSocket).context("this kernel's Landlock cannot keep sockets apart (6.12 can)")
}

/// Can this kernel keep abstract sockets within a domain?
pub(crate) fn can_keep_in() -> bool {
    kept_in().is_ok_and(|ruleset| ruleset.create().is_ok())
}

/// The filters of system calls, without which nothing runs. Whether they hold is asked of the kernel.
pub(crate) fn filter(filters: &[BpfProgram]) -> Result<()> {
    seccomp::set(filters)?;
    let status = fs::read_to_string("/proc/self/status")?;
    ensure!(status.lines().any(|line| line == "Seccomp:\t2"), "no filter of system calls holds");
    Ok(())
}
