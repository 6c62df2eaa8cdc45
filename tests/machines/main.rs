//! Bottles in machines: the real smolvm and a real engine, in the emulated machine that `cargo xtask lab smolvm` boots.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

mod escape;
mod faults;
mod place;
#[path = "../escape/requests.rs"]
mod requests;
mod session;
#[path = "../escape/table.rs"]
mod table;
