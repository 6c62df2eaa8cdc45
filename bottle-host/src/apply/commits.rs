//! Commits: fetched from the guest's bundle into a scratch repository that borrows the host's objects, looked at there,
//! and only then into the host's repository, under refs of their own.

use crate::{
    gate::{Made, What},
    ui::{self, hinted},
    workspace::{
        Budget,
        git::{git, git_told},
    },
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

/// What `git fsck` only warns of, and nobody makes by accident.
const STRICT: [&str; 9] = [
    "hasDot",
    "hasDotdot",
    "hasDotgit",
    "fullPathname",
    "emptyName",
    "nullSha1",
    "badTimezone",
    "badDate",
    "treeNotSorted",
];
/// Lines of a log that are shown.
const MAX_LOG: &str = "--max-count=50";

/// An agent's commits, in a scratch repository.
pub struct Commits<'a> {
    bundle: PathBuf,
    refs: String,
    bases: Vec<String>,
    scratch: &'a Path,
    /// The scratch repository.
    repository: PathBuf,
    /// The host's.
    home: PathBuf,
    budget: Budget<'a>,
}

impl<'a> Commits<'a> {
    pub(super) fn read(
        bundle: &Path,
        identity: &str,
        bases: &[String],
        to: &Path,
        scratch: &'a Path,
        budget: Budget<'a>,
    ) -> Result<Self> {
        let to = to.to_str().context("a path that is not UTF-8")?;
        // It only looks for the repository: no program of it runs.
        let find = ["-C", to, "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-object-format"];
        let said = git(scratch, &[], &find, &budget).map_err(|error| {
            let hint = format!("Choose the repository that it came from, or a clone of it: --into DIR ({error:#})");
            hinted(format!("the agent left commits, and {to} is in no git repository"), hint)
        })?;
        let said = String::from_utf8(said)?;
        let mut lines = said.lines();
        let (home, format) = lines.next().zip(lines.next()).context("git does not say where its repository is")?;
        let commits = Self {
            bundle: bundle.into(),
            refs: format!("refs/bottle/{identity}/"),
            bases: bases.to_vec(),
            scratch,
            repository: scratch.join("repository"),
            home: home.into(),
            budget,
        };
        let repository = commits.repository.to_str().context("a path that is not UTF-8")?;
        let init = ["init", "--quiet", "--bare", "--template=", &format!("--object-format={format}"), repository];
        git(scratch, &[], &init, &commits.budget)?;
        fs::write(commits.repository.join("objects/info/alternates"), format!("{home}/objects\n"))?;
        commits.fetch().context("read the agent's commits")?;
        Ok(commits)
    }

    /// Everything in the bundle is checked on its way in; what is not as git makes it is refused.
    fn fetch(&self) -> Result<()> {
        let bundle = self.bundle.to_str().context("a path that is not UTF-8")?;
        let spec = format!("+refs/*:{}*", self.refs);
        let strict = STRICT.map(|check| format!("fetch.fsck.{check}=error"));
        let mut args =
            vec!["-c", "protocol.file.allow=always", "-c", "fetch.fsckObjects=true", "-c", "fetch.unpackLimit=1"];
        args.extend(strict.iter().flat_map(|setting| ["-c", setting]));
        args.extend(["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"]);
        args.extend(["--no-write-fetch-head", "--no-write-commit-graph", bundle, &spec]);
        self.git(&args).map(drop)
    }

    fn git(&self, args: &[&str]) -> Result<Vec<u8>> {
        git(self.scratch, &[("GIT_DIR", &self.repository)], args, &self.budget)
    }

    /// Name and commit of each ref.
    pub fn refs(&self) -> Result<Vec<(String, String)>> {
        let said = self.git(&["for-each-ref", "--format=%(objectname) %(refname)", &self.refs])?;
        let lines = String::from_utf8_lossy(&said).into_owned();
        Ok(lines.lines().filter_map(|l| l.split_once(' ')).map(|(id, name)| (name.into(), id.into())).collect())
    }

    /// One line a commit, the newest first.
    pub fn log(&self) -> Result<Vec<String>> {
        let glob = format!("--glob={}", self.refs);
        let args = ["log", "--format=%h %an: %s", "--no-show-signature", "--no-decorate", MAX_LOG, &glob, "--not"];
        let bases: Vec<&str> = self.bases.iter().map(String::as_str).collect();
        let said = self.git(&[&args[..], &bases, &["--"]].concat())?;
        Ok(String::from_utf8_lossy(&said).lines().map(str::to_owned).collect())
    }

    /// The patch from what came along to each branch's end.
    pub fn patch(&self) -> Result<Vec<u8>> {
        let mut out = vec![];
        for (from, to) in self.spans()? {
            let args = ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", &from, &to, "--"];
            out.extend(self.git(&args)?);
        }
        Ok(out)
    }

    /// From what came along to each end: the commit that both have, or nothing.
    fn spans(&self) -> Result<Vec<(String, String)>> {
        let mut spans = vec![];
        let empty = self.git(&["hash-object", "-t", "tree", "/dev/null"])?;
        let empty = String::from_utf8(empty)?.trim().to_owned();
        for (_, to) in self.refs()? {
            // A tag of something that is no commit has nothing to look at.
            let Ok(commit) = self.git(&["rev-parse", "--verify", &format!("{to}^{{commit}}")]) else { continue };
            let commit = String::from_utf8(commit)?.trim().to_owned();
            let args = ["merge-base", "--all", &commit];
            let bases: Vec<&str> = self.bases.iter().map(String::as_str).collect();
            let common =
                if bases.is_empty() { vec![] } else { self.git(&[&args[..], &bases].concat()).unwrap_or_default() };
            let from = String::from_utf8(common)?.lines().next().map_or(empty.clone(), str::to_owned);
            if !spans.contains(&(from.clone(), commit.clone())) {
                spans.push((from, commit));
            }
        }
        Ok(spans)
    }

    /// What each ref's files would be on the host.
    pub(super) fn made(&self) -> Result<Vec<Made>> {
        let mut made = vec![];
        for (from, to) in self.spans()? {
            let tree = ["diff-tree", "-r", "-z", "--no-renames", "--no-ext-diff", "--no-textconv"];
            let binary = self.git(&[&tree[..], &["--numstat", &from, &to]].concat())?;
            let binary: Vec<&[u8]> =
                records(&binary).filter_map(|record| record.strip_prefix(&b"-\t-\t"[..])).collect();
            let raw = self.git(&[&tree[..], &["--raw", "--no-abbrev", &from, &to]].concat())?;
            let mut raw = records(&raw);
            while let (Some(entry), Some(name)) = (raw.next(), raw.next()) {
                let words: Vec<&str> = std::str::from_utf8(entry)?.trim_start_matches(':').split(' ').collect();
                let [_, mode, _, id, _] = words[..] else { bail!("git says something else of what changed") };
                let what = match mode {
                    "000000" => What::Gone,
                    "100644" | "100664" => What::File { mode: 0o644, binary: binary.contains(&name) },
                    "100755" => What::File { mode: 0o755, binary: binary.contains(&name) },
                    "120000" => What::Link(self.git(&["cat-file", "blob", id])?),
                    "160000" => What::Submodule,
                    _ => What::Other,
                };
                made.push(Made { name: name.to_vec(), what });
            }
        }
        Ok(made)
    }

    /// Takes them into the host's repository: the pack as it was checked, then the refs. Nothing is checked out, and no
    /// hook runs.
    pub fn take(&self) -> Result<Vec<String>> {
        let bring = || format!("bring the agent's commits into {}", self.home.display());
        let refs = self.refs()?;
        self.copy_packs().with_context(bring)?;
        let list: String = refs.iter().map(|(name, id)| format!("update {name} {id}\n")).collect();
        let file = self.scratch.join("refs");
        fs::write(&file, list)?;
        let env = [("GIT_DIR", self.home.as_path())];
        let input = Stdio::from(File::open(&file)?);
        git_told(self.scratch, &env, &["update-ref", "--stdin"], input, &self.budget).with_context(bring)?;
        Ok(refs.into_iter().map(|(name, _)| ui::printable(&name)).collect())
    }

    /// An index appears after its pack, and both whole: so git looks for neither too early.
    fn copy_packs(&self) -> Result<()> {
        let to = self.home.join("objects/pack");
        let packs = fs::read_dir(self.repository.join("objects/pack"))?.collect::<std::io::Result<Vec<_>>>()?;
        for end in ["pack", "idx"] {
            for from in packs.iter().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == end))
            {
                let mut draft = tempfile::Builder::new().prefix("tmp_pack_").tempfile_in(&to)?;
                std::io::copy(&mut File::open(&from)?, &mut draft)?;
                draft.as_file().set_permissions(Permissions::from_mode(0o444))?;
                draft.as_file().sync_all()?;
                draft.persist(to.join(from.file_name().context("a pack has a name")?))?;
            }
        }
        Ok(())
    }
}

fn records(listed: &[u8]) -> impl Iterator<Item = &[u8]> {
    listed.split(|byte| *byte == 0).filter(|record| !record.is_empty())
}
