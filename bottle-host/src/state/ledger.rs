//! The ledger: every thing that a backend creates is announced here before it exists and confirmed after, on disk, so
//! that it can be taken away whatever happens to the process.
//!
//! One JSON object per line, appended and synced: `{"event":"intent"|"created"|"gone", "entry":{…}}`. A line that a crash cut short
//! is skipped, for its event was never acknowledged; one that cannot be read for another reason is an error.

use super::files::open_private;
use crate::{fault, random};
use anyhow::{Context, Result};
use bottle_api::{Error, ErrorKind, LedgerEntry};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Event {
    Intent,
    Created,
    Gone,
}

#[derive(Serialize, Deserialize)]
struct Line {
    event: Event,
    entry: LedgerEntry,
}

/// The ledger of one bottle.
pub struct Ledger(Mutex<Book>);

struct Book {
    file: File,
    /// What is announced and not gone, oldest first.
    open: Vec<LedgerEntry>,
    /// Nothing more may come into being.
    sealed: bool,
}

impl Ledger {
    /// Begins a ledger.
    pub fn begin(path: &Path) -> Result<Self> {
        Ok(Self(Mutex::new(Book { file: open_private(path)?, open: vec![], sealed: false })))
    }

    /// Goes on with a ledger, where there is one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let file = match File::options().read(true).append(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("open {}", path.display()))?,
        };
        let mut open = vec![];
        for line in BufReader::new(&file).split(b'\n') {
            let line = line?;
            // Blocks that a power cut left unwritten read as zeros.
            let line = line.split(|byte| *byte == 0).next_back().unwrap_or_default();
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => apply(&mut open, line.event, &line.entry),
                Err(error) if error.is_eof() => {} // cut short
                Err(error) => Err(error).with_context(|| format!("{}: a line that is no event", path.display()))?,
            }
        }
        Ok(Some(Self(Mutex::new(Book { file, open, sealed: false }))))
    }

    /// Announces a thing; the entry comes back with its uuid.
    pub fn intent(&self, mut entry: LedgerEntry) -> Result<LedgerEntry, Error> {
        fault::point("ledger-intent")?;
        entry.uuid = random::hex::<16>().map_err(|e| Error::new(ErrorKind::RUNTIME, format!("{e:#}")))?;
        self.record(Event::Intent, &entry)?;
        Ok(entry)
    }

    /// Confirms that it exists.
    pub fn created(&self, entry: &LedgerEntry) -> Result<(), Error> {
        fault::point("ledger-created")?;
        self.record(Event::Created, entry)
    }

    /// It is gone.
    pub fn gone(&self, entry: &LedgerEntry) -> Result<(), Error> {
        fault::point("ledger-gone")?;
        self.record(Event::Gone, entry)
    }

    /// From now on nothing more is created: a call that was given up may still be at work. What it confirms is kept, and
    /// it is told that it must not go on.
    pub fn seal(&self) {
        self.book().sealed = true;
    }

    /// What must still be taken away, newest first.
    pub fn entries(&self) -> Vec<LedgerEntry> {
        self.book().open.iter().rev().cloned().collect()
    }

    fn record(&self, event: Event, entry: &LedgerEntry) -> Result<(), Error> {
        fault::point("write")?;
        let mut book = self.book();
        let refused = book.sealed && event != Event::Gone;
        let torn_down = || Error::new(ErrorKind::CANCELLED, "the bottle is being torn down");
        if refused && event == Event::Intent {
            return Err(torn_down());
        }
        // A newline on both sides, should the last write have been cut short.
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, &Line { event, entry: entry.clone() })?;
        line.push(b'\n');
        book.file.write_all(&line)?;
        book.file.sync_data()?;
        apply(&mut book.open, event, entry);
        if refused { Err(torn_down()) } else { Ok(()) }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(open: &mut Vec<LedgerEntry>, event: Event, entry: &LedgerEntry) {
    let at = open.iter().position(|e| e.uuid == entry.uuid);
    match (event, at) {
        (Event::Intent, None) => open.push(entry.clone()),
        (Event::Intent | Event::Created, Some(at)) => open[at] = entry.clone(),
        (Event::Gone, Some(at)) => drop(open.remove(at)),
        (Event::Created, None) => open.push(entry.clone()),
        (Event::Gone, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_ledger_takes_nothing_new_in_and_forgets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::begin(&dir.path().join("ledger.jsonl")).unwrap();
        let mut entry = ledger.intent(LedgerEntry::default()).unwrap();
        ledger.seal();
        assert!(ledger.intent(LedgerEntry::default()).is_err());
        // It came into being all the same: that is remembered, and whoever made it hears that it must not go on.
        entry.id = Some("engine-id".into());
        assert!(ledger.created(&entry).is_err());
        assert_eq!(ledger.entries(), [entry.clone()]);
        ledger.gone(&entry).unwrap();
        assert!(ledger.entries().is_empty());
    }

    #[test]
    fn what_is_not_gone_is_remembered_newest_first_and_a_cut_line_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let entry = |name: &str| LedgerEntry { kind: "network".into(), name: name.into(), ..LedgerEntry::default() };
        let ledger = Ledger::begin(&path).unwrap();
        let [a, mut b, c] = ["a", "b", "c"].map(|n| ledger.intent(entry(n)).unwrap());
        b.id = Some("engine-id".into());
        ledger.created(&b).unwrap();
        ledger.gone(&a).unwrap();
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"event\":\"gone\",\"entry\":{\"uu").unwrap();

        let again = Ledger::read(&path).unwrap().unwrap();
        assert_eq!(again.entries(), [c.clone(), b.clone()]);
        again.gone(&c).unwrap();
        assert_eq!(Ledger::read(&path).unwrap().unwrap().entries(), [b]);
        // What it says, but we cannot read, is not as good as nothing.
        file.write_all(b"\n{\"event\":\"from a later version\",\"entry\":{}}\n").unwrap();
        assert!(Ledger::read(&path).is_err());
    }
}
