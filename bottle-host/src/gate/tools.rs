//! What tools of a host read without being told to: by its name, in any directory. The names are data (`known.txt`,
//! `endings.txt`, `commands.txt`).

use super::{Kind, names};
use clap::ValueEnum;
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// The most parts that a name of several has (`.github/copilot-instructions.md`).
const MOST_PARTS: usize = 3;

/// Directories that a PATH may have.
const IN_PATH: [&str; 3] = ["bin", ".bin", "sbin"];

/// Commands that a host's user types, or tools run by name.
static COMMANDS: LazyLock<HashSet<&str>> = LazyLock::new(|| include_str!("commands.txt").split_whitespace().collect());

/// Who reads a name, and the line that says so.
#[derive(Clone, Copy)]
struct Reader {
    kind: Kind,
    why: &'static str,
    /// Which of two that fit counts: the first.
    rank: usize,
}

/// The names, by how they are looked up.
#[derive(Default)]
struct Known {
    /// Ends of a path.
    ends: HashMap<&'static str, Reader>,
    /// Directories anywhere in it.
    directories: HashMap<&'static str, Reader>,
    /// Patterns of a last part.
    lasts: Vec<(&'static str, Reader)>,
    /// Patterns of a directory.
    kinds_of_directories: Vec<(&'static str, Reader)>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| Known::read(include_str!("known.txt")));
static ENDINGS: LazyLock<Known> = LazyLock::new(|| Known::read(include_str!("endings.txt")));

impl Known {
    fn read(text: &'static str) -> Self {
        let (mut known, mut section, mut rank) = (Self::default(), None, 0);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((kind, why)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) {
                section = Kind::from_str(kind, false).ok().map(|kind| (kind, why));
                continue;
            }
            for name in line.split_whitespace() {
                // The data are the program's own: `every_name_is_under_a_kind` reads them whole.
                let Some((kind, why)) = section else { continue };
                known.learn(name, Reader { kind, why, rank });
                rank += 1;
            }
        }
        known
    }

    fn learn(&mut self, name: &'static str, reader: Reader) {
        let (name, is_directory) = name.strip_suffix('/').map_or((name, false), |name| (name, true));
        match (name.contains('*'), is_directory) {
            (true, false) => self.lasts.push((name, reader)),
            (true, true) => self.kinds_of_directories.push((name, reader)),
            (false, false) => drop(self.ends.entry(name).or_insert(reader)),
            (false, true) => drop(self.directories.entry(name).or_insert(reader)),
        }
    }

    /// The first that fits a folded name.
    fn reader(&self, name: &str) -> Option<Reader> {
        let parts: Vec<&str> = name.split('/').collect();
        let last = parts.last().copied().unwrap_or_default();
        // A link may stand for a directory, so the last part is one, too.
        let whole = runs(name).flat_map(|(run, is_end)| {
            let end = is_end.then(|| self.ends.get(run)).flatten();
            [end, self.directories.get(run)].into_iter().flatten()
        });
        let lasts = self.lasts.iter().filter(|(pattern, _)| fits(pattern, last));
        let directories =
            self.kinds_of_directories.iter().filter(|(star, _)| parts.iter().any(|part| fits(star, part)));
        let stars = lasts.chain(directories).map(|(_, reader)| reader);
        whole.chain(stars).min_by_key(|reader| reader.rank).copied()
    }
}

/// Parts of a name that follow each other, [`MOST_PARTS`] at most, and whether it ends with them.
fn runs(name: &str) -> impl Iterator<Item = (&str, bool)> {
    let begins = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
    begins.flat_map(|begin| {
        let rest = &name[begin..];
        let ends = rest.match_indices('/').map(|(at, _)| at).chain([rest.len()]);
        ends.take(MOST_PARTS).map(move |end| (&rest[..end], end == rest.len()))
    })
}

/// Is that part of a name of this kind? A pattern has one star or two.
fn fits(pattern: &str, part: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == part };
    part.strip_prefix(begin).is_some_and(|part| match rest.split_once('*') {
        Some((middle, end)) => part.strip_suffix(end).is_some_and(|part| part.contains(middle)),
        None => part.ends_with(rest),
    })
}

/// What reads a file of that name, and as what.
pub(super) fn known(name: &[u8]) -> Option<(Kind, &'static str)> {
    let name = names::folded(name);
    if names::is_in_git(&name) {
        return Some((Kind::Git, "a repository within: its hooks and configuration run when git is used in it"));
    }
    KNOWN.reader(&name).map(|reader| (reader.kind, reader.why))
}

/// What would load or read a file of such a name, where no tool is known to ask for just that one.
pub(super) fn by_ending(name: &[u8]) -> Option<(Kind, &'static str)> {
    ENDINGS.reader(&names::folded(name)).map(|reader| (reader.kind, reader.why))
}

/// Would it stand before a command in somebody's PATH?
pub(super) fn shadows(name: &[u8]) -> bool {
    let name = names::folded(name);
    let last = name.rsplit('/').next().unwrap_or_default();
    name.split('/').any(|part| IN_PATH.contains(&part)) || COMMANDS.contains(last.trim_end_matches(".exe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_under_a_kind_and_is_spelled_as_it_is_looked_up() {
        let text = concat!(include_str!("known.txt"), include_str!("endings.txt"));
        let lines = || text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let heads: Vec<&str> = lines().filter_map(|line| line.strip_prefix('[')).collect();
        assert!(lines().next().is_some_and(|line| line.starts_with('[')));
        for head in &heads {
            let (kind, why) = head.split_once("] ").unwrap();
            assert!(Kind::from_str(kind, false).is_ok() && !why.is_empty(), "{head}");
        }
        let names = || lines().filter(|line| !line.starts_with('[')).flat_map(str::split_whitespace);
        for name in names() {
            let plain = name.trim_end_matches('/');
            let example = plain.replace('*', "x");
            assert!(plain.matches('*').count() <= 2 && plain.split('/').count() <= MOST_PARTS, "{name}");
            assert!(!plain.contains('*') || !plain.contains('/'), "{name}: a star stands in one part");
            assert_eq!(names::folded(example.as_bytes()), example, "{name} is never looked up");
            let is_read = |name: String| known(name.as_bytes()).or(by_ending(name.as_bytes())).is_some();
            assert!(is_read(format!("a/{example}")), "{name}");
            assert!(!name.ends_with('/') || is_read(format!("a/{example}/b/c")), "{name}");
        }
        assert!(names().count() > 600, "{}", names().count());
    }
}
