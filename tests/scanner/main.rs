//! The scanner behind the real sidecar, on the wire: what of a public corpus and of our own leaves a bottle, and what
//! honest tools send unharmed. Every host is allowed here, so that nothing is contained by its destination.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

mod aeb;
mod aeb_cases;
mod benign;
mod builds;
mod exchange;
mod generator;
mod leaks;
mod leaks_wire;
mod play;
mod sockets;
mod transform;
mod world;

#[path = "../egress/names.rs"]
mod names;
