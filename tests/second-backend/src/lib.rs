//! A trivial backend: its bottle is a directory, and its only program is one that tells what it was given.
//!
//! It isolates nothing. It exists to show that the contract is enough: the host's session code runs over it as it
//! runs over Docker.

use bottle_api::{
    ActiveBottle, Backend, BackendInfo, Bottle, BottleInfo, BottleSpec, Cancel, ChannelRequest, CleanupItem,
    CleanupOutcome, CleanupPlan, CleanupRequest, EnvRequest, Error, ErrorKind, ExitStatus, GetRequest, HELPER_PATH,
    Host, LaunchRequest, LedgerEntry, Plan, PlanSummary, Process, PutRequest, Result, StartRequest, Stdio,
    control::{ExecFrame, HELPER_READY, read_frame},
    error::Context,
    secret::Secrets,
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Mutex,
    thread::{self, JoinHandle},
    time::Duration,
};

bottle_api::export_backend!("second", Second);

struct Second {
    host: Host,
}

struct Directory {
    spec: BottleSpec,
    path: PathBuf,
}

struct Running {
    host: Host,
    entry: LedgerEntry,
    path: PathBuf,
    /// The sidecar's end of the channel: there is no sidecar.
    sidecar: Mutex<Option<UnixStream>>,
}

struct Teller(Mutex<Option<JoinHandle<i32>>>);

struct Left(Vec<CleanupItem>);

impl Plan for Directory {
    fn summary(&self) -> PlanSummary {
        let place = ("directory".into(), self.path.display().to_string());
        let warnings = vec!["this backend isolates nothing".into()];
        PlanSummary { lines: vec![place], warnings, ..PlanSummary::default() }
    }
}

impl Backend for Second {
    type Plan = Directory;
    type Bottle = Running;
    type Cleanup = Left;

    fn new(host: Host) -> Result<Self> {
        Ok(Self { host })
    }

    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "second".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            isolation: "process".into(),
            env: vec!["SECOND_ROOT".into()],
            ..BackendInfo::default()
        }
    }

    fn resolve_plan(&self, spec: &BottleSpec, _stage: &Path, _cancel: &Cancel) -> Result<Directory> {
        let root = spec.env.get("SECOND_ROOT").ok_or_else(|| {
            Error::new(ErrorKind::PREREQUISITE, "SECOND_ROOT is not set").hint("export SECOND_ROOT=/some/directory")
        })?;
        Ok(Directory { path: Path::new(root).join(&spec.identity), spec: spec.clone() })
    }

    fn launch(&self, plan: Directory, _req: &LaunchRequest, secrets: &Secrets, cancel: &Cancel) -> Result<Running> {
        if secrets.get("capability").is_none() {
            return Err(Error::new(ErrorKind::PROTOCOL, "the host sent no capability"));
        }
        let ledger = self.host.ledger(&plan.spec.identity);
        let mut entry = ledger.intent("directory", &plan.path.display().to_string())?;
        fs::create_dir(&plan.path).context("make the bottle's directory")?;
        ledger.created(&mut entry, &plan.path.display().to_string())?;
        let bottle = Running { host: self.host.clone(), entry, path: plan.path, sidecar: Mutex::new(None) };
        self.provision(&bottle, &plan.spec.provision, "no certificate\n", cancel)?;
        Ok(bottle)
    }

    fn list_active(&self, _req: &EnvRequest, _cancel: &Cancel) -> Result<Vec<ActiveBottle>> {
        Ok(vec![])
    }

    fn prepare_cleanup(&self, req: &CleanupRequest, _cancel: &Cancel) -> Result<Left> {
        Ok(Left(req.entries.iter().map(CleanupItem::from).collect()))
    }

    fn cleanup(&self, plan: Left, _deadline: Duration) -> Result<CleanupOutcome> {
        for item in &plan.0 {
            let _ = fs::remove_dir_all(&item.name);
            self.host.ledger(&item.identity).gone(&item.into())?;
        }
        Ok(CleanupOutcome { removed: plan.0, left: vec![] })
    }
}

impl CleanupPlan for Left {
    fn items(&self) -> Vec<CleanupItem> {
        self.0.clone()
    }
}

impl Bottle for Running {
    type Process = Teller;

    fn describe(&self) -> Result<BottleInfo> {
        Ok(BottleInfo { name: "second".into(), sidecar_host: "sidecar".into(), ..BottleInfo::default() })
    }

    fn start(&self, req: &StartRequest, io: Stdio, _cancel: &Cancel) -> Result<Teller> {
        let files = fs::read_dir(&self.path)?.count();
        let helper = req.argv.join(" ");
        if !helper.starts_with(HELPER_PATH) {
            return Ok(Teller(Mutex::new(Some(thread::spawn(|| 0))))); // there is no other program
        }
        let played = move || if helper.ends_with(" probe") { look(io) } else { tell(&helper, files, io) };
        Ok(Teller(Mutex::new(Some(thread::spawn(move || played().unwrap_or(99))))))
    }

    fn put(&self, _req: &PutRequest, mut tar: File, _cancel: &Cancel) -> Result<()> {
        let mut archive = vec![];
        tar.read_to_end(&mut archive)?;
        let n = fs::read_dir(&self.path)?.count();
        Ok(fs::write(self.path.join(format!("{n}.tar")), archive)?)
    }

    fn get(&self, _req: &GetRequest, _tar: File, _cancel: &Cancel) -> Result<()> {
        Err(Error::unsupported("getting files"))
    }

    fn channel(&self, _req: &ChannelRequest) -> Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        *self.sidecar.lock().map_err(|_| Error::new(ErrorKind::OTHER, "poisoned"))? = Some(ours);
        Ok(theirs.into())
    }

    fn close(&self, _deadline: Duration) -> Result<()> {
        drop(self.sidecar.lock().map(|mut end| end.take()));
        fs::remove_dir_all(&self.path)?;
        self.host.ledger(&self.entry.identity).gone(&self.entry)
    }
}

/// Plays the helper as it looks around in a bottle that is closed. This one is not, and runs nothing either.
fn look(io: Stdio) -> Result<i32> {
    drop(io.stdin);
    File::from(io.stdout).write_all(include_bytes!("../../../bottle-host/src/probe/closed.json"))?;
    Ok(0)
}

/// Plays the in-bottle helper, and then a program that tells what it was given.
fn tell(helper: &str, archives: usize, io: Stdio) -> Result<i32> {
    let (mut stdin, mut stdout) = (File::from(io.stdin), File::from(io.stdout));
    stdout.write_all(&[HELPER_READY])?;
    let frame: ExecFrame = read_frame(&mut stdin)?.context_or("no frame")?;
    writeln!(stdout, "helper {helper}")?;
    writeln!(stdout, "argv {}", frame.argv.join(" "))?;
    writeln!(stdout, "env {}", frame.env.keys().cloned().collect::<Vec<_>>().join(" "))?;
    writeln!(stdout, "archives {archives}")?;
    if let Some(stderr) = io.stderr {
        writeln!(File::from(stderr), "told on standard error")?;
    }
    Ok(7)
}

trait ContextOr<T> {
    fn context_or(self, what: &str) -> Result<T>;
}

impl<T> ContextOr<T> for Option<T> {
    fn context_or(self, what: &str) -> Result<T> {
        self.ok_or_else(|| Error::new(ErrorKind::PROTOCOL, what))
    }
}

impl Process for Teller {
    fn wait(&self, _cancel: &Cancel) -> Result<ExitStatus> {
        let thread = self.0.lock().ok().and_then(|mut t| t.take());
        let code = thread.and_then(|t| t.join().ok()).context_or("the teller panicked")?;
        Ok(ExitStatus { code })
    }
}
