//! A working directory that means no good: nothing of it runs on this machine, and nothing comes along that it only
//! points to. Each trap is shown to be one first.

use crate::place::Place;
use anyhow::{Context, Result, ensure};
use bottle_tests::bottle::Run;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    fs::{self, File},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    process::{Command, Stdio},
};

/// What must not come along: in the user's key, and in the repository's configuration.
const KEY: &str = "the-users-own-key-7f3a";
const TOKEN: &str = "a-token-of-the-remote-91c2";

/// A place whose repository is this test's to spoil, a trap in `~/trap`, and a key.
fn place() -> Result<Place> {
    let place = Place::new()?;
    place.home.write(".ssh/id_ed25519", KEY)?;
    let trap = place.path("trap");
    fs::write(&trap, format!("#!/bin/sh\ntouch '{}'\ncat\n", place.path("ran").display()))?;
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o755))?;
    Ok(place)
}

impl Place {
    fn trap(&self) -> String {
        self.path("trap").display().to_string()
    }

    fn set(&self, dir: &str, name: &str, value: &str) -> Result<()> {
        self.git(dir, &["config", name, value]).map(drop)
    }

    fn plant(&self, at: &str) -> Result<()> {
        let to = self.path(at);
        fs::create_dir_all(to.parent().context("it has a directory")?)?;
        fs::copy(self.path("trap"), to)?;
        Ok(())
    }

    /// A command line as its user would type it in the repository.
    fn typed(&self, line: &str) -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(self.path("repo")).env("HOME", self.path(""));
        let git = ["safe.directory=*", "user.name=T", "user.email=t@example.com"];
        command.env("GIT_CONFIG_COUNT", git.len().to_string());
        for (at, (name, value)) in git.iter().filter_map(|setting| setting.split_once('=')).enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{at}"), name).env(format!("GIT_CONFIG_VALUE_{at}"), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok(())
    }

    /// Was the trap run since this was asked last?
    fn ran(&self) -> bool {
        fs::remove_file(self.path("ran")).is_ok()
    }

    fn preflight(&self, how: &[&str]) -> Result<Run> {
        let mut command = self.home.command(&[&["start", "dev", "--dry-run"], how].concat());
        // As some have it: a program's name leads into the directory first.
        command.env("PATH", format!(".:{}", std::env::var("PATH").unwrap_or_default()));
        Ok(command.current_dir(self.path("repo")).output()?.into())
    }
}

#[test]
fn nothing_that_a_repository_brings_runs_on_this_machine() -> Result<()> {
    type Spoil = fn(&Place) -> Result<()>;
    // The last column: what bottle says where it takes nothing at all.
    let rows: &[(&str, Spoil, &str, Option<&str>)] = &[
        ("fsmonitor", |p| p.set("repo", "core.fsmonitor", &p.trap()), "git status", None),
        ("a filter that cleans", |p| filter(p, "filter.x.clean"), "git diff", None),
        ("a filter that is a process", |p| filter(p, "filter.x.process"), "git diff", None),
        ("a text converter", |p| filter(p, "diff.x.textconv"), "git diff", None),
        ("a diff program", |p| changed(p).and_then(|()| p.set("repo", "diff.external", &p.trap())), "git diff", None),
        ("a hook", |p| p.plant("repo/.git/hooks/post-index-change"), "touch tracked; git status", None),
        ("a hook at a commit", |p| p.plant("repo/.git/hooks/pre-commit"), "git commit --allow-empty -m x", None),
        (
            "hooks elsewhere",
            |p| p.plant("hooks/pre-commit").and_then(|()| p.set("repo", "core.hooksPath", "../hooks")),
            "git commit --allow-empty -m x",
            None,
        ),
        (
            "an included configuration",
            |p| {
                p.home.write("more", &format!("[core]\n\tfsmonitor = {}\n", p.trap()))?;
                p.set("repo", "include.path", "../../more")
            },
            "git status",
            None,
        ),
        (
            "a configuration of the work tree",
            |p| {
                p.set("repo", "extensions.worktreeConfig", "true")?;
                p.home.write("repo/.git/config.worktree", &format!("[core]\n\tfsmonitor = {}\n", p.trap()))
            },
            "git status",
            None,
        ),
        (
            "a program for ssh",
            |p| {
                p.git("repo", &["remote", "add", "origin", "ssh://forge.example/x"])?;
                p.set("repo", "core.sshCommand", &format!("{} </dev/null", p.trap()))
            },
            "git fetch",
            None,
        ),
        ("a git of its own", |p| p.plant("repo/git"), "PATH=.:$PATH git status", None),
        (
            "a submodule's configuration",
            |p| {
                p.git("", &["clone", "-q", "repo", "module"])?;
                let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"];
                p.git("repo", &[&add[..], &[&p.path("module").display().to_string(), "module"]].concat())?;
                p.set("repo/module", "core.fsmonitor", &p.trap())
            },
            "git status",
            None,
        ),
        (
            "a .git elsewhere",
            |p| {
                p.set("repo", "core.fsmonitor", &p.trap())?;
                fs::rename(p.path("repo/.git"), p.path("elsewhere"))?;
                p.home.write("repo/.git", "gitdir: ../elsewhere\n")
            },
            "git status",
            Some("leads out of it"),
        ),
    ];
    for (name, spoil, typed, refused) in rows {
        let place = place()?;
        spoil(&place).with_context(|| (*name).to_owned())?;
        place.ran();
        place.typed(typed)?;
        ensure!(place.ran(), "{name}: the trap is none");
        for how in [&["--cwd"][..], &["--cwd-all"], &["--worktree"]] {
            let run = place.preflight(how)?;
            ensure!(!place.ran(), "{name} {how:?}: it ran: {run:?}");
            match refused {
                Some(said) if how != ["--cwd-all"] => {
                    ensure!(run.code == Some(125) && run.stderr.contains(said), "{name} {how:?}: {run:?}");
                }
                Some(_) => {}
                None => ensure!(run.code == Some(0), "{name} {how:?}: {run:?}"),
            }
        }
    }
    Ok(())
}

fn changed(place: &Place) -> Result<()> {
    place.home.write("repo/tracked", "changed\n")
}

fn filter(place: &Place, name: &str) -> Result<()> {
    place.home.write("repo/.gitattributes", "* filter=x diff=x\n")?;
    changed(place)?;
    place.set("repo", name, &place.trap())
}

#[test]
fn nothing_comes_along_that_a_repository_only_points_to() -> Result<()> {
    let place = place()?;
    place.home.write("repo/sub/id_ed25519", "decoy\n")?;
    place.home.write("repo/control", "a-control-that-comes-along\n")?;
    place.git("repo", &["add", "."])?;
    place.git("repo", &["commit", "-qm", "second"])?;
    // Links to the key, as a file, as a directory, in place of a tracked one, and as parts of the repository.
    let key = place.path(".ssh/id_ed25519");
    symlink(&key, place.path("repo/key"))?;
    symlink(place.path(".ssh"), place.path("repo/keys"))?;
    fs::remove_dir_all(place.path("repo/sub"))?;
    symlink("../.ssh", place.path("repo/sub"))?;
    let _ = fs::remove_file(place.path("repo/.git/info/exclude"));
    symlink(&key, place.path("repo/.git/info/exclude"))?;
    symlink(place.path(".ssh"), place.path("repo/.git/refs/notes"))?;
    // Tokens in its configuration.
    place.git("repo", &["remote", "add", "origin", &format!("https://me:{TOKEN}@forge.example/x.git")])?;
    place.set("repo", "http.extraHeader", &format!("Authorization: Bearer {TOKEN}"))?;
    place.set("repo", "url.https://x.insteadOf", &format!("https://{TOKEN}@y"))?;
    // What would be waited for.
    fs::remove_file(place.path("repo/tracked"))?;
    mknodat(CWD, place.path("repo/tracked"), FileType::Fifo, Mode::RUSR, 0)?;
    let _socket = UnixListener::bind(place.path("repo/socket"))?;

    // In plain sight of whoever follows links and reads configurations.
    let seen = |dir: &str| {
        let grep =
            format!("cat {dir}/key {dir}/sub/* {dir}/.git/config {dir}/control 2>/dev/null; git -C {dir} config -l");
        format!("{{ {grep}; }} 2>&1 | grep -oE '{KEY}|{TOKEN}|a-control-that-comes-along' | sort -u")
    };
    let mut sh = Command::new("sh");
    sh.args(["-c", &seen(".")]).current_dir(place.path("repo")).env("HOME", place.path("git-home"));
    let control = String::from_utf8(sh.output()?.stdout)?;
    ensure!([KEY, TOKEN, "a-control"].iter().all(|what| control.contains(what)), "the canaries are none: {control}");

    let everywhere =
        format!("grep -rlE '{KEY}|{TOKEN}' /workspace \"$HOME\" 2>/dev/null | grep -v /.claude/; readlink key sub");
    let (run, _kept) =
        place.play(true, &[&seen("/workspace"), &everywhere, "git log --all -p | grep -c decoy; ls -A"])?;
    let found = run.results().with_context(|| format!("{run:?}"))?;
    assert_eq!(found[0].trim(), "a-control-that-comes-along", "{run:?}");
    assert_eq!(found[1].trim(), format!("{}\n../.ssh", key.display()), "{run:?}");
    assert_eq!(found[2].trim(), "1\n.git\ncontrol\ngoing\nkey\nkeys\nmine\nsub", "{run:?}");
    for (what, why) in [("sub/id_ed25519", "through a link"), ("tracked", "a pipe, socket or device")] {
        ensure!(run.stderr.contains(what) && run.stderr.contains(why), "{what}: {run:?}");
    }

    // What is too large is told of before it is read.
    File::create(place.path("repo/huge"))?.set_len(10 << 30)?;
    let huge = place.preflight(&["--cwd"])?;
    ensure!(huge.code == Some(125) && huge.stderr.contains("huge alone has 10240 MiB"), "{huge:?}");
    ensure!(huge.stderr.contains("hint: Have git ignore"), "{huge:?}");
    Ok(())
}
