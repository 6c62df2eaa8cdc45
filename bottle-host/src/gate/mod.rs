//! The exit gate: what an agent made is looked at before it reaches a place where a tool of the host would obey it.
//!
//! A file is asked for where something runs or trusts it *without being told to*: because of its name (`tools.rs`), of
//! what it is (a link that leads out, a program), or because it is not what it looks like (`names.rs`). Source code is
//! not asked for: who runs it knows that. What no accepted kind lets through is refused: paths that lead out, git's own
//! directory, devices.
//!
//! Names alone decide, and they are compared as the most lenient file system compares them. So there is no place from
//! which a file is harmless, and none that has to be there first.

mod names;
mod tools;

use clap::ValueEnum;
use serde::Serialize;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One thing that an agent made, by what a host would see of it.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// Its name, relative to the directory it is to go to.
    pub name: Vec<u8>,
    /// What it is.
    pub what: What,
}

/// What a thing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum What {
    /// A plain file.
    File {
        /// All mode bits.
        mode: u32,
        /// It is no text.
        binary: bool,
    },
    /// A symbolic link, and where it leads.
    Link(Vec<u8>),
    /// Another repository's commit.
    Submodule,
    /// It goes.
    #[default]
    Gone,
    /// A device, a pipe, a hard link, or something that nobody knows.
    Other,
}

/// Why something is asked for: what `--accept` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Git's configuration, attributes, hooks and submodules
    Git,
    /// Shells and whatever they read when they enter a directory
    Shell,
    /// Editors' settings, tasks and plugins
    Editor,
    /// Other agents' settings, tools and instructions
    Agent,
    /// Continuous integration and its scripts
    Ci,
    /// Builds, package managers, test runners and what they read
    Build,
    /// Containers and machines
    Container,
    /// Programs: binaries, what stands before a command in PATH, set-user-id
    Program,
    /// Links that lead out of the directory
    Link,
    /// Names that are not what they look like
    Name,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// What the gate says of a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Passes,
    /// It is asked for: by its kind, and why.
    Asks(Kind, Cow<'static, str>),
    /// It never passes, and why.
    Refused(&'static str),
}

/// Judges things that go to one directory together; `there`: names that it has already. In the order of `made`.
pub fn judge<'n>(made: &'n [Made], there: impl IntoIterator<Item = &'n [u8]>) -> Vec<Verdict> {
    let mut spellings: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    let going = made.iter().filter(|made| made.what == What::Gone).map(|made| made.name.as_slice());
    let going: BTreeSet<&[u8]> = going.collect();
    let names = made.iter().filter(|made| made.what != What::Gone).map(|made| made.name.as_slice());
    let names = names.chain(there.into_iter().filter(|name| !going.contains(name)));
    // What is refused anyhow can be of any length.
    for name in names.filter(|name| names::refused(name).is_none()) {
        // A directory can have a twin, too.
        for (folded, end) in names::prefixes(name) {
            let known = spellings.entry(folded).or_default();
            if !known.contains(&&name[..end]) {
                known.push(&name[..end]);
            }
        }
    }
    let has_twin =
        |name: &[u8]| names::prefixes(name).any(|(it, _)| spellings.get(&it).is_some_and(|known| known.len() > 1));
    made.iter().map(|made| verdict(made, has_twin)).collect()
}

fn verdict(made: &Made, has_twin: impl Fn(&[u8]) -> bool) -> Verdict {
    if let Some(why) = names::refused(&made.name) {
        return Verdict::Refused(why);
    }
    // What goes runs nowhere.
    if made.what == What::Gone {
        return Verdict::Passes;
    }
    if made.what == What::Other {
        return Verdict::Refused("a device, a pipe, a hard link or something unknown");
    }
    let asks = |(kind, why)| Verdict::Asks(kind, why);
    let of_name = tools::known(&made.name).map(|(kind, why)| (kind, Cow::Borrowed(why)));
    let of_what = || thing(made).map(|(kind, why)| (kind, Cow::Borrowed(why)));
    let of_looks = || {
        let why = names::deceiving(&made.name);
        let why = why.or_else(|| has_twin(&made.name).then_some("another name is the same but for case or Unicode"));
        why.map(|why| (Kind::Name, Cow::Borrowed(why)))
    };
    // Last, for what is before an ending can hide it.
    let of_ending = || tools::by_ending(&made.name).map(|(kind, why)| (kind, Cow::Borrowed(why)));
    of_name.or_else(of_what).or_else(of_looks).or_else(of_ending).map_or(Verdict::Passes, asks)
}

/// By what it is, whatever its name.
fn thing(made: &Made) -> Option<(Kind, &'static str)> {
    match &made.what {
        What::Link(target) => names::leads_out(&made.name, target)
            .then_some((Kind::Link, "a link that leads out of the directory, or into git's own")),
        What::Submodule => Some((Kind::Git, "a submodule: git fetches and checks out another repository")),
        What::File { mode, .. } if mode & 0o7000 != 0 => {
            Some((Kind::Program, "set-user-id, set-group-id or sticky; that bit is never taken"))
        }
        What::File { mode, binary: true } if mode & 0o111 != 0 => Some((Kind::Program, "a program that is no text")),
        What::File { mode, .. } if mode & 0o111 != 0 && tools::shadows(&made.name) => {
            Some((Kind::Program, "named like a command: a PATH with this directory finds it first"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
