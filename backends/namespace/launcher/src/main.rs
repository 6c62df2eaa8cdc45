//! `bottle-namespace LABEL …`: started by the backend alone, which speaks with it on standard input.

fn main() -> ! {
    bottle_namespace::run()
}
