//! The ends of a bottle: whoever dies first, nothing of it outlives a second.

use anyhow::{Context, Result};
use bottle_policy::Policy;
use bottle_tests::{
    bare::{Bare, Who},
    bottle::is_running,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

/// Processes that do not want to end, and make more of themselves. What waits for them is made before: after them nothing
/// more can be.
const STUBBORN: &str = "exec 9< <(exec sleep 1000 2>/dev/null); \
    for i in 1 2 3; do setsid bash -c 'trap \"\" TERM HUP INT; while :; do sleep 0.1; done' >/dev/null 2>&1 & done; \
    (bomb() { bomb | bomb & }; bomb) >/dev/null 2>&1; read -rt 0.2 -u 9; echo begun";

fn gone_within_a_second(pids: &[i32]) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        let left: Vec<&i32> = pids.iter().filter(|pid| is_running(**pid)).collect();
        if left.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < until, "{} processes are left after a second", left.len());
        thread::sleep(Duration::from_millis(10));
    }
}

/// The machine's, but for those of the lab's engine, which has containers of other tests at any time.
fn mounts() -> Result<Vec<String>> {
    let all = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(all.lines().filter(|line| !line.contains("/bottle-lab/engine/")).map(str::to_owned).collect())
}

#[test]
fn with_its_launcher_or_its_owner_a_bottle_ends_whatever_runs_in_it() -> Result<()> {
    for who in Who::ALL {
        for launcher_is_killed in [true, false] {
            let before = mounts()?;
            let mut bottle = Bare::start_beside_sidecar(who, &Policy::default())?;
            let said = bottle.sh(STUBBORN)?;
            assert!(said.stdout.contains("begun"), "{said:?}");
            let processes = bottle.processes();
            assert!(processes.len() > 10, "{who:?}: {} processes", processes.len());
            if launcher_is_killed {
                kill_process(Pid::from_child(&bottle.launcher), Signal::KILL)?;
            } else {
                bottle.abandon();
            }
            gone_within_a_second(&processes).with_context(|| format!("{who:?}, launcher {launcher_is_killed}"))?;
            drop(bottle);
            assert_eq!(mounts()?, before, "{who:?}");
        }
    }
    Ok(())
}

#[test]
fn beside_a_fork_bomb_a_command_still_runs() -> Result<()> {
    for who in Who::ALL {
        let bottle = Bare::start(who, &[])?;
        bottle.sh(STUBBORN)?;
        let run = bottle.run(&["/bin/echo", "here"])?;
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "here\n"), "{who:?}: {run:?}");
    }
    Ok(())
}

#[test]
fn roots_bottles_are_users_of_their_own_and_never_root() -> Result<()> {
    let bottles = [Bare::start(Who::Root, &[])?, Bare::start(Who::Root, &[])?];
    let users = bottles.each_ref().map(|bottle| {
        let of = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let statuses: Vec<String> = bottle.processes().iter().map(of).collect();
        statuses.iter().find_map(|status| Some(status.lines().find(|l| l.starts_with("Uid:"))?.to_owned())).unwrap()
    });
    assert_ne!(users[0], users[1]);
    for user in users {
        let first: u32 = user.split_whitespace().nth(1).unwrap().parse()?;
        assert!(first > 2_000_000_000 && user.split_whitespace().skip(1).all(|id| id == first.to_string()), "{user}");
    }
    Ok(())
}

#[test]
fn the_sidecar_has_everything_of_its_own_but_the_network() -> Result<()> {
    for who in Who::ALL {
        let bottle = Bare::start_beside_sidecar(who, &Policy::default())?;
        let namespace = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        let own = |kind| namespace("self", kind);
        let in_our_network = |pid: &i32| namespace(&pid.to_string(), "net").ok() == own("net").ok();
        let sidecar: Vec<i32> = bottle.processes().into_iter().filter(in_our_network).collect();
        assert!(sidecar.len() >= 5, "{who:?}: bundle, keepers and daemons are {sidecar:?}");
        let mut users = BTreeSet::new();
        for pid in sidecar {
            for kind in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
                assert_ne!(namespace(&pid.to_string(), kind)?, own(kind)?, "{who:?}: {kind}");
            }
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
                assert!(status.contains(line), "{who:?}: {line} is not in {status}");
            }
            assert!(!status.contains("Uid:\t0\t"), "{who:?}: {status}");
            users.extend(status.lines().find(|line| line.starts_with("Uid:")).map(str::to_owned));
            let seen = fs::read_dir(format!("/proc/{pid}/root"))?.flatten().map(|entry| entry.file_name());
            let mut seen: Vec<String> = seen.map(|name| name.to_string_lossy().into_owned()).collect();
            seen.sort();
            assert_eq!(seen, ["bottle-sidecar", "dev", "etc", "proc"], "{who:?}");
        }
        // The bundle, the proxy and the resolver; an ordinary user has no others to give.
        assert_eq!(users.len(), if who == Who::Root { 3 } else { 1 }, "{who:?}: {users:?}");
    }
    Ok(())
}
