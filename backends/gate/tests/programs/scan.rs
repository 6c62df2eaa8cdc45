//! The scan as a `pre-receive` hook by itself, for the tests: refuses a push that holds a leak, and says which.
#![allow(clippy::print_stdout)] // git shows the pusher what a hook says

use bottle_gate::{Git, Limits, PushScan, Repository, Update, scan};
use bottle_scan::{ExactSet, Options, Rules, Scanner};
use std::{
    env,
    error::Error,
    io::{self, BufRead},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

fn main() -> ExitCode {
    match judge() {
        Ok(leaks) if leaks.is_empty() => ExitCode::SUCCESS,
        Ok(leaks) => {
            leaks.iter().for_each(|leak| println!("leak: {leak}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn judge() -> Result<Vec<bottle_gate::Leak>, Box<dyn Error>> {
    let updates = io::stdin().lock().split(b'\n').map(|line| Ok(Update::parse(&line?)?));
    let updates = updates.collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let git = Git::in_path(env::var_os("PATH").unwrap_or_default());
    let repository = Repository::new(git, env::current_dir()?).with_quarantine(|name| env::var_os(name))?;
    let secret = env::var("TEST_SECRET").unwrap_or_default();
    let exact = ExactSet::new([("TOKEN", secret.as_bytes())]);
    let scanner = Arc::new(Scanner::new(Arc::new(Rules::builtin()?), exact, Options::default()));
    let mut limits = Limits::default();
    if let Ok(bytes) = env::var("TEST_MOST_BYTES") {
        limits.bytes = bytes.parse()?;
    }
    let push = PushScan {
        repository: &repository,
        host: "git.example",
        scanner: &scanner,
        session: &mut scanner.session(),
        limits: &limits,
        until: Instant::now() + limits.time,
    };
    Ok(scan(push, &updates)?)
}
