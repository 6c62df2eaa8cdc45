//! One bare repository per `git` entry, which says what upstream says: its refs come from there alone, a push's too.

use crate::{
    git::{Children, Git, Repository},
    greeting::{Greeting, Service},
    hook,
    update::Update,
    words::plain,
};
use bottle_policy::push::Change;
use std::{
    fs,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use thiserror::Error;

/// What comes from upstream, and what an agent sees. Forges keep more below `refs/`, by the thousand.
const FETCHED: [&str; 3] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+refs/notes/*:refs/notes/*"];
/// Of what git and upstream say of a failure, or beside a push.
const LONGEST_WORD: u64 = 16 << 10;
/// Of what git says of a push: a line for each ref.
const LONGEST_ANSWER: u64 = 1 << 20;
/// A mirror's own configuration. What a push may change is judged by the hooks, not by git. What is pushed is unpacked, so
/// that what goes on to upstream was deflated here: bytes of a pack that inflate to nothing could hold anything. Of a push
/// all or nothing cannot be promised: upstream says of each ref what became of it.
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n\tlogAllRefUpdates = false\n\
    [transfer]\n\tfsckObjects = true\n[fetch]\n\tunpackLimit = 1\n\
    [receive]\n\tunpackLimit = 2147483647\n\tprocReceiveRefs = refs\n\tautogc = false\n\
    \tadvertisePushOptions = false\n\tadvertiseAtomic = false\n\
    [uploadpack]\n\tallowFilter = true\n";

/// How a remote is reached: decided by whoever holds its credential.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// As git is told it.
    pub url: String,
    /// The one protocol that git may speak with it.
    pub protocol: String,
    /// Further settings of git's, `name=value`.
    pub settings: Vec<String>,
    /// Further variables.
    pub environment: Vec<(String, String)>,
    /// How long a fetch or a push may take.
    pub limit: Duration,
    /// The largest pack that a push may send, in bytes. What a fetch may bring is bounded by the time it may take, and by
    /// the room where mirrors stand.
    pub pack: u64,
    /// What whoever carries its bytes says of a failure.
    pub trouble: Trouble,
}

/// Why a conversation with upstream failed, from whoever carries it: what git itself cannot know.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// Says it; of a conversation the first word counts.
    pub fn tell(&self, why: impl Into<String>) {
        self.slot().get_or_insert_with(|| why.into());
    }

    fn take(&self) -> Option<String> {
        self.slot().take()
    }

    fn slot(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why upstream did not do what was asked.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// Git could not be run.
    #[error("git could not be run: {0}")]
    Io(#[from] io::Error),
    /// Upstream, or the way to it.
    #[error("{what} failed; {said}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What git and upstream said of it, in one line.
        said: String,
    },
}

/// What upstream did with one ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which.
    pub name: String,
    /// Why it did not take it, if it did not.
    pub refused: Option<String>,
}

/// A mirror.
pub struct Mirror {
    repository: Repository,
    upstream: Upstream,
    hooks: PathBuf,
    /// One conversation with upstream at a time.
    busy: Mutex<()>,
    /// Held by whoever is served, and alone by whoever tidies up.
    served: RwLock<()>,
    /// Something of a push was kept for nothing.
    litter: AtomicBool,
}

impl Mirror {
    /// An empty one. `hooks`: a directory in which our program stands under its hooks' names.
    pub fn create(git: Git, dir: &Path, upstream: Upstream, hooks: &Path) -> Result<Self, UpstreamError> {
        for part in ["objects", "refs/heads"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::write(dir.join("HEAD"), "ref: refs/heads/main\n")?;
        fs::write(dir.join("config"), format!("{CONFIG}[receive]\n\tmaxInputSize = {}\n", upstream.pack))?;
        let repository = Repository::new(git, dir);
        Ok(Self {
            repository,
            upstream,
            hooks: hooks.into(),
            busy: Mutex::default(),
            served: RwLock::default(),
            litter: AtomicBool::default(),
        })
    }

    /// Its repository, without anybody's quarantine.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Has it say what upstream says now, as far as that service tells it. Where that fails nothing may be served: it would
    /// be stale.
    pub fn refresh(&self, service: Service) -> Result<(), UpstreamError> {
        let _alone = self.alone();
        // Which branch is the first one only a clone wants to know, and the question is a connection of its own.
        if service == Service::UploadPack {
            self.refresh_head()?;
        }
        let words = ["fetch", "-q", "--prune", "--no-auto-maintenance", "--no-write-fetch-head"];
        let words = words.into_iter().chain(["--no-recurse-submodules", "--no-tags", &self.upstream.url]);
        let fetched = self.talk("fetching from upstream", &words.chain(FETCHED).collect::<Vec<_>>());
        if fetched.is_err() {
            // What was cut off stays otherwise, and mirrors stand in memory. A push under way has a place of its own.
            self.clear_away();
        }
        fetched.map(drop)
    }

    fn refresh_head(&self) -> Result<(), UpstreamError> {
        let head =
            self.talk("asking upstream for its branches", &["ls-remote", "--symref", &self.upstream.url, "HEAD"])?;
        let branch = head.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
        if let Some(branch) = branch.filter(|branch| branch.starts_with("refs/heads/")) {
            let set = self.repository.ask(["symbolic-ref", "HEAD", branch], self.upstream.limit)?;
            if !set.success() {
                return Err(self.failed("reading upstream's branches", "its first branch has no plain name"));
            }
        }
        Ok(())
    }

    /// Pushes to upstream. Its own answer for each ref, and what it said beside that.
    pub fn forward(&self, updates: &[(Update, Change)]) -> Result<(Vec<Answer>, Vec<String>), UpstreamError> {
        let answered = self.push(updates);
        let is_taken = |(answers, _): &(Vec<Answer>, _)| answers.iter().all(|answer| answer.refused.is_none());
        if !answered.as_ref().is_ok_and(is_taken) {
            self.litters();
        }
        answered
    }

    fn push(&self, updates: &[(Update, Change)]) -> Result<(Vec<Answer>, Vec<String>), UpstreamError> {
        let _alone = self.alone();
        let mut words =
            vec!["push".to_owned(), "--porcelain".into(), "--no-verify".into(), "--recurse-submodules=no".into()];
        for (update, change) in updates {
            let old = update.old.as_ref().map_or("", |id| id.as_str());
            // What is lost must be what the pusher has seen.
            if matches!(change, Change::Rewrite | Change::Delete) {
                words.push(format!("--force-with-lease={}:{old}", update.name));
            }
        }
        self.only_these(updates)?;
        words.push(self.upstream.url.clone());
        for (update, _) in updates {
            words.push(format!("{}:{}", update.new.as_ref().map_or("", |id| id.as_str()), update.name));
        }
        let said = self.run(&words)?;
        let answers: Vec<Answer> = updates.iter().map(|(update, _)| answer(&said.out, &update.name)).collect();
        let unheard = answers.iter().all(|answer| answer.refused.as_deref() == Some(UNHEARD));
        if unheard && !said.succeeded {
            return Err(self.failed("pushing to upstream", &said.errors));
        }
        let remote = said.errors.lines().filter_map(|line| line.strip_prefix("remote:"));
        Ok((answers, remote.map(|line| plain(line.trim())).filter(|line| !line.is_empty()).collect()))
    }

    /// The program of git's that serves a client, whose hooks find the daemon at `socket`. Its pipes are the caller's.
    /// A client that fetches may be silent for so many seconds.
    pub fn service(&self, greeting: &Greeting, socket: &Path, silence: u64) -> Command {
        let hooks = format!("core.hooksPath={}", self.hooks.display());
        let mut command = match greeting.service {
            Service::UploadPack => {
                let timeout = format!("--timeout={silence}");
                self.repository.command(["upload-pack", "--strict", &timeout])
            }
            Service::ReceivePack => self.repository.command(["-c", &hooks, "receive-pack"]),
        };
        command.arg(self.repository.dir()).env(hook::SOCKET_ENV, socket);
        command.envs(greeting.version.map(|version| ("GIT_PROTOCOL", version)));
        command
    }

    /// To git's push, a name is also whatever upstream has that ends in it.
    fn only_these(&self, updates: &[(Update, Change)]) -> Result<(), UpstreamError> {
        let list = updates.iter().map(|(update, _)| format!("refs/**/{}", update.name));
        let words = ["for-each-ref".to_owned(), "--count=1".into()].into_iter().chain(list);
        match self.repository.says_anything(words, self.upstream.limit)? {
            true => {
                Err(self
                    .failed("pushing to upstream", "it has a ref whose name ends in the name of one that is pushed"))
            }
            false => Ok(()),
        }
    }

    /// To be held while a client is served.
    pub(crate) fn serving(&self) -> RwLockReadGuard<'_, ()> {
        self.served.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may have been left.
    pub(crate) fn litters(&self) {
        self.litter.store(true, Ordering::SeqCst);
    }

    /// Frees the room of what was pushed and not taken, unless somebody is served: the last of them does it.
    pub(crate) fn tidy(&self) {
        let Ok(_alone) = self.served.try_write() else { return };
        if !self.litter.swap(false, Ordering::SeqCst) {
            return;
        }
        clear(&self.repository.dir().join("objects"), b"tmp_objdir-");
        // What upstream took meanwhile, and no ref here has yet, comes from there again.
        let pruned = self.repository.ask(["prune", "--expire=now"], self.upstream.limit);
        if !pruned.is_ok_and(|ended| ended.success()) {
            self.litters(); // the next one tries again
        }
    }

    fn clear_away(&self) {
        clear(&self.repository.dir().join("objects/pack"), b"tmp_");
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn talk(&self, what: &'static str, words: &[&str]) -> Result<String, UpstreamError> {
        let said = self.run(words)?;
        if said.succeeded { Ok(said.out) } else { Err(self.failed(what, &said.errors)) }
    }

    fn run<W: AsRef<str>>(&self, words: &[W]) -> Result<Said, UpstreamError> {
        self.upstream.trouble.take();
        let protocol = format!("protocol.{}.allow=always", self.upstream.protocol);
        let settings = [protocol].into_iter().chain(self.upstream.settings.iter().cloned());
        let settings = settings.flat_map(|setting| ["-c".to_owned(), setting]);
        let words = settings.chain(words.iter().map(|word| word.as_ref().to_owned()));
        let mut command = self.repository.command(words);
        command.envs(self.upstream.environment.iter().map(|(name, value)| (name, value)));
        let mut children = Children::default();
        let child = children.start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let (out, errors) = (child.stdout.take(), child.stderr.take());
        drop(command);
        let watch = children.watch(self.upstream.limit)?;
        // Both at once: either may fill while the other is read.
        let complaints = std::thread::spawn(move || kept(errors, LONGEST_WORD));
        let out = kept(out, LONGEST_ANSWER);
        let errors = complaints.join().map_err(|_| io::Error::other("git's words were lost"))?;
        let ended = match children.wait(watch) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let limit = self.upstream.limit.as_secs();
                self.upstream.trouble.tell(format!("it took longer than {limit} s"));
                return Err(self.failed("talking with upstream", ""));
            }
            ended => ended?,
        };
        let succeeded = ended.iter().all(std::process::ExitStatus::success);
        Ok(Said { succeeded, out: out?, errors: errors? })
    }

    fn failed(&self, what: &'static str, said: &str) -> UpstreamError {
        let known = self.upstream.trouble.take();
        let known = known.or_else(|| said.contains(HOST_KEY).then(|| ANOTHER_HOST.to_owned()));
        let said = known.unwrap_or_else(|| said.replace(&self.upstream.url, "upstream"));
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let said: String = lines.take(4).collect::<Vec<_>>().join("; ").chars().take(600).collect();
        let said = plain(&said);
        UpstreamError::Failed { what, said: if said.is_empty() { "git did not say why".into() } else { said } }
    }
}

struct Said {
    succeeded: bool,
    out: String,
    errors: String,
}

/// Removes what begins so in a directory, as far as it can be removed.
fn clear(dir: &Path, begin: &[u8]) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_bytes().starts_with(begin)) {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let _ = if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
    }
}

/// Reads all, and keeps the beginning.
fn kept(from: Option<impl Read>, most: u64) -> io::Result<String> {
    let Some(mut from) = from else { return Ok(String::new()) };
    let mut bytes = vec![];
    (&mut from).take(most).read_to_end(&mut bytes)?;
    io::copy(&mut from, &mut io::sink())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How ssh ends a warning of a dozen lines.
const HOST_KEY: &str = "Host key verification failed";
/// What it means here.
const ANOTHER_HOST: &str = "upstream shows another host key than the one that is pinned (KnownHostKey in the manifest)";
/// Stands for no answer.
const UNHEARD: &str = "upstream did not say what became of it";

/// The line of `git push --porcelain` about a ref: `FLAG\tFROM:TO\tSUMMARY (REASON)`.
fn answer(out: &str, name: &str) -> Answer {
    let about = |line: &&str| {
        let target = line.split('\t').nth(1).and_then(|refs| refs.split_once(':'));
        target.is_some_and(|(_, to)| to == name)
    };
    let refused = match out.lines().find(about) {
        None => Some(UNHEARD.to_owned()),
        // `=`: upstream has it already. Somebody was quicker with the same.
        Some(line) if line.starts_with([' ', '+', '-', '*', '=']) => None,
        Some(line) => Some(format!("upstream: {}", plain(line.split('\t').nth(2).unwrap_or(line)))),
    };
    Answer { name: name.into(), refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_answer_is_read_per_ref_and_silence_is_a_refusal() {
        let out = "To upstream\n*\tabc:refs/heads/a\t[new branch]\n!\tabc:refs/heads/b\t[rejected] (fetch first)\n\
                   !\tabc:refs/heads/c\t[remote rejected] (hook declined)\n \tabc:refs/heads/d\t1..2\nDone\n";
        for (name, expected) in [
            ("refs/heads/a", None),
            ("refs/heads/b", Some("upstream: [rejected] (fetch first)")),
            ("refs/heads/c", Some("upstream: [remote rejected] (hook declined)")),
            ("refs/heads/d", None),
            ("refs/heads/e", Some(UNHEARD)),
            ("refs/heads", Some(UNHEARD)),
        ] {
            assert_eq!(answer(out, name).refused.as_deref(), expected, "{name}");
        }
    }
}
