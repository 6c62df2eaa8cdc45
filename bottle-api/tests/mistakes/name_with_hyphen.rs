//! A name that cannot stand in a file's name.
#[path = "support/good.rs"]
mod good;
use good::Good;

bottle_api::export_backend!("my-backend", Good);

fn main() {}
