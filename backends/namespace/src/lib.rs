//! The namespace backend: a bottle is a set of Linux namespaces on this machine. No daemon, no root, nothing to install.
//!
//! ```text
//!   network namespace without a link         this machine's network
//! ┌──────────────────────────────┐  9099   ┌────────────────────┐
//! │ PID 1, the agent's processes │ ══════▶ │ the sidecar bundle │ ──────▶ hosts with a route
//! └──────────────────────────────┘  53     └────────────────────┘
//!                 sockets that listen inside, and are accepted from outside
//! ```
//!
//! All that there is of a bottle is processes, found by the labels on their launcher's command line, and where limits are
//! asked for, control groups. `bottle-namespace` makes them; see there for how.

mod bottle;
mod claude;
mod cleanup;
mod diagnose;
mod find;
mod git;
mod launch;
mod limits;
mod process;
mod tools;

use bottle::NamespaceBottle;
use bottle_api::{
    ActiveBottle, AttachRequest, Backend, BackendInfo, Bottle, BottleSpec, Cancel, CleanupItem, CleanupOutcome,
    CleanupPlan, CleanupRequest, Diagnosis, EnvRequest, Error, ErrorKind, FileEntry, Host, LaunchRequest, Plan,
    PlanSummary, Provision, PutRequest, Result, WORKSPACE_FEATURE, backend::put_files, error::Context, secret::Secrets,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};
use tools::Tools;

bottle_api::export_backend!("namespace", NamespaceBackend);

struct NamespaceBackend {
    host: Host,
}

struct NamespacePlan {
    spec: BottleSpec,
    /// The stage directory, in which the socket is that commands come by.
    stage: PathBuf,
    tools: Tools,
    /// What the workspace begins with.
    workspace: Option<PathBuf>,
}

impl Plan for NamespacePlan {
    fn summary(&self) -> PlanSummary {
        let mut lines = vec![
            ("system".into(), "this machine's own, read-only".into()),
            ("claude".into(), self.tools.claude.clone()),
        ];
        lines.extend((!self.tools.found.is_empty()).then(|| ("tools".into(), self.tools.found.join(", "))));
        PlanSummary { lines, warnings: diagnose::warnings(), ..PlanSummary::default() }
    }
}

impl Backend for NamespaceBackend {
    type Plan = NamespacePlan;
    type Bottle = NamespaceBottle;
    type Cleanup = Cleanup;

    fn new(host: Host) -> Result<Self> {
        Ok(Self { host })
    }

    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "namespace".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            isolation: "container".into(),
            features: vec![WORKSPACE_FEATURE.into()],
            env: tools::ENV.map(str::to_owned).into(),
        }
    }

    fn diagnose(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Diagnosis> {
        if req.build.is_some() {
            return Err(Error::unsupported("images: a bottle's system is this machine's own"));
        }
        Ok(Diagnosis { findings: diagnose::findings(&self.host, &req.env, cancel), images: None })
    }

    fn resolve_plan(&self, spec: &BottleSpec, stage_dir: &Path, cancel: &Cancel) -> Result<NamespacePlan> {
        cancel.check()?;
        limits::check(&spec.limits)?;
        git::check(&spec.daemons)?;
        let tools = Tools::find(&spec.env)?;
        let workspace = spec.workspace.as_ref().map(|file| stage_dir.join(file));
        Ok(NamespacePlan { spec: spec.clone(), stage: stage_dir.to_owned(), tools, workspace })
    }

    fn launch(
        &self,
        plan: NamespacePlan,
        req: &LaunchRequest,
        secrets: &Secrets,
        cancel: &Cancel,
    ) -> Result<NamespaceBottle> {
        self.host.step("make the bottle");
        let (bottle, ca_pem) = launch::launch(&self.host, &plan, req, secrets, cancel)?;
        if let Some(archive) = &plan.workspace {
            self.host.step("bring the working directory along");
            let tar = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
            bottle.put(&PutRequest { dest: "/".into(), owner: None }, tar, cancel)?;
        }
        self.provision(&bottle, &plan.spec.provision, &ca_pem, cancel)?;
        Ok(bottle)
    }

    /// Root's files are written while the bottle is made: nobody in it can, afterwards.
    fn provision(&self, bottle: &NamespaceBottle, files: &Provision, ca_pem: &str, cancel: &Cancel) -> Result<()> {
        let own: Vec<FileEntry> = files.in_order(ca_pem).into_iter().filter(|file| file.uid != 0).collect();
        put_files(bottle, &own, cancel)
    }

    fn attach(&self, req: &AttachRequest, cancel: &Cancel) -> Result<NamespaceBottle> {
        cancel.check()?;
        let of = |found: &find::Launcher| found.label("identity") == req.identity && found.label("owner") == req.owner;
        let missing = || {
            Error::new(ErrorKind::NOT_FOUND, format!("the bottle {} does not run on this machine", req.identity))
                .hint("`bottle list active` shows the bottles that run.")
        };
        Ok(NamespaceBottle::of(find::launchers().into_iter().find(of).ok_or_else(missing)?))
    }

    fn list_active(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Vec<ActiveBottle>> {
        cancel.check()?;
        let ours = find::launchers().into_iter().filter(|found| found.label("owner") == req.owner);
        Ok(ours.map(|found| found.active()).collect())
    }

    fn prepare_cleanup(&self, req: &CleanupRequest, cancel: &Cancel) -> Result<Cleanup> {
        cancel.check()?;
        Ok(Cleanup(cleanup::plan(req)))
    }

    fn cleanup(&self, plan: Cleanup, deadline: Duration) -> Result<CleanupOutcome> {
        cleanup::execute(&self.host, plan.0, deadline)
    }
}

struct Cleanup(Vec<CleanupItem>);

impl CleanupPlan for Cleanup {
    fn items(&self) -> Vec<CleanupItem> {
        self.0.clone()
    }
}
