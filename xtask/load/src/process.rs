//! What the kernel says of a process.

use anyhow::{Context, Result};
use std::{fs, time::Duration};

/// The kernel's ticks, which are a hundredth of a second wherever Linux runs this.
const TICK: Duration = Duration::from_millis(10);

/// A number of kilobytes in `/proc/PID/FILE`, in megabytes.
pub(crate) fn megabytes(pid: u32, file: &str, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kilobytes: f64 = line.split_whitespace().next().context("a number")?.parse()?;
    Ok(kilobytes / 1024.0)
}

/// Processor time that it has taken.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("stat")?;
    let field = |n: usize| rest.split(' ').nth(n).and_then(|ticks| ticks.parse::<u32>().ok()).context("stat");
    Ok(TICK * (field(11)? + field(12)?))
}

/// The processes that it has started.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    text.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}

/// The words that it was started with, each after a blank.
pub(crate) fn words(pid: u32) -> Result<String> {
    Ok(fs::read_to_string(format!("/proc/{pid}/cmdline"))?.replace('\0', " "))
}
