//! The smolmachines backend: a bottle is a micro VM whose only way out is its sidecar, a container on a bridge of its own.
//!
//! ```text
//!   machine (smolvm)                        this machine               bridge, one per bottle
//! ┌───────────────────┐  one address, all  ┌────────────┐        ┌───────────────────┐
//! │ claude-bottle-…   │ ─────────────────▶ │ smolvm's   │ ─────▶ │ …-sidecars-…   .2 │ ──────▶ hosts with a route
//! │ no names, no root │  its ports; no UDP │ gateway    │  .1    └───────────────────┘
//! └───────────────────┘                    └────────────┘
//! ```
//!
//! The bundle sees the machine as the bridge's gateway, as it sees this machine and everybody on it: what tells a bottle
//! from a stranger is its capability alone, and every daemon asks for it.

mod bottle;
mod cleanup;
mod cli;
mod diagnose;
mod launch;
mod machine;
mod process;
mod vmm;

use bottle::MachineBottle;
use bottle_api::{
    ActiveBottle, AttachRequest, Backend, BackendInfo, Bottle, BottleSpec, Cancel, CleanupOutcome, CleanupPlan,
    CleanupRequest, Diagnosis, EnvRequest, Host, LaunchRequest, Plan, PlanSummary, Provision, PutRequest, Result,
    WORKSPACE_FEATURE, backend::put_files, error::Context, secret::Secrets,
};
use bottle_kit::{
    address::ENGINE_ENV,
    blocks::POOL_ENV,
    engine::{About, Engine, Stop, block_on},
    image::{self, IMAGE_ENV, Platform, agent_tag},
    network,
};
use cli::{PASSED, PROGRAM_ENV, Smolvm};
use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

bottle_api::export_backend!("smolmachines", MachineBackend);

struct MachineBackend {
    host: Host,
}

struct MachinePlan {
    spec: BottleSpec,
    smolvm: Smolvm,
    engine: Engine,
    about: About,
    platform: Platform,
    /// Where packed images are.
    cache: PathBuf,
    /// The addresses that the bridge will probably have.
    bridge: String,
    /// What the workspace begins with.
    workspace: Option<PathBuf>,
}

impl Plan for MachinePlan {
    fn summary(&self) -> PlanSummary {
        let Self { spec, smolvm, engine, .. } = self;
        let cpus = machine::cpus(&spec.limits);
        let size =
            cpus.map(|cpus| format!(", {cpus} processor{}", if cpus == 1 { "" } else { "s" })).unwrap_or_default();
        let lines = vec![
            ("smolvm".into(), format!("{} at {}", smolvm.version(), smolvm.program().display())),
            ("machine".into(), format!("{}, {} MiB{size}", machine::name(spec), machine::memory(&spec.limits))),
            ("image".into(), agent_tag(&spec.env)),
            ("engine".into(), format!("{}, {}", engine.address, self.about.product)),
            ("bundle".into(), self.bridge.clone()),
        ];
        let uneven = spec.limits.milli_cpus.zip(cpus).filter(|(milli, cpus)| cpus * 1000 != *milli);
        let uneven = uneven.map(|(milli, cpus)| {
            format!("a machine has whole processors: {cpus}, where `limits` say {}.{:03}", milli / 1000, milli % 1000)
        });
        let warnings = self.about.warning().into_iter().chain(uneven).collect();
        let mut env = engine.address.pinned();
        env.insert(PROGRAM_ENV.into(), smolvm.program().display().to_string());
        PlanSummary { lines, warnings, env }
    }
}

impl Backend for MachineBackend {
    type Plan = MachinePlan;
    type Bottle = MachineBottle;
    type Cleanup = Cleanup;

    fn new(host: Host) -> Result<Self> {
        Ok(Self { host })
    }

    fn info(&self) -> BackendInfo {
        let env = [ENGINE_ENV, IMAGE_ENV, &PASSED, &[POOL_ENV, PROGRAM_ENV]].concat();
        let mut env: Vec<String> = env.into_iter().map(str::to_owned).collect();
        env.sort();
        env.dedup();
        BackendInfo {
            name: "smolmachines".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            isolation: "vm".into(),
            features: vec![WORKSPACE_FEATURE.into()],
            env,
        }
    }

    fn diagnose(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Diagnosis> {
        block_on(async {
            let stop = Stop::follow(cancel)?;
            let mut findings = vec![diagnose::program(stop.or(Smolvm::require(&req.env)).await)];
            findings.extend(diagnose::machine(&req.env));
            let looked = async {
                let engine = Engine::connect(&req.env)?;
                diagnose::is_here(&engine)?;
                let about = stop.or(engine.check()).await?;
                Ok((engine, about))
            };
            let (engine, about) = match (looked.await, &req.build) {
                (Ok(found), _) => found,
                (Err(error), None) => {
                    findings.push(diagnose::row("Docker engine, for the bundle", Err(error)));
                    return Ok(Diagnosis { findings, images: None });
                }
                (Err(error), Some(_)) => return Err(error),
            };
            findings.push(diagnose::row(
                "Docker engine, for the bundle",
                Ok(format!("{} at {}, API {}", about.product, engine.address, about.api)),
            ));
            let platform = Platform::of(&about, &self.host).await?;
            if let Some(wanted) = &req.build {
                image::make(&engine, &self.host, &req.env, &platform, wanted, &stop).await?;
            }
            let images = stop.or(image::list(&engine, &req.env, &platform)).await?;
            Ok(Diagnosis { findings, images: Some(images) })
        })
    }

    fn resolve_plan(&self, spec: &BottleSpec, stage_dir: &Path, cancel: &Cancel) -> Result<MachinePlan> {
        block_on(async {
            let stop = Stop::follow(cancel)?;
            let smolvm = stop.or(Smolvm::require(&spec.env)).await?;
            diagnose::kvm(&spec.env)?;
            let engine = Engine::connect(&spec.env)?;
            diagnose::is_here(&engine)?;
            let about = stop.or(engine.check()).await?;
            let platform = Platform::of(&about, &self.host).await?;
            let candidate = network::candidate(spec)?.map(|block| format!(", {block} if it is free still"));
            let bridge = format!("claude-bottle-bundle-{}{}", spec.identity, candidate.unwrap_or_default());
            let workspace = spec.workspace.as_ref().map(|file| stage_dir.join(file));
            let cache = diagnose::cache(&spec.env)?;
            Ok(MachinePlan { spec: spec.clone(), smolvm, engine, about, platform, cache, bridge, workspace })
        })
    }

    fn launch(
        &self,
        plan: MachinePlan,
        req: &LaunchRequest,
        secrets: &Secrets,
        cancel: &Cancel,
    ) -> Result<MachineBottle> {
        let (bottle, ca_pem) = block_on(async {
            let stop = Stop::follow(cancel)?;
            launch::launch(&self.host, &plan, req, secrets, &stop).await
        })?;
        self.host.step("settle the machine");
        bottle.settle(cancel).context("settle the machine")?;
        if let Some(archive) = &plan.workspace {
            self.host.step("bring the working directory along");
            let tar = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
            bottle.put(&PutRequest { dest: "/".into(), owner: None }, tar, cancel)?;
        }
        self.host.step("provision the bottle");
        self.provision(&bottle, &plan.spec.provision, &ca_pem, cancel)?;
        Ok(bottle)
    }

    /// In one archive, which is unpacked in the order of the steps: each call costs smolvm a process.
    fn provision(&self, bottle: &MachineBottle, files: &Provision, ca_pem: &str, cancel: &Cancel) -> Result<()> {
        put_files(bottle, &files.in_order(ca_pem), cancel)
    }

    fn attach(&self, req: &AttachRequest, cancel: &Cancel) -> Result<MachineBottle> {
        block_on(async { Stop::follow(cancel)?.or(MachineBottle::find(self.host.clone(), req)).await })
    }

    /// Where no smolvm is, no machine runs.
    fn list_active(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Vec<ActiveBottle>> {
        block_on(async {
            let stop = Stop::follow(cancel)?;
            let Some(smolvm) = stop.or(Smolvm::find(&req.env)).await? else { return Ok(vec![]) };
            let machines = stop.or(machine::list(&smolvm)).await?;
            let ours = machines.iter().filter(|m| m.is_agents() && m.is_running() && m.owner() == Some(&req.owner));
            Ok(ours.map(machine::Machine::active).collect())
        })
    }

    fn prepare_cleanup(&self, req: &CleanupRequest, cancel: &Cancel) -> Result<Cleanup> {
        Ok(Cleanup(block_on(async { Stop::follow(cancel)?.or(cleanup::Cleanup::plan(req)).await })?))
    }

    fn cleanup(&self, plan: Cleanup, deadline: Duration) -> Result<CleanupOutcome> {
        block_on(plan.0.execute(&self.host, deadline))
    }
}

struct Cleanup(cleanup::Cleanup);

impl CleanupPlan for Cleanup {
    fn items(&self) -> Vec<bottle_api::CleanupItem> {
        self.0.items()
    }
}
