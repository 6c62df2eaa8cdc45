//! A bottle's life in a machine: sessions, exit codes, terminals, trees in and out, work that is saved.

use crate::place::Place;
use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{ENV_SECRET, KillOnDrop, REAL_TOKEN, Run, contains, eventually, identity_in},
    lab::output,
    pty::Pty,
    running,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    thread,
};

/// Files below a directory, but for disks and images, which are gigabytes.
fn small_files(dir: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(of) if of.is_dir() => small_files(&path, found),
            Ok(of) if of.is_file() && of.len() < 32 << 20 => found.extend(fs::read(&path).ok()),
            _ => {}
        }
    }
}

#[test]
fn a_running_bottle_is_listed_and_commands_end_with_their_own_codes() -> Result<()> {
    let place = Place::get()?;
    let bottle = place.start()?;
    let id = bottle.identity.as_str();
    eventually("it is listed", || place.home.listed().contains(&bottle.identity).then_some(()))?;
    for (script, code) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 42", 42),
        ("exit 127", 127),
        ("exit 137", 137),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
    ] {
        let run = place.exec(id, &["bash", "-c", &format!("echo out; echo err >&2; {script}")])?;
        assert_eq!((run.code, run.stdout.as_str()), (Some(code), "out\n"), "{script}: {run:?}");
        assert!(run.stderr.contains("err\n") && !run.stdout.contains("err"), "{script}: {run:?}");
    }
    let missing = place.exec(id, &["no-such-program"])?;
    assert_eq!(missing.code, Some(127), "{missing:?}");

    // Bytes, both ways, and the end of input.
    let bytes: Vec<u8> = (0..1_500_000_u32).map(|n| (n.wrapping_mul(n) / 7) as u8).collect();
    let mut cat = place.home.command(&["exec", id, "--", "cat"]).stdin(Stdio::piped()).spawn()?;
    let (mut input, sent) = (cat.stdin.take().context("stdin")?, bytes.clone());
    let writer = thread::spawn(move || input.write_all(&sent));
    let back = cat.wait_with_output()?;
    writer.join().expect("the writer")?;
    assert!(back.status.success() && back.stdout == bytes, "{} bytes came back", back.stdout.len());

    // The agent is nobody, and knows its own secret but not the one that is injected for it.
    let run = bottle.sh("id -u; id -G; ulimit -u; stat -c '%u %a' /workspace; env")?;
    assert!(run.stdout.starts_with("1000\n1000\n300\n1000 755\n"), "{run:?}");
    assert!(run.stdout.contains(ENV_SECRET) && !run.stdout.contains(REAL_TOKEN), "{run:?}");
    let mut state = vec![];
    for dir in [".cache/smolvm", ".local/share/smolvm", ".config/smolvm"] {
        small_files(&place.home.path().join(dir), &mut state);
    }
    assert!(state.iter().any(|file| contains(file, id.as_bytes())), "smolvm's state names the machine");
    for secret in [ENV_SECRET, REAL_TOKEN] {
        assert!(!state.iter().any(|file| contains(file, secret.as_bytes())), "{secret} is in smolvm's state");
    }

    // A signal reaches the command; a client that is killed takes its command along.
    let counted = |what: &str| -> Result<usize> {
        let all = place.exec(id, &["bash", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"])?;
        Ok(all.stdout.matches(what).count())
    };
    for (signal, seconds, code) in [(Signal::TERM, "4711", Some(128 + 15)), (Signal::KILL, "4712", None)] {
        let sleep = KillOnDrop(place.home.command(&["exec", id, "--", "sleep", seconds]).spawn()?);
        let line = format!("sleep {seconds}");
        eventually("the command runs", || counted(&line).ok().filter(|n| *n > 0))?;
        kill_process(Pid::from_child(&sleep), signal)?;
        assert_eq!(sleep.finish()?.code, code, "{signal:?}");
        eventually("the command is gone", || counted(&line).ok().filter(|n| *n == 0))?;
    }

    // A terminal has a size before its program runs, and another one when it changes.
    let script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.2; done";
    let mut pty = Pty::start(&place.home.command(&["exec", id, "--", "bash", "-c", script]), 80, 24)?;
    pty.until("24 80")?;
    pty.until("ready")?;
    pty.resize(101, 33)?;
    pty.until("33 101")?;
    pty.press(b"\x03")?;
    assert_eq!(pty.wait()?, Some(128 + 2), "{}", pty.text());

    let machine = format!("claude-bottle-{id}");
    assert!(place.smolvm(&["machine", "ls", "-q"])?.lines().any(|name| name == machine));
    bottle.end()?;
    assert!(!place.smolvm(&["machine", "ls", "-q"])?.contains(&machine));
    Ok(())
}

#[test]
fn a_working_directory_comes_along_and_work_is_saved() -> Result<()> {
    let place = Place::get()?;
    let repo = place.home.path().join("repo");
    place.home.write("repo/run.sh", "#!/bin/sh\n")?;
    place.home.write("repo/deep/er/file", "deep\n")?;
    fs::set_permissions(repo.join("run.sh"), fs::Permissions::from_mode(0o755))?;
    symlink("run.sh", repo.join("link"))?;
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=T", "-c", "user.email=t@example.com"];
        output(Command::new("git").args(identity).args(args).current_dir(&repo).env("HOME", place.home.path()))
    };
    git(&["init", "-q", "-b", "main"])?;
    git(&["add", "."])?;
    git(&["commit", "-qm", "first"])?;

    let lines = [
        "stat -c '%a %u %F' run.sh; readlink link; cat deep/er/file; git status --porcelain; git log --format=%s",
        "echo more > more; git add more; git -c user.name=A -c user.email=a@example.com commit -qm second",
        "echo untracked > untracked; mkdir -p ~/.claude/projects/x; echo '{}' > ~/.claude/projects/x/y.jsonl",
    ];
    let prompt = lines.map(|line| format!("@@bash {line}\n")).concat();
    let mut command = place.home.command(&["start", "dev", "--yes", "--cwd", "--prompt", &prompt]);
    let run: Run = command.current_dir(&repo).output()?.into();
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stdout.trim_end(), "755 1000 regular file\nrun.sh\ndeep\nfirst", "{run:?}");
    let identity = identity_in(&run.stderr)?;
    let state = place.home.state().join(&identity);
    let mut saved: Vec<String> = ["work", "transcript"]
        .iter()
        .flat_map(|dir| fs::read_dir(state.join(dir)).into_iter().flatten().flatten())
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    saved.sort();
    ensure!(saved.iter().any(|name| name.ends_with(".bundle")), "{saved:?}: {run:?}");
    let archive = saved.iter().find(|name| name.contains("changes")).with_context(|| format!("{saved:?}"))?;
    let listed = output(Command::new("tar").arg("-tf").arg(state.join("work").join(archive)))?;
    assert!(listed.contains("untracked") && !listed.contains("run.sh"), "{listed}");
    assert!(fs::read_dir(state.join("transcript"))?.count() > 0, "{saved:?}: {run:?}");
    let machines = place.smolvm(&["machine", "ls", "-q"])?;
    assert!(!machines.contains(&identity), "{machines}");
    fs::remove_dir_all(state)?;
    Ok(())
}

#[test]
fn two_bottles_of_one_agent_run_side_by_side() -> Result<()> {
    let place = Place::get()?;
    let (first, mut second) = (place.start()?, place.start()?);
    let addresses = [first.address("bundle", "bridge")?, second.address("bundle", "bridge")?];
    assert_ne!(addresses[0], addresses[1]);
    // Each reaches its own sidecar, with its own capability, and not the other's.
    for (own, bottle, other) in [(0, &first, addresses[1]), (1, &second, addresses[0])] {
        let script = format!(
            "curl -s -o /dev/null -w '%{{http_code}} ' http://_egress.local/allowlist; getent hosts egress | cut -d' ' -f1; \
             timeout 4 bash -c 'echo > /dev/tcp/{other}/9099' 2>/dev/null || echo closed"
        );
        let run = running::run(&mut place.home.command(&["exec", &bottle.identity, "--", "bash"]), &script)?;
        assert_eq!(run.stdout, format!("200 {}\nclosed\n", addresses[own]), "{run:?}");
    }
    let listed = eventually("both are listed", || Some(place.home.listed()).filter(|all| all.len() == 2))?;
    assert!(listed.contains(&first.identity) && listed.contains(&second.identity), "{listed:?}");
    // One after the other, and then one look: it is for what is left of both.
    kill_process(Pid::from_child(&second.owner), Signal::TERM)?;
    second.owner.wait()?;
    let identity = second.identity.clone();
    first.end()?;
    place.nothing_left(&identity)
}
