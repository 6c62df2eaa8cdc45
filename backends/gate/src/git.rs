//! Git as the gate runs it: an environment of our own, no configuration but what stands here, no program of anybody
//! else's, and a deadline.

use rustix::{
    io::retry_on_intr,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Where git and its own programs are, unless somebody says otherwise.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Over whatever a repository says.
const SETTINGS: [&str; 17] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    // A larger blob is streamed, and never held in memory whole.
    "core.bigFileThreshold=4m",
    // Of a pack so much is mapped at a time.
    "core.packedGitWindowSize=4m",
    "core.packedGitLimit=64m",
    "core.useReplaceRefs=false",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.allow=never",
    "http.followRedirects=false",
    "submodule.recurse=false",
    "pack.threads=1",
    // A push may bring a certificate, asked for or not.
    "gpg.program=/bin/false",
    "gpg.x509.program=/bin/false",
    "gpg.ssh.program=/bin/false",
];
/// What every git is told by its environment. Git reads these before any file.
const ENVIRONMENT: [(&str, &str); 8] = [
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("LC_ALL", "C"),
];
/// How long git may take to say its version.
const ANSWER: Duration = Duration::from_secs(30);
/// Where git keeps what a push has sent until its hooks have judged it.
pub(crate) const OBJECTS: &str = "GIT_OBJECT_DIRECTORY";
const ALTERNATES: &str = "GIT_ALTERNATE_OBJECT_DIRECTORIES";
const QUARANTINE: &str = "GIT_QUARANTINE_PATH";

/// The git of this machine, and OpenSSH's programs beside it.
#[derive(Debug, Clone)]
pub struct Git {
    path: OsString,
    /// A command before each of them.
    tie: Vec<OsString>,
}

impl Default for Git {
    fn default() -> Self {
        Self::in_path(PATH)
    }
}

impl Git {
    /// The one that a `PATH` leads to.
    pub fn in_path(path: impl Into<OsString>) -> Self {
        Self { path: path.into(), tie: vec![] }
    }

    /// Has every program be started by this command, which becomes it: one that has it end with us, however we end.
    pub fn tied_by(mut self, command: &[&str]) -> Self {
        self.tie = command.iter().map(OsString::from).collect();
        self
    }

    /// Is there one that runs?
    pub fn runs(&self) -> bool {
        let mut children = Children::default();
        let started = children.start(self.command(["--version"]).stdout(Stdio::null()));
        let watched = started.map(drop).and_then(|()| children.watch(ANSWER));
        watched.and_then(|watch| children.wait(watch)).is_ok_and(|ended| ended.iter().all(ExitStatus::success))
    }

    /// A program that stands in that path, without anything of our environment.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut words = self.tie.iter().map(OsString::as_os_str).chain([OsStr::new(name)]);
        let mut command = Command::new(words.next().unwrap_or(OsStr::new(name)));
        command.args(words).env_clear().env("PATH", &self.path).env("HOME", "/nonexistent");
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// `git`, with these arguments behind our settings. It reads nothing, and its complaints are dropped: they may hold
    /// what is looked for.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.program("git");
        command.envs(ENVIRONMENT);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting])).args(args);
        command
    }
}

/// A bare repository of ours, and what is in quarantine beside it, if a push is under way.
#[derive(Debug, Clone)]
pub struct Repository {
    git: Git,
    dir: PathBuf,
    quarantine: Vec<(&'static str, OsString)>,
}

impl Repository {
    /// What stands in it.
    pub fn new(git: Git, dir: impl Into<PathBuf>) -> Self {
        Self { git, dir: dir.into(), quarantine: vec![] }
    }

    /// The same with the objects of a push: as the environment of its hook tells. Quarantine is a directory of this very
    /// repository's objects, or an error.
    pub fn with_quarantine(mut self, variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Self> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let objects = variable(OBJECTS).ok_or_else(|| wrong("git named no quarantine"))?;
        let own = fs::canonicalize(self.dir.join("objects"))?;
        let inside = fs::canonicalize(self.dir.join(&objects))?;
        if inside.parent() != Some(&own) {
            return Err(wrong("git's quarantine is not in its repository"));
        }
        let inside = inside.into_os_string();
        self.quarantine = vec![(OBJECTS, inside.clone()), (ALTERNATES, own.into()), (QUARANTINE, inside)];
        Ok(self)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `git` in it.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.git.command(args);
        command.current_dir(&self.dir).env("GIT_DIR", &self.dir);
        command.envs(self.quarantine.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs git to its end, and says how it ended. What it says goes nowhere.
    pub(crate) fn ask<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        limit: Duration,
    ) -> io::Result<ExitStatus> {
        let mut children = Children::default();
        children.start(self.command(args).stdout(Stdio::null()))?;
        let watch = children.watch(limit)?;
        children.wait(watch)?.pop().ok_or_else(|| io::Error::other("git did not run"))
    }

    /// Does git say anything, and end well?
    pub(crate) fn says_anything<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        limit: Duration,
    ) -> io::Result<bool> {
        let mut children = Children::default();
        let said = children.start(self.command(args).stdout(Stdio::piped()))?.stdout.take();
        let watch = children.watch(limit)?;
        let mut byte = [0];
        let any = said.map_or(Ok(0), |mut said| said.read(&mut byte))? > 0;
        Ok(children.wait(watch)?.iter().all(ExitStatus::success) && any)
    }
}

/// Programs that run beside each other, and end together at the latest, with all that they have started: each is the first
/// of a group.
#[derive(Default)]
pub(crate) struct Children(Vec<Child>);

/// Ends its children when their time is over.
pub(crate) struct Watch {
    done: Option<Sender<()>>,
    late: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Children {
    /// Starts one more. Its pipes are the caller's to take.
    pub(crate) fn start(&mut self, command: &mut Command) -> io::Result<&mut Child> {
        let child = command.process_group(0).spawn()?;
        self.0.push(child);
        self.0.last_mut().ok_or_else(|| io::Error::other("no child"))
    }

    /// From now on they have so much time.
    pub(crate) fn watch(&self, limit: Duration) -> io::Result<Watch> {
        let pids: Vec<Pid> = self.0.iter().map(Pid::from_child).collect();
        let (done, told) = channel::<()>();
        let late = Arc::new(AtomicBool::new(false));
        let flag = late.clone();
        let thread = thread::Builder::new().name("git's deadline".into()).spawn(move || {
            // They are reaped only once this has ended: a number is still theirs.
            if told.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                flag.store(true, Ordering::SeqCst);
                for pid in pids {
                    let _ = kill_process_group(pid, Signal::KILL);
                }
            }
        })?;
        Ok(Watch { done: Some(done), late, thread: Some(thread) })
    }

    /// Waits for all of them.
    pub(crate) fn wait(mut self, watch: Watch) -> io::Result<Vec<ExitStatus>> {
        // Whoever still writes to us is told that nobody reads.
        self.0.iter_mut().for_each(|child| drop((child.stdin.take(), child.stdout.take())));
        for child in &self.0 {
            let pid = Pid::from_child(child);
            retry_on_intr(|| waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT))?;
        }
        let late = watch.end();
        let ended: io::Result<Vec<ExitStatus>> = self.0.drain(..).map(end).collect();
        match late {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "git took too long")),
            false => ended,
        }
    }
}

impl Watch {
    /// Says whether their time was over.
    fn end(self) -> bool {
        let late = self.late.clone();
        drop(self);
        late.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    /// Before any of them is reaped.
    fn drop(&mut self) {
        self.done = None;
        self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Children {
    /// Nothing of ours outlives a scan that was given up.
    fn drop(&mut self) {
        self.0.drain(..).for_each(|child| drop(end(child)));
    }
}

/// Ends a child that was not reaped yet, and its group. Until it is reaped the number is its own.
fn end(mut child: Child) -> io::Result<ExitStatus> {
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    child.wait()
}

/// What is left of the time until then.
pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_ended_with_all_that_runs_beside_it() {
        let mut children = Children::default();
        // The first is waited for before the second; either alone would run on.
        for _ in 0..2 {
            children.start(Command::new("sleep").arg("600")).unwrap();
        }
        let watch = children.watch(Duration::from_millis(10)).unwrap();
        assert_eq!(children.wait(watch).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_a_program_has_started_ends_with_it() {
        let mut children = Children::default();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & exec sleep 600"]).stdout(Stdio::piped());
        let mut said = children.start(&mut command).unwrap().stdout.take().unwrap();
        let watch = children.watch(Duration::from_millis(10)).unwrap();
        // Whoever still had the pipe would keep it open.
        assert_eq!(said.read(&mut [0]).unwrap(), 0);
        assert!(children.wait(watch).is_err());
    }
}
