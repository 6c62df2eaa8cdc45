//! A name that cannot stand in a file's name.
#[path = "support/good.rs"]
mod good;
use good::Good;

bottle_api::export_backend!("a_name_that_is_longer_than_anybody_types", Good);

fn main() {}
