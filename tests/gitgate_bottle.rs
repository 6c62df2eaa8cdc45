//! git-gate from inside a bottle: the real Claude Code clones, commits and pushes through it to a real OpenSSH server, is
//! told why a push was refused, and never comes near the key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

#[path = "gitgate_bottle/everyday.rs"]
mod everyday;
#[allow(dead_code)] // its other manners are for another test
#[path = "gitgate/forge.rs"]
mod forge;
#[path = "gitgate_bottle/upstream.rs"]
mod upstream;

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{ENV_SECRET, Home, REAL_TOKEN, Run, assert_nothing_left, identity_in, images},
    lab::Lab,
    needle,
    pty::Pty,
    standin::Standin,
    target::Target,
    wire::Authority,
};
use std::{fs, os::unix::fs::PermissionsExt};
use upstream::Upstream;

/// Beside the workspace, of which all would be kept.
const CLONE: &str = "/tmp/app";

/// The same, in the clone, and nowhere else afterwards.
fn there(command: &str) -> String {
    format!("(cd {CLONE} && {command})")
}

struct Place {
    lab: &'static Lab,
    home: Home,
    upstream: Upstream,
    _standin: Standin,
}

impl Place {
    /// A home whose agent's bottle has one remote, `app`, whose key has that passphrase.
    fn new(passphrase: &str) -> Result<Self> {
        let (lab, authority) = (Lab::get(), Authority::new()?);
        let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
        let home = Home::new(lab, &authority, &standin)?;
        let upstream = Upstream::start(passphrase)?;
        home.write("key", &fs::read_to_string(upstream.key())?)?;
        fs::set_permissions(home.path().join("key"), fs::Permissions::from_mode(0o600))?;
        let place = Self { lab, home, upstream, _standin: standin };
        place.with_entry("")?;
        Ok(place)
    }

    /// The same with more in the remote's entry.
    fn with_entry(&self, more: &str) -> Result<()> {
        let box_ = fs::read_to_string(self.home.path().join(".claude-bottle/bottles/box.md"))?;
        let own = box_.split("git_user:").next().context("a bottle")?.trim_end_matches("---\n");
        let Upstream { address, host_key, .. } = &self.upstream;
        let entry = format!(
            "git_user: {{name: Ada, email: ada@example.com}}\ngit:\n  - Name: app\n    Upstream: {}\n    \
             IdentityFile: ~/key\n    KnownHostKey: {host_key}\n    address: {address}\n{more}---\n",
            self.upstream.url()
        );
        self.home.write(".claude-bottle/bottles/box.md", &format!("{own}{entry}"))
    }
}

#[test]
fn claude_clones_commits_and_pushes_and_is_told_why_a_leak_was_refused() -> Result<()> {
    let place = Place::new("")?;
    let Place { lab, home, upstream, .. } = &place;
    let clone = format!("git clone -q {} {CLONE} && cd {CLONE} && git log --format=%s && cat README", upstream.url());
    let key = upstream.key_line()?;
    let (results, run) = home.play(&[
        &format!("({clone})"),
        &there("echo honest > work && git add -A && git commit -qm 'some work' && git push 2>&1; echo code $?"),
        &there(
            "git checkout -qb leak && echo \"password is $AGENT_SECRET\" > notes && git add -A && \
         git commit -qm 'notes' && git rm -q notes && git commit -qm 'no notes' && \
         git push origin leak 2>&1; echo code $?",
        ),
        &there("git checkout -q main && git push origin :refs/heads/other 2>&1; echo code $?"),
        &there("git commit -q --amend -m 'another' && git push --force origin main 2>&1; echo code $?"),
        &there("git ls-remote origin; git log origin/main -1 --format='%an <%ae>: %s'"),
        "stat -c '%a %u' ~/.gitconfig ~/.bottle/gitconfig",
        "git ls-remote git://git-gate/not-the-capability/app.git 2>&1; echo code $?",
        &needle::in_processes(&key),
        &needle::in_files(&key),
    ])?;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(results[0], "first\nread me", "{results:#?}");
    assert!(results[1].ends_with("code 0") && results[1].contains("main -> main"), "{}", results[1]);
    // The model reads what was found where, and never what it was.
    let told = &results[2];
    for text in ["refused before upstream was asked", "notes", "AGENT_SECRET", "code 1"] {
        assert!(told.contains(text), "{text:?} is not in {told}");
    }
    assert!(!told.contains(ENV_SECRET), "{told}");
    assert!(results[3].contains("may not be deleted") && results[3].ends_with("code 1"), "{}", results[3]);
    assert!(results[4].contains("would lose commits") && results[4].ends_with("code 1"), "{}", results[4]);
    assert!(results[5].ends_with("Ada <ada@example.com>: some work"), "{}", results[5]);
    assert!(!results[5].contains("refs/heads/leak"), "{}", results[5]);
    assert_eq!(results[6], "600 1000\n600 1000");
    assert!(results[7].contains("this is no remote of this bottle's"), "{}", results[7]);
    assert!(results[8].contains(&needle::in_no_process(&key)), "does a process hold the key? {}", results[8]);
    assert!(results[9].contains(&needle::in_no_file(&key)), "does a file hold the key? {}", results[9]);
    // Upstream has the honest push, and has heard of no other.
    assert_eq!(upstream.git(&["log", "--format=%an: %s", "main"])?, "Ada: some work\nsomebody: first\n");
    assert_eq!(upstream.git(&["for-each-ref", "--format=%(refname)"])?, "refs/heads/main\nrefs/heads/other\n");
    assert_eq!(upstream.pushes()?, 1, "{:?}", upstream.asked()?);
    assert!(!run.stderr.contains(&key), "{}", run.stderr);
    assert_nothing_left(lab, home, &identity_in(&run.stderr)?)
}

#[test]
fn what_the_entry_allows_is_shown_and_goes_through() -> Result<()> {
    let place = Place::new("")?;
    let Place { lab, home, upstream, .. } = &place;
    place.with_entry("    allow_refs: [refs/heads/agent/*, refs/heads/other]\n    allow_delete: true\n")?;
    let shown = home.run(&["start", "dev", "--dry-run"])?;
    // However its lines are broken.
    let words = shown.stderr.replace("bottle: ", "").split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["egress, dns, git-gate", "may push refs/heads/agent/*, refs/heads/other AND DELETE", "with ~/key"] {
        assert!(words.contains(text), "{text:?} is not in {}", shown.stderr);
    }
    let clone = format!("git clone -q {} {CLONE} && cd {CLONE} && git checkout -qb agent/one", upstream.scp_url());
    let (results, run) = home
        .play(&[
            &format!("({clone})"),
            &there("git push -q origin agent/one 2>&1; echo code $?"),
            &there("git push -q origin :other 2>&1; echo code $?"),
            &there("git commit -q --allow-empty -m more && git push origin HEAD:main 2>&1; echo code $?"),
        ])
        .with_context(|| shown.stderr.clone())?;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(results[1].ends_with("code 0") && results[2].ends_with("code 0"), "{results:#?}");
    assert!(results[3].contains("refs/heads/main may not be pushed to"), "{results:#?}");
    assert_eq!(upstream.git(&["for-each-ref", "--format=%(refname)"])?, "refs/heads/agent/one\nrefs/heads/main\n");
    assert_nothing_left(lab, home, &identity_in(&run.stderr)?)
}

/// What is wrong with a remote is said where it can be: before the launch, or by git in the bottle.
#[test]
fn a_key_is_unlocked_after_the_answer_and_a_wrong_passphrase_asked_for_again() -> Result<()> {
    let place = Place::new("its passphrase")?;
    let Place { lab, home, upstream, .. } = &place;
    let prompt = format!("@@bash git ls-remote {} 2>&1\n", upstream.url());
    // Nobody is there to be asked.
    let Run { code, stderr, .. } = home.run(&["start", "dev", "--yes", "--prompt", &prompt])?;
    assert!(code == Some(2) && stderr.contains("passphrase of ~/key"), "{code:?} {stderr}");
    assert!(home.identities().is_empty());
    let mut terminal = Pty::start(&home.command(&["start", "dev", "--prompt", &prompt]), 200, 50)?;
    terminal.until("[y/N]")?;
    assert!(!terminal.text().contains("passphrase of"), "{}", terminal.text());
    terminal.press(b"y\r")?;
    terminal.until("passphrase of ~/key:")?;
    terminal.press(b"not that one\r")?;
    terminal.until("that is not the passphrase of ~/key")?;
    terminal.press(b"its passphrase\r")?;
    terminal.until("refs/heads/main")?;
    assert_eq!(terminal.wait()?, Some(0), "{}", terminal.text());
    for typed in ["not that one", "its passphrase"] {
        assert!(!terminal.text().contains(typed), "{typed} was echoed: {}", terminal.text());
    }
    assert_nothing_left(lab, home, &identity_in(&terminal.text())?)
}

#[test]
fn a_bottle_without_remotes_has_no_gate() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    let (results, run) = home.play(&["ls -a ~/.gitconfig ~/.bottle/gitconfig 2>&1; \
        timeout 10 git ls-remote git://git-gate/x/app.git 2>&1; echo code $?"])?;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(results[0].contains("No such file") && !results[0].ends_with("code 0"), "{}", results[0]);
    assert!(!run.stderr.contains("git-gate"), "{}", run.stderr);
    if home.target() == Target::Docker {
        // Nothing of git stands in a sidecar that needs none.
        let image = images("bottle-test-sidecars");
        let layers = lab.docker(&["image", "inspect", "-f", "{{len .RootFS.Layers}}", &image])?;
        assert_eq!(layers.trim(), "1");
    }
    Ok(())
}
