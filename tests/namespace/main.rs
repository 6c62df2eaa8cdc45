//! Bottles of namespaces, as root and as an ordinary user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

mod attacks;
mod descriptors;
mod ends;
mod kernels;
mod session;
mod sidecar;
mod tools;
mod trees;
