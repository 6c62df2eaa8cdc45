//! The sidecar as a proxy, beside no proxy and beside mitmproxy, in one run. Needs no engine; needs root, for a network
//! of its own in which an address that no policy refuses is loopback.

use super::scratch;
use crate::{
    run::{artifact, build, output, root},
    setup, stage,
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{fs, path::PathBuf, process::Command};

/// Newest first: an old one runs an old mitmproxy only.
const PYTHONS: [&str; 3] = ["python3.13", "python3.12", "python3"];
/// The newest that Python runs, up to the one that the targets were measured with.
const MITMPROXY: &str = "mitmproxy<=12.2.3";
/// Where the origin is; the load's own constant.
const ORIGIN: &str = "203.0.113.10";
const HOSTS: usize = 200;
/// Every address is local, every host of the load is the origin.
const INSIDE: &str = "set -e
ip link set lo up
ip route add local 0.0.0.0/0 dev lo table local
mount --bind \"$0\" /etc/hosts
exec \"$@\"";

/// What a quantity must be.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64),
    /// As a multiple of mitmproxy's.
    TimesTheirs(f64),
    /// More than direct, by this at most.
    Added(f64),
    AtLeast(f64),
    None,
}

const ROWS: [(&str, &str, Target); 14] = [
    ("requests/s at 16 kept connections", "requests_per_second", Target::TimesTheirs(15.0)),
    ("processor per request (us)", "cpu_micros_per_request", Target::None),
    ("10 KB, p50 (ms)", "p50_ms", Target::Added(0.5)),
    ("10 KB, p99 (ms)", "p99_ms", Target::Added(2.0)),
    ("download (MB/s)", "download_mb_per_second", Target::None),
    ("upload, source (MB/s)", "upload_mb_per_second", Target::AtLeast(150.0)),
    ("upload, one letter (MB/s)", "letters_mb_per_second", Target::None),
    ("new connection, p50 (ms)", "new_connection_ms", Target::None),
    ("new connection, p99 (ms)", "new_connection_p99_ms", Target::None),
    ("new host, p50 (ms)", "new_host_ms", Target::None),
    ("start (ms)", "start_ms", Target::AtMost(15.0)),
    ("RSS idle (MB)", "rss_idle_mb", Target::AtMost(25.0)),
    ("RSS after load (MB)", "rss_loaded_mb", Target::None),
    ("all processes, idle, PSS (MB)", "pss_idle_mb", Target::None),
];
const BINARY_MB: f64 = 12.0;

/// Measures and prints.
pub(super) fn bench() -> Result<()> {
    let sidecar = stage::sidecar("dist")?;
    let load = artifact(&build("bottle-load", &["--release"], "")?, "bottle-load")?;
    let mitmdump = mitmproxy()?;
    let hosts = scratch("egress")?.join("hosts");
    fs::write(&hosts, (0..HOSTS).map(|n| format!("{ORIGIN} h{n}.example\n")).collect::<String>())?;
    let mut inside = Command::new("unshare");
    inside.args(["--net", "--mount", "--", "sh", "-c", INSIDE]).arg(&hosts).arg(load).arg(&sidecar).arg(&mitmdump);
    let found: Value = serde_json::from_str(&output(&mut inside).context("as root")?)?;
    println!("{:<36} {:>9} {:>9} {:>9}   target", "", "direct", "ours", "mitmproxy");
    for (what, field, target) in ROWS {
        let [direct, ours, theirs] = ["direct", "ours", "mitmproxy"].map(|of| found[of][field].as_f64().unwrap_or(0.0));
        println!("{what:<36} {direct:>9.2} {ours:>9.2} {theirs:>9.2}   {}", verdict(target, direct, ours, theirs));
    }
    let size = fs::metadata(&sidecar)?.len() as f64 / 1e6;
    println!(
        "{:<36} {:>9} {size:>9.2} {:>9}   {}",
        "binary (MB)",
        "",
        "",
        verdict(Target::AtMost(BINARY_MB), 0.0, size, 0.0)
    );
    let version = output(Command::new(&mitmdump).arg("--version"))?;
    println!("\nmitmproxy: {}\n", version.lines().take(2).collect::<Vec<_>>().join(", "));
    Ok(())
}

fn verdict(target: Target, direct: f64, ours: f64, theirs: f64) -> String {
    let (text, met) = match target {
        Target::AtMost(most) => (format!("<= {most}"), ours <= most),
        Target::TimesTheirs(times) => (format!(">= {times}x theirs; {:.1}x", ours / theirs), ours >= times * theirs),
        Target::Added(most) => (format!("<= {most} added; {:.3}", ours - direct), ours - direct <= most),
        Target::AtLeast(least) => (format!(">= {least}"), ours >= least),
        Target::None => return String::new(),
    };
    format!("{text}  {}", if met { "met" } else { "MISSED" })
}

/// `mitmdump`, from PyPI in an environment of its own, kept.
fn mitmproxy() -> Result<PathBuf> {
    let place = root().join("target/mitmproxy");
    let program = place.join("bin/mitmdump");
    if !program.exists() {
        let runs =
            |python: &&&str| Command::new(python).arg("--version").output().is_ok_and(|out| out.status.success());
        let python = PYTHONS.iter().find(runs).context("there is no python3; run `apt-get install python3-venv`")?;
        setup::python_environment(python, &place, &[MITMPROXY])?;
    }
    Ok(program)
}
