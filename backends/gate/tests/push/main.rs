//! Pushes by a real git, with the scan as the hook of the repository that they go to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests, helpers too

mod leaks;
mod rows;
mod scans;
mod work;
