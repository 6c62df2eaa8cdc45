//! Whom a bottle runs as, seen from this machine.
//!
//! An ordinary user's bottles are that user's processes. Root's must never be root's: without a single capability user 0
//! still passes every check of an owner, so it could write the kernel's settings. Each of root's bottles has a user of its
//! own, and so has its sidecar, whose numbers follow from the launcher's process: while it lives, nobody else has them.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, getegid, geteuid, getpid};
use std::fs;

/// Above what directory services hand out, below what systemd uses: nobody's by any convention. Tried in this order.
const BASES: [u32; 4] = [2_100_000_000, 2_110_000_000, 2_120_000_000, 2_130_000_000];
/// The most processes that Linux numbers.
const MOST_PROCESSES: u32 = 1 << 22;

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
        let base = BASES.into_iter().find(|base| !overlaps(&taken, *base, 2 * MOST_PROCESSES));
        let base = base.context("/etc/subuid and /etc/subgid leave no users for bottles")?;
        let id = |number| Id { user: number, group: number };
        Ok(Self { bottle: id(base + launcher), sidecar: id(base + MOST_PROCESSES + launcher), apart: true })
    }

    /// Writes the one user and group that a namespace has: `inner` inside.
    pub(crate) fn map(self, process: Pid, inner: u32, outer: Id) -> Result<()> {
        let write = |file: &str, text: &str| {
            let path = format!("/proc/{}/{file}", process.as_raw_pid());
            fs::write(&path, text).with_context(|| format!("write {file}"))
        };
        if !self.apart {
            write("setgroups", "deny")?;
        }
        write("uid_map", &format!("{inner} {} 1\n", outer.user))?;
        write("gid_map", &format!("{inner} {} 1\n", outer.group))
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
            ("me:100000:65536\nyou:2100000000:1\n", true),
            ("me:2000000000:200000000\n", true),
            ("me:2108388608:10\n", false),
            ("me:2108388607:10\n", true),
            ("me:1:18446744073709551615\n", true),
        ] {
            assert_eq!(overlaps(text, BASES[0], 2 * MOST_PROCESSES), expected, "{text:?}");
        }
    }

    #[test]
    fn no_base_reaches_another_or_the_numbers_of_others() {
        for pair in BASES.windows(2) {
            assert!(pair[0] + 2 * MOST_PROCESSES < pair[1]);
        }
        assert!(BASES[3] + 2 * MOST_PROCESSES < 2_147_352_576 && BASES[0] > 2_000_200_000);
    }
}
