//! A secret in a log line.

use bottle_api::Secret;

fn main() {
    let secret = Secret::new("x");
    println!("{secret}");
    println!("{secret:?}");
}
