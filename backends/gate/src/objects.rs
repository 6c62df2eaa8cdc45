//! Every object that a push brings, one after the other, streamed.
//!
//! ```text
//! git rev-list --objects NEW… --not --all  ──▶  git cat-file --batch  ──▶  head, bytes, head, bytes, …
//! ```
//!
//! The first tells which, the second gives them; both read the repository with the push's quarantine. Commits come oldest
//! first, each with the objects that it is the first to have.

use crate::{
    git::{Children, Repository, left},
    scan::{Limits, ScanError},
    update::ObjectId,
};
use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::Instant,
};

/// What git says of each object before its bytes.
const FORMAT: &str = "--batch=%(objectname) %(objecttype) %(objectsize) %(rest)";
/// The longest line before an object: its path is in it, and no file system has a longer one.
const LONGEST_HEAD: u64 = 4096 + 128;
const BUFFER: usize = 128 << 10;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Commit,
    Tag,
    Tree,
    Blob,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "commit" => Some(Self::Commit),
            "tag" => Some(Self::Tag),
            "tree" => Some(Self::Tree),
            "blob" => Some(Self::Blob),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Tag => "tag",
            Self::Tree => "tree",
            Self::Blob => "blob",
        }
    }
}

/// An object's head.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) id: ObjectId,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// A path at which a tree or a blob stands, up to the first end of a line in it.
    pub(crate) path: Vec<u8>,
}

/// Gives each new object's head and bytes to `visit`, which need not read them all. Everything that git does not say as
/// expected is an error: nobody could say then what was not looked at.
pub(crate) fn each_new(
    repository: &Repository,
    tips: &[ObjectId],
    limits: &Limits,
    until: Instant,
    mut visit: impl FnMut(&Head, &mut dyn Read) -> Result<(), ScanError>,
) -> Result<(), ScanError> {
    let mut children = Children::default();
    let order = ["rev-list", "--objects", "--in-commit-order", "--topo-order", "--reverse"];
    let tips = tips.iter().map(ObjectId::as_str);
    let mut list = repository.command(order.into_iter().chain(tips).chain(["--not", "--all"]));
    let listed = children.start(list.stdout(Stdio::piped()))?.stdout.take().ok_or(ScanError::Output)?;
    let mut cat = repository.command(["cat-file", "--buffer", FORMAT]);
    let objects = children.start(cat.stdin(listed).stdout(Stdio::piped()))?.stdout.take().ok_or(ScanError::Output)?;
    // The pipe's end that a command holds would keep it open.
    drop((list, cat));
    let watch = children.watch(left(until))?;
    let mut objects = BufReader::with_capacity(BUFFER, objects);
    let (mut count, mut bytes) = (0, 0);
    let read = loop {
        let head = match head(&mut objects) {
            Ok(Some(head)) => head,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        count += 1;
        bytes += head.size;
        if count > limits.objects || bytes > limits.bytes {
            break Err(ScanError::TooLarge { objects: limits.objects, bytes: limits.bytes });
        }
        if let Err(error) = one(&mut objects, &head, &mut visit) {
            break Err(error);
        }
    };
    drop(objects);
    // That git was late says more than that it said too little.
    let ended = children.wait(watch)?;
    read?;
    match ended.iter().find(|status| !status.success()) {
        Some(status) => Err(ScanError::Ended(status.to_string())),
        None => Ok(()),
    }
}

fn head(objects: &mut impl BufRead) -> Result<Option<Head>, ScanError> {
    let mut line = vec![];
    objects.take(LONGEST_HEAD).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\n").ok_or(ScanError::Path)?;
    let mut words = line.splitn(4, |b| *b == b' ');
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let id = word().and_then(|word| word.parse().ok()).ok_or(ScanError::Output)?;
    // `ID missing`, say.
    let kind = word().and_then(Kind::parse).ok_or(ScanError::Output)?;
    let size = word().and_then(|word| word.parse().ok()).ok_or(ScanError::Output)?;
    let path = words.next().ok_or(ScanError::Output)?.to_vec();
    Ok(Some(Head { id, kind, size, path }))
}

fn one(
    objects: &mut impl BufRead,
    head: &Head,
    visit: &mut impl FnMut(&Head, &mut dyn Read) -> Result<(), ScanError>,
) -> Result<(), ScanError> {
    let mut own = objects.take(head.size);
    visit(head, &mut own)?;
    std::io::copy(&mut own, &mut std::io::sink())?;
    if own.limit() > 0 {
        return Err(ScanError::Output);
    }
    let mut end = [0];
    objects.read_exact(&mut end)?;
    if end == *b"\n" { Ok(()) } else { Err(ScanError::Output) }
}
