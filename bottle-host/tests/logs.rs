//! `bottle logs -f`: followed across a rotation, until the bottle is gone, its owner has ended, or ^C.

#![allow(clippy::unwrap_used)] // a test, helpers too

use bottle_host::{
    paths::Paths,
    state::{Holder, Metadata, State},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle"));
        command.args(["logs", "dev-12345", "-f"]).args(arguments).env_clear().env("HOME", home);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let out: ChildStdout = child.stdout.take().unwrap();
        thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines }
    }

    /// The next lines, each with this word in it.
    fn shows(&self, words: &[&str]) {
        for word in words {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with {word}"));
            assert!(line.contains(word), "{word}: {line}");
        }
    }

    /// Its exit code and what it said; nothing more was shown.
    fn ends(mut self) -> (Option<i32>, String) {
        assert_eq!(self.lines.recv_timeout(PATIENCE).ok(), None);
        let code = self.child.wait().unwrap().code();
        (code, std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap())
    }
}

fn bottle(holder: Holder) -> (tempfile::TempDir, State) {
    let home = tempfile::tempdir().unwrap();
    let paths = Paths { home: home.path().into(), cwd: "/".into() };
    let metadata = Metadata { identity: "dev-12345".into(), holder, ..Metadata::default() };
    (home, State::create(&paths, &metadata).unwrap())
}

fn ask(state: &State, host: &str, decision: &str) {
    let mut file = File::options().append(true).create(true).open(state.egress_log()).unwrap();
    let line = format!("{{\"decision\":\"{decision}\",\"host\":\"{host}\",\"unheard_of\":\"\u{202e}\"}}\n");
    // In two pieces: half a line is not shown.
    let (half, rest) = line.split_at(20);
    file.write_all(half.as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(30));
    file.write_all(rest.as_bytes()).unwrap();
}

#[test]
fn it_is_followed_across_a_rotation_until_its_state_is_gone() {
    let (home, state) = bottle(Holder::own());
    let (all, denied, json) = (
        Follower::start(home.path(), &[]),
        Follower::start(home.path(), &["--denied"]),
        Follower::start(home.path(), &["--json"]),
    );
    ask(&state, "one", "allow");
    all.shows(&["WHERE", "one"]);
    json.shows(&["{\"decision\":\"allow\",\"host\":\"one\",\"unheard_of\":\"\\u202e\"}"]);
    ask(&state, "two", "deny");
    fs::rename(state.egress_log(), state.egress_log().with_extension("jsonl.1")).unwrap();
    ask(&state, "three", "audit");
    all.shows(&["two", "three"]);
    denied.shows(&["WHERE", "two", "three"]);
    json.shows(&["two", "three"]);
    state.remove().unwrap();
    for follower in [all, denied, json] {
        assert_eq!(follower.ends(), (Some(0), "bottle: dev-12345 has ended\n".into()));
    }
}

#[test]
fn it_ends_with_the_bottles_owner() {
    let mut owner = Command::new("sleep").arg("600").spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", owner.id())).unwrap();
    let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    let (home, state) = bottle(Holder { pid: owner.id(), started, ..Holder::own() });
    ask(&state, "one", "deny");
    let follower = Follower::start(home.path(), &[]);
    follower.shows(&["WHERE", "one"]);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_eq!(follower.ends(), (Some(0), "bottle: dev-12345 has ended\n".into()));
    // Nobody owns it any more: what is there is shown, and that is all.
    let late = Follower::start(home.path(), &[]);
    late.shows(&["WHERE", "one"]);
    assert_eq!(late.ends().0, Some(0));
}

#[test]
fn an_interrupt_ends_it_without_a_word() {
    let (home, state) = bottle(Holder::own());
    ask(&state, "one", "deny");
    let follower = Follower::start(home.path(), &[]);
    follower.shows(&["WHERE", "one"]);
    kill_process(Pid::from_child(&follower.child), Signal::INT).unwrap();
    assert_eq!(follower.ends(), (Some(130), String::new()));
}
