//! What goes wrong with an engine, as a user meets it: what its words mean, and what to type next.
//!
//! An engine reports most of its troubles as text alone. One table reads it, at the one place where errors leave for the
//! host ([`crate::engine::block_on`]); text that is not in the table goes through as it is.

use crate::address::Address;
use bottle_api::{Error, ErrorKind};
use std::{io, path::Path};

/// A trouble that is known by its words.
struct Known {
    /// Of the engine or the system, in small letters; any of them.
    words: &'static [&'static str],
    /// What that means.
    says: &'static str,
    /// What to type.
    hint: &'static str,
}

/// The first that fits counts.
const KNOWN: &[Known] = &[
    Known {
        words: &["no space left on device", "disk quota exceeded"],
        says: "the engine's disk is full",
        hint: "`docker system df` shows what takes it, `docker system prune` frees what nothing uses.",
    },
    Known {
        words: &["toomanyrequests", "rate limit"],
        says: "the registry wants you to wait, or to be known",
        hint: "Say who you are: `docker login`; or wait. An image that is there already is not asked for again.",
    },
    Known {
        words: &[
            "pull access denied",
            "manifest unknown",
            "no such image",
            "repository does not exist",
            "invalid reference format",
        ],
        says: "there is no such image, here or in its registry",
        hint: "See what is there, `docker images`, and name it: CLAUDE_BOTTLE_BASE_IMAGE=NAME or CLAUDE_BOTTLE_IMAGE=NAME.",
    },
    Known {
        words: &[
            "dial tcp",
            "no such host",
            "tls handshake timeout",
            "client.timeout exceeded",
            "server misbehaving",
            "x509:",
            "context deadline exceeded",
        ],
        says: "the engine does not reach the image's registry",
        hint: "Try `docker pull IMAGE` until it does; or bring the image (`docker save` there, `docker load` here) and \
               name it: CLAUDE_BOTTLE_BASE_IMAGE=NAME.",
    },
    Known {
        words: &["unknown or invalid runtime name", "unable to retrieve oci runtime"],
        says: "the engine names a runtime that does not work",
        hint: "See `runtimes` in its settings, /etc/docker/daemon.json.",
    },
    Known {
        words: &[
            "connection refused",
            "connection reset",
            "broken pipe",
            "connection closed before",
            "client error (connect)",
            "unexpected eof",
            "end of file before",
        ],
        says: "the engine went away",
        hint: "Start it (`sudo systemctl start docker`), then take away what is left: `bottle cleanup`.",
    },
];

/// Says what an error means and what to type, where its text is known and nobody has said so yet.
pub fn explain(error: Error) -> Error {
    match find(&error.to_string()) {
        Some(known) if error.hint.is_none() => error.context(known.says).hint(known.hint),
        _ => error,
    }
}

/// Will [`explain`] know these words?
pub(crate) fn is_known(said: &str) -> bool {
    find(said).is_some()
}

fn find(said: &str) -> Option<&'static Known> {
    let said = said.to_lowercase();
    KNOWN.iter().find(|known| known.words.iter().any(|word| said.contains(word)))
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
    // An engine turns a client away after its own handshake (TLS 1.3): then the client may hear no more than an end.
    let is_tls = matches!(address, Address::Tls { .. });
    let hint = if is(&["permission denied"]) {
        DENIED.to_owned()
    } else if is(&["certificate", "handshake", "alert"]) || (is_tls && is(&["connection was not ready"])) {
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
