//! What goes into a bottle is looked at for credentials first: an agent has no need of them, and a person decides.
//!
//! Text alone, file by file, the beginning of each; what history holds is not looked at. A finding is a rule's name and
//! a file's, never a value.

use crate::ui;
use anyhow::{Context as _, Result};
use bottle_scan::{Context, ExactSet, Kind, Options, Rules, Scanner};
use std::{collections::BTreeMap, io::Read, sync::Arc};

/// Of each file, and of all together.
const MAX_OF_ONE: u64 = 1 << 20;
const MAX_OF_ALL: u64 = 256 << 20;
/// A NUL in the beginning makes a file no text: as git has it.
const LOOKED_AT: usize = 8000;
/// Findings whose files are named.
const MAX_FOUND: usize = 1000;

/// Looks at files on their way in.
pub(super) struct Scan {
    scanner: Arc<Scanner>,
    context: Context,
    left: u64,
    /// Files by the rule that found something in them.
    found: BTreeMap<String, Vec<String>>,
    /// Text of which not all was looked at.
    unseen: usize,
}

impl Scan {
    pub(super) fn begin() -> Result<Self> {
        let rules = Arc::new(Rules::builtin().context("the scanner's rules")?);
        let scanner = Scanner::new(rules, ExactSet::new([]), Options::default());
        let context = Context::outgoing("", "");
        Ok(Self { scanner: Arc::new(scanner), context, left: MAX_OF_ALL, found: BTreeMap::new(), unseen: 0 })
    }

    /// Reads the beginning of a file, and judges it.
    pub(super) fn look(&mut self, name: &[u8], size: u64, file: impl Read) -> Result<Vec<u8>> {
        let mut head = vec![];
        file.take(size.min(MAX_OF_ONE).min(self.left)).read_to_end(&mut head)?;
        if head[..head.len().min(LOOKED_AT)].contains(&0) {
            return Ok(head);
        }
        self.left -= head.len() as u64;
        self.unseen += usize::from(size > head.len() as u64);
        for finding in self.scanner.judge_body(&self.context, "", &head) {
            if finding.kind != Kind::Pattern || !finding.blocks() {
                continue;
            }
            let files = self.found.entry(finding.rule.into_owned()).or_default();
            let name = ui::printable(&String::from_utf8_lossy(name));
            if files.last() != Some(&name) && files.len() < MAX_FOUND {
                files.push(name);
            }
        }
        Ok(head)
    }

    /// Files by the rule that found something in them, and how many were not looked at to their end.
    pub(super) fn finish(self) -> (BTreeMap<String, Vec<String>>, usize) {
        (self.found, self.unseen)
    }
}
