//! `bottle supervise` on a terminal: what waits, which bottles run, what they ask for, and the keys that decide.
//!
//! ```text
//! disk ─ inotify ─▶ watch ─┐
//! terminal ─ keys ─────────┼─▶ event ─▶ model ─┬─▶ draw ─▶ cells ─▶ session::screen ─▶ terminal
//! owner ─ answer ──────────┘                   └─▶ action: decide, edit, quit
//! ```
//!
//! * `model`: what is shown, and what each key does to it; it neither reads nor draws;
//! * `dialog`: what is asked of the operator before anything is decided;
//! * `draw`, `detail`, `text`: the model as cells. Nothing that a guest has written gets into one as it is;
//! * `watch`: what changes on disk;
//! * `edit`: a proposal in the operator's editor;
//! * `run`: the terminal.

mod detail;
mod dialog;
mod draw;
mod edit;
mod model;
mod run;
pub(crate) mod text;
mod watch;

pub use run::run;

#[cfg(test)]
mod tests;
