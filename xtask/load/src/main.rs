//! `bottle-load SIDECAR MITMDUMP`: measures no proxy, ours and mitmproxy in one run, and prints what it found as JSON.
//!
//! It stands in a network namespace in which every address is local, as `cargo xtask bench egress` makes it: loopback by
//! way of an address that the policy does not refuse.
//!
//! ```text
//! client ─ 16 connections, CONNECT, TLS ─ proxy ─ TLS ─ origin     client and origin: this process
//! ```

mod client;
mod measure;
mod origin;
mod process;
mod proxies;

use anyhow::{Result, bail};
use std::path::Path;

/// The hosts that are asked for, `h0.example` and on.
pub(crate) const HOSTS: usize = 200;

/// The name of one of them.
pub(crate) fn host(n: usize) -> String {
    format!("h{n}.example")
}

#[allow(clippy::print_stdout)] // the result is what it prints
fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [sidecar, mitmdump] = &words[..] else { bail!("usage: bottle-load SIDECAR MITMDUMP") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let found = runtime.block_on(measure::all(Path::new(sidecar), Path::new(mitmdump)))?;
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}
