//! The scan of a push: every new object, the names in its trees, and the names of its refs.
//!
//! New is what no ref of the repository reaches: the whole history that comes, so what one commit adds and the next takes
//! away is found, and what came by a merge's other side, and what only a delta in the pack tells. Commits and tags are
//! judged as git keeps them, with every field; blobs of any size are streamed.

use crate::{
    change::tips,
    git::{Repository, left},
    leak::{At, Leak, Place, is_leak, shown},
    locate::locate,
    objects::{Head, Kind, each_new},
    tree,
    update::Update,
};
use bottle_policy::push::MOST_REFS;
use bottle_scan::{Context, Finding, Scanner, Session};
use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;

/// What a scan may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Objects of a push.
    pub objects: u64,
    /// Their bytes, unpacked.
    pub bytes: u64,
    /// Of one tree, which is read whole.
    pub tree: u64,
    /// How long all of it may take.
    pub time: Duration,
    /// Leaks that are told; the push is refused at the first.
    pub leaks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Each is a file until upstream has it.
        Self { objects: 200_000, bytes: 4 << 30, tree: 16 << 20, time: Duration::from_secs(600), leaks: 20 }
    }
}

/// Why nobody can say what a push holds. It is refused then.
#[derive(Debug, Error)]
pub enum ScanError {
    /// Git could not be run or read.
    #[error("git could not be asked what the push holds: {0}")]
    Io(#[from] io::Error),
    /// It said what nobody here understands.
    #[error("git told of the push's objects in a way that cannot be read")]
    Output,
    /// It did not end well.
    #[error("git could not read all of the push's objects: it ended with {0}")]
    Ended(String),
    /// More than is looked at.
    #[error("the push has more than {objects} new objects or {bytes} bytes in them; push it in parts")]
    TooLarge {
        /// [`Limits::objects`].
        objects: u64,
        /// [`Limits::bytes`].
        bytes: u64,
    },
    /// A path that no file system would take.
    #[error("the push has a path of more than 4096 bytes")]
    Path,
    /// A directory that is too large, or none.
    #[error("the tree {id} cannot be read, or has more than {bytes} bytes, with the paths of its entries or without")]
    Tree {
        /// Which.
        id: String,
        /// [`Limits::tree`].
        bytes: u64,
    },
    /// More refs than a push may have.
    #[error("a push may change {MOST_REFS} refs at most")]
    Refs,
}

/// Of one finding in a name: whether upstream has that name already costs a walk through its history.
const LOOKUPS: usize = 8;
/// Names that are remembered as judged.
const NAMES: usize = 1 << 20;
/// Findings of one object that are told.
const PER_OBJECT: usize = 8;
const CHUNK: usize = 64 << 10;

/// What judges a push, and where its objects are.
pub struct PushScan<'a> {
    /// The repository, with the quarantine.
    pub repository: &'a Repository,
    /// The host that it would go to.
    pub host: &'a str,
    /// Rules and secrets.
    pub scanner: &'a Arc<Scanner>,
    /// What has gone to that host in pieces, over all pushes.
    pub session: &'a mut Session,
    /// What it may take.
    pub limits: &'a Limits,
    /// When it must have ended.
    pub until: Instant,
}

/// Scans a push. Nothing found: it may go, as far as its objects say.
pub fn scan(push: PushScan<'_>, updates: &[Update]) -> Result<Vec<Leak>, ScanError> {
    if updates.len() > MOST_REFS {
        return Err(ScanError::Refs);
    }
    let mut walk = Walk {
        // An archive in a repository is a file like others: what of it can be decoded is judged.
        context: Context { archives: false, ..Context::outgoing(push.host, "") },
        limits: push.limits.clone(),
        push,
        commit: None,
        leaks: BTreeSet::new(),
        judged: HashSet::new(),
        keys: RandomState::new(),
        lookups: LOOKUPS,
    };
    for update in updates.iter().filter(|update| update.new.is_some()) {
        walk.ref_name(&update.name);
    }
    let tips = tips(updates);
    if !tips.is_empty() {
        let (repository, limits, until) = (walk.push.repository, walk.limits.clone(), walk.push.until);
        each_new(repository, &tips, &limits, until, |head, bytes| walk.object(head, bytes))?;
    }
    Ok(walk.leaks.into_iter().collect())
}

struct Walk<'a> {
    push: PushScan<'a>,
    limits: Limits,
    context: Context,
    /// The last one that was seen.
    commit: Option<String>,
    leaks: BTreeSet<Leak>,
    /// Paths, by a hash that nobody outside can foresee.
    judged: HashSet<u64>,
    keys: RandomState,
    lookups: usize,
}

impl Walk<'_> {
    fn ref_name(&mut self, name: &str) {
        let mut found = self.judge(name.as_bytes());
        found.extend(self.push.session.observe(self.push.host, "ref", name.as_bytes()));
        for finding in found.iter().filter(|finding| is_leak(finding)) {
            self.tell(None, Place::RefName, finding);
        }
    }

    fn object(&mut self, head: &Head, bytes: &mut dyn Read) -> Result<(), ScanError> {
        match head.kind {
            Kind::Tree => self.tree(head, bytes),
            Kind::Commit => {
                self.commit = Some(head.id.to_string());
                self.text(head, bytes)
            }
            Kind::Tag | Kind::Blob => self.text(head, bytes),
        }
    }

    /// A blob, a commit, a tag: judged as it stands there.
    fn text(&mut self, head: &Head, bytes: &mut dyn Read) -> Result<(), ScanError> {
        use bottle_scan::Kind::Split;
        let mut stream = self.push.scanner.stream(self.context.clone(), "");
        let mut buffer = vec![0; CHUNK];
        let mut found = vec![];
        loop {
            let length = match bytes.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            found.extend(stream.push(&buffer[..length]).findings);
            found.extend(self.push.session.observe(self.push.host, head.kind.name(), &buffer[..length]));
            found.retain(is_leak);
            found.truncate(PER_OBJECT);
        }
        found.extend(stream.finish().findings);
        found.retain(is_leak);
        found.truncate(PER_OBJECT);
        for finding in &found {
            if self.leaks.len() >= self.limits.leaks {
                break;
            }
            let at = match finding.kind {
                // What stands here whole was found whole.
                Split if found.iter().any(|other| other.kind != Split && other.rule == finding.rule) => continue,
                Split => At::Pieces,
                _ => locate(self.push.repository, head, finding.start, left(self.push.until))?,
            };
            let place = match head.kind {
                Kind::Commit => Place::Commit(at),
                Kind::Tag => Place::Tag(at),
                Kind::Blob | Kind::Tree => Place::File(self.shown(&head.path), at),
            };
            let commit = if head.kind == Kind::Tag { None } else { self.commit.clone() };
            self.tell(commit, place, finding);
        }
        Ok(())
    }

    /// The names in a tree, alone and with the path before them.
    fn tree(&mut self, head: &Head, bytes: &mut dyn Read) -> Result<(), ScanError> {
        let broken = || ScanError::Tree { id: head.id.to_string(), bytes: self.limits.tree };
        if head.size > self.limits.tree {
            return Err(broken());
        }
        let mut raw = vec![];
        bytes.read_to_end(&mut raw)?;
        let entries = tree::entries(&raw, head.id.as_str().len() / 2).ok_or_else(broken)?;
        // What each line of the text is about, by where the line ends.
        let (mut text, mut lines) = (vec![], vec![]);
        let (mut paths, mut plain) = (vec![], vec![]);
        // A few names below a long path are many bytes.
        let mut room = self.limits.tree;
        for entry in &entries {
            let length = (head.path.len() + 1 + entry.name.len()) as u64;
            room = room.checked_sub(length).ok_or_else(broken)?;
            let path = if head.path.is_empty() { entry.name.into() } else { [&head.path, entry.name].join(&b'/') };
            let submodule = entry.submodule.unwrap_or_default();
            let key = self.keys.hash_one((&path, submodule));
            if self.judged.len() < NAMES && !self.judged.insert(key) {
                continue;
            }
            text.extend_from_slice(entry.name);
            text.push(b'\n');
            text.extend(submodule.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()));
            text.push(b'\n');
            lines.push(text.len() as u64);
            paths.push(path);
            plain.push(submodule.is_empty());
        }
        let nested = if head.path.is_empty() { vec![] } else { paths.join(&b'\n') };
        let mut found = self.judge(&text);
        found.extend(self.push.session.observe(self.push.host, "name", &text));
        let in_paths = self.judge(&nested);
        for finding in found.iter().filter(|finding| is_leak(finding)) {
            let at = |byte: u64| lines.partition_point(|end| *end <= byte);
            // What a submodule's entry says is new, whatever its name.
            let is_name = |entry: usize| plain.get(entry).copied().unwrap_or(false);
            self.name(head, finding, &paths, [at(finding.start), at(finding.end.saturating_sub(1))], is_name);
        }
        for finding in in_paths.iter().filter(|finding| is_leak(finding)) {
            let before = |byte: u64| &nested[..nested.len().min(byte as usize)];
            let at = |byte: u64| before(byte).iter().filter(|byte| **byte == b'\n').count();
            self.name(head, finding, &paths, [at(finding.start), at(finding.end.saturating_sub(1))], |_| true);
        }
        Ok(())
    }

    /// Tells of a finding that reaches from one entry to another, unless it is a name that upstream has already: that is no
    /// news to it.
    fn name(
        &mut self,
        head: &Head,
        finding: &Finding,
        paths: &[Vec<u8>],
        [first, last]: [usize; 2],
        is_name: impl Fn(usize) -> bool,
    ) {
        if first == last && is_name(first) && paths.get(first).is_some_and(|path| self.is_known(path)) {
            return;
        }
        let place = Place::FileName(self.shown(&head.path));
        self.tell(self.commit.clone(), place, finding);
    }

    /// Does the history of any ref have something at this path? As long as there are not many to ask for.
    fn is_known(&mut self, path: &[u8]) -> bool {
        if self.lookups == 0 {
            return false;
        }
        self.lookups -= 1;
        let words = ["--literal-pathspecs", "rev-list", "-1", "--all", "--"].map(OsStr::new);
        let args = words.into_iter().chain([OsStr::from_bytes(path)]);
        // Where git does not answer, it is news.
        self.push.repository.says_anything(args, left(self.push.until)).unwrap_or(false)
    }

    fn judge(&self, text: &[u8]) -> Vec<Finding> {
        self.push.scanner.judge_body(&self.context, "", text)
    }

    fn shown(&self, path: &[u8]) -> String {
        shown(self.push.scanner, &self.context, path)
    }

    fn tell(&mut self, commit: Option<String>, place: Place, finding: &Finding) {
        if self.leaks.len() < self.limits.leaks {
            let (rule, decoders) = (finding.rule.to_string(), finding.decoders.clone());
            self.leaks.insert(Leak { commit, place, rule, decoders });
        }
    }
}
