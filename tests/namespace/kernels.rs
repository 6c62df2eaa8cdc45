//! Kernels that lack something, played by a filter: a bottle that is as closed, or none, and the reason.

use anyhow::Result;
use bottle_namespace::wire::Launch;
use bottle_tests::bare::{Bare, Who};
use libc::*;

fn start(who: Who, missing: &[i64]) -> Result<Bare> {
    Bare::start_with(who, Launch { pids: 100, files: 16 << 20, ..Launch::default() }, missing)
}

#[test]
fn without_landlock_the_other_defences_hold() -> Result<()> {
    for who in Who::ALL {
        let bottle = start(who, &[SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self])?;
        let script = "(echo x > /etc/x) 2>/dev/null && echo open; [ -e /proc/1 ] && echo open; \
                      grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t\\n'";
        assert_eq!(bottle.sh(script)?.stdout, "NoNewPrivs:1Seccomp:2", "{who:?}");
    }
    Ok(())
}

#[test]
fn what_a_bottle_rests_on_must_be_there() -> Result<()> {
    for who in Who::ALL {
        for (what, missing, step) in [
            ("clone3", SYS_clone3, "clone"),
            ("open_tree", SYS_open_tree, "sources"),
            ("mount_setattr", SYS_mount_setattr, "sources"),
            ("fsopen", SYS_fsopen, "proc"),
            ("pivot_root", SYS_pivot_root, "tree"),
            ("seccomp", SYS_seccomp, "confine"),
            ("capset", SYS_capset, "confine"),
        ] {
            let Err(error) = start(who, &[missing]) else { panic!("{who:?}: a bottle without {what}") };
            let error = format!("{error:#}");
            assert!(error.starts_with(&format!("{step}: ")) && error.contains("not implemented"), "{what}: {error}");
        }
    }
    Ok(())
}
