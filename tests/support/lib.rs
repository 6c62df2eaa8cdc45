//! What the tests and the demo share: a network of test hosts, a stand-in for the model, a home with a manifest, and
//! the staged `bottle`. Everything else is the real thing.

pub mod bare;
pub mod bottle;
pub mod bundle;
pub mod forge;
pub mod gate;
pub mod h2;
pub mod lab;
pub mod needle;
pub mod netns;
pub mod origin;
pub mod own_engine;
pub mod pty;
pub mod running;
pub mod scripted;
pub mod sidecar;
pub mod standin;
pub mod target;
pub mod tiny;
pub mod tmux;
pub mod wire;
