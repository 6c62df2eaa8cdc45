//! What the host lends a backend: log, progress, the ledger, artifacts; and a call's cancellation.

use crate::{
    abi::{AbiResult, HostServicesRef},
    error::{Error, ErrorKind, Result},
    request::{ArtifactRequest, LedgerEntry, Progress},
};
use abi_stable::std_types::RVec;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    ffi::OsString,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

/// The host's services. Cheap to clone.
#[derive(Clone)]
pub struct Host(pub(crate) Arc<HostServicesRef>);

impl Host {
    /// A line for the log.
    pub fn log(&self, level: log::Level, target: &str, message: &str) {
        self.0.log(level as u32, target.into(), message.into());
    }

    /// Something an operator should know of.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.log(log::Level::Warn, "backend", message.as_ref());
    }

    /// A step begins.
    pub fn step(&self, step: &str) {
        self.progress(&Progress { step: step.into(), ..Progress::default() });
    }

    /// An event of progress.
    pub fn progress(&self, event: &Progress) {
        if let Ok(json) = serde_json::to_vec(event) {
            self.0.progress(json.as_slice().into());
        }
    }

    /// The ledger of one bottle.
    pub fn ledger(&self, identity: &str) -> Ledger {
        Ledger { host: self.clone(), identity: identity.to_owned() }
    }

    /// The path of a program that came with the host, for `linux/amd64` or `linux/arm64`.
    pub fn artifact(&self, name: &str, platform: &str) -> Result<PathBuf> {
        let req = serde_json::to_vec(&ArtifactRequest { name: name.into(), platform: platform.into() })?;
        let bytes: RVec<u8> = done(self.0.artifact(req.as_slice().into()))?;
        Ok(OsString::from_vec(bytes.into()).into())
    }
}

/// The ledger of one bottle. The host owns the file; a backend announces and confirms.
#[derive(Clone)]
pub struct Ledger {
    host: Host,
    identity: String,
}

impl Ledger {
    /// Announces a thing before it is created. It must carry the entry's uuid as a label.
    pub fn intent(&self, kind: &str, name: &str) -> Result<LedgerEntry> {
        let entry = LedgerEntry {
            identity: self.identity.clone(),
            kind: kind.into(),
            name: name.into(),
            ..LedgerEntry::default()
        };
        let answer = done(self.host.0.ledger_intent(serde_json::to_vec(&entry)?.as_slice().into()))?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// The thing exists now, under this engine id.
    pub fn created(&self, entry: &mut LedgerEntry, id: &str) -> Result<()> {
        entry.id = Some(id.to_owned());
        done(self.host.0.ledger_created(serde_json::to_vec(entry)?.as_slice().into()))
    }

    /// The thing is gone.
    pub fn gone(&self, entry: &LedgerEntry) -> Result<()> {
        done(self.host.0.ledger_gone(serde_json::to_vec(entry)?.as_slice().into()))
    }
}

fn done<T>(result: AbiResult<T>) -> Result<T> {
    result.into_result().map_err(Error::from)
}

/// A call's cancellation: a descriptor that becomes readable once the call is to be given up.
#[derive(Debug)]
pub struct Cancel(Option<OwnedFd>);

impl Cancel {
    /// A call that cannot be cancelled.
    pub fn never() -> Self {
        Self(None)
    }

    /// Cancelled once `fd` is readable. Nothing is ever read from it.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }

    /// The descriptor, to wait for beside other things. Never read from it.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Has it been asked for?
    pub fn is_cancelled(&self) -> bool {
        self.fd().is_some_and(|fd| {
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
        })
    }

    /// A cancellation point: `cancel.check()?`.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Self::error()) } else { Ok(()) }
    }

    /// Waits until something can be read from `fd`, its end among that. Being cancelled is an error, and so is `until`.
    pub fn wait_readable(&self, fd: BorrowedFd<'_>, until: Option<Instant>) -> Result<()> {
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            fds.extend(self.fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // More than a kernel can count is no bound.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, left.as_ref()) {
                Err(Errno::INTR) => continue,
                result => drop(result?),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            self.check()?;
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Error::new(ErrorKind::DEADLINE, "nothing came in time"));
            }
        }
    }

    /// The error of a cancelled call.
    pub fn error() -> Error {
        Error::new(ErrorKind::CANCELLED, "cancelled")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;
    use std::time::Duration;

    #[test]
    fn a_wait_ends_by_what_comes_by_its_end_by_a_cancellation_and_by_its_time() {
        let (cancelled, cancels) = pipe().unwrap();
        let (silent, _open) = pipe().unwrap();
        let (speaking, says) = pipe().unwrap();
        let (closed, ends) = pipe().unwrap();
        rustix::io::write(&says, b"x").unwrap();
        drop(ends);
        let cancel = Cancel::from_fd(cancelled);
        let now = Some(Instant::now());
        let kind = |fd: &OwnedFd, until| cancel.wait_readable(fd.as_fd(), until).err().map(|error| error.kind);
        for (fd, until, expected) in [
            (&speaking, None, None),
            (&closed, None, None),
            (&speaking, now, None),
            (&silent, now, Some(ErrorKind::DEADLINE)),
        ] {
            assert_eq!(kind(fd, until), expected);
        }
        drop(cancels);
        for until in [None, now, Some(Instant::now() + Duration::from_secs(600))] {
            assert_eq!(kind(&silent, until), Some(ErrorKind::CANCELLED));
        }
        assert_eq!(kind(&speaking, None), None, "what is there is read");
    }
}
