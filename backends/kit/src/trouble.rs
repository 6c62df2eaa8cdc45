//! What goes wrong with an engine, as a user meets it: what its words mean, and what to type next.
//!
//! An engine reports most of its troubles as text alone. One table reads it, at the one place where errors leave for the
//! host ([`crate::engine::block_on`]); text that is not in the table goes through as it is.

use crate::address::Address;
use bottle_api::{Error, ErrorKind};
use std::{io, path::Path};

/// Words of an engine or of the system, in small letters, and what to type. The first line that fits counts.
const KNOWN: &[(&[&str], &str)] = &[
    (
        &["no space left on device", "disk quota exceeded"],
        "The engine's disk is full: `docker system df` shows what takes it, `docker system prune` frees what nothing uses.",
    ),
    (
        &["toomanyrequests", "rate limit"],
        "The registry wants you to wait, or to be known: `docker login`. An image that is there already is not asked for \
         again.",
    ),
    (
        &[
            "pull access denied",
            "manifest unknown",
            "no such image",
            "repository does not exist",
            "invalid reference format",
        ],
        "No image has this name, here or in its registry: look for the name in `docker images`, then set \
         CLAUDE_BOTTLE_BASE_IMAGE (or CLAUDE_BOTTLE_IMAGE) to one that is there.",
    ),
    (
        &[
            "dial tcp",
            "no such host",
            "tls handshake timeout",
            "client.timeout exceeded",
            "server misbehaving",
            "x509:",
            "context deadline exceeded",
        ],
        "The engine does not reach the image's registry: try `docker pull IMAGE` until it does; or bring the image \
         (`docker save` there, `docker load` here) and name it: CLAUDE_BOTTLE_BASE_IMAGE=NAME.",
    ),
    (
        &["unknown or invalid runtime name", "unable to retrieve oci runtime"],
        "The engine's settings name a runtime that does not work: see `runtimes` in /etc/docker/daemon.json.",
    ),
    (
        &[
            "connection refused",
            "connection reset",
            "broken pipe",
            "connection closed before",
            "(connect)",
            "unexpected eof",
            "end of file before",
        ],
        "The engine went away: start it (`sudo systemctl start docker`), then take away what is left: `bottle cleanup`.",
    ),
];

/// Says what to type, where an error has no such hint yet and its text is known.
pub fn explain(error: Error) -> Error {
    match hint(&error.to_string()) {
        Some(hint) if error.hint.is_none() => error.hint(hint),
        _ => error,
    }
}

/// What to type, for an engine's words.
pub fn hint(said: &str) -> Option<&'static str> {
    let said = said.to_lowercase();
    KNOWN.iter().find(|(words, _)| words.iter().any(|word| said.contains(word))).map(|(_, hint)| *hint)
}

/// Where Docker's engine is when it is installed.
const ENGINES: &[&str] = &["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/snap/bin/dockerd"];

/// The engine's socket cannot be looked at.
pub(crate) fn no_socket(address: &Address, source: &str, error: &io::Error) -> Error {
    let installed = ENGINES.iter().any(|program| Path::new(program).exists());
    let (why, hint) = match (error.kind(), address.is_default(), installed) {
        (io::ErrorKind::PermissionDenied, ..) => ("your user may not look at its socket".to_owned(), DENIED.to_owned()),
        (io::ErrorKind::NotFound, true, false) => ("Docker is not installed".into(), INSTALL.into()),
        (io::ErrorKind::NotFound, true, true) => ("Docker is installed and does not run".into(), START.into()),
        (io::ErrorKind::NotFound, false, _) => (format!("{source} names a socket that is not there"), named(source)),
        _ => (error.to_string(), named(source)),
    };
    Error::new(ErrorKind::PREREQUISITE, format!("no Docker engine at {address}: {why}")).hint(hint)
}

/// The engine does not answer the first question.
pub(crate) fn no_answer(address: &Address, source: &str, error: Error) -> Error {
    let said = error.to_string().to_lowercase();
    let is = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let hint = if is(&["permission denied"]) {
        DENIED.to_owned()
    } else if is(&["certificate", "handshake", "alert"]) {
        "Engine and bottle do not trust each other: compare ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH with \
         `docker --tlsverify version`."
            .into()
    } else if is(&["timeout error", "timed out"]) {
        "It is there and silent: `docker version` should answer; if not, `sudo systemctl restart docker`.".into()
    } else if address.is_default() {
        START.into()
    } else {
        named(source)
    };
    error.kind(ErrorKind::PREREQUISITE).context(format!("the Docker engine at {address} does not answer")).hint(hint)
}

const INSTALL: &str =
    "Install it: `sudo apt-get install docker.io`; or name an engine: DOCKER_HOST=unix:///path/to/docker.sock.";
const START: &str =
    "Start it: `sudo systemctl start docker`; or name another: DOCKER_HOST=unix:///path/to/docker.sock.";
const DENIED: &str = "Your user may not use the engine: `sudo usermod -aG docker $USER`, then log in again.";

fn named(source: &str) -> String {
    format!("Start the engine there, or change what names it: {source}.")
}
