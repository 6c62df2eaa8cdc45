//! What an agent has made is saved before its bottle goes, however the session ends, can be brought home, and is there
//! again when somebody has the agent go on; what a guest makes of that stays within its bounds; a working directory
//! comes along in an image that goes with the bottle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

mod disk;
mod image;
mod malicious;
mod place;
mod resume;
mod save;
