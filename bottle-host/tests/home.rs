//! What an agent left is brought home, by the program itself, from states such as a hostile guest's bottle leaves.

#![allow(clippy::unwrap_used)] // a test, helpers too

use bottle_host::workspace::{Came, Print};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tar::{Builder, EntryType, Header};

const IDENTITY: &str = "dev-abcde";
const REF: &str = "refs/bottle/dev-abcde/heads/main";

/// An entry of an archive: name, kind, mode, and content or where it leads.
type Entry<'a> = (&'a str, EntryType, u32, &'a str);

/// A repository of the host's, a clone of it as the agent has it, and the state that is kept.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { home: tempfile::tempdir().unwrap() };
        place.write("repo/tracked", "one\n");
        place.write("repo/going", "soon gone\n");
        place.git("repo", &["init", "-q", "-b", "main"]);
        place.git("repo", &["add", "."]);
        place.git("repo", &["commit", "-qm", "first"]);
        place.git(".", &["clone", "-q", "repo", "agent"]);
        fs::create_dir_all(place.state().join("work")).unwrap();
        let metadata = serde_json::json!({"identity": IDENTITY, "agent": "dev", "directory": place.path("repo")});
        for (name, text) in
            [("metadata.json", metadata.to_string()), ("lock", String::new()), (".preserve", String::new())]
        {
            fs::write(place.state().join(name), text).unwrap();
        }
        let mut came = Came { bases: vec![place.git("repo", &["rev-parse", "HEAD"])], ..Came::default() };
        for name in ["tracked", "going"] {
            let text = fs::read(place.path("repo").join(name)).unwrap();
            came.prints.insert(name.into(), Print { mode: Some(0o644), ..Print::link(&text) });
        }
        fs::write(place.state().join("came"), came.encode()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path(".claude-bottle/state").join(IDENTITY)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Git as a user runs it; what it says.
    fn git(&self, dir: &str, args: &[&str]) -> String {
        let mut command = Command::new("git");
        let config = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always"];
        command.args(config).args(args).current_dir(self.path(dir)).env("HOME", self.home.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Bundles what the agent has and the host has not.
    fn bundle(&self) {
        let to = self.state().join("work/commits.bundle");
        let base = self.git("repo", &["rev-parse", "HEAD"]);
        self.git("agent", &["bundle", "create", "-q", to.to_str().unwrap(), "main", &format!("^{base}")]);
    }

    fn commit(&self, name: &str, text: &str) {
        self.write(&format!("agent/{name}"), text);
        self.git("agent", &["add", "-A"]);
        self.git("agent", &["commit", "-qm", "second"]);
    }

    /// An archive of these entries, with names as they are.
    fn archive(&self, entries: &[Entry<'_>]) {
        let mut tar = Builder::new(File::create(self.state().join("work/changes.tar")).unwrap());
        for (name, kind, mode, text) in entries {
            let is_file = *kind == EntryType::Regular;
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_size(if is_file { text.len() as u64 } else { 0 });
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if !is_file {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_cksum();
            tar.append(&header, if is_file { text.as_bytes() } else { b"" }).unwrap();
        }
        tar.finish().unwrap();
    }

    fn file(&self, name: &str, text: &str) {
        self.archive(&[(name, EntryType::Regular, 0o644, text)]);
    }

    /// The exit code, and everything that is said.
    fn bottle(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle"));
        command.args(args).env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap());
        let out = command.current_dir(self.home.path()).stdin(Stdio::null()).output().unwrap();
        let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (out.status.code().unwrap(), text)
    }

    fn apply(&self, args: &[&str]) -> (i32, String) {
        self.bottle(&[&["apply", IDENTITY, "--yes"], args].concat())
    }

    /// A program that says that it ran, and whether it did.
    fn trap(&self) -> (String, impl Fn() -> bool) {
        let (trap, ran) = (self.path("trap.sh"), self.path("ran"));
        fs::write(&trap, format!("#!/bin/sh\ntouch {}\ncat\n", ran.display())).unwrap();
        fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
        (trap.display().to_string(), move || ran.exists())
    }
}

#[test]
fn commits_and_changes_come_home_and_nothing_is_checked_out() {
    let place = Place::new();
    place.commit("src/new.rs", "fn new() {}\n");
    place.bundle();
    place.archive(&[
        ("./tracked", EntryType::Regular, 0o644, "two\n"),
        ("./docs/a file", EntryType::Regular, 0o755, "new\n"),
        ("./docs/latest", EntryType::Symlink, 0o777, "a file"),
    ]);
    fs::write(place.state().join("work/deleted"), "going\0").unwrap();
    let (code, said) = place.bottle(&["diff", IDENTITY]);
    assert_eq!(code, 0, "{said}");
    for what in ["T: second", "+fn new() {}", "M tracked\n+two", "A docs/a file\n+new", "D going"] {
        assert!(said.contains(what), "{what}: {said}");
    }
    assert!(!place.path("repo/docs").exists() && place.read("repo/tracked") == "one\n", "a diff changes nothing");
    let (code, said) = place.apply(&[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(place.git("repo", &["log", "--format=%s", REF]), "second\nfirst");
    assert_eq!((place.read("repo/tracked"), place.read("repo/docs/a file")), ("two\n".into(), "new\n".into()));
    let mode = fs::metadata(place.path("repo/docs/a file")).unwrap().permissions().mode();
    assert_eq!((mode & 0o100, fs::read_link(place.path("repo/docs/latest")).unwrap()), (0o100, "a file".into()));
    assert!(!place.path("repo/going").exists() && !place.path("repo/src").exists());
    assert_eq!(place.git("repo", &["log", "--format=%s", "main"]), "first");
    place.git("repo", &["fsck", "--strict"]);
    // It is there already: once more changes nothing, and is no conflict.
    assert_eq!(place.apply(&[]).0, 0);
}

#[test]
fn the_gate_is_passed_by_kind_and_never_by_yes() {
    let place = Place::new();
    place.archive(&[
        ("./.envrc", EntryType::Regular, 0o644, "touch /tmp/x\n"),
        ("./package.json", EntryType::Regular, 0o644, "{}\n"),
        ("./notes.md", EntryType::Regular, 0o644, "x\n"),
    ]);
    let (code, said) = place.apply(&[]);
    assert!(code == 2 && said.contains("--accept shell --accept build"), "{code} {said}");
    let (code, said) = place.apply(&["--accept", "shell"]);
    assert!(code == 2 && said.contains("say --accept build"), "{code} {said}");
    assert!(!place.path("repo/notes.md").exists(), "nothing is taken before all is answered");
    let (code, said) = place.apply(&["--accept", "shell", "--accept", "build"]);
    assert!(code == 0 && place.path("repo/.envrc").exists() && place.path("repo/notes.md").exists(), "{said}");
    // What commits would check out is asked for, too.
    let place = Place::new();
    place.commit(".github/workflows/ci.yml", "on: push\n");
    place.bundle();
    let (code, said) = place.apply(&[]);
    assert!(code == 2 && said.contains("--accept ci"), "{code} {said}");
    assert_eq!(place.git("repo", &["for-each-ref", "refs/bottle"]), "");
    assert_eq!(place.apply(&["--accept", "ci"]).0, 0);
    assert_eq!(place.git("repo", &["log", "--format=%s", REF]), "second\nfirst");
}

#[test]
fn a_file_of_the_hosts_own_is_not_written_over() {
    let place = Place::new();
    place.archive(&[
        ("./tracked", EntryType::Regular, 0o644, "the agent's\n"),
        ("./other", EntryType::Regular, 0o644, "the agent's\n"),
    ]);
    for (name, text) in [("repo/tracked", "mine\n"), ("repo/other", "mine\n")] {
        place.write(name, text);
        let (code, said) = place.apply(&[]);
        assert!(code == 1 && said.contains("would be written over") && said.contains("--into"), "{code} {said}");
        assert_eq!(place.read(name), "mine\n");
        assert_eq!(place.git("repo", &["status", "--porcelain", "-uno"]).is_empty(), name != "repo/tracked");
        place.git("repo", &["checkout", "-q", "tracked"]);
    }
    fs::create_dir(place.path("elsewhere")).unwrap();
    assert_eq!(place.apply(&["--into", "elsewhere"]).0, 0);
    assert_eq!(place.read("elsewhere/tracked"), "the agent's\n");
}

#[test]
fn tricks_of_an_archive_reach_nothing_outside() {
    let outside = |place: &Place| {
        place.write("outside/file", "mine\n");
        symlink("../outside", place.path("repo/way")).unwrap();
    };
    let regular = EntryType::Regular;
    let cases: [(&str, &[Entry<'_>]); 9] = [
        ("a path up", &[("./../outside/file", regular, 0o644, "evil\n")]),
        ("an absolute path", &[("/tmp/bottle-test-evil", regular, 0o644, "evil\n")]),
        ("through a link that is there", &[("./way/file", regular, 0o644, "evil\n")]),
        (
            "through a link of its own",
            &[("./own", EntryType::Symlink, 0o777, "../outside"), ("./own/file", regular, 0o644, "evil\n")],
        ),
        ("a hard link", &[("./hard", EntryType::Link, 0o644, "../outside/file")]),
        ("git's hooks", &[("./.git/hooks/post-checkout", regular, 0o755, "evil\n")]),
        ("git's configuration", &[("./.GIT/config", regular, 0o644, "evil\n")]),
        ("a device", &[("./null", EntryType::Char, 0o666, "")]),
        ("a pipe", &[("./pipe", EntryType::Fifo, 0o666, "")]),
    ];
    for (what, entries) in cases {
        let place = Place::new();
        outside(&place);
        place.archive(entries);
        let config = place.read("repo/.git/config");
        let (_, said) = place.apply(&["--accept", "link", "--accept", "git"]);
        assert_eq!(place.read("outside/file"), "mine\n", "{what}: {said}");
        assert_eq!(place.read("repo/.git/config"), config, "{what}: {said}");
        let made = ["repo/hard", "repo/.git/hooks/post-checkout", "repo/.GIT", "repo/null", "repo/pipe"];
        assert!(made.iter().all(|name| !place.path(name).exists()), "{what}: {said}");
        assert!(!Path::new("/tmp/bottle-test-evil").exists(), "{what}");
    }
    // Of set-user-id nothing is left, even where it is accepted.
    let place = Place::new();
    place.archive(&[("./notes", regular, 0o4755, "x\n")]);
    assert_eq!(place.apply(&["--accept", "program"]).0, 0);
    assert_eq!(fs::metadata(place.path("repo/notes")).unwrap().permissions().mode() & 0o7000, 0);
}

#[test]
fn what_a_guest_wrote_neither_runs_nor_moves_the_terminal() {
    let place = Place::new();
    let (trap, ran) = place.trap();
    // The host's own repository may be hostile, too.
    for name in
        ["core.fsmonitor", "core.sshCommand", "core.alternateRefsCommand", "uploadpack.packObjectsHook", "core.pager"]
    {
        place.git("repo", &["config", name, &trap]);
    }
    for name in ["diff.external", "diff.x.textconv", "diff.x.command", "filter.x.smudge", "filter.x.clean"] {
        place.git("repo", &["config", name, &trap]);
    }
    for hook in ["reference-transaction", "post-checkout", "post-merge", "pre-auto-gc", "post-index-change"] {
        fs::create_dir_all(place.path("repo/.git/hooks")).unwrap();
        fs::copy(&trap, place.path("repo/.git/hooks").join(hook)).unwrap();
    }
    place.write("agent/.gitattributes", "* diff=x filter=x\n");
    place.commit("evil\u{1b}[31m", "\u{1b}]0;title\u{7}\n");
    place.bundle();
    place.file("./notes\u{1b}[2J", "\u{1b}[2J\n");
    let (code, said) = place.bottle(&["diff", IDENTITY, "--stat"]);
    assert!(code == 0 && !said.contains('\u{1b}'), "{said:?}");
    let (code, said) = place.apply(&["--accept", "git", "--accept", "name"]);
    assert!(code == 0 && !said.contains('\u{1b}'), "{said:?}");
    assert!(!ran(), "something ran");
    assert_eq!(place.git("repo", &["-c", "core.hooksPath=/dev/null", "rev-parse", REF]).len(), 40);
}

#[test]
fn a_bundle_that_is_not_as_git_makes_it_is_refused() {
    let tree_with = |place: &Place, name: &str| {
        let blob = place.git("agent", &["hash-object", "-w", "tracked"]);
        let input = [format!("100644 {name}\0").into_bytes(), hex(&blob)].concat();
        let mut child = Command::new("git")
            .args(["hash-object", "-t", "tree", "-w", "--stdin", "--literally"])
            .current_dir(place.path("agent"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let tree = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned();
        let commit = place.git("agent", &["commit-tree", "-p", "HEAD", "-m", "evil", &tree]);
        place.git("agent", &["update-ref", "refs/heads/main", &commit]);
    };
    type Spoil = fn(&Place);
    let cut: Spoil = |place| {
        place.commit("a", "x\n");
        place.bundle();
        let file = place.state().join("work/commits.bundle");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 30]).unwrap();
    };
    let no_bundle: Spoil = |place| fs::write(place.state().join("work/commits.bundle"), "gitdir: /etc\n").unwrap();
    let unknown: Spoil = |place| {
        place.commit("a", "x\n");
        place.bundle();
        fs::remove_dir_all(place.path("repo/.git")).unwrap();
        place.git("repo", &["init", "-q"]);
    };
    for (what, spoil) in [("cut short", cut), ("none at all", no_bundle), ("of another repository", unknown)] {
        let place = Place::new();
        spoil(&place);
        let (code, said) = place.apply(&[]);
        assert!(code == 1 && said.contains("error: "), "{what}: {code} {said}");
        assert_eq!(place.git("repo", &["for-each-ref", "refs/bottle"]), "", "{what}");
    }
    for name in ["..", ".git", ".GIT", "a/b"] {
        let place = Place::new();
        tree_with(&place, name);
        place.bundle();
        let (code, said) = place.apply(&["--accept", "git", "--accept", "name"]);
        assert!(code == 1 && said.contains("read the agent's commits"), "{name}: {code} {said}");
        assert_eq!(place.git("repo", &["for-each-ref", "refs/bottle"]), "", "{name}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn a_state_that_is_none_or_has_nothing_says_so() {
    let place = Place::new();
    for command in ["diff", "apply"] {
        let (code, said) = place.bottle(&[command, IDENTITY]);
        assert!(code == 0 && said.contains("left no work"), "{said}");
        let (code, said) = place.bottle(&[command, "dev-00000"]);
        assert!(code == 1 && said.contains(&format!("These are kept: {IDENTITY}.")), "{said}");
    }
    let (code, said) = place.bottle(&["state", "ls"]);
    assert!(code == 0 && said.contains(IDENTITY), "{said}");
    assert_eq!(place.bottle(&["state", "rm", IDENTITY]).0, 2, "it asks");
    assert_eq!(place.bottle(&["state", "rm", IDENTITY, "--yes"]).0, 0);
    assert!(!place.state().exists());
}
