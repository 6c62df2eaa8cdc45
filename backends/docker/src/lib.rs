//! The Docker backend: a bottle is a container without any way out but its sidecar.
//!
//! ```text
//!            internal network (no gateway, no address of the machine)     egress network
//! ┌────────────────────┐    9099 proxy, 53 dns   ┌─────────────────┐
//! │ claude-bottle-…    │ ──────────────────────▶ │ …-sidecars-…    │ ──────▶ hosts with a route
//! └────────────────────┘ .3                   .2 └─────────────────┘
//! ```

mod bottle;
mod diagnose;
mod launch;

use bottle::DockerBottle;
use bottle_api::{
    ActiveBottle, AttachRequest, Backend, BackendInfo, BottleSpec, BuilderRequest, Cancel, CleanupOutcome,
    CleanupRequest, Diagnosis, EnvRequest, Host, LaunchRequest, Plan, PlanSummary, Provision, Result,
    WORKSPACE_FEATURE, backend::put_files, secret::Secrets,
};
use bottle_kit::{
    address::ENGINE_ENV,
    blocks::POOL_ENV,
    container,
    derived::{self, DERIVED_ENV},
    engine::{About, Engine, Stop, block_on},
    image::{self, IMAGE_ENV, Platform, agent_tag},
    limits,
    names::Family,
    sweep,
};
use futures_util::future::try_join3;
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
    about: About,
    platform: Platform,
    /// For the agent, where the engine has a stronger one than its own.
    runtime: Option<&'static str>,
    container: String,
    /// What the workspace begins with.
    workspace: Option<PathBuf>,
}

impl Plan for DockerPlan {
    fn summary(&self) -> PlanSummary {
        let mut lines = vec![
            ("engine".into(), format!("{}, {}", self.engine.address, self.about.product)),
            ("container".into(), self.container.clone()),
            ("image".into(), agent_tag(&self.spec.env)),
        ];
        lines.extend(self.runtime.map(|runtime| ("runtime".into(), runtime.into())));
        lines.extend(self.workspace.as_ref().map(|_| ("derived image".into(), derived::tag(&self.spec))));
        PlanSummary { lines, warnings: self.about.warning().into_iter().collect(), env: self.engine.address.pinned() }
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
        let looked = block_on(async {
            let stop = Stop::follow(cancel)?;
            let engine = Engine::connect(&req.env)?;
            let about = stop.or(engine.check()).await?;
            Ok((engine, about, stop))
        });
        match (looked, &req.build) {
            (Ok((engine, about, stop)), build) => {
                block_on(diagnose::images(&self.host, &engine, &about, &req.env, build.as_ref(), &stop))
            }
            (Err(error), None) => {
                Ok(Diagnosis { findings: vec![diagnose::missing("Docker engine", error)], images: None })
            }
            (Err(error), Some(_)) => Err(error),
        }
    }

    fn resolve_plan(&self, spec: &BottleSpec, stage_dir: &Path, cancel: &Cancel) -> Result<DockerPlan> {
        block_on(async {
            let stop = Stop::follow(cancel)?;
            let engine = Engine::connect(&spec.env)?;
            let about = stop.or(engine.check()).await?;
            let is_free = async {
                match launch::pinned(spec) {
                    Some(name) => container::check_free(&engine, name).await,
                    None => Ok(()),
                }
            };
            let (info, (), ()) = stop.or(try_join3(engine.info(), is_free, image::check(&engine, &spec.env))).await?;
            limits::check(&engine.address, &info, &self.host, &spec.limits)?;
            let (platform, runtime) = (Platform::of(&about, &self.host).await?, about.runtime(&info));
            let container = launch::container_name(spec);
            let workspace = spec.workspace.as_ref().map(|file| stage_dir.join(file));
            Ok(DockerPlan { spec: spec.clone(), engine, about, platform, runtime, container, workspace })
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
            launch::launch(&self.host, &plan, req, secrets, &stop).await
        })?;
        self.host.step("provision the bottle");
        self.provision(&bottle, &plan.spec.provision, &ca_pem, cancel)?;
        Ok(bottle)
    }

    /// In one archive, which is unpacked in the order of the steps: each call costs the engine a process.
    fn provision(&self, bottle: &DockerBottle, files: &Provision, ca_pem: &str, cancel: &Cancel) -> Result<()> {
        put_files(bottle, &files.in_order(ca_pem), cancel)
    }

    fn attach(&self, req: &AttachRequest, cancel: &Cancel) -> Result<DockerBottle> {
        let engine = Engine::connect(&req.env)?;
        let finding = DockerBottle::find(self.host.clone(), engine, req);
        block_on(async { Stop::follow(cancel)?.or(finding).await })
    }

    fn builder(&self, req: &BuilderRequest, cancel: &Cancel) -> Result<DockerBottle> {
        block_on(async {
            let stop = Stop::follow(cancel)?;
            let engine = Engine::connect(&req.env)?;
            let platform = Platform::of(&stop.or(engine.check()).await?, &self.host).await?;
            let which =
                AttachRequest { identity: req.identity.clone(), owner: req.owner.clone(), env: req.env.clone() };
            let bottle = DockerBottle::find(self.host.clone(), engine, &which).await?;
            bottle.builder(&platform.helper, req, &stop).await
        })
    }

    fn list_active(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Vec<ActiveBottle>> {
        let engine = Engine::connect(&req.env)?;
        block_on(async { Stop::follow(cancel)?.or(sweep::active(&engine, &req.owner)).await })
    }

    fn prepare_cleanup(&self, req: &CleanupRequest, cancel: &Cancel) -> Result<Cleanup> {
        let engine = Engine::connect(&req.env)?;
        let sweep = block_on(async { Stop::follow(cancel)?.or(sweep::plan(&engine, Family::Containers, req)).await })?;
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
