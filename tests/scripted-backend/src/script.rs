//! The script: which verb does what instead of its work.
//!
//! `SCRIPT=hang@launch,panic@close:2` hangs in the first `launch` and panics in the second `close`. It is read from the
//! process's environment, which a real backend must not do, so that the verbs before a spec can be told, too.

use bottle_api::{Cancel, Error, ErrorKind, Result};
use rustix::process::{Signal, getpid, kill_process};
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
    thread,
    time::Duration,
};

static SEEN: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);

/// Does what the script says of this place, which nobody can cancel.
pub(crate) fn at(place: &str) -> Result<()> {
    during(place, &Cancel::never())
}

/// Does what the script says of this place.
pub(crate) fn during(place: &str, cancel: &Cancel) -> Result<()> {
    let count = {
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(place.to_owned()).or_default();
        *count += 1;
        *count
    };
    let script = std::env::var("SCRIPT").unwrap_or_default();
    for (how, at) in script.split(',').filter_map(|line| line.split_once('@')) {
        let (at, nth) = at.split_once(':').unwrap_or((at, "1"));
        if at == place && nth == count.to_string() {
            act(how, place, cancel)?;
        }
    }
    Ok(())
}

/// Is this line in the script?
pub(crate) fn said(line: &str) -> bool {
    std::env::var("SCRIPT").is_ok_and(|script| script.split(',').any(|said| said == line))
}

fn act(how: &str, place: &str, cancel: &Cancel) -> Result<()> {
    let told = || Error::new(ErrorKind::RUNTIME, format!("{place} fails, as scripted"));
    match how {
        "fail" => Err(told()),
        "panic" => panic!("{place} panics, as scripted"),
        "panic-in-thread" => thread::spawn(|| panic!("a thread panics, as scripted")).join().map_err(|_| told()),
        "panic-in-task" => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
            let task = runtime.spawn(async { panic!("a task panics, as scripted") });
            runtime.block_on(task).map_err(|_| told())
        }
        // A payload whose own end panics.
        "panic-twice" => std::panic::panic_any(PanicsAgain),
        "hang" => hang(),
        "open" => Ok(()), // what it answers is another
        "kill" => Ok(kill_process(getpid(), Signal::KILL)?),
        // Cancelled, and obedient where it can hear of it.
        "cancel" => {
            kill_process(getpid(), Signal::TERM)?;
            while cancel.fd().is_some() && !cancel.is_cancelled() {
                thread::sleep(Duration::from_millis(1));
            }
            cancel.check()
        }
        // Cancelled, and deaf.
        "cancel-and-hang" => {
            kill_process(getpid(), Signal::TERM)?;
            hang()
        }
        other => Err(Error::new(ErrorKind::INVALID_SPEC, format!("the script has no word `{other}`"))),
    }
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        panic!("the payload's end panics, as scripted");
    }
}

/// What a `Drop` does: it can return nothing.
pub(crate) fn at_drop(place: &str) {
    if let Err(error) = at(place) {
        panic!("{error}");
    }
}
