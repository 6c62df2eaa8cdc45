//! One plugin, two backends.
#[path = "support/good.rs"]
mod good;
use good::Good;

bottle_api::export_backend!("one", Good);
bottle_api::export_backend!("two", Good);

fn main() {}
