//! What other commands ask the process that owns a bottle, over a socket in the bottle's state directory.
//!
//! What is known to that process alone is not on disk: the agent's environment, which holds the bottle's capability
//! and its secrets. A connection carries one request and one answer, JSON with a `type`, framed as on the control
//! channel.

use crate::{
    paths::Paths,
    state::SOCKET,
    supervise::{
        build::BUILD_TIME,
        desk::{Decision, Word, Words},
        queue::{Entry, Queue},
    },
    ui::hinted,
};
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::{
    Secret,
    control::{encode, read_frame, write_frame},
};
use bottle_policy::Proposal;
use rustix::{
    fs::{Mode, OFlags, open},
    net::{Shutdown, shutdown, sockopt::socket_peercred},
    process::geteuid,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::{self, ErrorKind, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, mpsc::channel},
    thread::{self, JoinHandle},
    time::Duration,
};
use zeroize::{Zeroize, Zeroizing};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for what the sidecar has to do first.
const LONG_PATIENCE: Duration = Duration::from_secs(90);
/// The same for an image, which may not take longer.
const IMAGE_PATIENCE: Duration = Duration::from_secs(BUILD_TIME.as_secs() + 90);

/// What a program in the bottle is surrounded by.
#[derive(Clone)]
pub struct Surroundings {
    /// The whole environment.
    pub env: BTreeMap<String, Secret>,
    /// Working directory.
    pub cwd: String,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Request {
    /// The agent's [`Surroundings`].
    Surroundings,
    /// The operator has decided on a proposal.
    Decide { id: String, decision: Decision },
}

/// What is answered.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Answer {
    /// [`Surroundings`], each value of the environment in base64.
    Surroundings { env: BTreeMap<String, String>, cwd: String },
    /// The decision holds.
    Decided,
    /// No answer to that.
    Refused { message: String },
}

/// Answers until it is dropped.
pub struct Served {
    listener: Arc<UnixListener>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Answers what is asked at the socket of a state directory, to this user's processes only. Decisions go to a desk,
    /// where there is one.
    pub fn begin(state: &Path, surroundings: Surroundings, desk: Option<Words>) -> Result<Self> {
        let path = state.join(SOCKET);
        let attempt = || format!("listen at {}", path.display());
        let reach = Reach::into(state).with_context(attempt)?;
        let listener = Arc::new(UnixListener::bind(reach.path()).with_context(attempt)?);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(attempt)?;
        let accepting = listener.clone();
        let thread = thread::Builder::new().name("owner".into()).spawn(move || {
            let surroundings = Arc::new(surroundings);
            while let Ok((peer, _)) = accepting.accept() {
                let (surroundings, desk) = (surroundings.clone(), desk.clone());
                thread::spawn(move || drop(answer(peer, &surroundings, desk)));
            }
        })?;
        Ok(Self { listener, path, thread: Some(thread) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Ends the thread's `accept`.
        let _ = shutdown(&*self.listener, Shutdown::Both);
        self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.path);
    }
}

fn answer(mut peer: UnixStream, surroundings: &Surroundings, desk: Option<Words>) -> Result<()> {
    if socket_peercred(&peer)?.uid != geteuid() {
        bail!("another user asks");
    }
    peer.set_read_timeout(Some(PATIENCE))?;
    peer.set_write_timeout(Some(PATIENCE))?;
    let request: Option<serde_json::Value> = read_frame(&mut peer)?;
    let mut answer = match serde_json::from_value(request.unwrap_or_default()) {
        Ok(Request::Surroundings) => {
            Answer::Surroundings { env: encode_env(&surroundings.env), cwd: surroundings.cwd.clone() }
        }
        Ok(Request::Decide { id, decision }) => match decide(id, decision, desk) {
            Ok(()) => Answer::Decided,
            Err(error) => Answer::Refused { message: format!("{error:#}") },
        },
        Err(error) => Answer::Refused { message: format!("an unknown request: {error}") },
    };
    let frame = encode(&answer).map(Zeroizing::new);
    if let Answer::Surroundings { env, .. } = &mut answer {
        env.values_mut().for_each(Zeroize::zeroize);
    }
    Ok(peer.write_all(&frame?)?)
}

fn decide(id: String, decision: Decision, desk: Option<Words>) -> Result<()> {
    let (answer, answered) = channel();
    let desk = desk.context("its bottle has no `supervise`")?;
    desk.send(Word::Decided { id, decision, answer }).context("its session is over")?;
    answered.recv().context("its session is over")?
}

/// Has the owner of a bottle apply a decision on a proposal.
pub fn decided(paths: &Paths, identity: &str, id: &str, decision: &Decision) -> Result<()> {
    let request = Request::Decide { id: id.into(), decision: decision.clone() };
    let is_image = |entry: Entry| matches!(entry.proposal, Proposal::CapabilityBlock { .. });
    let is_image = Queue::of(paths, identity).get(id).ok().flatten().is_some_and(is_image);
    match ask(&paths.state().join(identity), &request, if is_image { IMAGE_PATIENCE } else { LONG_PATIENCE }) {
        Ok(Answer::Decided) => Ok(()),
        Ok(Answer::Refused { message }) => bail!("{message}"),
        Ok(Answer::Surroundings { .. }) => bail!("the process that owns {identity} answers something else"),
        // Only its owner knows what holds, and has a sidecar to make an image by.
        Err(error) if error.kind() == ErrorKind::NotFound => Err(hinted(
            format!("{identity} does not run, or is still being launched: nothing can be applied to it"),
            format!("Resume it, and decide while it runs: `bottle resume {identity}`."),
        )),
        Err(error) => Err(unanswered(identity, &error)),
    }
}

/// What a program in a running bottle is to be surrounded by: what its agent is.
pub fn surroundings(paths: &Paths, identity: &str) -> Result<Surroundings> {
    match ask(&paths.state().join(identity), &Request::Surroundings, PATIENCE) {
        Ok(Answer::Surroundings { mut env, cwd }) => {
            let decode = |(name, value): (&String, &mut String)| {
                let bytes = BASE64_STANDARD.decode(value.as_bytes()).with_context(|| format!("the value of {name}"))?;
                value.zeroize();
                Ok((name.clone(), Secret::new(bytes)))
            };
            Ok(Surroundings { env: env.iter_mut().map(decode).collect::<Result<_>>()?, cwd })
        }
        Ok(Answer::Decided) => bail!("the process that owns {identity} answers something else"),
        Ok(Answer::Refused { message }) => {
            let hint = "It runs another version of bottle: end that session, and start the agent again.";
            Err(hinted(format!("the process that owns {identity} answers: {message}"), hint))
        }
        Err(error) => Err(unanswered(identity, &error)),
    }
}

/// The identities whose owner answers.
pub fn running(paths: &Paths) -> Vec<String> {
    let entries = fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let answering = entries.filter(|entry| connect(&entry.path()).is_ok());
    let mut names: Vec<String> = answering.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Does the owner of that bottle answer?
pub fn is_running(paths: &Paths, identity: &str) -> bool {
    connect(&paths.state().join(identity)).is_ok()
}

fn ask(state: &Path, request: &Request, patience: Duration) -> io::Result<Answer> {
    let mut owner = connect(state)?;
    owner.set_read_timeout(Some(patience))?;
    owner.set_write_timeout(Some(PATIENCE))?;
    write_frame(&mut owner, request)?;
    read_frame(&mut owner)?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

fn connect(state: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Reach::into(state)?.path())
}

fn unanswered(identity: &str, error: &io::Error) -> anyhow::Error {
    let (found, hint) = match error.kind() {
        ErrorKind::ConnectionRefused => {
            ("is dead".to_owned(), "Take away what it left: `bottle cleanup`. Then start the agent again.")
        }
        ErrorKind::NotFound => (
            "takes no commands: the bottle is still being launched, or has ended".to_owned(),
            "`bottle list active` shows the bottles that run.",
        ),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            (format!("does not answer within {} s", PATIENCE.as_secs()), "If it was stopped, let it go on: `fg`.")
        }
        _ => (format!("does not answer: {error}"), "`bottle list active` shows the bottles that run."),
    };
    hinted(format!("the process that owns {identity} {found}"), hint)
}

/// A way to a socket that is as short as a socket's address must be (108 bytes), however long the directory's path.
struct Reach(OwnedFd);

impl Reach {
    fn into(dir: &Path) -> io::Result<Self> {
        Ok(Self(open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()).into()
    }
}

/// Each value in base64, as it crosses in a frame.
pub(crate) fn encode_env(env: &BTreeMap<String, Secret>) -> BTreeMap<String, String> {
    env.iter().map(|(name, value)| (name.clone(), BASE64_STANDARD.encode(value.expose()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings_of_a_test() -> Surroundings {
        let env = [("A", &b"\0\xff secret"[..]), ("B", b"")];
        Surroundings { env: env.map(|(n, v)| (n.into(), Secret::new(v))).into(), cwd: "/workspace".into() }
    }

    /// A home so deep that no socket's address could name a file in it.
    fn deep() -> (tempfile::TempDir, Paths, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { home: dir.path().join("x".repeat(100)), cwd: "/".into() };
        let state = paths.state().join("dev-12345");
        fs::create_dir_all(&state).unwrap();
        (dir, paths, state)
    }

    #[test]
    fn a_living_owner_answers_at_any_depth_and_leaves_no_socket() {
        let (_dir, paths, state) = deep();
        let served = Served::begin(&state, surroundings_of_a_test(), None).unwrap();
        assert_eq!(fs::metadata(state.join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(running(&paths), ["dev-12345"]);
        let found = surroundings(&paths, "dev-12345").unwrap();
        assert_eq!(found.cwd, "/workspace");
        assert!(found.env == surroundings_of_a_test().env);
        drop(served);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        assert!(running(&paths).is_empty());
    }

    #[test]
    fn an_unknown_request_is_refused_and_the_next_one_answered() {
        let (_dir, paths, state) = deep();
        let _served = Served::begin(&state, surroundings_of_a_test(), None).unwrap();
        let mut owner = connect(&state).unwrap();
        write_frame(&mut owner, &serde_json::json!({"type": "from the future"})).unwrap();
        let answer: serde_json::Value = read_frame(&mut owner).unwrap().unwrap();
        assert_eq!(answer["type"], "refused", "{answer}");
        assert!(surroundings(&paths, "dev-12345").is_ok());
    }

    #[test]
    fn an_owner_that_does_not_answer_is_said_to_be_dead_or_not_ready() {
        let (_dir, paths, state) = deep();
        let said = || surroundings(&paths, "dev-12345").map(drop).unwrap_err().to_string();
        assert!(said().contains("still being launched, or has ended"), "{}", said());
        drop(UnixListener::bind(Reach::into(&state).unwrap().path()).unwrap());
        assert!(said().ends_with("is dead"), "{}", said());
    }
}
