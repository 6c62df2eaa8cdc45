//! The egress log read line by line, from its oldest line on, while another process writes it and puts it aside.

use super::egress_log::put_aside;
use anyhow::{Context, Result};
use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const CHUNK: usize = 64 << 10;

/// Where a reader is in a log.
pub struct Tail {
    path: PathBuf,
    /// Files to read, the oldest first; the last is where the writer was when we looked.
    files: Vec<File>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Tail {
    /// At the oldest line that is kept. A log that is not there yet has none.
    pub fn open(path: &Path) -> Result<Self> {
        // The newer first: one that is put aside in between is then found twice, and not missed.
        let newer = open(path)?;
        let older = open(&put_aside(path))?;
        let older = older.filter(|older| newer.as_ref().is_none_or(|newer| inode(older) != inode(newer)));
        Ok(Self { path: path.to_owned(), files: older.into_iter().chain(newer).collect(), begun: vec![] })
    }

    /// Hands over every whole line that was written since the last call.
    pub fn read(&mut self, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
        loop {
            // Looked at before the last read: what is put aside then is written to no more.
            let current = fs::metadata(&self.path).map(|file| file.ino()).ok();
            while let Some(mut file) = self.files.first() {
                read_on(&mut file, &mut self.begun, &mut each).with_context(|| self.attempt())?;
                if self.files.len() == 1 {
                    break;
                }
                self.files.remove(0);
                self.begun.clear();
            }
            if current.is_none() || current == self.files.first().and_then(inode) {
                return Ok(());
            }
            self.files.clear();
            self.begun.clear();
            self.files.extend(open(&self.path)?);
        }
    }

    fn attempt(&self) -> String {
        format!("read the egress log {}", self.path.display())
    }
}

fn read_on(file: &mut impl Read, begun: &mut Vec<u8>, each: &mut impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            len => begun.extend_from_slice(&chunk[..len]),
        }
        let Some(end) = begun.iter().rposition(|byte| *byte == b'\n') else { continue };
        let rest = begun.split_off(end + 1);
        for line in begun.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            each(&String::from_utf8_lossy(line))?;
        }
        *begun = rest;
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("open the egress log {}", path.display())),
    }
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().map(|file| file.ino()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_read_once_across_two_files_and_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress.jsonl");
        let append = |text: &str| {
            let mut file = File::options().append(true).create(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut tail = Tail::open(&path).unwrap();
        let mut read = || {
            let mut lines = vec![];
            tail.read(|line| {
                lines.push(line.to_owned());
                Ok(())
            })
            .unwrap();
            lines.join(" ")
        };
        assert_eq!(read(), "");
        append("1\n2\n3");
        assert_eq!(read(), "1 2");
        append("4\n");
        assert_eq!(read(), "34");
        append("5\n");
        fs::rename(&path, put_aside(&path)).unwrap();
        append("6\n\u{e9}\n");
        assert_eq!(read(), "5 6 \u{e9}");
        assert_eq!(read(), "");
        // A reader that comes later begins with what was put aside.
        let (mut later, mut lines) = (Tail::open(&path).unwrap(), 0);
        let count = |_: &str| {
            lines += 1;
            Ok(())
        };
        later.read(count).unwrap();
        assert_eq!(lines, 6);
        // The directory is gone.
        fs::remove_file(&path).unwrap();
        assert_eq!(read(), "");
    }
}
