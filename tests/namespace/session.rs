//! A bottle of namespaces by the staged program, as root and as an ordinary user: what is so of no other kind of bottle. The
//! tables of sessions, terminals, secrets, faults and escapes hold here, too: `BOTTLE_TEST_BACKEND`.

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bare::{Who, below, launchers},
    bottle::{Home, KillOnDrop, REAL_TOKEN, Run, eventually, identity_in, is_running, report},
    lab::{Lab, output},
    running::Running,
    standin::Standin,
    target::Target,
    wire::Authority,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
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
        let home = Home::on(Target::Namespace(who), lab, &authority, &standin)?;
        Ok(Self { lab, standin, home })
    }

    fn running(&self) -> Result<Running<'_>> {
        Running::start(self.lab, &self.home)
    }

    /// Has its bottles limited.
    fn limit(&self) -> Result<()> {
        let routes = format!("  routes:\n    - {{host: api.anthropic.com, address: {}}}\n", self.standin.address);
        let limits = "limits: {memory: 600m, cpus: 1, pids: 300}\n";
        self.home.write(".claude-bottle/bottles/box.md", &format!("---\n{limits}egress:\n{routes}---\n"))
    }

    /// One `cleanup` takes everything away, and another has nothing to do.
    fn clean(&self) -> Result<()> {
        let first = self.home.run(&["cleanup", "--yes"])?;
        let second = self.home.run(&["cleanup", "--yes"])?;
        ensure!(second.stderr.contains("nothing to clean up"), "{first:?} {second:?}");
        ensure!(self.home.identities().is_empty(), "{:?}", self.home.identities());
        Ok(())
    }
}

/// The launcher of a bottle.
fn launcher(identity: &str) -> Option<i32> {
    launchers(identity).first().copied()
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
        let before = [repo.join(".git/config"), place.home.path().join(".bashrc")].map(|file| fs::read(file).ok());
        // The machine's own home and repository are out of reach by any name; the bottle's copy is its to spoil.
        let theirs = format!(
            "for f in {0}/.bashrc {0}/.ssh/authorized_keys {0}/repo/.git/config /var/spool/cron/crontabs/root; do \
             mkdir -p $(dirname $f); echo evil >> $f; done 2>/dev/null; mv .git g; mv g .git; echo evil > .git/hooks/pre-push; echo spoilt",
            place.home.path().display()
        );
        let lines = [
            "cat deep/er/file; git status --porcelain; git log --format=%s",
            "echo more > more; git add more; git -c user.name=A -c user.email=a@example.com commit -qm second",
            "echo untracked > untracked",
            theirs.as_str(),
        ];
        let prompt = lines.map(|line| format!("@@bash {line}\n")).concat();
        let mut command = place.home.command(&["start", "dev", "--yes", "--cwd", "--prompt", &prompt]);
        let run: Run = command.current_dir(&repo).output()?.into();
        assert_eq!(run.code, Some(0), "{who:?}: {run:?}");
        let results = run.results()?;
        assert!(results[0].starts_with("deep\nfirst") && results[3].contains("spoilt"), "{who:?}: {run:?}");
        let after = [repo.join(".git/config"), place.home.path().join(".bashrc")].map(|file| fs::read(file).ok());
        let planted = [".git/hooks/pre-push", "../.ssh"].map(|file| repo.join(file).exists());
        assert_eq!((after, planted), (before, [false, false]), "{who:?}");
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
fn limits_hold_or_are_refused() -> Result<()> {
    let place = Place::new(Who::Root)?;
    place.limit()?;
    let bottle = place.running()?;
    let run = bottle.sh("ulimit -u; perl -e 'my $x = \"x\" x 900_000_000; print \"had\"'; echo rc=$?")?;
    assert_eq!(run.stdout, "300\nrc=137\n", "{run:?}");
    bottle.end()?;
    place.clean()?;
    let groups = ["memory", "cpu"].map(|name| fs::read_dir(format!("/sys/fs/cgroup/{name}")));
    let left = groups.into_iter().flatten().flatten().flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("claude-bottle.")).count(), 0);

    let place = Place::new(Who::User)?;
    place.limit()?;
    let run = place.home.run(&["start", "dev", "--yes", "--prompt", "hello"])?;
    assert_eq!(run.code, Some(125), "{run:?}");
    assert!(run.stderr.contains("no control group can be made here") && run.stderr.contains("hint:"), "{run:?}");
    Ok(())
}

/// On a machine that has control groups of version 2 alone, played by a mount: they limit, or nothing does, though those
/// of version 1 are there.
#[test]
fn control_groups_of_version_2_without_controllers_are_no_limits() -> Result<()> {
    let place = Place::new(Who::Root)?;
    place.limit()?;
    let in_version_2 = |words: &[&OsStr]| {
        let mut command = Command::new("unshare");
        let script = "mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" \"$@\"";
        command.args(["--mount", "sh", "-c", script]).args(words);
        command
    };
    let controllers = output(&mut in_version_2(&["cat", "/sys/fs/cgroup/cgroup.subtree_control"].map(OsStr::new)))?;
    let plain = place.home.command(&["start", "dev", "--yes", "--prompt", "x"]);
    let words: Vec<&OsStr> = [plain.get_program()].into_iter().chain(plain.get_args()).collect();
    let mut command = in_version_2(&words);
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let run: Run = command.current_dir(place.home.path()).stdin(Stdio::null()).output()?.into();
    if ["cpu", "memory"].iter().all(|wanted| controllers.split_whitespace().any(|has| has == *wanted)) {
        assert_eq!(run.code, Some(0), "{run:?}");
    } else {
        assert_eq!(run.code, Some(125), "{run:?}");
        let said = "want memory and cpu to be limited, and no control group can be made here";
        assert!(run.stderr.contains(said) && place.home.identities().is_empty(), "{run:?}");
    }
    Ok(())
}

/// The machine whole: `--ignored` runs it.
#[test]
#[ignore = "fifty bottles at once take the machine whole"]
fn fifty_bottles_at_once_all_run_and_all_end() -> Result<()> {
    let place = Place::new(Who::User)?;
    let script = place.home.path().join("claude");
    fs::write(&script, "#!/bin/bash\nsleep 5; echo ran; sleep 10\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
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
