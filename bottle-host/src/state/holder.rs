//! Who holds a bottle: a process, told from every later one, of a user, on a machine.

use crate::paths::machine;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A process with its user and machine, as `metadata.json` keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Holder {
    /// The machine's id, hashed: machine-id(5) asks that it is not shown.
    pub machine: String,
    /// The user.
    pub uid: u32,
    /// The kernel's run: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// The pid's namespace: the inode of `/proc/self/ns/pid`.
    pub pid_namespace: String,
    /// The process.
    pub pid: u32,
    /// When it began, in ticks since the machine did: field 22 of `/proc/PID/stat`, proc_pid_stat(5). A pid comes
    /// again, with another time.
    pub started: u64,
}

impl Holder {
    /// This process.
    pub fn own() -> Self {
        Self::of(std::process::id())
    }

    /// A process of this user's.
    pub(crate) fn of(pid: u32) -> Self {
        Self {
            machine: machine(),
            uid: rustix::process::getuid().as_raw(),
            boot: read(Path::new("/proc/sys/kernel/random/boot_id")),
            pid_namespace: own_namespace(),
            pid,
            started: start_time(pid).unwrap_or_default(),
        }
    }

    /// Is it of another machine or user, so that nothing here can say whether it lives?
    pub fn is_foreign(&self) -> bool {
        !self.machine.is_empty() && (self.machine != machine() || self.uid != rustix::process::getuid().as_raw())
    }

    /// Is it there, for certain? A process in another pid namespace cannot be looked for: `false`.
    pub fn is_alive(&self) -> bool {
        self.boot == read(Path::new("/proc/sys/kernel/random/boot_id"))
            && self.pid_namespace == own_namespace()
            && start_time(self.pid).is_some_and(|started| started == self.started)
    }
}

fn own_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(PathBuf::from("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(") ")?;
    // Field 3: a zombie has ended, whether or not its parent has noticed.
    if rest.starts_with(['Z', 'X']) {
        return None;
    }
    rest.split(' ').nth(22 - 3)?.parse().ok()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_gone_before_its_parent_notices() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).unwrap();
        assert_eq!(start_time(child.id()), None);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_pid_and_from_another_machines() {
        let own = Holder::own();
        assert!(own.is_alive() && !own.is_foreign() && own.started > 0, "{own:?}");
        let later = Holder { started: own.started + 1, ..own.clone() };
        let rebooted = Holder { boot: "another".into(), ..own.clone() };
        let elsewhere = Holder { pid_namespace: "pid:[1]".into(), ..own.clone() };
        let gone = Holder { pid: u32::MAX, ..own.clone() };
        for (what, other) in [("later", later), ("rebooted", rebooted), ("elsewhere", elsewhere), ("gone", gone)] {
            assert!(!other.is_alive() && !other.is_foreign(), "{what}");
        }
        assert!(Holder { machine: "another".into(), ..own.clone() }.is_foreign());
        assert!(Holder { uid: own.uid + 1, ..own }.is_foreign());
        // Nothing was recorded: the directory is ours, and so is the bottle.
        assert!(!Holder::default().is_foreign() && !Holder::default().is_alive());
    }
}
