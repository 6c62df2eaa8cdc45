//! git-gate over the wire: the staged sidecar in a network of its own, a real git on all sides, a real OpenSSH server and
//! a real git over HTTPS behind it. What may not leave does not, and every failure is one clear message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // tests

mod everyday;
mod forge;
mod leaks;
#[path = "../egress/names.rs"]
mod names;
#[path = "../../backends/gate/tests/push/rows.rs"]
mod rows;
mod secrets;
mod sshd;
mod upstreams;
mod work;
mod world;
