//! `?` on something that is no error.

fn refuse() -> bottle_api::Result<()> {
    Err("there is no engine")?
}

fn main() {
    let _ = refuse();
}
