//! One error type for both sides of the boundary; it crosses as [`crate::abi::AbiError`].

use std::fmt;

/// What went wrong, as an open set: a newer plugin may send a kind that this host does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorKind(pub u32);

impl ErrorKind {
    /// Anything without a better name.
    pub const OTHER: Self = Self(0);
    /// The spec asks for something that makes no sense.
    pub const INVALID_SPEC: Self = Self(1);
    /// Something on the machine is missing: an engine, a binary, a right.
    pub const PREREQUISITE: Self = Self(2);
    /// The backend cannot do this, or does not know the verb.
    pub const UNSUPPORTED: Self = Self(3);
    /// A name or an address is taken.
    pub const CONFLICT: Self = Self(4);
    /// The engine failed while it worked.
    pub const RUNTIME: Self = Self(5);
    /// The call's cancellation was asked for.
    pub const CANCELLED: Self = Self(6);
    /// No such thing.
    pub const NOT_FOUND: Self = Self(7);
    /// The other side sent what cannot be read.
    pub const PROTOCOL: Self = Self(8);
    /// A plugin panicked.
    pub const PANIC: Self = Self(9);
    /// A call did not return in time.
    pub const DEADLINE: Self = Self(10);
}

/// What a backend does not do that knows no builders.
pub(crate) const BUILDING: &str = "building images";

/// What was attempted and found, what to type next, and the causes below it.
///
/// It does not implement [`std::error::Error`], so that every type that does can become one by `?`
/// (the trade that `anyhow` makes); [`Error::into_std`] wraps it where one is needed.
#[derive(Debug, Clone)]
pub struct Error {
    /// For programs.
    pub kind: ErrorKind,
    /// What was attempted and what was found.
    pub message: String,
    /// What the operator should type or change next.
    pub hint: Option<String>,
    /// Outermost-first causes, already rendered: a `dyn Error` cannot cross libraries.
    pub chain: Vec<String>,
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with neither hint nor causes yet.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, chain: vec![] }
    }

    /// The backend does not know how to do this.
    pub fn unsupported(what: &str) -> Self {
        Self::new(ErrorKind::UNSUPPORTED, format!("this backend does not support {what}"))
    }

    /// Says what to type next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Changes the kind, keeping text and causes.
    #[must_use]
    pub fn kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Puts what was attempted in front; the former message becomes the first cause.
    #[must_use]
    pub fn context(mut self, attempted: impl Into<String>) -> Self {
        let found = std::mem::replace(&mut self.message, attempted.into());
        self.chain.insert(0, found);
        self
    }

    /// As a [`std::error::Error`].
    pub fn into_std(self) -> StdError {
        StdError(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.chain.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(e: E) -> Self {
        let message = e.to_string();
        let mut chain: Vec<String> = vec![];
        let mut source = e.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // hyper and bollard print their sources themselves: do not say it twice.
            if !chain.last().unwrap_or(&message).contains(&text) {
                chain.push(text);
            }
            source = cause.source();
        }
        Self { kind: ErrorKind::OTHER, message, hint: None, chain }
    }
}

/// [`Error`] as a [`std::error::Error`], for `anyhow` at a binary's edge.
#[derive(Debug)]
pub struct StdError(
    /// The error itself.
    pub Error,
);

impl fmt::Display for StdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for StdError {}

/// `.context("what was attempted")` on any result.
pub trait Context<T> {
    /// Puts what was attempted in front of the error.
    fn context(self, attempted: impl Into<String>) -> Result<T>;
    /// The same, computed only when there is an error.
    fn with_context<S: Into<String>>(self, attempted: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, attempted: impl Into<String>) -> Result<T> {
        self.map_err(|e| e.into().context(attempted))
    }

    fn with_context<S: Into<String>>(self, attempted: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.into().context(attempted()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reads_from_attempt_to_cause() {
        let e = Err::<(), _>(std::io::Error::other("disk full")).context("write the ledger").unwrap_err();
        assert_eq!(e.to_string(), "write the ledger: disk full");
    }
}
