//! An archive that a guest has written: what in it is not as it came, and where it stops making sense.
//!
//! Read entry by entry as they stand in the file: a reader that follows a guest's own words about lengths would keep a
//! gigabyte of a file's name.

use super::{SAVE_TIME, inside::Deadline};
use crate::workspace::{Came, Print};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom, Write},
    path::Path,
};
use tar::{Archive, EntryType};

const MAX_ENTRIES: usize = 200_000;
const MAX_NAME: u64 = 4096;
const BLOCK: u64 = 512;

/// What is in an archive.
#[derive(Default)]
pub(super) struct Found {
    /// Something differs from what came along.
    pub(super) any: bool,
    /// It did not end, or went on for too long: the rest is cut off.
    pub(super) cut: bool,
    /// All names but directories'.
    pub(super) names: BTreeSet<Vec<u8>>,
}

/// An entry of an archive that is no directory.
pub struct Item {
    /// Relative to the workspace, as the guest wrote it.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// All mode bits.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Where a link leads.
    pub link: Vec<u8>,
}

impl Item {
    /// Is it as it came along?
    pub fn is_as_it_came(&self, content: impl Read, came: Option<&Print>) -> Result<bool> {
        let Some(came) = came else { return Ok(false) };
        match self.kind {
            EntryType::Symlink => Ok(*came == Print::link(&self.link)),
            EntryType::Regular if came.size == self.size && came.mode == Some(self.mode & 0o777) => {
                Ok(*came == Print::file(self.mode & 0o777, self.size, content)?)
            }
            _ => Ok(false),
        }
    }
}

/// Looks at every entry but directories, up to the first that makes no sense. Returns where the last sound one ends.
fn walk(mut file: &File, deadline: &Deadline, mut look: impl FnMut(Item, &mut dyn Read) -> Result<()>) -> Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let length = file.metadata()?.len();
    let (mut end, mut entries) = (0, 0);
    let (mut long_name, mut long_link) = (None, None);
    let mut archive = Archive::new(BufReader::new(file));
    for entry in archive.entries()?.raw(true) {
        if deadline.check().is_err() {
            break;
        }
        let Ok(mut entry) = entry else { break };
        let (kind, Ok(size)) = (entry.header().entry_type(), entry.header().entry_size()) else { break };
        let after = entry.raw_file_position() + size.next_multiple_of(BLOCK);
        entries += 1;
        if after > length || entries > MAX_ENTRIES {
            break;
        }
        if let EntryType::GNULongName | EntryType::GNULongLink = kind {
            if size > MAX_NAME {
                break;
            }
            let mut text = vec![];
            entry.read_to_end(&mut text)?;
            text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
            *(if kind == EntryType::GNULongName { &mut long_name } else { &mut long_link }) = Some(text);
            continue;
        }
        end = after;
        let name = long_name.take().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let link = long_link.take().or_else(|| entry.header().link_name_bytes().map(|link| link.into_owned()));
        if kind == EntryType::Directory {
            continue;
        }
        let mode = entry.header().mode().unwrap_or_default();
        let (name, link) = (below_workspace(&name).to_vec(), link.unwrap_or_default());
        look(Item { name, kind, mode, size, link }, &mut entry)?;
    }
    Ok(end)
}

/// Looks at every entry but directories of an archive that was saved.
pub fn items(archive: &Path, look: impl FnMut(Item, &mut dyn Read) -> Result<()>) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
    let end = walk(&file, &Deadline::after(SAVE_TIME)?, look)?;
    // It was cut off after its last sound entry when it was saved.
    if end + 2 * BLOCK != file.metadata()?.len() {
        bail!("{} is not as it was saved, or takes too long to read", archive.display());
    }
    Ok(())
}

/// Reads an archive, and makes it end after its last sound entry.
pub(super) fn read(file: &mut File, came: &Came, deadline: &Deadline) -> Result<Found> {
    let mut found = Found::default();
    let end = walk(file, deadline, |item, content| {
        found.any |= !item.is_as_it_came(content, came.prints.get(&item.name))?;
        found.names.insert(item.name);
        Ok(())
    })?;
    // What is left is the archive's own end, or nothing sound.
    let mut rest = [0; 2 * BLOCK as usize];
    file.seek(SeekFrom::Start(end))?;
    found.cut = file.read_exact(&mut rest).is_err() || rest.iter().any(|byte| *byte != 0);
    file.set_len(end)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&[0; 2 * BLOCK as usize])?;
    Ok(found)
}

/// `./a`, and `workspace/a` of an archive of the whole.
fn below_workspace(name: &[u8]) -> &[u8] {
    let prefixes: [&[u8]; 2] = [b"./", b"workspace/"];
    prefixes.iter().find_map(|prefix| name.strip_prefix(*prefix)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tar::{Builder, Header};

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header
    }

    /// An archive of plain files, with these names as they are, not ended yet.
    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = vec![];
        for (name, text) in files {
            let mut header = header(EntryType::Regular, text.len() as u64);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.extend_from_slice(header.as_bytes());
            tar.extend_from_slice(text.as_bytes());
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar
    }

    /// What is found, how long the archive is then, and how many entries plain reading finds in it.
    fn read_back(bytes: &[u8], came: &Came) -> (Found, u64, usize) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let found = read(&mut file, came, &Deadline::after(Duration::from_secs(60)).unwrap()).unwrap();
        file.rewind().unwrap();
        let entries = Archive::new(&file).entries().unwrap().map(|entry| entry.map(drop).unwrap()).count();
        (found, file.metadata().unwrap().len(), entries)
    }

    fn ended(mut tar: Vec<u8>) -> Vec<u8> {
        tar.resize(tar.len() + 1024, 0);
        tar
    }

    #[test]
    fn what_is_as_it_came_is_nothing_and_everything_else_is() {
        let mut came = Came::default();
        let print = |text: &str, mode| Print { mode: Some(mode), ..Print::link(text.as_bytes()) };
        came.prints.insert(b"a".into(), print("x", 0o644));
        for (files, any) in [
            (&[][..], false),
            (&[("./a", "x")], false),
            (&[("workspace/a", "x")], false),
            (&[("./a", "y")], true),
            (&[("./a", "xx")], true),
            (&[("./a", "x"), ("./b", "x")], true),
            (&[("../a", "x")], true),
        ] {
            let (found, _, entries) = read_back(&ended(archive(files)), &came);
            assert_eq!((found.any, found.cut, entries), (any, false, files.len()), "{files:?}");
        }
        came.prints.insert(b"a".into(), print("x", 0o755));
        assert!(read_back(&ended(archive(&[("./a", "x")])), &came).0.any, "its mode is another");
    }

    #[test]
    fn an_archive_ends_where_it_stops_making_sense() {
        let sound = archive(&[("a", "x"), ("b", "y")]);
        let with = |rest: &[u8]| [&sound[..], rest].concat();
        let promised = |kind, size| {
            let mut header = header(kind, size);
            header.set_cksum();
            with(header.as_bytes())
        };
        let cases = [
            ("nothing", vec![], 0),
            ("no end", sound.clone(), 2),
            ("garbage", with(&[7; 5000]), 2),
            ("half a header", with(&[0; 100]), 2),
            ("more than there is", promised(EntryType::Regular, 10 << 30), 2),
            ("all there can be", promised(EntryType::Regular, u64::MAX), 2),
            (
                "a name of a megabyte",
                [promised(EntryType::GNULongName, 1 << 20), vec![b'x'; 1 << 20], sound.clone()].concat(),
                2,
            ),
            ("more after its end", ended(sound.clone()).into_iter().chain(sound.clone()).collect(), 2),
        ];
        for (name, bytes, sound) in cases {
            let (found, length, entries) = read_back(&bytes, &Came::default());
            assert_eq!((entries, length), (sound, sound as u64 * 1024 + 1024), "{name}");
            assert_eq!((found.any, found.cut), (sound > 0, name != "more after its end"), "{name}");
        }
    }

    #[test]
    fn a_million_files_are_cut_off() {
        let one = archive(&[("many", "")]);
        let (found, length, _) = read_back(&one.repeat(MAX_ENTRIES + 5000), &Came::default());
        assert!(found.cut);
        assert_eq!(length, (MAX_ENTRIES as u64 + 2) * 512);
    }

    #[test]
    fn long_names_and_links_are_read() {
        let (long, target) = ("d/".repeat(150) + "f", "t".repeat(300));
        let mut came = Came::default();
        came.prints.insert(long.clone().into_bytes(), Print::link(target.as_bytes()));
        let mut tar = Builder::new(vec![]);
        tar.append_link(&mut header(EntryType::Symlink, 0), &long, &target).unwrap();
        let (found, ..) = read_back(&tar.into_inner().unwrap(), &came);
        assert!(!found.any && !found.cut && found.names.contains(long.as_bytes()));
    }
}
