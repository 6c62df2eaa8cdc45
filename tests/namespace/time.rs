//! What a bottle of namespaces costs, beside a bare process and bubblewrap's: one after another, in turns, by root and by an
//! ordinary user. Run by `cargo xtask bench launch`.
#![allow(clippy::print_stdout)] // the result is what it prints

use anyhow::{Context, Result, ensure};
use bottle_tests::bare::{Bare, Who};
use std::{
    process::{Command, Stdio},
    time::Instant,
};

/// The same as ours has, as far as it goes.
const BWRAP: &str = "--unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib \
                     --symlink usr/lib64 /lib64 --ro-bind /etc/ld.so.cache /etc/ld.so.cache --proc /proc --dev /dev \
                     --tmpfs /tmp --tmpfs /run --tmpfs /home /usr/bin/true";

fn main() -> Result<()> {
    let runs: usize = std::env::args().nth(1).map_or(Ok(50), |runs| runs.parse())?;
    for who in Who::ALL {
        let running = Bare::start(who, &[])?;
        let rows: [(&str, &dyn Fn() -> Result<()>); 5] = [
            ("a bare process", &|| spawn(who, &mut Command::new("/usr/bin/true"))),
            ("bubblewrap", &|| spawn(who, Command::new("bwrap").args(BWRAP.split_whitespace()))),
            ("a bottle without sidecar", &|| whole(Bare::start(who, &[])?)),
            ("a bottle with sidecar", &|| whole(Bare::start_beside_sidecar(who)?)),
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
        println!("{:<46} {:>9} {:>9} {:>9}", format!("{runs} runs, in turns, as {who:?}"), "best", "median", "worst");
        for ((what, _), mut times) in rows.iter().zip(times) {
            times.sort_by(f64::total_cmp);
            let [best, median, worst] = [times[0], times[times.len() / 2], times[times.len() - 1]];
            println!("{:<46} {best:>9.2} {median:>9.2} {worst:>9.2}", format!("{what} (ms)"));
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
