//! Fault points: where a test may make bottle fail. They do nothing without the feature `fault-points`, which no
//! package is built with.

use bottle_api::Error;
use std::time::Duration;

/// A point that a test may have chosen. `CLAUDE_BOTTLE_FAULT=error@ledger-created:3` fails the third confirmation;
/// `panic`, `term`, `kill` and `stop` panic, and send this process SIGTERM, SIGKILL or SIGSTOP, instead.
/// `record@FILE` fails nothing and writes every point down, one a line, in the order in which they are passed.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) -> Result<(), Error> {
    use rustix::process::{Signal, getpid, kill_process};
    use std::{
        collections::HashMap,
        sync::{LazyLock, Mutex, PoisonError},
    };
    static SEEN: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);

    let Ok(chosen) = std::env::var("CLAUDE_BOTTLE_FAULT") else {
        return Ok(());
    };
    let count = {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    };
    let here = format!("{name}:{count}");
    match chosen.split_once('@') {
        Some(("record", file)) => record(file, &here),
        Some((how, at)) if at == here => match how {
            "panic" => panic!("fault point {at}"),
            "term" => drop(kill_process(getpid(), Signal::TERM)),
            "kill" => drop(kill_process(getpid(), Signal::KILL)),
            "stop" => drop(kill_process(getpid(), Signal::STOP)),
            _ => {
                return Err(Error::new(bottle_api::ErrorKind::RUNTIME, format!("fault point {at}")));
            }
        },
        _ => {}
    }
    Ok(())
}

/// One write a line: threads pass their points at once.
#[cfg(feature = "fault-points")]
fn record(file: &str, point: &str) {
    use std::io::Write;
    let file = std::fs::File::options().append(true).create(true).open(file);
    let written = file.and_then(|mut file| file.write_all(format!("{point}\n").as_bytes()));
    assert!(written.is_ok(), "the fault point {point} is not recorded");
}

/// Nothing, in every build that is not a test's.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub fn point(_name: &str) -> Result<(), Error> {
    Ok(())
}

/// How long to wait instead of `usual`, at most: `CLAUDE_BOTTLE_FAULT_PATIENCE`, milliseconds.
#[cfg(feature = "fault-points")]
pub fn patience(usual: Duration) -> Duration {
    let chosen = std::env::var("CLAUDE_BOTTLE_FAULT_PATIENCE").ok().and_then(|ms| ms.parse().ok());
    chosen.map_or(usual, |ms| usual.min(Duration::from_millis(ms)))
}

/// As usual, in every build that is not a test's.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub fn patience(usual: Duration) -> Duration {
    usual
}
