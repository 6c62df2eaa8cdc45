//! A call into a plugin, on a thread of its own: one that never returns is given up on.
//!
//! ```text
//! start ─▶ wait for ── the answer ──────────────▶ the answer
//!                   ├─ the cancellation ─ grace ─▶ given up
//!                   └─ the deadline ────────────▶ given up: the thread, and all that was lent to it, stay behind
//! ```
//!
//! What stays behind is never waited for again, and ends with the process. What it might still create is refused by the
//! ledger, which is sealed before it is replayed ([`crate::state::ledger::Ledger::seal`]).

use super::Services;
use crate::fault;
use anyhow::{Context, Result};
use bottle_api::{Error, ErrorKind};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    os::fd::BorrowedFd,
    sync::mpsc::sync_channel,
    thread,
    time::{Duration, Instant},
};

/// For an answer that needs no engine.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// For an answer that needs one.
pub(super) const LOOK: Duration = Duration::from_secs(60);
/// For work that shows signs of life: this long without one.
pub(super) const SILENCE: Duration = Duration::from_secs(600);
/// For an object's end: a bottle that is dropped is torn down, which `bottle-api` gives 30 seconds.
const DROP: Duration = Duration::from_secs(40);
/// Beyond a deadline that the plugin itself was given, and after a cancellation.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// When a call is given up.
pub(super) enum Until<'a> {
    /// After this long.
    Elapsed(Duration),
    /// After this long without a callback from a plugin.
    Silent(Duration, &'a Services),
    /// Only when it is cancelled.
    Cancelled,
}

/// Calls `f`, which is `verb` of the backend `who`. `cancel`: a descriptor that becomes readable, or -1.
#[allow(unsafe_code)]
pub(super) fn call<T: Send + 'static>(
    who: &str,
    verb: &str,
    until: Until<'_>,
    cancel: i32,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    // The write end is the thread's: it hangs up when the thread is done, however that is.
    let (done, working) = pipe_with(PipeFlags::CLOEXEC)?;
    let (answer, answered) = sync_channel(1);
    thread::Builder::new()
        .name(format!("plugin-{verb}"))
        .spawn(move || {
            let _working = working;
            let _ = answer.send(f());
        })
        .context("start a thread for a call into a backend")?;
    // SAFETY: whoever lends a cancellation keeps it open for the length of the call, which is that of this function.
    let mut cancel = (cancel >= 0).then(|| unsafe { BorrowedFd::borrow_raw(cancel) });
    let began = Instant::now();
    let mut grace_ends = None;
    loop {
        let deadline = match (&until, grace_ends) {
            (_, Some(end)) => Some(end),
            (Until::Elapsed(limit), None) => Some(began + fault::patience(*limit)),
            (Until::Silent(limit, services), None) => Some(began.max(services.last_heard()) + fault::patience(*limit)),
            (Until::Cancelled, None) => None,
        };
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(given_up(who, verb, began.elapsed(), grace_ends.is_some()));
        }
        let timeout = left.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
        let mut fds = vec![PollFd::new(&done, PollFlags::IN)];
        fds.extend(cancel.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        if !fds[0].revents().is_empty() {
            return answered.recv().with_context(|| format!("the call `{verb}` into the backend {who} was lost"));
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            cancel = None;
            grace_ends = Some(Instant::now() + fault::patience(GRACE));
        }
    }
}

fn given_up(who: &str, verb: &str, after: Duration, cancelled: bool) -> anyhow::Error {
    let told = if cancelled { ", though it was told to stop" } else { "" };
    let message = format!("the backend {who} did not return from `{verb}` within {:.0?}{told}", after);
    let error = Error::new(ErrorKind::DEADLINE, message)
        .hint("It is left to itself. If this happens again, report it to the backend's author.");
    error.into_std().into()
}

/// Drops a plugin's object, whose `Drop` may never return.
pub(super) fn drop_apart<T: Send + 'static>(value: T) {
    let _ = call("", "drop", Until::Elapsed(DROP), super::backend::UNCANCELLED, move || drop(value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn an_answer_comes_back_and_a_panic_is_no_hang() {
        assert_eq!(call("b", "v", Until::Cancelled, -1, || 7).unwrap(), 7);
        assert!(call("b", "v", Until::Cancelled, -1, || panic!("as told")).is_err());
    }

    #[test]
    fn a_call_that_does_not_return_is_given_up_after_its_time_or_after_its_cancellation() {
        let hang = || thread::sleep(Duration::from_secs(3600));
        let error = call("b", "v", Until::Elapsed(Duration::from_millis(20)), -1, hang).unwrap_err();
        assert!(error.to_string().starts_with("the backend b did not return from `v` within "), "{error}");
        let (readable, writable) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&writable, b"x").unwrap();
        // A cancelled call still has its grace to answer in.
        let slow = || thread::sleep(Duration::from_millis(20));
        assert!(call("b", "v", Until::Cancelled, readable.as_raw_fd(), slow).is_ok());
    }

    #[test]
    fn a_sign_of_life_gives_more_time() {
        let services = Services::from_env();
        let working = services.clone();
        let work = move || {
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(50));
                working.hear();
            }
        };
        assert!(call("b", "v", Until::Silent(Duration::from_millis(300), &services), -1, work).is_ok());
    }
}
