//! What must not get out of a bottle does not, and what may does: the fail-open table, one test a row, each in a network
//! namespace of its own with a capture.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

/// Rows of the table: a name, and attacks and their legitimate neighbours in a [`world::World`].
macro_rules! rows {
    ($($(#[$about:meta])* $name:ident: |$world:ident| $row:expr;)+) => {
        $($(#[$about])* #[test]
        fn $name() -> anyhow::Result<()> {
            $crate::world::hold(|$world| $row)
        })+
    };
}

mod addresses;
mod clients;
mod credentials;
mod framing;
mod hostile;
mod hosts;
mod http2;
mod names;
mod paths;
mod reuse;
mod sockets;
mod tunnels;
mod world;
