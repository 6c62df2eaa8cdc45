//! The connection to a Docker engine, and the runtime that everything runs on.

use crate::{address::Address, transport, trouble};
use bollard::{
    Docker,
    models::{SystemInfo, SystemVersion},
};
use bottle_api::{Cancel, Error, ErrorKind, Result, error::Context};
use std::{
    collections::BTreeMap,
    future::Future,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    sync::{Arc, OnceLock},
};
use tokio::{net::unix::pipe, runtime::Runtime, sync::watch};

/// gVisor: an agent's system calls end in a kernel of its own.
const GVISOR: &str = "runsc";
/// Docker 20.10's.
const OLDEST_API: &str = "1.41";
/// Seconds that one answer of the engine may take; builds stream, so they are never silent for this long.
const ANSWER_SECONDS: u64 = 120;

/// The runtime of this plugin, made when it is first needed.
pub fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build())
        .as_ref()
        .map_err(|e| Error::new(ErrorKind::RUNTIME, format!("start the backend's runtime: {e}")))
}

/// Runs a future to its end on the caller's thread. Calls that create things are never cut short in the middle:
/// they look at their [`Stop`] between two calls to the engine. What the engine says of its troubles leaves with what to
/// type.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future).map_err(trouble::explain)
}

/// A call's cancellation, for asynchronous code.
#[derive(Clone)]
pub struct Stop(Option<watch::Receiver<bool>>);

impl Stop {
    /// Follows the call's cancellation. Within the runtime only.
    pub fn follow(cancel: &Cancel) -> Result<Self> {
        let Some(fd) = cancel.fd() else {
            return Ok(Self(None));
        };
        let readable = pipe::Receiver::from_owned_fd(fd.try_clone_to_owned()?).context("watch for cancellation")?;
        let (set, seen) = watch::channel(cancel.is_cancelled());
        tokio::spawn(async move {
            tokio::select! {
                _ = readable.readable() => drop(set.send(true)),
                () = set.closed() => {}
            }
        });
        Ok(Self(Some(seen)))
    }

    /// A cancellation point.
    pub fn check(&self) -> Result<()> {
        match &self.0 {
            Some(seen) if *seen.borrow() => Err(Cancel::error()),
            _ => Ok(()),
        }
    }

    /// Runs a future that may be dropped at any point; only for those that create nothing.
    pub async fn or<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(mut seen) = self.0.clone() else {
            return future.await;
        };
        tokio::select! {
            result = future => result,
            Ok(_) = seen.wait_for(|stop| *stop) => Err(Cancel::error()),
        }
    }
}

/// A connection to an engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    /// The client; a connection is made at each call.
    pub docker: Docker,
    /// Where it is.
    pub address: Arc<Address>,
    /// What names it, for messages.
    source: Arc<str>,
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// `Docker 20.10.24`, `Podman 4.3.1`.
    pub product: String,
    /// The newest version of the API that it speaks.
    pub api: String,
    /// `amd64`, `arm64`.
    pub arch: String,
    /// It is Podman, whose internal networks are not as closed as Docker's.
    pub podman: bool,
}

impl Engine {
    /// The engine that the host's variables name. Makes no call yet.
    pub fn connect(env: &BTreeMap<String, String>) -> Result<Self> {
        let (address, source) = Address::resolve(env)?;
        let docker = match &address {
            Address::Socket(path) => {
                let there = path.metadata().map_err(|error| trouble::no_socket(&address, &source, &error))?;
                if !there.file_type().is_socket() {
                    let message = format!("{address}, which {source} names, is no socket");
                    return Err(Error::new(ErrorKind::PREREQUISITE, message)
                        .hint("Name the engine's: DOCKER_HOST=unix:///path/to/docker.sock."));
                }
                // Whoever serves it is handed the bottle's secrets.
                if ![0, user()?].contains(&there.uid()) {
                    let message =
                        format!("{address}, which {source} names, belongs to another user (uid {})", there.uid());
                    return Err(Error::new(ErrorKind::PREREQUISITE, message).hint(
                        "Name an engine that root or you have started: DOCKER_HOST=unix:///path/to/docker.sock.",
                    ));
                }
                transport::socket(path, ANSWER_SECONDS)?
            }
            Address::Tls { host, port, certificates } => transport::tls(host, *port, certificates, ANSWER_SECONDS)?,
        };
        Ok(Self { docker, address: Arc::new(address), source: source.into() })
    }

    /// Asks what it is: an engine that does not answer, or is too old, is an error that says what to type.
    pub async fn check(&self) -> Result<About> {
        let found = self.docker.version().await;
        let about = About::of(found.map_err(|error| trouble::no_answer(&self.address, &self.source, error.into()))?)?;
        if number(&about.api) < number(OLDEST_API) {
            let About { product, api, .. } = about;
            let message =
                format!("{product} at {} speaks version {api} of the API; bottle needs {OLDEST_API}", self.address);
            return Err(Error::new(ErrorKind::PREREQUISITE, message).hint(
                "Install Docker 20.10 or newer: `sudo apt-get install docker.io`; or name another: DOCKER_HOST.",
            ));
        }
        Ok(about)
    }

    /// Asks what it can do. The slowest of its answers: a few milliseconds.
    pub async fn info(&self) -> Result<SystemInfo> {
        self.docker.info().await.context("ask the engine what it can do")
    }
}

impl About {
    fn of(version: SystemVersion) -> Result<Self> {
        let unknown = || Error::new(ErrorKind::RUNTIME, "the engine does not say what it is and what it runs on");
        let components = version.components.into_iter().flatten().map(|component| component.name);
        let podman = components.into_iter().any(|name| name.contains("Podman"));
        let product = if podman { "Podman" } else { "Docker" };
        Ok(Self {
            product: format!("{product} {}", version.version.ok_or_else(unknown)?),
            api: version.api_version.ok_or_else(unknown)?,
            arch: version.arch.ok_or_else(unknown)?,
            podman,
        })
    }

    /// The runtime for agents, where it has a stronger one than its own. Podman lists every one that it has heard of,
    /// installed or not.
    pub fn runtime(&self, info: &SystemInfo) -> Option<&'static str> {
        let has = !self.podman && info.runtimes.as_ref().is_some_and(|has| has.contains_key(GVISOR));
        has.then_some(GVISOR)
    }

    /// What is weaker on it than on Docker.
    pub fn warning(&self) -> Option<String> {
        self.podman.then(|| {
            format!(
                "{} is not Docker: it answers for names outside, and its host is reachable from its networks",
                self.product
            )
        })
    }
}

/// Who runs this.
fn user() -> Result<u32> {
    Ok(Path::new("/proc/self").metadata().context("see who runs this")?.uid())
}

/// `1.41` as something that can be compared. What is no version is older than any.
fn number(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Is this the engine's answer with that HTTP status?
pub fn is_status(error: &bollard::errors::Error, status: u16) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_run_on_gvisor_where_docker_has_it_and_podmans_word_is_none() {
        let about = |podman| About { product: String::new(), api: String::new(), arch: String::new(), podman };
        let with = |name: &str| SystemInfo {
            runtimes: Some([(name.to_owned(), Default::default())].into()),
            ..SystemInfo::default()
        };
        assert_eq!(about(false).runtime(&with("runsc")), Some("runsc"));
        assert_eq!(about(false).runtime(&with("runc")), None);
        assert_eq!(about(true).runtime(&with("runsc")), None);
        assert_eq!(about(false).runtime(&SystemInfo::default()), None);
    }

    #[test]
    fn versions_of_the_api_are_compared_as_numbers() {
        for (old, new) in
            [("1.9", "1.41"), ("1.40", "1.41"), ("1.41", "1.41"), ("0.99", "1.0"), ("", "1.0"), ("x.y", "0.0")]
        {
            assert!(number(old) <= number(new), "{old} {new}");
            assert_eq!(number(old) < number(new), old != new, "{old} {new}");
        }
    }
}
