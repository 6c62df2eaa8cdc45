//! Changes that are in no commit: read from the guest's archive, and written to the host one by one.
//!
//! A file is written where the host's is still what came along, or is not there; else it is in the way, and nothing at
//! all is written before somebody has decided. Every name is reached from the directory through no link.

use crate::{
    gate::{Made, What},
    work::{self, Item, Left},
    workspace::{
        Print,
        tree::{Found, Place, Tree},
    },
};
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::Path,
};
use tar::EntryType;

/// How much of a file decides whether it is text: as git has it.
const LOOKED_AT: u64 = 8000;
/// Files that are looked for twins among.
const MAX_THERE: usize = 200_000;

/// One change.
pub struct Change {
    /// Relative to the directory.
    pub name: Vec<u8>,
    what: What,
    /// How it came along; none: it did not.
    came: Option<Print>,
}

impl Change {
    /// For the gate.
    pub fn made(&self) -> Made {
        Made { name: self.name.clone(), what: self.what.clone() }
    }

    /// `A`dded, `M`odified or `D`eleted.
    pub fn letter(&self) -> char {
        match (&self.what, &self.came) {
            (What::Gone, _) => 'D',
            (_, Some(_)) => 'M',
            (_, None) => 'A',
        }
    }
}

/// All changes, by name. What is as it came is none.
pub fn changes(left: &Left) -> Result<Vec<Change>> {
    let came = &left.came;
    let mut changes = vec![];
    if let Some(archive) = left.archive() {
        work::items(&archive, |item, content| {
            // The longest prefix decides on text; what is left of it belongs to the comparison.
            let mut head = vec![];
            (&mut *content).take(LOOKED_AT).read_to_end(&mut head)?;
            let binary = head.contains(&0);
            let mut content = head.chain(content);
            if !item.is_as_it_came(&mut content, came.prints.get(&item.name))? {
                let came = came.prints.get(&item.name).cloned();
                changes.push(Change { what: what(&item, binary), name: item.name, came });
            }
            Ok(())
        })?;
    }
    for name in left.deleted()? {
        let came = came.prints.get(&name).cloned();
        changes.push(Change { name, what: What::Gone, came });
    }
    changes.sort_by(|a, b| a.name.cmp(&b.name));
    // The last of a name is what an archive means.
    changes.reverse();
    changes.dedup_by(|a, b| a.name == b.name);
    changes.reverse();
    Ok(changes)
}

fn what(item: &Item, binary: bool) -> What {
    match item.kind {
        EntryType::Regular => What::File { mode: item.mode, binary },
        EntryType::Symlink => What::Link(item.link.clone()),
        _ => What::Other,
    }
}

/// The names that the directory has, but git's own.
pub fn there(dir: &Path) -> Result<Vec<Vec<u8>>> {
    let tree = Tree::open(dir)?;
    let (mut found, mut dirs) = (vec![], vec![vec![]]);
    while let Some(dir) = dirs.pop() {
        for name in tree.names(&dir)? {
            let path = crate::workspace::tree::join(&dir, &name);
            if crate::workspace::tree::is_gits(&name) || found.len() > MAX_THERE {
                continue;
            }
            if let Found::Directory(_) = tree.look(&path)? {
                dirs.push(path.clone());
            }
            found.push(path);
        }
    }
    Ok(found)
}

/// Where a change may go: what the host has there now.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Free,
    /// It is there already.
    Done,
    /// The host has something else.
    Blocked,
}

/// The names of changes that the host's own are in the way of.
pub fn in_the_way(dir: &Path, left: &Left, chosen: &[&Change]) -> Result<Vec<Vec<u8>>> {
    let tree = Tree::open(dir)?;
    let wanted = prints(left, chosen)?;
    let mut blocked = vec![];
    for (change, new) in chosen.iter().zip(&wanted) {
        if way(&tree, change, new.as_ref())? == Way::Blocked {
            blocked.push(change.name.clone());
        }
    }
    Ok(blocked)
}

/// What each is to become.
fn prints(left: &Left, chosen: &[&Change]) -> Result<Vec<Option<Print>>> {
    let names: BTreeSet<&[u8]> = chosen.iter().map(|change| change.name.as_slice()).collect();
    let mut found = BTreeMap::new();
    if let Some(archive) = left.archive() {
        work::items(&archive, |item, content| {
            if names.contains(item.name.as_slice()) {
                let print = match item.kind {
                    EntryType::Symlink => Print::link(&item.link),
                    _ => Print::file(item.mode & 0o777, item.size, content)?,
                };
                found.insert(item.name, print);
            }
            Ok(())
        })?;
    }
    Ok(chosen.iter().map(|change| found.get(&change.name).filter(|_| change.what != What::Gone).cloned()).collect())
}

fn way(tree: &Tree, change: &Change, new: Option<&Print>) -> Result<Way> {
    let now = match tree.look(&change.name)? {
        Found::Nothing => None,
        Found::File { mode, size, mut file, .. } => Some(Print::file(mode, size, &mut file)?),
        Found::Link(target) => Some(Print::link(&target)),
        Found::Directory(_) | Found::Skipped(_) => return Ok(Way::Blocked),
    };
    Ok(match now {
        // Of modes only that of running matters: the host's umask has a say in the rest.
        now if same(now.as_ref(), new) => Way::Done,
        None => Way::Free,
        now if same(now.as_ref(), change.came.as_ref()) => Way::Free,
        _ => Way::Blocked,
    })
}

fn same(a: Option<&Print>, b: Option<&Print>) -> bool {
    let essence = |print: &Print| (print.mode.map(|mode| mode & 0o100), print.size, print.hash);
    a.map(essence) == b.map(essence)
}

/// Writes the chosen ones. Returns how many were written or removed; those that are there already are none.
pub fn write(dir: &Path, left: &Left, chosen: &[&Change]) -> Result<usize> {
    let (tree, wanted) = (Tree::open(dir)?, prints(left, chosen)?);
    let mut open = BTreeSet::new();
    for (change, new) in chosen.iter().zip(&wanted) {
        if way(&tree, change, new.as_ref())? != Way::Done {
            open.insert(change.name.clone());
        }
    }
    let count = open.len();
    let name = |name: &[u8]| format!("write {}", crate::ui::printable(&String::from_utf8_lossy(name)));
    for change in chosen.iter().filter(|change| change.what == What::Gone && open.contains(&change.name)) {
        tree.remove(&change.name).with_context(|| name(&change.name))?;
    }
    if let Some(archive) = left.archive() {
        work::items(&archive, |item, content| {
            if open.contains(&item.name) {
                let place = match item.kind {
                    EntryType::Symlink => Place::Link(&item.link),
                    EntryType::Regular => Place::File { runs: item.mode & 0o100 != 0, content },
                    // The gate refuses it.
                    _ => return Ok(()),
                };
                tree.put(&item.name, place).with_context(|| name(&item.name))?;
            }
            Ok(())
        })?;
    }
    Ok(count)
}

/// The beginning of one change's content, for a person to look at; nothing for what goes.
pub fn content(left: &Left, name: &[u8], max: u64, to: &mut impl io::Write) -> Result<()> {
    let Some(archive) = left.archive() else { return Ok(()) };
    work::items(&archive, |item, content| {
        if item.name == name {
            match item.kind {
                EntryType::Symlink => to.write_all(&item.link)?,
                _ => drop(io::copy(&mut content.take(max), to)?),
            }
        }
        Ok(())
    })
}
