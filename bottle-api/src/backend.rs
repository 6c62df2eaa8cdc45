//! What a backend author implements: plain Rust, `std` types, `?`.
//!
//! ```text
//! Backend ── resolve_plan ─▶ Plan ── launch ─▶ Bottle ── start ─▶ Process
//!         ── prepare_cleanup ─▶ CleanupPlan ── cleanup ─▶ outcome
//! ```
//!
//! What a bottle must look like from inside: [`crate::HELPER_PATH`] is the helper, and a first process that reaps
//! (`bottle-helper init` does); [`crate::HOME`] and [`crate::WORKSPACE`] exist and belong to [`crate::AGENT_UID`];
//! `claude` is on the path; there is no route and no resolver but the sidecar's ([`crate::control`]), which is reached at
//! what [`Bottle::describe`] says.
//!
//! A backend never prints, never reads the process's environment, never installs a signal handler and never
//! touches the terminal: [`Host`] is there for all of that.

use crate::{
    error::{BUILDING, Error, ErrorKind, Result},
    host::{Cancel, Host},
    provision::{FileEntry, Provision, pack},
    request::*,
    secret::Secrets,
    spec::*,
};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A kind of place in which bottles run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a backend",
    label = "not a backend",
    note = "export the type that implements `bottle_api::Backend`"
)]
pub trait Backend: Send + Sync + Sized + 'static {
    /// What [`Backend::resolve_plan`] worked out.
    type Plan: Plan;
    /// A running bottle.
    type Bottle: Bottle;
    /// What [`Backend::prepare_cleanup`] found.
    type Cleanup: CleanupPlan;

    /// Called once. `host` lives as long as the process.
    fn new(host: Host) -> Result<Self>;

    /// Name, version, strength, and the host's variables it wants.
    fn info(&self) -> BackendInfo;

    /// What the backend needs and whether it is there.
    fn diagnose(&self, _req: &EnvRequest, _cancel: &Cancel) -> Result<Diagnosis> {
        Ok(Diagnosis::default())
    }

    /// Extra preconditions. The host's own checks ran before and cannot be skipped.
    fn validate(&self, _spec: &BottleSpec, _cancel: &Cancel) -> Result<()> {
        Ok(())
    }

    /// Resolves names and writes scratch files into `stage_dir`. Creates nothing else.
    fn resolve_plan(&self, spec: &BottleSpec, stage_dir: &Path, cancel: &Cancel) -> Result<Self::Plan>;

    /// Makes the bottle run, provisioned. Everything it creates it announces to [`Host::ledger`] first; after an
    /// error the host has the ledger cleaned up, so nothing needs undoing here.
    fn launch(&self, plan: Self::Plan, req: &LaunchRequest, secrets: &Secrets, cancel: &Cancel)
    -> Result<Self::Bottle>;

    /// Finds a running bottle again.
    fn attach(&self, _req: &AttachRequest, _cancel: &Cancel) -> Result<Self::Bottle> {
        Err(Error::unsupported("attaching to a running bottle"))
    }

    /// The running bottles of this owner.
    fn list_active(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Vec<ActiveBottle>>;

    /// What earlier bottles left behind. Removes nothing.
    fn prepare_cleanup(&self, req: &CleanupRequest, cancel: &Cancel) -> Result<Self::Cleanup>;

    /// Removes it, each thing by engine id or by its entry's label, and reports each to the ledger.
    fn cleanup(&self, plan: Self::Cleanup, deadline: Duration) -> Result<CleanupOutcome>;

    /// A bottle beside a running one: of that image or the running one's without its workspace, with the same way out
    /// and no other, the same limits, and nothing of this machine in it. Its root may install things, and no more. It is
    /// there to be committed, and closed as any other.
    fn builder(&self, _req: &BuilderRequest, _cancel: &Cancel) -> Result<Self::Bottle> {
        Err(Error::unsupported(BUILDING))
    }

    // ---- provisioning: `launch` calls `self.provision(…)` once the instance runs ----

    /// ca → prompt → skills → git → supervise. The certificate authority comes first, so that nothing makes a
    /// TLS call before the trust store is right.
    fn provision(&self, bottle: &Self::Bottle, files: &Provision, ca_pem: &str, cancel: &Cancel) -> Result<()> {
        self.provision_ca(bottle, files, ca_pem, cancel)?;
        self.provision_prompt(bottle, files, cancel)?;
        self.provision_skills(bottle, files, cancel)?;
        self.provision_git(bottle, files, cancel)?;
        self.provision_supervise(bottle, files, cancel)
    }

    /// The bottle's own certificate authority, at every path that the host names.
    fn provision_ca(&self, bottle: &Self::Bottle, files: &Provision, ca_pem: &str, cancel: &Cancel) -> Result<()> {
        put_files(bottle, &files.ca(ca_pem), cancel)
    }

    /// The system prompt, and the files that make the client's first-run screens go away.
    fn provision_prompt(&self, bottle: &Self::Bottle, files: &Provision, cancel: &Cancel) -> Result<()> {
        put_files(bottle, &files.prompt, cancel)
    }

    /// The agent's skills.
    fn provision_skills(&self, bottle: &Self::Bottle, files: &Provision, cancel: &Cancel) -> Result<()> {
        put_files(bottle, &files.skills, cancel)
    }

    /// Git's configuration.
    fn provision_git(&self, bottle: &Self::Bottle, files: &Provision, cancel: &Cancel) -> Result<()> {
        put_files(bottle, &files.git, cancel)
    }

    /// The operator's server.
    fn provision_supervise(&self, bottle: &Self::Bottle, files: &Provision, cancel: &Cancel) -> Result<()> {
        put_files(bottle, &files.supervise, cancel)
    }
}

/// Puts files into a bottle, in one archive.
pub fn put_files(bottle: &impl Bottle, files: &[FileEntry], cancel: &Cancel) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let req = PutRequest { dest: "/".into(), owner: None };
    bottle.put(&req, pack(files)?, cancel)
}

/// A resolved plan.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a plan",
    label = "not a plan",
    note = "implement `bottle_api::Plan` for it, or give `Backend::Plan` the type that `resolve_plan` returns"
)]
pub trait Plan: Send + 'static {
    /// What the backend adds to the preflight.
    fn summary(&self) -> PlanSummary;
}

/// Things to remove.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cleanup plan",
    label = "not a cleanup plan",
    note = "implement `bottle_api::CleanupPlan` for it, or give `Backend::Cleanup` the type that `prepare_cleanup` returns"
)]
pub trait CleanupPlan: Send + 'static {
    /// All of them, for the operator's y/N.
    fn items(&self) -> Vec<CleanupItem>;
}

/// The host's ends of a process's standard streams. With a terminal there is no `stderr`.
pub struct Stdio {
    /// The process reads what arrives here.
    pub stdin: OwnedFd,
    /// The process's output goes here.
    pub stdout: OwnedFd,
    /// Its error output, where there is no terminal.
    pub stderr: Option<OwnedFd>,
}

/// A running bottle.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a bottle",
    label = "not a bottle",
    note = "implement `bottle_api::Bottle` for it, or give `Backend::Bottle` the type that `launch` returns"
)]
pub trait Bottle: Send + Sync + 'static {
    /// A process in it.
    type Process: Process;

    /// Where things are.
    fn describe(&self) -> Result<BottleInfo>;

    /// Starts a process. With a terminal, its size holds before the program runs.
    fn start(&self, req: &StartRequest, io: Stdio, cancel: &Cancel) -> Result<Self::Process>;

    /// Unpacks a tar stream.
    fn put(&self, req: &PutRequest, tar: File, cancel: &Cancel) -> Result<()>;

    /// Packs a path into a tar stream.
    fn get(&self, req: &GetRequest, tar: File, cancel: &Cancel) -> Result<()>;

    /// The control channel of the sidecar, from after [`crate::control::First`] on. Once only.
    fn channel(&self, req: &ChannelRequest) -> Result<OwnedFd>;

    /// Tears the bottle down in reverse order of creation. Called once at most; on drop too, unless the bottle was
    /// detached, or attached to in the first place.
    fn close(&self, deadline: Duration) -> Result<()>;

    /// Of a builder ([`Backend::builder`]): ends all that runs in it, and makes an image of what is in it, announced to
    /// the ledger. The image keeps the other's settings. It outlives its bottle: `close` leaves it alone, and a cleanup
    /// whose request says so.
    fn commit(&self, _req: &CommitRequest, _cancel: &Cancel) -> Result<Built> {
        Err(Error::unsupported(BUILDING))
    }
}

/// The control channel of a sidecar, for [`Bottle::channel`]: with whoever launched the bottle, until it is taken.
#[derive(Debug, Default)]
pub struct SidecarChannel(Mutex<Option<OwnedFd>>);

impl SidecarChannel {
    /// What was requested, once. A bottle that was attached to, whose channel is its owner's, has a default one.
    pub fn take(&self, req: &ChannelRequest) -> Result<OwnedFd> {
        if req.name != "sidecar" {
            return Err(Error::unsupported(&format!("a channel named {}", req.name)));
        }
        let taken = || Error::new(ErrorKind::CONFLICT, "the sidecar's channel was taken already");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(taken)
    }
}

impl From<OwnedFd> for SidecarChannel {
    fn from(channel: OwnedFd) -> Self {
        Self(Mutex::new(Some(channel)))
    }
}

/// A process in a bottle.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a process of a bottle",
    label = "not a process of a bottle",
    note = "implement `bottle_api::Process` for it, or give `Bottle::Process` the type that `start` returns"
)]
pub trait Process: Send + Sync + 'static {
    /// Waits for its end and for its output to be through.
    fn wait(&self, cancel: &Cancel) -> Result<ExitStatus>;

    /// Changes its terminal's size.
    fn resize(&self, _req: &ResizeRequest) -> Result<()> {
        Err(Error::unsupported("resizing a terminal"))
    }

    /// Sends it a signal.
    fn signal(&self, _req: &SignalRequest) -> Result<()> {
        Err(Error::unsupported("sending a signal"))
    }
}
