//! The Docker backend: a bottle is a container without any way out but its sidecar.
//!
//! ```text
//!            internal network (no gateway, no address of the machine)     egress network
//! ┌────────────────────┐    9099 proxy, 53 dns   ┌─────────────────┐
//! │ claude-bottle-…    │ ──────────────────────▶ │ …-sidecars-…    │ ──────▶ hosts with a route
//! └────────────────────┘ .3                   .2 └─────────────────┘
//! ```

mod bottle;
mod launch;

use bottle::DockerBottle;
use bottle_api::{
    ActiveBottle, AttachRequest, Backend, BackendInfo, BottleSpec, Cancel, CleanupOutcome, CleanupRequest, Diagnosis,
    EnvRequest, Finding, Host, LaunchRequest, Plan, PlanSummary, Result, WORKSPACE_FEATURE, secret::Secrets,
};
use bottle_kit::{
    blocks::POOL_ENV,
    derived::{self, DERIVED_ENV},
    engine::{ENGINE_ENV, Engine, Stop, block_on},
    image::{IMAGE_ENV, agent_tag},
    sweep,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

bottle_api::export_backend!("docker", DockerBackend);

/// Pins the agent container's name.
const CONTAINER_ENV: &str = "CLAUDE_BOTTLE_CONTAINER";

struct DockerBackend {
    host: Host,
}

struct DockerPlan {
    spec: BottleSpec,
    engine: Engine,
    container: String,
    /// What the workspace begins with.
    workspace: Option<PathBuf>,
}

impl Plan for DockerPlan {
    fn summary(&self) -> PlanSummary {
        let mut lines = vec![
            ("engine".into(), self.engine.address.to_string()),
            ("container".into(), self.container.clone()),
            ("image".into(), agent_tag(&self.spec)),
        ];
        lines.extend(self.workspace.as_ref().map(|_| ("derived image".into(), derived::tag(&self.spec))));
        PlanSummary { lines, warnings: vec![] }
    }
}

impl Backend for DockerBackend {
    type Plan = DockerPlan;
    type Bottle = DockerBottle;
    type Cleanup = Cleanup;

    fn new(host: Host) -> Result<Self> {
        Ok(Self { host })
    }

    fn info(&self) -> BackendInfo {
        let env = [ENGINE_ENV, IMAGE_ENV, &[POOL_ENV, CONTAINER_ENV, DERIVED_ENV]].concat();
        BackendInfo {
            name: "docker".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            isolation: "container".into(),
            features: vec![WORKSPACE_FEATURE.into()],
            env: env.into_iter().map(str::to_owned).collect(),
        }
    }

    fn diagnose(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Diagnosis> {
        let found = Engine::connect(&req.env).and_then(|engine| {
            block_on(async { Stop::follow(cancel)?.or(engine.ping()).await })?;
            Ok(engine.address.to_string())
        });
        let what = "Docker engine".to_owned();
        let finding = match found {
            Ok(found) => Finding { what, ok: true, found, hint: None },
            Err(error) => Finding { what, ok: false, found: error.to_string(), hint: error.hint },
        };
        Ok(Diagnosis { findings: vec![finding] })
    }

    fn validate(&self, spec: &BottleSpec, cancel: &Cancel) -> Result<()> {
        let engine = Engine::connect(&spec.env)?;
        block_on(async { Stop::follow(cancel)?.or(engine.ping()).await })
    }

    fn resolve_plan(&self, spec: &BottleSpec, stage_dir: &Path, _cancel: &Cancel) -> Result<DockerPlan> {
        Ok(DockerPlan {
            engine: Engine::connect(&spec.env)?,
            container: launch::container_name(spec),
            workspace: spec.workspace.as_ref().map(|file| stage_dir.join(file)),
            spec: spec.clone(),
        })
    }

    fn launch(
        &self,
        plan: DockerPlan,
        req: &LaunchRequest,
        secrets: &Secrets,
        cancel: &Cancel,
    ) -> Result<DockerBottle> {
        let (bottle, ca_pem) = block_on(async {
            let stop = Stop::follow(cancel)?;
            let workspace = plan.workspace.as_deref();
            launch::launch(&self.host, &plan.engine, &plan.spec, workspace, req, secrets, &stop).await
        })?;
        self.host.step("provision the bottle");
        self.provision(&bottle, &plan.spec.provision, &ca_pem, cancel)?;
        Ok(bottle)
    }

    fn attach(&self, req: &AttachRequest, cancel: &Cancel) -> Result<DockerBottle> {
        let engine = Engine::connect(&req.env)?;
        let finding = DockerBottle::find(self.host.clone(), engine, req);
        block_on(async { Stop::follow(cancel)?.or(finding).await })
    }

    fn list_active(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Vec<ActiveBottle>> {
        let engine = Engine::connect(&req.env)?;
        block_on(async { Stop::follow(cancel)?.or(sweep::active(&engine, &req.owner)).await })
    }

    fn prepare_cleanup(&self, req: &CleanupRequest, cancel: &Cancel) -> Result<Cleanup> {
        let engine = Engine::connect(&req.env)?;
        let sweep = block_on(async { Stop::follow(cancel)?.or(sweep::plan(&engine, req)).await })?;
        Ok(Cleanup { engine, sweep })
    }

    fn cleanup(&self, plan: Cleanup, deadline: Duration) -> Result<CleanupOutcome> {
        block_on(sweep::execute(&plan.engine, &self.host, plan.sweep, deadline))
    }
}

struct Cleanup {
    engine: Engine,
    sweep: sweep::Sweep,
}

impl bottle_api::CleanupPlan for Cleanup {
    fn items(&self) -> Vec<bottle_api::CleanupItem> {
        self.sweep.items.clone()
    }
}
