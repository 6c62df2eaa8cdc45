//! Upstream, a gate before it that listens on the loopback, and agents: a real git on all sides.

use bottle_gate::{Decision, Found, Gate, Git, Mirror, Trouble, Upstream, hook, serve};
use bottle_policy::push::PushRules;
use bottle_scan::{ExactSet, Options, Rules, Scanner};
use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};
use tempfile::TempDir;

pub(crate) const CAPABILITY: &str = "c4pability";
pub(crate) const SECRET: &str = "tok-5Jx9QvLm2RzT8wKb";

pub(crate) struct World {
    root: TempDir,
    address: SocketAddr,
    decisions: Mutex<mpsc::Receiver<Decision>>,
}

/// What a command of git's said, and whether it ended well.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// With other rules, or another upstream.
    pub(crate) fn with(change: impl FnOnce(&mut PushRules, &mut Upstream)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        plain(root.path(), &["init", "-q", "--bare", "-b", "trunk", "upstream.git"]);
        let hooks = at("hooks");
        fs::create_dir(&hooks).unwrap();
        for name in [hook::PRE_RECEIVE, hook::PROC_RECEIVE] {
            symlink(program(), hooks.join(name)).unwrap();
        }
        let mut upstream = Upstream {
            url: at("upstream.git").to_str().unwrap().into(),
            protocol: "file".into(),
            settings: vec![],
            environment: vec![],
            limit: Duration::from_secs(60),
            pack: 512 << 20,
            trouble: Trouble::default(),
        };
        let allow_refs = ["refs/heads/*", "refs/tags/*"].map(str::to_owned).into();
        let mut rules = PushRules { allow_refs, allow_delete: false, allow_force: false };
        change(&mut rules, &mut upstream);
        let git = Git::in_path(env::var_os("PATH").unwrap());
        let exact = ExactSet::new([("TOKEN", SECRET.as_bytes())]);
        let scanner = Arc::new(Scanner::new(Arc::new(Rules::builtin().unwrap()), exact, Options::default()));
        let mirror = Mirror::create(git, &at("app.git"), upstream, &hooks).unwrap();
        let gate = Arc::new(Gate::new("app", mirror, "git.example", rules, scanner));
        let (tell, decisions) = mpsc::channel();
        let socket = at("gate.sock");
        // Whoever serves has listened for hooks first: so does the test, before anybody can push.
        let (hooks, told, own) = (UnixListener::bind(&socket).unwrap(), tell.clone(), gate.clone());
        thread::spawn(move || {
            for hook in hooks.incoming() {
                let (gate, told) = (own.clone(), told.clone());
                thread::spawn(move || {
                    gate.answer(&mut hook.unwrap()).into_iter().try_for_each(|decision| told.send(decision))
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, socket, tell, gate) = (client.unwrap(), socket.clone(), tell.clone(), gate.clone());
                let find = move |name: &str| if name == gate.name { Found::Gate(gate, socket) } else { Found::Nothing };
                thread::spawn(move || {
                    if let Ok(Some(decision)) = serve(client, CAPABILITY, find) {
                        let _ = tell.send(decision);
                    }
                });
            }
        });
        let world = Self { root, address, decisions: Mutex::new(decisions) };
        // A first commit, straight to upstream.
        world.upstream_gets("first");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self, capability: &str, name: &str) -> String {
        format!("git://{}/{capability}/{name}.git", self.address)
    }

    /// Somebody else commits to upstream.
    pub(crate) fn upstream_gets(&self, file: &str) {
        let dir = self.path("other");
        if !dir.exists() {
            plain(self.root.path(), &["clone", "-q", "upstream.git", "other"]);
        }
        fs::write(dir.join(file), "x\n").unwrap();
        plain(&dir, &["add", "-A"]);
        plain(&dir, &["commit", "-q", "-m", file]);
        plain(&dir, &["push", "-q", "origin", "HEAD:trunk"]);
    }

    /// Upstream's answer to pushes from now on: a shell script.
    pub(crate) fn upstream_says(&self, script: &str) {
        let hook = self.path("upstream.git/hooks/pre-receive");
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(hook, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn upstream_refs(&self) -> String {
        plain(&self.path("upstream.git"), &["for-each-ref", "--format=%(refname) %(objectname)"]).text
    }

    /// An agent's clone.
    pub(crate) fn clone(&self, name: &str, more: &[&str]) -> PathBuf {
        let url = self.url(CAPABILITY, "app");
        let said = git(self.root.path(), &[&["clone", "-q"], more, &[&url, name]].concat());
        assert!(said.ok, "{}", said.text);
        self.path(name)
    }

    /// The next thing that was decided.
    pub(crate) fn decided(&self) -> Decision {
        self.decisions.lock().unwrap().recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

/// Commits a file, in that place.
pub(crate) fn commit(dir: &Path, file: &str, text: &str) {
    fs::write(dir.join(file), text).unwrap();
    plain(dir, &["add", "-A"]);
    plain(dir, &["commit", "-q", "-m", file]);
}

/// Runs git, which has to end well.
pub(crate) fn plain(dir: &Path, args: &[&str]) -> Said {
    let said = git(dir, args);
    assert!(said.ok, "git {args:?}: {}", said.text);
    said
}

pub(crate) fn git(dir: &Path, args: &[&str]) -> Said {
    let mut command = Command::new("git");
    command.args(args).current_dir(dir).env_clear().env("PATH", env::var_os("PATH").unwrap());
    command.envs([
        ("HOME", "/nonexistent"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.com"),
        ("GIT_COMMITTER_NAME", "C"),
        ("GIT_COMMITTER_EMAIL", "c@example.com"),
        ("LC_ALL", "C"),
    ]);
    let out = command.output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    Said { ok: out.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
}

pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_bottle-gate-test-hook")
}
