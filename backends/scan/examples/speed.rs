//! What `cargo xtask bench scan` runs: megabytes a second, memory and start, one line each.
//!
//! `speed start`, or `speed KIND` with the bytes on standard input.

#![allow(clippy::print_stdout, clippy::expect_used)] // a program for people

use bottle_scan::{Context, ExactSet, Options, Rules, Scanner};
use std::{io::Read, sync::Arc};

fn main() {
    let mode = std::env::args().nth(1).expect("start, or a kind of input");
    let began = worked();
    let rules = Arc::new(Rules::builtin().expect("the built-in packs"));
    let start = worked() - began;
    if mode == "start" {
        println!("start {:.3} {}", start as f64 / 1e6, resident());
        return;
    }
    let secrets = [("ONE", &b"q7Zk2Wd9Bx4nLr8Tc1Yf5Hm3Vj6Gp0Ss"[..]), ("TWO", b"hunter-2-Correct-Horse-9-Battery")];
    let scanner = Arc::new(Scanner::new(rules, ExactSet::new(secrets), Options::default()));
    let mut bytes = vec![];
    std::io::stdin().read_to_end(&mut bytes).expect("input");
    let encoding = if mode == "gzip" { "gzip" } else { "" };
    let context = Context::outgoing("upload.example", "application/octet-stream");
    let mut best = u64::MAX;
    let mut found = 0;
    for _ in 0..4 {
        let began = worked();
        let mut stream = scanner.stream(context.clone(), encoding);
        found = bytes.chunks(64 << 10).map(|part| stream.push(part).findings.len()).sum::<usize>();
        found += stream.finish().findings.len();
        best = best.min(worked() - began);
    }
    println!("{mode} {:.1} {} {found}", bytes.len() as f64 * 1e3 / best as f64, resident());
}

/// Kilobytes in memory at most.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Nanoseconds that this thread has worked: others on the machine do not count.
fn worked() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
