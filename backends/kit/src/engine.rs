//! The connection to a Docker engine, and the runtime that everything runs on.

use bollard::{API_DEFAULT_VERSION, Docker};
use bottle_api::{Cancel, Error, ErrorKind, Result, error::Context};
use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::{Arc, OnceLock},
};
use tokio::{net::unix::pipe, runtime::Runtime, sync::watch};

/// The host's variables that say where the engine is.
pub const ENGINE_ENV: &[&str] = &["DOCKER_HOST"];
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
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
/// they look at their [`Stop`] between two calls to the engine.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    runtime()?.block_on(future)
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
    /// The client; the connection is made at the first call.
    pub docker: Docker,
    /// Where it is, for messages.
    pub address: Arc<str>,
}

impl Engine {
    /// The engine that the host's variables name. Makes no call yet.
    pub fn connect(env: &BTreeMap<String, String>) -> Result<Self> {
        let socket = socket_path(env.get("DOCKER_HOST").map(String::as_str))?;
        let address = format!("unix://{}", socket.display());
        if !socket.exists() {
            return Err(Error::new(ErrorKind::PREREQUISITE, format!("no Docker engine at {address}")).hint(
                "Install and start Docker (`apt-get install docker.io`), or set DOCKER_HOST=unix:///path/to/docker.sock.",
            ));
        }
        let text =
            socket.to_str().ok_or_else(|| Error::new(ErrorKind::INVALID_SPEC, format!("{address} is not UTF-8")))?;
        let docker = Docker::connect_with_unix(text, ANSWER_SECONDS, API_DEFAULT_VERSION)?;
        Ok(Self { docker, address: address.into() })
    }

    /// Asks whether the engine answers.
    pub async fn ping(&self) -> Result<()> {
        match self.docker.ping().await {
            Ok(_) => Ok(()),
            Err(e) => {
                let e = Error::from(e);
                let denied = e.to_string().contains("ermission denied");
                Err(e
                    .kind(ErrorKind::PREREQUISITE)
                    .context(format!("the Docker engine at {} does not answer", self.address))
                    .hint(if denied {
                        "Your user may not use the engine: `sudo usermod -aG docker $USER`, then log in again."
                    } else {
                        "Start it: `systemctl start docker`, or set DOCKER_HOST."
                    }))
            }
        }
    }
}

/// A unix socket is the only transport yet: a TCP engine without TLS is open to every neighbour.
fn socket_path(docker_host: Option<&str>) -> Result<PathBuf> {
    let refused = |why: &str| {
        Error::new(ErrorKind::UNSUPPORTED, format!("DOCKER_HOST={}: {why}", docker_host.unwrap_or_default()))
            .hint("Use a unix socket; a remote one can be brought here: `ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST`.")
    };
    match docker_host {
        None | Some("") => Ok(DEFAULT_SOCKET.into()),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(path.into()),
            Some(_) => Err(refused("not an absolute path")),
            None => Err(refused("only unix:// sockets are supported")),
        },
    }
}

/// Is this the engine's answer with that HTTP status?
pub fn is_status(error: &bollard::errors::Error, status: u16) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code, .. } if *status_code == status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_unix_sockets_are_taken() {
        assert_eq!(socket_path(None).unwrap(), PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(socket_path(Some("unix:///x/y.sock")).unwrap(), PathBuf::from("/x/y.sock"));
        for bad in ["tcp://127.0.0.1:2375", "ssh://host", "unix://relative", "/var/run/docker.sock"] {
            assert!(socket_path(Some(bad)).unwrap_err().hint.is_some(), "{bad}");
        }
    }
}
