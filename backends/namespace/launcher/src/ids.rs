//! Whom a bottle runs as, seen from this machine.
//!
//! An ordinary user's bottles are that user's processes. Root's must never be root's: without a single capability user 0
//! still passes every check of an owner, so it could write the kernel's settings. Each of root's bottles has a user of its
//! own, and so has its sidecar, whose numbers follow from the launcher's process: while it lives, nobody else has them.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, getegid, geteuid, getpid};
use std::fs;

/// Above what directory services hand out, below what systemd uses: nobody's by any convention. Tried in this order.
const BASES: [u32; 3] = [2_010_000_000, 2_055_000_000, 2_100_000_000];
/// The most processes that Linux numbers.
const MOST_PROCESSES: u32 = 1 << 22;
/// The users of one sidecar: who starts the bundle, the bundle, and each of its daemons.
const SIDECAR_USERS: u32 = 8;
/// What all launchers that there can be take.
const TAKEN: u32 = MOST_PROCESSES * (1 + SIDECAR_USERS);

/// One user and group of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// Whom the bottle and its sidecar run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) bottle: Id,
    /// The first of them, where they are [`Self::apart`].
    pub(crate) sidecar: Id,
    /// They are not the launcher's own user, who is root.
    pub(crate) apart: bool,
}

impl Ids {
    /// Of this launcher's.
    pub(crate) fn choose() -> Result<Self> {
        Self::of(getpid().as_raw_pid().unsigned_abs())
    }

    /// Of the launcher of that number.
    pub(crate) fn of(launcher: u32) -> Result<Self> {
        if !geteuid().is_root() {
            let own = Id { user: geteuid().as_raw(), group: getegid().as_raw() };
            return Ok(Self { bottle: own, sidecar: own, apart: false });
        }
        let map = fs::read_to_string("/proc/self/uid_map")?;
        if map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"] {
            bail!("this root is not the machine's own, and has no users to give away");
        }
        let taken = ["/etc/subuid", "/etc/subgid"].map(|file| fs::read_to_string(file).unwrap_or_default()).concat();
        let base = BASES.into_iter().find(|base| !overlaps(&taken, *base, TAKEN));
        let base = base.context("/etc/subuid and /etc/subgid leave no users for bottles")?;
        let id = |number| Id { user: number, group: number };
        let sidecar = id(base + MOST_PROCESSES + launcher * SIDECAR_USERS);
        Ok(Self { bottle: id(base + launcher), sidecar, apart: true })
    }

    /// Writes the one user and group that the bottle's namespace has: `inner` inside.
    pub(crate) fn map_bottle(self, process: Pid, inner: u32) -> Result<()> {
        self.map(process, &[(inner, self.bottle, 1)])
    }

    /// Writes the users and groups that the sidecar's namespace has: `inner`, and those that follow it. Where they are apart
    /// the first of them is the namespace's root, who hands out the others; an ordinary user has but one to give.
    pub(crate) fn map_sidecar(self, process: Pid, inner: u32) -> Result<()> {
        let next = Id { user: self.sidecar.user + 1, group: self.sidecar.group + 1 };
        match self.apart {
            true => self.map(process, &[(0, self.sidecar, 1), (inner, next, SIDECAR_USERS - 1)]),
            false => self.map(process, &[(inner, self.sidecar, 1)]),
        }
    }

    /// Each of them: the first inside, the first outside, how many.
    fn map(self, process: Pid, ranges: &[(u32, Id, u32)]) -> Result<()> {
        let write = |file: &str, text: &str| {
            let path = format!("/proc/{}/{file}", process.as_raw_pid());
            fs::write(&path, text).with_context(|| format!("write {file}"))
        };
        if !self.apart {
            write("setgroups", "deny")?;
        }
        let lines = |number: fn(&Id) -> u32| -> String {
            ranges.iter().map(|(inner, outer, count)| format!("{inner} {} {count}\n", number(outer))).collect()
        };
        write("uid_map", &lines(|id| id.user))?;
        write("gid_map", &lines(|id| id.group))
    }
}

/// Does any `name:first:count` of the text cover a part of these?
fn overlaps(text: &str, first: u32, count: u32) -> bool {
    let ranges = text.lines().filter_map(|line| {
        let mut words = line.split(':').skip(1).map(|word| word.trim().parse::<u64>());
        Some((words.next()?.ok()?, words.next()?.ok()?))
    });
    let (first, end) = (u64::from(first), u64::from(first) + u64::from(count));
    ranges.into_iter().any(|(start, length)| start < end && first < start.saturating_add(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_were_given_to_somebody_are_not_taken() {
        for (text, expected) in [
            ("", false),
            ("me:100000:65536\n", false),
            ("# nobody\nme:x:y\n", false),
            ("me:100000:65536\nyou:2010000000:1\n", true),
            ("me:2000000000:200000000\n", true),
            ("me:2047748736:10\n", false),
            ("me:2047748735:10\n", true),
            ("me:1:18446744073709551615\n", true),
        ] {
            assert_eq!(overlaps(text, BASES[0], TAKEN), expected, "{text:?}");
        }
    }

    #[test]
    fn no_base_reaches_another_or_the_numbers_of_others() {
        for pair in BASES.windows(2) {
            assert!(pair[0] + TAKEN < pair[1]);
        }
        assert!(BASES[2] + TAKEN < 2_147_352_576 && BASES[0] > 2_000_200_000);
    }
}
