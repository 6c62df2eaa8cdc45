//! Whether a bottle can be held to its limits on this machine, and the control groups that hold it.
//!
//! Processes are counted by the kernel for each user of a namespace, always. Memory and processors of a whole bottle need
//! control groups: those of version 2 where this user may make some, those of version 1 as root. A limit that nothing
//! would enforce is an error: nobody is to believe that it holds.

use bottle_api::{BottleSpec, CleanupItem, Error, ErrorKind, Host, Limits, Result, error::Context};
use rustix::fs::{Access, access};
use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The ledger's word for a control group.
const GROUP: &str = "control group";
const ROOT: &str = "/sys/fs/cgroup";
/// The beginning of a group's name; owner, identity and the ledger's entry follow.
const PREFIX: &str = "claude-bottle.";
const PERIOD_MICROS: u64 = 100_000;
const PAUSE: Duration = Duration::from_millis(10);

/// Where groups can be made, and what is written into one.
struct Place {
    parent: PathBuf,
    settings: Vec<(&'static str, String)>,
}

/// Refuses limits that nothing would enforce.
pub(crate) fn check(limits: &Limits) -> Result<()> {
    places(limits).map(drop)
}

/// What can be limited here, for `doctor`.
pub(crate) fn ability() -> String {
    let can = |limits: Limits| check(&limits).is_ok();
    let memory = can(Limits { memory: Some(1 << 30), ..Limits::default() });
    let cpus = can(Limits { milli_cpus: Some(1000), ..Limits::default() });
    let word = |can| if can { "limited" } else { "not limited" };
    format!("processes are limited; memory is {}, processors are {}", word(memory), word(cpus))
}

/// Makes the groups that the limits need; the files by which one enters them.
pub(crate) fn make(host: &Host, spec: &BottleSpec) -> Result<Vec<String>> {
    let ledger = host.ledger(&spec.identity);
    let mut entered = vec![];
    for Place { parent, settings } in places(&spec.limits)? {
        let mut entry = ledger.intent(GROUP, &parent.display().to_string())?;
        let dir = parent.join(format!("{PREFIX}{}.{}.{}", spec.owner, spec.identity, entry.uuid));
        fs::create_dir(&dir).with_context(|| format!("make the control group {}", dir.display()))?;
        ledger.created(&mut entry, &dir.display().to_string())?;
        for (file, value) in settings {
            let path = dir.join(file);
            match fs::write(&path, &value) {
                // A kernel that does not count swap: there is none to forbid.
                Err(error) if file.contains("sw") && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if file.contains("sw") && error.kind() == io::ErrorKind::PermissionDenied => {}
                written => written.with_context(|| format!("write {value} to {}", path.display()))?,
            }
        }
        entered.push(dir.join("cgroup.procs").display().to_string());
    }
    Ok(entered)
}

fn places(limits: &Limits) -> Result<Vec<Place>> {
    let memory = limits.memory.map(|bytes| bytes.to_string());
    let quota = limits.milli_cpus.map(|milli| (milli.saturating_mul(PERIOD_MICROS) / 1000).max(1000));
    if memory.is_none() && quota.is_none() {
        return Ok(vec![]);
    }
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        let mut wanted = vec![];
        wanted.extend(memory.is_some().then_some("memory"));
        wanted.extend(quota.is_some().then_some("cpu"));
        let parent = delegated(&wanted).ok_or_else(|| unenforced(&wanted.join(" and ")))?;
        let mut settings = vec![];
        settings.extend(memory.map(|bytes| ("memory.max", bytes)));
        settings.extend(limits.memory.map(|_| ("memory.swap.max", "0".into())));
        settings.extend(quota.map(|quota| ("cpu.max", format!("{quota} {PERIOD_MICROS}"))));
        return Ok(vec![Place { parent, settings }]);
    }
    let mut places = vec![];
    if let Some(bytes) = memory {
        let settings = vec![("memory.limit_in_bytes", bytes.clone()), ("memory.memsw.limit_in_bytes", bytes)];
        places.push(Place { parent: of_version_1("memory")?, settings });
    }
    if let Some(quota) = quota {
        let settings = vec![("cpu.cfs_period_us", PERIOD_MICROS.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        places.push(Place { parent: of_version_1("cpu")?, settings });
    }
    Ok(places)
}

/// A group of version 2 below which this user may make others that have those controllers: the root's, or one that this
/// process's own is in.
fn delegated(controllers: &[&str]) -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = Path::new(ROOT).join(own);
    let fits = |dir: &&Path| {
        let has = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        let has = |name: &&str| has.split_whitespace().any(|word| word == *name);
        dir.starts_with(ROOT) && controllers.iter().all(has) && writable(dir) && writable(&dir.join("cgroup.procs"))
    };
    own.ancestors().find(fits).map(Path::to_owned)
}

fn of_version_1(controller: &str) -> Result<PathBuf> {
    let dir = Path::new(ROOT).join(controller);
    if writable(&dir) && dir.join("cgroup.procs").exists() { Ok(dir) } else { Err(unenforced(controller)) }
}

fn writable(path: &Path) -> bool {
    access(path, Access::WRITE_OK).is_ok()
}

fn unenforced(what: &str) -> Error {
    let message =
        format!("the bottle's `limits` want {what} to be limited, and no control group can be made here for it");
    Error::new(ErrorKind::PREREQUISITE, message).hint(
        "Start bottle where groups are delegated: `systemd-run --user --scope -p Delegate=yes bottle start …`; or as root; \
         or take memory and cpus out of `limits`, or use another backend.",
    )
}

/// Every group of a bottle's that is there, with its owner.
pub(crate) fn groups() -> Vec<(CleanupItem, String)> {
    let mut parents: Vec<PathBuf> = ["memory", "cpu"].map(|name| Path::new(ROOT).join(name)).into();
    if let Ok(own) = fs::read_to_string("/proc/self/cgroup") {
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).map(|own| Path::new(ROOT).join(own));
        parents.extend(own.iter().flat_map(|own| own.ancestors()).filter(|p| p.starts_with(ROOT)).map(Path::to_owned));
    }
    let entries = parents.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let [owner, identity, uuid] = name.strip_prefix(PREFIX)?.split('.').collect::<Vec<_>>().try_into().ok()?;
            let item = CleanupItem {
                kind: GROUP.into(),
                name: name.clone(),
                id: entry.path().display().to_string(),
                identity: identity.into(),
                uuid: uuid.into(),
                ..CleanupItem::default()
            };
            Some((item, owner.to_owned()))
        })
        .collect()
}

/// Removes a group. The kernel takes a moment to let go of processes that are gone.
pub(crate) fn remove(item: &CleanupItem, until: Instant) -> Result<()> {
    let dirs: Vec<PathBuf> =
        groups().into_iter().filter(|(found, _)| found.uuid == item.uuid).map(|(found, _)| found.id.into()).collect();
    for dir in dirs {
        loop {
            match fs::remove_dir(&dir) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if Instant::now() > until => {
                    return Err(error).with_context(|| format!("remove the control group {}", dir.display()));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }
    Ok(())
}
