//! What runs in the bottle to save its work, and to restore it, as the agent and with the agent's own programs. Whatever
//! comes out is the guest's word.

use crate::{fault, plugin::Bottle};
use anyhow::{Context, Result, bail};
use bottle_api::{AGENT_UID, GetRequest, HOME, StartRequest};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Cursor, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

/// Only what is in the workspace itself counts as its repository. Everything that differs from the last commit, then
/// everything that git does not track, what it was told to take for unchanged, and repositories within; without a
/// repository, everything. What git fails at is a failure: it must not pass for nothing.
const NAMES: &str = r#"
exec 2>/dev/null
cd /workspace || exit 1
last() { git rev-parse -q --verify 'HEAD^{tree}' || git hash-object -t tree /dev/null; }
differing() { git diff --name-only -z --no-renames --no-ext-diff --ignore-submodules "$@" "$(last)"; }
names() {
    if [ ! -e .git ]; then
        find . -mindepth 1 \( ! -type d -o -empty \) -print0
        return
    fi
    differing --diff-filter=d \
        && git ls-files -z --others $UNIGNORED \
        && git ls-files -z -v | sed -zn 's/^[a-zS] //p' \
        && git ls-files -z --stage | sed -zn 's/^160000 [0-9a-f]* [0-9][[:space:]]//p'
}
"#;
/// One line of words, then the names of what is gone.
const SURVEY: &str = r#"
words=
if [ -e .git ]; then
    words="git head=$(git symbolic-ref -q HEAD || git rev-parse -q --verify HEAD)"
    new=$(git rev-list -n 1 --all --ignore-missing --stdin) || exit 1
    [ -z "$new" ] || words="$words commits"
fi
list=$(mktemp) && names >"$list" || exit 1
[ ! -s "$list" ] || words="$words changes"
rm -f "$list"
echo "$words"
[ ! -e .git ] || differing --diff-filter=D
"#;
/// A commit that no branch has gets a name, for a bundle holds nothing else.
const COMMITS: &str = r"
git symbolic-ref -q HEAD >&2 || git update-ref refs/bottle/detached HEAD
exec git bundle create -q - --all --ignore-missing --stdin
";
/// Small files first: where there is too much, only what is large is cut off. With 1 tar says that a file was written to
/// meanwhile, which is no reason to do without the others.
const CHANGES: &str = r#"
names | sed -z 's|^\./||; s|^|./|' \
    | xargs -0r sh -c 'find "$@" -maxdepth 0 -printf "%s %p\0"' - | sort -zn | cut -z -d ' ' -f 2- \
    | tar --create --format=gnu --null --no-unquote --files-from=-
[ $? -le 1 ]
"#;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What there is to save.
pub(super) struct Survey {
    pub(super) has_git: bool,
    pub(super) commits: bool,
    pub(super) changes: bool,
    pub(super) deleted: BTreeSet<Vec<u8>>,
    /// The branch or commit that the repository stands at; empty where it does not say.
    pub(super) head: String,
}

/// A moment, as a descriptor that becomes readable.
pub(super) struct Deadline {
    at: Instant,
    passed: OwnedFd,
    /// The timer ends with it.
    _keep: Sender<()>,
}

impl Deadline {
    pub(super) fn after(time: Duration) -> Result<Self> {
        let time = fault::patience(time);
        let at = Instant::now() + time;
        let (passed, timer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (keep, dropped) = channel::<()>();
        thread::spawn(move || {
            if dropped.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                let _ = rustix::io::write(&timer, &[1]);
                let _ = dropped.recv();
            }
        });
        Ok(Self { at, passed, _keep: keep })
    }

    pub(super) fn check(&self) -> Result<()> {
        if Instant::now() > self.at {
            bail!("it takes too long");
        }
        Ok(())
    }
}

/// A bottle whose session is over, or goes on while its work is saved now and then.
pub(super) struct Inside<'a> {
    bottle: &'a Bottle,
    /// Ignored files are its work, too.
    ignored: bool,
    deadline: Deadline,
}

impl<'a> Inside<'a> {
    /// There is this much time for what is asked of it.
    pub(super) fn new(bottle: &'a Bottle, ignored: bool, time: Duration) -> Result<Self> {
        Ok(Self { bottle, ignored, deadline: Deadline::after(time)? })
    }

    /// Asks what there is beyond `bases`, given as git's `--stdin` has them. An error: nothing runs there.
    pub(super) fn survey(&self, bases: &[u8], max: u64) -> Result<Survey> {
        let mut said = vec![];
        if !self.run(SURVEY, Cursor::new(bases.to_vec()), &mut said, max)? {
            bail!("the bottle's shell does not say what is in its workspace");
        }
        let mut parts = said.splitn(2, |byte| *byte == b'\n');
        let words = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let has = |word| words.split(' ').any(|w| w == word);
        let head = words.split(' ').find_map(|word| word.strip_prefix("head=")).unwrap_or_default();
        let gone = parts.next().unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(Survey {
            has_git: has("git"),
            commits: has("commits"),
            changes: has("changes"),
            deleted: gone.map(<[u8]>::to_vec).collect(),
            head: head.to_owned(),
        })
    }

    /// Writes a bundle of what is beyond `bases`. `false`: it is not whole.
    pub(super) fn commits(&self, bases: &[u8], mut to: &File, max: u64) -> Result<bool> {
        self.run(COMMITS, Cursor::new(bases.to_vec()), &mut to, max)
    }

    /// Writes an archive of what is not in a commit. `false`: it is not whole.
    pub(super) fn changes(&self, mut to: &File, max: u64) -> Result<bool> {
        self.run(CHANGES, io::empty(), &mut to, max)
    }

    /// Writes an archive of a path, whether anything runs in the bottle or not. `false`: it is not whole.
    pub(super) fn get(&self, path: &str, to: &File, max: u64) -> Result<bool> {
        let req = GetRequest { path: path.into(), max_bytes: max };
        let got = self.bottle.get(&req, to.try_clone()?.into(), self.deadline.passed.as_raw_fd());
        match got {
            Err(error) if to.metadata()?.len() == 0 => Err(error),
            got => Ok(got.is_ok()),
        }
    }

    /// Runs a script, and writes what it says. `false`: there is more, or it failed.
    pub(super) fn run(
        &self,
        script: &str,
        mut input: impl Read + Send + 'static,
        to: &mut dyn Write,
        max: u64,
    ) -> Result<bool> {
        let unignored = if self.ignored { "" } else { "--exclude-standard" };
        let variables = [
            ("PATH", PATH),
            ("HOME", HOME),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            // The agent may be at work: looking must not keep it from its index.
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("UNIGNORED", unignored),
        ];
        let req = StartRequest {
            argv: vec!["/bin/sh".into(), "-c".into(), format!("{NAMES}{script}")],
            env: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            uid: AGENT_UID,
            gid: AGENT_UID,
            ..StartRequest::default()
        };
        let (stdin, to_process) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from_process, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (_errors, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let late = self.deadline.passed.as_raw_fd();
        let process = self.bottle.start(&req, stdin.as_fd(), stdout.as_fd(), Some(stderr.as_fd()), late)?;
        drop((stdin, stdout, stderr));
        thread::spawn(move || io::copy(&mut input, &mut File::from(to_process)));
        let whole = self.copy(&mut File::from(from_process), to, max)?;
        Ok(whole && process.wait(late)?.code == 0)
    }

    /// Copies up to `max` bytes, and until the deadline. `false`: there is more.
    fn copy(&self, from: &mut File, to: &mut dyn Write, max: u64) -> Result<bool> {
        let (mut left, mut chunk) = (max, vec![0; 256 << 10]);
        loop {
            let time = self.deadline.at.saturating_duration_since(Instant::now());
            let time = Timespec::try_from(time)?;
            // A signal here is somebody's impatience, or a window's new size: no reason to lose anything.
            if retry_on_intr(|| poll(&mut [PollFd::new(&*from, PollFlags::IN)], Some(&time)))? == 0 {
                return Ok(false);
            }
            let n = from.read(&mut chunk)?;
            let taken = left.min(n as u64);
            to.write_all(&chunk[..usize::try_from(taken)?]).context("write it down")?;
            left -= taken;
            match n {
                0 => return Ok(true),
                _ if taken < n as u64 => return Ok(false),
                _ => {}
            }
        }
    }
}
