//! What a bottle of namespaces costs, beside a bare process and bubblewrap's: one after another, in turns, by root and by an
//! ordinary user. Run by `cargo xtask bench launch`.
#![allow(clippy::print_stdout)] // the result is what it prints

use anyhow::{Context, Result, ensure};
use bottle_policy::Policy;
use bottle_tests::{
    bare::{Bare, Who},
    bundle::Bundle,
};
use std::{
    process::{Command, Stdio},
    time::Instant,
};

/// The same as ours has, as far as it goes.
const BWRAP: &str = "--unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib \
                     --symlink usr/lib64 /lib64 --ro-bind /etc/ld.so.cache /etc/ld.so.cache --proc /proc --dev /dev \
                     --tmpfs /tmp --tmpfs /run --tmpfs /home /usr/bin/true";
/// Of each row, as they stand.
const BWRAPS: usize = 1;
const SIDECARS: usize = 2;
const WITHOUT: usize = 3;
const WITH: usize = 4;
/// Of bubblewrap's median: what a bottle may take without a sidecar, and with one beside the sidecar's own start.
const MAY_WITHOUT: f64 = 1.5;
const MAY_WITH: f64 = 2.0;

fn main() -> Result<()> {
    let runs: usize = std::env::args().nth(1).map_or(Ok(50), |runs| runs.parse())?;
    let policy = Policy::default();
    for who in Who::ALL {
        let running = Bare::start(who, &[])?;
        let rows: [(&str, &dyn Fn() -> Result<()>); 6] = [
            ("a bare process", &|| spawn(who, &mut Command::new("/usr/bin/true"))),
            ("bubblewrap", &|| spawn(who, Command::new("bwrap").args(BWRAP.split_whitespace()))),
            ("the sidecar alone, until it serves", &|| Bundle::start(&policy).map(drop)),
            ("a bottle without sidecar", &|| whole(Bare::start(who, &[])?)),
            ("a bottle with sidecar", &|| whole(Bare::start_beside_sidecar(who, &policy)?)),
            ("a command in a running bottle", &|| command(&running)),
        ];
        let mut times = vec![vec![]; rows.len()];
        for turn in 0..runs + 3 {
            for (row, (what, run)) in rows.iter().enumerate() {
                let began = Instant::now();
                run().context(*what)?;
                if turn >= 3 {
                    times[row].push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let median = |row: usize| times[row][times[row].len() / 2];
        let limit = |row| match row {
            WITHOUT => Some(MAY_WITHOUT * median(BWRAPS)),
            WITH => Some(MAY_WITH * median(BWRAPS) + median(SIDECARS)),
            _ => None,
        };
        let title = format!("{runs} runs, in turns, as {who:?}");
        println!("{title:<46} {:>9} {:>9} {:>9} {:>9}", "best", "median", "worst", "limit");
        for (row, (what, _)) in rows.iter().enumerate() {
            let [best, worst] = [times[row][0], times[row][times[row].len() - 1]];
            let over = if limit(row).is_some_and(|limit| median(row) > limit) { "  OVER" } else { "" };
            let limit = limit(row).map_or_else(String::new, |limit| format!("{limit:.2}"));
            println!("{:<46} {best:>9.2} {:>9.2} {worst:>9.2} {limit:>9}{over}", format!("{what} (ms)"), median(row));
        }
        println!();
    }
    Ok(())
}

fn spawn(who: Who, command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let status =
        who.act(&[], || command.status().context("bubblewrap is missing? Install it: `apt-get install bubblewrap`"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn command(bottle: &Bare) -> Result<()> {
    let run = bottle.run(&["/usr/bin/true"])?;
    ensure!(run.code == Some(0), "{run:?}");
    Ok(())
}

/// From nothing to a process's end, and nothing again.
fn whole(bottle: Bare) -> Result<()> {
    command(&bottle)
}
