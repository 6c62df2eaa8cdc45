//! Where a secret is, and where it must not be: the injected credential in the sidecar alone, an env secret in the agent's
//! processes. Every search must also find what is there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::{
    bottle::{Home, PATIENCE, Run, assert_nothing_left, contains, eventually, identity_in, is_running, report},
    lab::{Lab, output},
    running::Running,
    standin::Standin,
    target::Target,
    tiny,
    wire::Authority,
};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The values of one test, like no other's: the engine is shared with other bottles.
struct Secrets {
    injected: String,
    env: String,
    /// Written to a file of the bottle, to be found.
    planted: String,
}

impl Secrets {
    fn new() -> Self {
        let salt = tempfile::tempdir().unwrap().path().display().to_string().replace(['/', '.'], "-");
        let value = |kind: &str| format!("{kind}{salt}-{:x}", std::process::id());
        Self { injected: value("sk-ant-oat01-injected"), env: value("env-secret"), planted: value("planted") }
    }

    fn home(&self, lab: &Lab) -> Result<(Home, Standin)> {
        let authority = Authority::new()?;
        let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {}", self.injected))?;
        let home = Home::new(lab, &authority, &standin)?;
        Ok((home.with_env("CLAUDE_BOTTLE_OAUTH_TOKEN", &self.injected).with_env("HOST_SECRET", &self.env), standin))
    }

    /// Which of the two are in here, as they are or as a frame carries them.
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let both = [self.injected.as_str(), self.env.as_str()];
        let is_in = |value: &&str| {
            contains(bytes, value.as_bytes()) || contains(bytes, BASE64_STANDARD.encode(value).as_bytes())
        };
        both.into_iter().filter(is_in).collect()
    }

    /// No trace of either, and a trace of something that is known to be there.
    fn absent(&self, place: &str, bytes: &[u8], known: &str) {
        assert!(contains(bytes, known.as_bytes()), "{place}: the search finds nothing at all, not even {known:?}");
        assert_eq!(self.found_in(bytes), Vec::<&str>::new(), "{place} holds a secret");
    }
}

/// A process of this machine.
struct Process {
    pid: i32,
    /// Its namespace of processes.
    namespace: Option<PathBuf>,
    argv: Vec<u8>,
    environ: Vec<u8>,
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let read = |pid: i32, file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    pids.map(|pid| Process {
        pid,
        namespace: namespace(pid),
        argv: read(pid, "cmdline"),
        environ: read(pid, "environ"),
    })
    .collect()
}

fn namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Which of these values a process has in its writable memory.
fn in_memory(pid: i32, values: [&str; 2]) -> Result<Vec<&str>> {
    const CHUNK: u64 = 1 << 20;
    const PAGE: u64 = 4096;
    let (memory, pages) = (File::open(format!("/proc/{pid}/mem"))?, File::open(format!("/proc/{pid}/pagemap"))?);
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    // Each mapping's own line, and how much of it is in use.
    let in_use = maps.split("VmFlags:").filter_map(|mapping| {
        let head = mapping.lines().find(|line| line.contains(" rw"))?.split_whitespace().next()?;
        let used = mapping.lines().find_map(|line| line.strip_prefix("Rss:"))?;
        let (from, to) = head.split_once('-')?;
        let range = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        (used.trim() != "0 kB").then_some(range)
    });
    let ranges: Vec<(u64, u64)> = in_use.collect();
    // A program's memory is large: grep looks through it as it comes, a string between two NULs at a time.
    let mut grep = Command::new("grep");
    grep.args(["-zoaF", "-e", values[0], "-e", values[1]]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut grep = grep.spawn()?;
    let mut to_grep = grep.stdin.take().context("stdin")?;
    let reader = std::thread::spawn(move || {
        for (from, to) in ranges {
            for at in (from..to).step_by(CHUNK as usize) {
                let length = CHUNK.min(to - at);
                let mut present = vec![0; (length / PAGE * 8) as usize];
                let _ = pages.read_exact_at(&mut present, at / PAGE * 8);
                let mut chunk = vec![0; length as usize];
                // Memory that was never used, or has gone meanwhile, holds nothing.
                if present.iter().any(|byte| *byte != 0)
                    && let Ok(n) = memory.read_at(&mut chunk, at)
                    && to_grep.write_all(&chunk[..n]).is_err()
                {
                    return;
                }
            }
        }
    });
    let said = grep.wait_with_output()?.stdout;
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    Ok(values.into_iter().filter(|value| contains(&said, value.as_bytes())).collect())
}

/// The files below a directory that hold a text, or what a frame makes of it.
fn files_with(dir: &Path, text: &str) -> Result<Vec<String>> {
    let encoded = BASE64_STANDARD.encode(text);
    let mut command = Command::new("grep");
    // Other bottles come and go; a container's merged directory is its layers again.
    command.args(["-rlaFs", "-D", "skip", "--exclude-dir=merged", "-e", text, "-e", &encoded]).arg(dir);
    let found = command.stdin(Stdio::null()).output()?;
    anyhow::ensure!(found.status.code() != Some(127), "{found:?}");
    Ok(String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect())
}

/// Everything that the engine tells of the bottle's objects, its programs and its images.
fn told_by_engine(lab: &Lab, bottle: &Running<'_>) -> Result<String> {
    let (agent, sidecar) = (bottle.container("agent")?, bottle.container("sidecar")?);
    let mut said =
        lab.docker(&["inspect", &agent, &sidecar, &bottle.network("internal")?, &bottle.network("egress")?])?;
    let execs = lab.docker(&["inspect", "-f", "{{range .ExecIDs}}{{.}}\n{{end}}", &agent])?;
    let socket = lab.docker_host.trim_start_matches("unix://");
    assert!(execs.lines().count() > 0, "the session and its helper are programs that the engine started");
    for exec in execs.lines() {
        said += &output(Command::new("curl").args([
            "-sS",
            "--unix-socket",
            socket,
            &format!("http://engine/exec/{exec}/json"),
        ]))?;
    }
    for id in [&agent, &sidecar] {
        let image = lab.docker(&["inspect", "-f", "{{.Image}}", id])?;
        said += &lab.docker(&["inspect", image.trim()])?;
        said += &lab.docker(&["history", "--no-trunc", image.trim()])?;
        said += &lab.docker(&["top", id, "-eo", "pid,args"])?;
        said += &lab.docker(&["diff", id])?;
    }
    Ok(said)
}

#[test]
fn a_secret_is_where_it_belongs_and_nowhere_else() -> Result<()> {
    let (lab, secrets) = (Lab::get(), Secrets::new());
    let (home, standin) = secrets.home(lab)?;
    let bottle = Running::start(lab, &home)?;
    eventually("the model is asked with the credential", || (!standin.seen().is_empty()).then_some(()))?;
    let run = bottle.sh(&format!(
        "echo {} > ~/planted; echo \"$AGENT_SECRET\"; sleep infinity & echo $! > ~/sleeper; disown",
        secrets.planted
    ))?;
    assert_eq!(run.stdout.trim(), secrets.env, "the agent's programs have the env secret");
    let agents = bottle.processes("agent")?;

    // Command lines and environments of every process.
    let owner = i32::try_from(bottle.owner.id())?;
    let agents_own = namespace(bottle.first_process("agent")?);
    assert!(agents_own.is_some());
    for process in processes() {
        assert_eq!(secrets.found_in(&process.argv), Vec::<&str>::new(), "the command line of {}", process.pid);
        let is_agents = process.namespace == agents_own;
        let has = |value: &str| contains(&process.environ, value.as_bytes());
        // The owner was given both by its user.
        assert!(process.pid == owner || !has(&secrets.injected), "the environment of {}", process.pid);
        assert!(process.pid == owner || is_agents || !has(&secrets.env), "the environment of {}", process.pid);
    }
    let with_env = processes()
        .iter()
        .filter(|p| p.namespace == agents_own && contains(&p.environ, secrets.env.as_bytes()))
        .count();
    assert!(with_env >= 2, "neither the agent nor its child is seen to have the env secret");

    // Memory: of the sidecar's daemons one has the credential; the agent's processes never have.
    let both = [secrets.injected.as_str(), secrets.env.as_str()];
    let daemon = |name: &str| {
        let line = format!("\0daemon\0{name}\0");
        let is_it =
            |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|argv| contains(&argv, line.as_bytes()));
        bottle.processes("sidecar")?.into_iter().find(is_it).with_context(|| format!("the daemon {name}"))
    };
    for (name, has) in [("egress", true), ("dns", false)] {
        let found = in_memory(daemon(name)?, both)?;
        assert_eq!(found.contains(&both[0]), has, "the daemon {name} has the injected credential");
    }
    let mut aware = 0;
    for pid in &agents {
        let Ok(found) = in_memory(*pid, both) else { continue }; // it has ended
        assert!(!found.contains(&both[0]), "the agent's process {pid} holds the injected credential");
        aware += usize::from(found.contains(&both[1]));
    }
    assert!(aware > 0, "no memory of the agent's is seen to hold its env secret");

    // What the engine tells, where there is one; what bottle keeps, while it runs.
    let has_engine = home.target() == Target::Docker;
    if has_engine {
        secrets.absent("the engine's account", told_by_engine(lab, &bottle)?.as_bytes(), &bottle.identity);
    }
    assert!(!files_with(home.path(), &bottle.identity)?.is_empty());
    for value in [&secrets.injected, &secrets.env] {
        assert_eq!(files_with(home.path(), value)?, Vec::<String>::new(), "a file of the home holds a secret");
    }

    // Crashes leave nothing: the sidecar's daemon and a program of the agent's.
    assert_eq!(bottle.sh("kill -ABRT $(cat ~/sleeper)")?.code, Some(0));
    let crashed = daemon("egress")?;
    output(Command::new("kill").args(["-ABRT", &crashed.to_string()]))?;
    eventually("the daemon is started again", || daemon("egress").ok().filter(|pid| *pid != crashed))?;

    // The engine's own files: layers, containers' settings, logs, core files if there were any.
    if has_engine {
        let data = Path::new(lab.docker_host.trim_start_matches("unix://")).parent().context("its directory")?;
        for (what, value) in [("identity", &bottle.identity), ("file in the agent's layer", &secrets.planted)] {
            assert!(!files_with(data, value)?.is_empty(), "the engine's files are not read: its {what} is not found");
        }
        for value in [&secrets.injected, &secrets.env] {
            assert_eq!(files_with(data, value)?, Vec::<String>::new(), "a file of the engine's holds a secret");
        }
    }

    let identity = bottle.identity.clone();
    let run = bottle.end()?;
    secrets.absent("what bottle said", format!("{run:?}").as_bytes(), &identity);
    // The log, which is all that is left.
    let log = home.egress_log().iter().map(ToString::to_string).collect::<String>();
    secrets.absent("the egress log", log.as_bytes(), "api.anthropic.com");
    Ok(())
}

#[test]
fn a_sidecar_drops_its_secrets_within_a_second_of_its_hosts_death() -> Result<()> {
    let (lab, secrets) = (Lab::get(), Secrets::new());
    let (home, _standin) = secrets.home(lab)?;
    let home = tiny::at(home, lab)?;
    let both = [secrets.injected.as_str(), secrets.env.as_str()];
    let mut times = vec![];
    for _ in 0..3 {
        let mut bottle = Running::start(lab, &home)?;
        let (sidecar, own) = (bottle.processes("sidecar")?, namespace(bottle.first_process("sidecar")?));
        let holds = |pid: &i32| in_memory(*pid, both).is_ok_and(|found| found.contains(&both[0]));
        assert!(own.is_some() && sidecar.iter().any(holds), "no process of the sidecar's holds its secret");
        // A process that has ended has no memory, whoever has yet to hear of its end.
        let began = Instant::now();
        bottle.owner.kill()?;
        while sidecar.iter().any(|pid| is_running(*pid)) {
            assert!(began.elapsed() < PATIENCE, "the sidecar lives on");
            sleep(Duration::from_millis(2));
        }
        times.push(began.elapsed());
        let others = processes().iter().filter(|p| p.namespace == own && is_running(p.pid)).count();
        assert_eq!(others, 0, "there are other processes of the sidecar's");
        // Until its last file is closed, its lock is one.
        bottle.owner.wait()?;
        let run = home.run(&["cleanup", "--yes"])?;
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(home.run(&["state", "rm", "--all", "--yes"])?.code, Some(0), "its conversation was saved");
        assert_nothing_left(lab, &home, &bottle.identity).with_context(|| format!("after {run:?}"))?;
    }
    report(format!("the sidecar's processes were gone after {times:?}"));
    assert!(times.iter().all(|time| *time <= Duration::from_secs(1)), "{times:?}");
    Ok(())
}

#[test]
fn an_error_tells_no_secret() -> Result<()> {
    let (lab, secrets) = (Lab::get(), Secrets::new());
    let (home, _standin) = secrets.home(lab)?;
    let arguments = ["start", "dev", "--yes", "--prompt", "hello"];
    let made = format!("error@ledger-created:{}", home.target().things());
    for fault in [made.as_str(), "panic@launched:1", "error@close:1"] {
        let env = [("CLAUDE_BOTTLE_FAULT", fault), ("BOTTLE_LOG", "5"), ("RUST_BACKTRACE", "1")];
        let run: Run = home.start(&arguments, &env)?.finish()?;
        assert_ne!(run.code, Some(0), "{run:?}");
        secrets.absent(fault, format!("{run:?}").as_bytes(), "fault point");
        assert_eq!(home.target().left(lab, &identity_in(&run.stderr)?)?, Vec::<String>::new());
        for value in [&secrets.injected, &secrets.env] {
            assert_eq!(files_with(home.path(), value)?, Vec::<String>::new(), "{fault}");
        }
        assert_eq!(home.run(&["cleanup", "--yes"])?.code, Some(0));
        assert_eq!(home.run(&["state", "rm", "--all", "--yes"])?.code, Some(0));
        assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)?;
    }
    Ok(())
}
