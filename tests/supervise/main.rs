//! The operator in the loop, with real parts: the real Claude Code asks in a whole bottle, `bottle supervise` decides.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

mod image;
mod killed;
mod operator;
mod place;
mod server;
mod session;
