//! The small program that makes a bottle of Linux namespaces.
//!
//! ```text
//! backend ══ owner's socket ══ launcher ══ PID 1 of the bottle ── the agent's processes
//!                                      ╘══ PID 1 of the sidecar's namespaces: the bundle
//! ```
//!
//! It is a program of its own and has one thread: a clone of a threaded process may do next to nothing, and what a
//! parent's death sends goes with the parent's *thread*. It is executed from a sealed copy in memory with an empty
//! environment, so PID 1, which is a clone of it, holds no secret and has no program that anybody could write to.
//!
//! Whoever's socket closes is dead: the launcher ends with its owner, and the bottle with its launcher.
//!
//! * [`wire`]: what backend, launcher and PID 1 say to each other.
//! * `launch`: the launcher; `ids`: whom a bottle runs as.
//! * `init`: PID 1, from its first to its last instruction; `sources`, `tree`, `masks`: what stands in the bottle;
//!   `confine`, `seccomp`, `numbers`: what no process in it can do; `exec`: its processes.
//! * `side`: the sidecar's own namespaces.
//! * `sys`: the system calls that no crate has a safe form of.

mod confine;
mod exec;
mod ids;
mod init;
mod launch;
mod masks;
mod numbers;
mod seccomp;
mod side;
mod sources;
mod sys;
mod tree;
pub mod wire;

/// The launcher's life, on standard input.
pub fn run() -> ! {
    sys::exit(launch::run())
}

/// Can this kernel hold git-gate's own sockets apart from this machine's? Its sidecar has them; no other has any.
pub fn holds_git_gate() -> bool {
    confine::can_keep_in()
}

/// The user and group of this machine that the bottle of that launcher runs as, where it is not the caller's own.
pub fn user_of(launcher: u32) -> Option<u32> {
    ids::Ids::of(launcher).ok().filter(|ids| ids.apart).map(|ids| ids.bottle.user)
}
