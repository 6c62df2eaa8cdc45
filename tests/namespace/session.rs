//! A bottle of namespaces from start to end, by the staged program: with the real Claude Code, as root and as an ordinary
//! user, by the same tables as elsewhere.

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bare::{USER, Who, below, claude},
    bottle::{ENV_SECRET, Home, KillOnDrop, REAL_TOKEN, Run, eventually, identity_in, is_running, report},
    lab::{Lab, output},
    pty::Pty,
    running::Running,
    standin::Standin,
    wire::Authority,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::Write,
    os::unix::fs::chown,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

struct Place {
    lab: &'static Lab,
    standin: Standin,
    home: Home,
}

impl Place {
    fn new(who: Who) -> Result<Self> {
        let (lab, authority) = (Lab::get(), Authority::new()?);
        let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
        let home = Home::new(lab, &authority, &standin)?
            .with_env("CLAUDE_BOTTLE_BACKEND", "namespace")
            .with_env("CLAUDE_BOTTLE_CLAUDE", &claude(lab)?.display().to_string());
        // The lab's engine is root's.
        let home = if who == Who::User { home.given_to(USER)? } else { home };
        Ok(Self { lab, standin, home })
    }

    fn running(&self) -> Result<Running<'_>> {
        Running::start(self.lab, &self.home)
    }

    fn exec(&self, identity: &str, command: &[&str]) -> Result<Run> {
        self.home.run(&[&["exec", identity, "--"], command].concat())
    }

    /// One `cleanup` takes everything away, and another has nothing to do.
    fn clean(&self) -> Result<()> {
        let first = self.home.run(&["--backend", "namespace", "cleanup", "--yes"])?;
        let second = self.home.run(&["--backend", "namespace", "cleanup", "--yes"])?;
        ensure!(second.stderr.contains("nothing to clean up"), "{first:?} {second:?}");
        ensure!(self.home.identities().is_empty(), "{:?}", self.home.identities());
        Ok(())
    }
}

/// The launcher of a bottle.
fn launcher(identity: &str) -> Option<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let label = format!("--identity={identity}\0");
    let mut found: Vec<i32> = entries
        .filter(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with("bottle-namespace\0") && line.contains(&label)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found.first().copied()
}

#[test]
fn the_real_claude_answers_and_never_holds_the_real_token() -> Result<()> {
    for who in Who::ALL {
        let place = Place::new(who)?;
        let (head, tail) = REAL_TOKEN.split_at(20);
        let (results, run) = place.home.play(&[
            "env",
            &format!("n='{head}''{tail}'; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | /usr/bin/grep -aqF -f <(printf %s \"$n\"); echo found=$?"),
            "id -u; grep -E 'Cap(Eff|Prm|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; stat -c '%a %u' ~/.bottle/prompt.md",
            "curl -sS -m 5 https://forbidden.example/",
            "timeout 3 bash -c 'echo > /dev/tcp/198.51.100.1/22' 2>&1; echo rc=$?",
            "perl -MIO::Socket::INET -e 'for (qw(127.0.0.1 0.0.0.0)) { print IO::Socket::INET->new(LocalAddr=>$_,LocalPort=>9099,Listen=>1,ReuseAddr=>1,ReusePort=>1) ? \"bound \" : \"taken \" }'",
        ])?;
        assert_eq!(run.code, Some(0), "{who:?}: {run:?}");
        assert!(results[0].contains(&format!("AGENT_SECRET={ENV_SECRET}")), "{}", results[0]);
        assert!(results[1].contains("found=1"), "a process holds the token: {}", results[1]);
        for line in ["1000\n", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "600 1000"] {
            assert!(results[2].contains(line), "{line:?} is not in {}", results[2]);
        }
        assert!(results[3].contains("\"rule\":\"host\""), "{}", results[3]);
        assert!(results[4].contains("rc=1"), "{}", results[4]);
        assert_eq!(results[5].trim(), "taken taken");
        let asked: Vec<_> = place.standin.seen().into_iter().filter(|s| s.path.starts_with("/v1/messages")).collect();
        let real = format!("Bearer {REAL_TOKEN}");
        assert!(!asked.is_empty() && asked.iter().all(|s| s.header("authorization") == Some(&real)), "{who:?}");
        let identity = identity_in(&run.stderr)?;
        assert!(launcher(&identity).is_none() && place.home.identities().is_empty(), "{who:?}: something is left");
    }
    Ok(())
}

#[test]
fn commands_end_with_their_own_codes_and_terminals_have_their_sizes() -> Result<()> {
    for who in Who::ALL {
        let place = Place::new(who)?;
        let bottle = place.running()?;
        let id = bottle.identity.as_str();
        assert!(place.home.listed().contains(&bottle.identity), "{who:?}");
        for (script, code) in
            [("exit 0", 0), ("exit 42", 42), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
        {
            let run = place.exec(id, &["bash", "-c", &format!("echo out; echo err >/dev/stderr; {script}")])?;
            assert_eq!((run.code, run.stdout.as_str()), (Some(code), "out\n"), "{who:?} {script}: {run:?}");
            assert!(run.stderr.contains("err\n"), "{who:?} {script}: {run:?}");
        }
        assert_eq!(place.exec(id, &["no-such-program"])?.code, Some(127), "{who:?}");
        let bytes: Vec<u8> = (0..1_500_000_u32).map(|n| (n.wrapping_mul(n) / 7) as u8).collect();
        let mut cat = place.home.command(&["exec", id, "--", "cat"]).stdin(Stdio::piped()).spawn()?;
        let (mut input, sent) = (cat.stdin.take().context("stdin")?, bytes.clone());
        let writer = thread::spawn(move || input.write_all(&sent));
        let back = cat.wait_with_output()?;
        writer.join().expect("the writer")?;
        assert!(back.status.success() && back.stdout == bytes, "{who:?}: {} bytes came back", back.stdout.len());

        let counted = |what: &str| -> Result<usize> {
            let all = place.exec(id, &["bash", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"])?;
            Ok(all.stdout.matches(what).count())
        };
        for (signal, seconds, code) in [(Signal::TERM, "4711", Some(143)), (Signal::KILL, "4712", None)] {
            let sleep = KillOnDrop(place.home.command(&["exec", id, "--", "sleep", seconds]).spawn()?);
            let line = format!("sleep {seconds}");
            eventually("the command runs", || counted(&line).ok().filter(|n| *n > 0))?;
            kill_process(Pid::from_child(&sleep), signal)?;
            assert_eq!(sleep.finish()?.code, code, "{who:?} {signal:?}");
            eventually("the command is gone", || counted(&line).ok().filter(|n| *n == 0))?;
        }
        let script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.2; done";
        let user = format!("{USER}");
        let way: &[&str] = match who {
            Who::Root => &[],
            Who::User => &["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--"],
        };
        let mut pty = Pty::start_by(way, &place.home.command(&["exec", id, "--", "bash", "-c", script]), 80, 24)?;
        pty.until("24 80")?;
        pty.until("ready")?;
        pty.resize(101, 33)?;
        pty.until("33 101")?;
        pty.press(b"\x03")?;
        assert_eq!(pty.wait()?, Some(130), "{who:?}: {}", pty.text());
        // A live bottle is not for `cleanup`.
        place.home.run(&["cleanup", "--yes"])?;
        assert_eq!(place.exec(id, &["true"])?.code, Some(0));
        bottle.end()?;
        place.clean()?;
    }
    Ok(())
}

#[test]
fn a_working_directory_comes_along_and_work_is_saved() -> Result<()> {
    for who in Who::ALL {
        let place = Place::new(who)?;
        let repo = place.home.path().join("repo");
        place.home.write("repo/run.sh", "#!/bin/sh\n")?;
        place.home.write("repo/deep/er/file", "deep\n")?;
        let git = |args: &[&str]| {
            let identity = ["-c", "user.name=T", "-c", "user.email=t@example.com"];
            output(Command::new("git").args(identity).args(args).current_dir(&repo).env("HOME", place.home.path()))
        };
        for args in [&["init", "-q", "-b", "main"][..], &["add", "."], &["commit", "-qm", "first"]] {
            git(args)?;
        }
        let place = match who {
            Who::Root => place,
            Who::User => Place { home: place.home.given_to(USER)?, ..place },
        };
        let lines = [
            "cat deep/er/file; git status --porcelain; git log --format=%s",
            "echo more > more; git add more; git -c user.name=A -c user.email=a@example.com commit -qm second",
            "echo untracked > untracked",
        ];
        let prompt = lines.map(|line| format!("@@bash {line}\n")).concat();
        let mut command = place.home.command(&["start", "dev", "--yes", "--cwd", "--prompt", &prompt]);
        let run: Run = command.current_dir(&repo).output()?.into();
        assert_eq!(run.code, Some(0), "{who:?}: {run:?}");
        assert!(run.results()?[0].starts_with("deep\nfirst"), "{who:?}: {run:?}");
        let work = place.home.state().join(identity_in(&run.stderr)?).join("work");
        assert!(work.join("commits.bundle").exists(), "{who:?}: {run:?}");
        let listed = output(Command::new("tar").arg("-tf").arg(work.join("changes.tar")))?;
        assert!(listed.contains("untracked") && !listed.contains("run.sh"), "{who:?}: {listed}");
    }
    Ok(())
}

#[test]
fn a_killed_owner_leaves_nothing_that_runs_and_one_cleanup_takes_the_rest() -> Result<()> {
    for who in Who::ALL {
        let place = Place::new(who)?;
        let bottle = place.running()?;
        let top = launcher(&bottle.identity).context("a launcher")?;
        let all: Vec<i32> = std::iter::once(top).chain(below(top)).collect();
        assert!(all.len() > 5, "{who:?}: {all:?}");
        kill_process(Pid::from_child(&bottle.owner), Signal::KILL)?;
        let until = Instant::now() + Duration::from_secs(1);
        while all.iter().any(|pid| is_running(*pid)) {
            ensure!(Instant::now() < until, "{who:?}: processes are left after a second");
            thread::sleep(Duration::from_millis(10));
        }
        drop(bottle);
        place.clean()?;
    }
    Ok(())
}

#[test]
fn whatever_fails_leaves_nothing() -> Result<()> {
    for who in Who::ALL {
        let place = Place::new(who)?;
        for fault in [
            "error@ledger-intent:1",
            "error@ledger-created:1",
            "panic@ledger-created:1",
            "error@launched:1",
            "kill@ledger-created:1",
            "kill@launched:1",
            "kill@session:1",
            "term@launched:1",
            "kill@close:1",
        ] {
            let mut command = place.home.command(&["start", "dev", "--yes", "--prompt", "hello"]);
            let run: Run = command.env("CLAUDE_BOTTLE_FAULT", fault).output()?.into();
            ensure!(run.code != Some(0), "{who:?} {fault}: {run:?}");
            place.clean().with_context(|| format!("{who:?} {fault}: {run:?}"))?;
            let identity = identity_in(&run.stderr)?;
            eventually("no launcher is left", || launcher(&identity).is_none().then_some(()))?;
        }
    }
    Ok(())
}

#[test]
fn limits_hold_or_are_refused() -> Result<()> {
    let limited = |place: &Place| {
        let routes = format!("  routes:\n    - {{host: api.anthropic.com, address: {}}}\n", place.standin.address);
        let limits = "limits: {memory: 600m, cpus: 1, pids: 300}\n";
        place.home.write(".claude-bottle/bottles/box.md", &format!("---\n{limits}egress:\n{routes}---\n"))
    };
    let place = Place::new(Who::Root)?;
    limited(&place)?;
    let bottle = place.running()?;
    let run = bottle.sh("ulimit -u; perl -e 'my $x = \"x\" x 900_000_000; print \"had\"'; echo rc=$?")?;
    assert_eq!(run.stdout, "300\nrc=137\n", "{run:?}");
    bottle.end()?;
    place.clean()?;
    let groups = ["memory", "cpu"].map(|name| fs::read_dir(format!("/sys/fs/cgroup/{name}")));
    let left = groups.into_iter().flatten().flatten().flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("claude-bottle.")).count(), 0);

    let place = Place::new(Who::User)?;
    limited(&place)?;
    let run = place.home.run(&["start", "dev", "--yes", "--prompt", "hello"])?;
    assert_eq!(run.code, Some(125), "{run:?}");
    assert!(run.stderr.contains("no control group can be made here") && run.stderr.contains("hint:"), "{run:?}");
    Ok(())
}

/// The machine whole: `--ignored` runs it.
#[test]
#[ignore = "fifty bottles at once take the machine whole"]
fn fifty_bottles_at_once_all_run_and_all_end() -> Result<()> {
    let place = Place::new(Who::User)?;
    let script = place.home.path().join("claude");
    fs::write(&script, "#!/bin/bash\nsleep 5; echo ran; sleep 10\n")?;
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    chown(&script, Some(USER), Some(USER))?;
    let home = place.home.with_env("CLAUDE_BOTTLE_CLAUDE", &script.display().to_string());
    let started: Vec<KillOnDrop> =
        (0..50).map(|_| home.start(&["start", "dev", "--yes", "--prompt", "x"], &[])).collect::<Result<_>>()?;
    let tops = eventually("all fifty are listed", || Some(home.listed()).filter(|all| all.len() == 50))?;
    let pss = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:").map(str::to_owned));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default()
    };
    let memory: Vec<u64> = tops
        .iter()
        .filter_map(|identity| launcher(identity))
        .map(|top| std::iter::once(top).chain(below(top)).map(pss).sum())
        .collect();
    let mean = memory.iter().sum::<u64>() / memory.len().max(1) as u64;
    report(format!("{mean} KiB of memory per bottle, with its sidecar"));
    for bottle in started {
        let run = bottle.finish()?;
        ensure!(run.code == Some(0) && run.stdout.contains("ran"), "{run:?}");
    }
    ensure!(tops.iter().all(|identity| launcher(identity).is_none()), "launchers are left");
    ensure!(home.identities().is_empty(), "left: {:?}", home.identities());
    Ok(())
}
