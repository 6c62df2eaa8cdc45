//! The `bottle` command's library: from a manifest to a running bottle and back to nothing.
//!
//! * [`manifest`]: what the user wrote; [`plan`]: what that means for one launch; [`preflight`]: how it is shown;
//! * [`plugin`]: finding, vetting and loading backends, and the safe side of their objects;
//! * [`state`]: what this machine remembers of a bottle, and what it must take away again;
//! * [`life`]: a bottle from launch to nothing left; [`probe`]: whether it is closed; [`session`]: the agent in it, and
//!   the terminal;
//! * [`apply`]: the way home of what an agent made, through the exit [`gate`];
//! * [`supervise`]: what an agent asks its operator for;
//! * [`commands`]: one file per command.

pub mod apply;
pub mod cli;
pub mod commands;
pub mod fault;
pub mod gate;
pub mod life;
pub mod manifest;
pub mod paths;
pub mod plan;
pub mod plugin;
pub mod preflight;
pub mod probe;
mod random;
pub mod session;
pub mod signals;
pub mod state;
pub mod supervise;
pub mod ui;
pub mod work;
pub mod workspace;
