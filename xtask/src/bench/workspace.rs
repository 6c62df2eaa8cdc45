//! A repository of 50,000 files on its way into a bottle, beside what else copies one: `cp -a`, `git clone --local`.

use super::{Figure, launch::timed, place::Place, print, scratch};
use crate::run::output;
use anyhow::{Context, Result, ensure};
use std::{fs, path::Path, process::Command};

const FILES: usize = 50_000;
/// Files of a directory.
const OF_ONE: usize = 100;

/// Measures the package in `tree`.
pub(super) fn bench(tree: &Path, runs: usize) -> Result<()> {
    let (place, repository, copies) = (Place::open(tree)?, scratch("repository")?, scratch("copies")?);
    make(&repository)?;
    // Builds the sidecar's image, where it is not there.
    place.up_and_down(&place.engine.socket)?;
    let start = |more: &[&str]| -> Result<()> {
        let mut bottle = place.bottle(&place.engine.socket, &[&["start", "measured", "--cwd"], more].concat());
        let out = bottle.current_dir(&repository).output()?;
        ensure!(out.status.success(), "bottle start: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
        Ok(())
    };
    let copy = |program: &str, args: &[&str]| -> Result<f64> {
        let to = copies.join("copy");
        let (took, _) = timed(|| output(Command::new(program).args(args).arg(&repository).arg(&to)))?;
        fs::remove_dir_all(to)?;
        Ok(took)
    };
    let (mut packed, mut whole, mut empty, mut cp, mut clone) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        packed.push(timed(|| start(&["--dry-run"]))?.0);
        whole.push(timed(|| start(&["--yes", "--prompt", "x"]))?.0);
        empty.push(timed(|| place.up_and_down(&place.engine.socket))?.0);
        cp.push(copy("cp", &["-a"])?);
        clone.push(copy("git", &["clone", "--quiet", "--local"])?);
    }
    let figure = |what: &str, values| Figure { what: what.into(), unit: "ms", limit: None, values };
    print(
        &format!("{FILES} files, {runs} runs, in turns"),
        &[
            figure("listed, hashed, scanned and packed", packed),
            figure("a bottle with them, up and down", whole),
            figure("a bottle without them, up and down", empty),
            figure("cp -a", cp),
            figure("git clone --local", clone),
        ],
    )
}

/// Source-like files, committed, in directories of a hundred.
fn make(repository: &Path) -> Result<()> {
    for at in 0..FILES {
        let file = repository.join(format!("d{}/f{}.rs", at / OF_ONE, at % OF_ONE));
        if at % OF_ONE == 0 {
            fs::create_dir_all(file.parent().context("a file has a directory")?)?;
        }
        fs::write(
            file,
            format!("/// The {at}th of many.\npub fn f{at}(x: u64) -> u64 {{\n    x + {at}\n}}\n").repeat(10),
        )?;
    }
    for args in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "--message", "first"]] {
        let who = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"];
        output(Command::new("git").args(who).args(args).current_dir(repository))?;
    }
    Ok(())
}
