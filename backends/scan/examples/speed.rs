//! What `cargo xtask bench scan` runs: megabytes a second, memory and start, one line each.
//!
//! `speed start`, or `speed KIND FILE`.

#![allow(clippy::print_stdout, clippy::expect_used)] // a program for people

use bottle_scan::{Context, ExactSet, Options, Rules, Scanner};
use std::{fs::File, io::Read, sync::Arc, time::Duration};

/// The best of so many counts: what else the machine does makes a run slower, never faster.
const RUNS: usize = 8;
const PIECE: usize = 64 << 10;

fn main() {
    let mode = std::env::args().nth(1).expect("start, or a kind of input");
    let began = now();
    let rules = Arc::new(Rules::builtin().expect("the built-in packs"));
    let start = now()[0] - began[0];
    if mode == "start" {
        println!("start {:.3} {}", start.as_secs_f64() * 1e3, resident());
        return;
    }
    let file = std::env::args().nth(2).expect("a file");
    let secrets = [("ONE", &b"q7Zk2Wd9Bx4nLr8Tc1Yf5Hm3Vj6Gp0Ss"[..]), ("TWO", b"hunter-2-Correct-Horse-9-Battery")];
    let scanner = Arc::new(Scanner::new(rules, ExactSet::new(secrets), Options::default()));
    let encoding = if mode == "gzip" { "gzip" } else { "" };
    let (mut best, mut found, mut length) = ([Duration::MAX; 2], 0, 0);
    for _ in 0..RUNS {
        // Read in pieces: what is in memory is the scanner's.
        let mut file = File::open(&file).expect("the file");
        let mut stream = scanner.stream(Context::outgoing("upload.example", "application/octet-stream"), encoding);
        let mut piece = vec![0; PIECE];
        let mut took = [Duration::ZERO; 2];
        (found, length) = (0, 0);
        loop {
            let read = file.read(&mut piece).expect("the file");
            if read == 0 {
                break;
            }
            length += read;
            let began = now();
            found += stream.push(&piece[..read]).findings.len();
            took = [0, 1].map(|clock| took[clock] + (now()[clock] - began[clock]));
        }
        let began = now();
        found += stream.finish().findings.len();
        best = [0, 1].map(|clock| best[clock].min(took[clock] + (now()[clock] - began[clock])));
    }
    let [worked, passed] = best.map(|time| length as f64 / 1e6 / time.as_secs_f64());
    println!("{mode} {worked:.1} {passed:.1} {} {found}", resident());
}

/// Kilobytes in memory at most.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// What this thread has worked, in its own code and the kernel's, which nobody else on the machine adds to; and the time.
fn now() -> [Duration; 2] {
    use rustix::time::{ClockId, clock_gettime};
    [ClockId::ThreadCPUTime, ClockId::Monotonic].map(|clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    })
}
