//! The copy's `.git`: the directory's own is taken apart, and what is data in it is put together anew.
//!
//! Taken: `HEAD`, the index, branches, tags, remote branches, notes, and the objects that they reach. Not taken: hooks,
//! configuration that is on no list ([`super::config`]), whatever points elsewhere, the stash, the reflogs, and objects
//! that nothing reaches, which may be what somebody once took back.

use super::{
    Budget, Shown, Which, config,
    git::git,
    hinted,
    tree::{Found, Tree, is_gits, join},
};
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Files that are copied where they are there.
const FILES: [&[u8]; 5] = [b"HEAD", b"packed-refs", b"index", b"shallow", b"info/exclude"];
/// Refs that are copied.
const REFS: [&[u8]; 4] = [b"heads", b"tags", b"remotes", b"notes"];
/// Whatever has one of these keeps its history in other places, too.
const ELSEWHERE: [&[u8]; 3] = [b".git/commondir", b".git/objects/info/alternates", b".git/reftable"];

/// A private copy of a repository.
pub(super) struct History {
    /// Its `.git`.
    dir: PathBuf,
    scratch: PathBuf,
    work_tree: PathBuf,
}

impl History {
    /// Copies a directory's repository. None where it is not in one.
    pub(super) fn copy(
        root: &Path,
        tree: &Tree,
        which: Which<'_>,
        scratch: &Path,
        budget: &mut Budget<'_>,
        shown: &mut Shown,
    ) -> Result<Option<Self>> {
        let outer = root.ancestors().skip(1).find(|dir| dir.join(".git").exists());
        match (tree.look(b".git")?, outer, which) {
            (Found::Directory(_), ..) => {}
            (Found::Nothing, None, Which::Worktree(_)) => {
                return Err(hinted("it is no git repository", "Make one and commit to it, or take the files: --cwd"));
            }
            (Found::Nothing, None, _) => return Ok(None),
            (Found::Nothing, _, Which::All) => return Ok(None),
            (_, _, Which::All) => {
                shown.skip("it leads out of the directory", b".git");
                return Ok(None);
            }
            (found, outer, _) => {
                let what = match (found, outer) {
                    (Found::Nothing, Some(outer)) => format!("it is a part of the repository {}", outer.display()),
                    _ => "its .git leads out of it, as that of a linked worktree or a submodule does".into(),
                };
                return Err(hinted(
                    what,
                    "Start bottle where the repository itself is, or take every file along, ignored ones too and \
                     without history: --cwd-all",
                ));
            }
        }
        if let Some(name) = ELSEWHERE.iter().find(|name| !matches!(tree.look(name), Ok(Found::Nothing))) {
            return Err(hinted(
                format!("its repository keeps a part of itself elsewhere ({})", String::from_utf8_lossy(name)),
                "Make a whole one, `git clone --no-local . ELSEWHERE`, and start bottle there.",
            ));
        }
        let history = Self { dir: scratch.join("git"), scratch: scratch.into(), work_tree: root.into() };
        history.copy_data(tree, budget)?;
        history.write_config(tree, budget)?;
        Ok(Some(history))
    }

    /// The private `.git`.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn copy_data(&self, tree: &Tree, budget: &mut Budget<'_>) -> Result<()> {
        for dir in ["refs", "objects/pack", "info"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        let mut names: Vec<Vec<u8>> = FILES.iter().map(|name| name.to_vec()).collect();
        let is_shared = |name: &[u8]| name.strip_prefix(b"sharedindex.").is_some_and(is_hex);
        names.extend(tree.names(b".git")?.into_iter().filter(|name| is_shared(name)));
        for dir in tree.names(b".git/objects")? {
            let below = join(b"objects", &dir);
            let wanted: fn(&[u8]) -> bool = match &dir[..] {
                b"pack" => is_pack,
                [_, _] if is_hex(&dir) => is_hex,
                _ => continue,
            };
            let files = tree.names(&join(b".git", &below))?;
            names.extend(files.into_iter().filter(|name| wanted(name)).map(|name| join(&below, &name)));
        }
        let mut dirs: Vec<Vec<u8>> = REFS.iter().map(|name| join(b"refs", name)).collect();
        while let Some(dir) = dirs.pop() {
            for name in tree.names(&join(b".git", &dir))? {
                budget.check()?;
                let path = join(&dir, &name);
                match tree.look(&join(b".git", &path))? {
                    Found::Directory(_) => dirs.push(path),
                    _ => names.push(path),
                }
            }
        }
        for name in names {
            if let Found::File { size, file, .. } = tree.look(&join(b".git", &name))? {
                budget.spend(&name, size)?;
                let to = self.dir.join(Path::new(std::ffi::OsStr::from_bytes(&name)));
                fs::create_dir_all(to.parent().context("a file has a directory")?)?;
                let mut copy = File::create(to)?;
                std::io::copy(&mut (&file).take(size), &mut copy)?;
                // Git reads a file again that is as young as the index, as it may have been changed since: a younger copy
                // of the index would make it trust such a file.
                copy.set_modified(file.metadata()?.modified()?)?;
            }
        }
        self.drop_packed_refs()
    }

    /// `packed-refs` without the refs that stay behind.
    fn drop_packed_refs(&self) -> Result<()> {
        let path = self.dir.join("packed-refs");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let (mut kept, mut keeps) = (String::new(), true);
        for line in text.lines() {
            if !line.starts_with('^') {
                let name = line.split_once(" refs/").map(|(_, name)| name.as_bytes());
                keeps = name.is_none_or(|name| REFS.iter().any(|of| name.starts_with(&[of, &b"/"[..]].concat())));
            }
            if keeps {
                kept += line;
                kept.push('\n');
            }
        }
        Ok(fs::write(path, kept)?)
    }

    fn write_config(&self, tree: &Tree, budget: &Budget<'_>) -> Result<()> {
        let mut listed = vec![];
        if let Found::File { file, .. } = tree.look(b".git/config")? {
            let theirs = self.scratch.join("config");
            std::io::copy(&mut file.take(1 << 20), &mut File::create(&theirs)?)?;
            let theirs = theirs.to_str().context("a path that is not UTF-8")?;
            let args = ["config", "--file", theirs, "--no-includes", "--null", "--list"];
            listed = git(&self.scratch, &[], &args, budget).context("read its repository's configuration")?;
        }
        Ok(fs::write(self.dir.join("config"), config::rebuild(&listed)?)?)
    }

    fn git(&self, args: &[&str], budget: &Budget<'_>) -> Result<Vec<u8>> {
        git(&self.scratch, &[("GIT_DIR", &self.dir), ("GIT_WORK_TREE", &self.work_tree)], args, budget)
    }

    /// Has the copy stand at a branch, made at its last commit where it is not there, with the files of that commit alone.
    /// Returns where they are.
    pub(super) fn branch_off(&mut self, branch: &str, budget: &Budget<'_>) -> Result<&Path> {
        let name = self.git(&["check-ref-format", "--branch", branch], budget);
        if branch.starts_with('@') || branch.starts_with('-') || name.is_err() {
            let branch = super::ui::printable(branch);
            return Err(hinted(
                format!("`{branch}` is no name for a branch"),
                "Name one like `fix/login`: --worktree NAME",
            ));
        }
        if self.git(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], budget).is_err() {
            return Err(hinted(
                "its repository has no commit to begin with",
                "Commit something, or take the files: --cwd",
            ));
        }
        let name = format!("refs/heads/{branch}");
        if self.git(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")], budget).is_err() {
            self.git(&["update-ref", &name, "HEAD"], budget)?;
        }
        self.git(&["symbolic-ref", "HEAD", &name], budget)?;
        let listed = self.git(&["ls-tree", "-r", "-l", "-z", "HEAD"], budget)?;
        let mut left = budget.clone();
        for record in records(&listed) {
            let mut parts = record.splitn(2, |byte| *byte == b'\t');
            let entry = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
            let size = entry.split_whitespace().nth(3).and_then(|size| size.parse().ok()).unwrap_or(0);
            left.spend(parts.next().unwrap_or_default(), size)?;
        }
        self.work_tree = self.scratch.join("tree");
        fs::create_dir(&self.work_tree)?;
        let prefix = format!("--prefix={}/", self.work_tree.to_str().context("a path that is not UTF-8")?);
        self.git(&["read-tree", "HEAD"], budget)?;
        self.git(&["checkout-index", "--all", "--quiet", &prefix], budget).context("check its last commit out")?;
        Ok(&self.work_tree)
    }

    /// Tracked and untracked files, but for the ignored ones; and in what state the working tree is.
    pub(super) fn list(&self, budget: &Budget<'_>, shown: &mut Shown) -> Result<Vec<Vec<u8>>> {
        let head = fs::read_to_string(self.dir.join("HEAD")).unwrap_or_default();
        let head = head.trim().trim_start_matches("ref: refs/heads/");
        shown.branch = Some(super::ui::printable(&head.chars().take(80).collect::<String>()));
        let tracked = self.git(&["ls-files", "-z", "--stage"], budget)?;
        let others = self.git(&["ls-files", "-z", "--others", "--exclude-standard"], budget)?;
        let status = ["status", "--porcelain", "-z", "--no-renames", "-uno", "--ignore-submodules=all"];
        shown.changed = records(&self.git(&status, budget)?).count();
        let mut names = BTreeSet::new();
        for record in records(&tracked) {
            let Some(tab) = record.iter().position(|byte| *byte == b'\t') else { continue };
            let (entry, name) = (&record[..tab], &record[tab + 1..]);
            if entry.starts_with(b"160000 ") {
                shown.skip("a submodule", name);
            } else if names.insert(name.to_vec()) && is_unsafe(name) {
                names.remove(name);
                shown.skip("a name that git would not check out", name);
            }
        }
        for name in records(&others) {
            match name.strip_suffix(b"/") {
                Some(repository) => shown.skip("a repository of its own", repository),
                None => {
                    shown.untracked += 1;
                    names.insert(name.to_vec());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Packs what is reachable, and drops the rest. Returns the commits that something stands at.
    pub(super) fn pack(&self, budget: &Budget<'_>) -> Result<Vec<String>> {
        let bases = self.git(&["rev-list", "--no-walk=unsorted", "--all"], budget)?;
        let packed = self.scratch.join("packed");
        fs::create_dir(&packed)?;
        let to = packed.join("pack");
        let to = to.to_str().context("a path that is not UTF-8")?;
        let what = ["pack-objects", "--all", "--indexed-objects", "--non-empty"];
        let how = ["--delta-base-offset", "--window=0", "--quiet", to];
        self.git(&[what, how].concat(), budget).context("pack its history (does `git fsck` find it whole?)")?;
        fs::remove_dir_all(self.dir.join("objects"))?;
        fs::create_dir(self.dir.join("objects"))?;
        fs::rename(packed, self.dir.join("objects/pack"))?;
        Ok(String::from_utf8_lossy(&bases).lines().map(str::to_owned).collect())
    }
}

fn records(listed: &[u8]) -> impl Iterator<Item = &[u8]> {
    listed.split(|byte| *byte == 0).filter(|record| !record.is_empty())
}

/// Git checks out no such names, but a crafted index may have them.
fn is_unsafe(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'/').any(|part| part.is_empty() || part == b"." || part == b".." || is_gits(part))
}

fn is_hex(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_hexdigit)
}

fn is_pack(name: &[u8]) -> bool {
    let stem = name.strip_prefix(b"pack-");
    let stem = stem.and_then(|name| name.strip_suffix(b".pack").or_else(|| name.strip_suffix(b".idx")));
    stem.is_some_and(is_hex)
}
