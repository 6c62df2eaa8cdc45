//! Other scanners of secrets, that ours is measured beside.

use crate::{
    run::{output, root},
    setup::python_environment,
};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// From PyPI: the program itself is in the package.
const KINGFISHER: &str = "kingfisher-bin==2.14.0";

/// A program that reads a file and says what is in it.
pub(super) struct Rival {
    pub(super) name: &'static str,
    program: PathBuf,
    words: &'static [&'static str],
}

/// Those that can be had here. Gitleaks is in no registry that anything is installed from: it is measured where it is.
pub(super) fn all() -> Result<Vec<Rival>> {
    let place = root().join("target/kingfisher");
    let program = place.join("bin/kingfisher");
    if !program.exists() {
        python_environment("python3", &place, &[KINGFISHER])?;
    }
    let words = &["scan", "--no-validate", "--no-limits", "--git-history", "none", "--format", "json"];
    let mut rivals = vec![Rival { name: "kingfisher", program, words }];
    if Command::new("gitleaks").arg("version").output().is_ok() {
        let words = &["dir", "--no-banner", "--log-level", "error", "--exit-code", "0"];
        rivals.push(Rival { name: "gitleaks", program: "gitleaks".into(), words });
    }
    Ok(rivals)
}

impl Rival {
    /// MB per second of processor time, without what it takes for an empty file.
    pub(super) fn speed(&self, file: &Path) -> Result<f64> {
        let empty = file.with_extension("empty");
        fs::write(&empty, "")?;
        let took = self.worked(file)? - self.worked(&empty)?;
        ensure!(took > 0.0, "{} has done nothing with {}", self.name, file.display());
        Ok(fs::metadata(file)?.len() as f64 / 1e6 / took)
    }

    /// Seconds of processor time, in all of its threads.
    fn worked(&self, file: &Path) -> Result<f64> {
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$@\" </dev/null >/dev/null 2>&1; times", "sh"]);
        let said = output(shell.arg(&self.program).args(self.words).arg(file))?;
        // The second line is of the shell's children: `0m1.23s 0m0.45s`.
        let line = said.lines().nth(1).context("what the shell says of its children")?;
        let seconds = |time: &str| -> Option<f64> {
            let (minutes, seconds) = time.strip_suffix('s')?.split_once('m')?;
            Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
        };
        line.split_whitespace().map(seconds).sum::<Option<f64>>().with_context(|| line.to_owned())
    }
}
