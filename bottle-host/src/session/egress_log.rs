//! A bottle's egress log on disk: a line of JSON per request, bounded and rotated.

use super::sidecar::ENDED;
use anyhow::{Context, Result};
use bottle_policy::message::LogLine;
use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// A log of this size is put aside: two of them are kept.
const MAX_BYTES: u64 = 16 << 20;

/// Where the log that was put aside is.
pub fn put_aside(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

/// A file that is put aside, over the one put aside before, when it has grown to [`MAX_BYTES`].
pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Rotating {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("open the egress log {}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes: file.metadata()?.len(), file })
    }

    pub(super) fn write(&mut self, line: &LogLine) -> io::Result<()> {
        let mut json = serde_json::to_vec(line)?;
        json.push(b'\n');
        if self.bytes + json.len() as u64 > MAX_BYTES {
            fs::rename(&self.path, put_aside(&self.path))?;
            *self = Self::open(&self.path).map_err(io::Error::other)?;
        }
        self.file.write_all(&json)?;
        self.bytes += json.len() as u64;
        Ok(())
    }
}

/// What a line is about, and why it was refused. A guest has chosen most of it.
pub fn place(line: &LogLine) -> String {
    let mut place = match (line.decision.as_str(), line.daemon.as_str()) {
        (ENDED, daemon) => format!("the sidecar's daemon {daemon} ended: {}", line.rule),
        (_, "dns") => format!("{} (DNS)", line.host),
        _ => format!("{}{}", line.host, line.path),
    };
    if !line.is_allowed() && line.decision != ENDED {
        place += &format!("  [{}]", line.rule);
    }
    if line.repeated > 0 {
        place += &format!("  and {} more like it", line.repeated);
    }
    place
}

/// The time as the log has it.
pub(super) fn now() -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(FORMAT).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_full_is_put_aside_and_two_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress.jsonl");
        let mut log = Rotating::open(&path).unwrap();
        let line = LogLine { path: "x".repeat(1000), ..LogLine::default() };
        for _ in 0..3 {
            log.bytes = MAX_BYTES;
            log.write(&line).unwrap();
            log.write(&line).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(fs::read_to_string(put_aside(&path)).unwrap().lines().count(), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
