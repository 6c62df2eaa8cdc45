//! Trees on their way into a bottle and out of it: whatever the bottle makes of its paths meanwhile, none leads outside.

use anyhow::{Result, ensure};
use bottle_tests::bare::{Bare, Who};
use std::{fs, os::unix::fs::PermissionsExt};

/// What a file of this machine says, and one of the bottle's own.
const FOREIGN: &str = "a file of the machine";
const OWN: &str = "a file of the bottle";
const HELPER: &str = "/usr/local/libexec/bottle-helper";

#[test]
fn a_path_that_is_swapped_while_it_is_fetched_leads_nowhere_outside() -> Result<()> {
    // Open to everybody, so that it is not permissions that hold.
    let machine = tempfile::tempdir()?;
    let dir = machine.path().display();
    fs::set_permissions(machine.path(), fs::Permissions::from_mode(0o777))?;
    fs::write(machine.path().join("f"), FOREIGN)?;
    for who in Who::ALL {
        let bottle = Bare::start(who, &[])?;
        let script = format!(
            "mkdir -p a/d b; echo '{OWN}' > own; cp own a/d/f; ln -s {dir} b/d; ln -s {dir}/f b/f; cp own a/f; \
             (while :; do mv a/d c; mv b/d a/d; mv c b/d; mv a/f g; mv b/f a/f; mv g b/f; done) 2>/dev/null & swaps=$!; \
             for i in $(seq 60); do {HELPER} pack /workspace/a; {HELPER} pack /workspace/a/d; done 2>/dev/null; kill $swaps"
        );
        let said = bottle.sh(&script)?.stdout;
        ensure!(said.contains(OWN) && !said.contains(FOREIGN), "{who:?}: {} bytes", said.len());
        // The other way: to a link, through one, and by the kernel's own links.
        for dest in ["/workspace/l", "/workspace/l/..", "/proc/self/cwd/l", "/proc/1/root"] {
            let script = format!("ln -sfn {dir} l; echo x > planted; tar -cf - planted | {HELPER} unpack {dest} 2>&1");
            let said = bottle.sh(&script)?;
            ensure!(fs::read_dir(machine.path())?.count() == 1, "{who:?} {dest}: it came out: {said:?}");
        }
    }
    Ok(())
}
