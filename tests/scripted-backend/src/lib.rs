//! A backend that does what its script says: every verb can fail, panic, hang, end the process, or be cancelled.
//!
//! It isolates nothing. Its bottles are files, and its only program answers with the prompt that it was given.

mod bottle;
mod script;
mod things;

use bottle::Scripted;
use bottle_api::{
    ActiveBottle, AttachRequest, Backend, BackendInfo, BottleSpec, Cancel, CleanupItem, CleanupOutcome, CleanupPlan,
    CleanupRequest, Diagnosis, EnvRequest, Error, ErrorKind, Finding, Host, LaunchRequest, Plan, PlanSummary, Result,
    secret::Secrets,
};
use script::{at, at_drop, during};
use std::{path::Path, time::Duration};
use things::{KINDS, World};

bottle_api::export_backend!("scripted", Script);

struct Script {
    host: Host,
}

struct Resolved {
    world: World,
    spec: BottleSpec,
}

struct Found {
    world: World,
    items: Vec<CleanupItem>,
}

impl Backend for Script {
    type Plan = Resolved;
    type Bottle = Scripted;
    type Cleanup = Found;

    fn new(host: Host) -> Result<Self> {
        at("create")?;
        Ok(Self { host })
    }

    fn info(&self) -> BackendInfo {
        if let Err(error) = at("info") {
            panic!("{error}");
        }
        BackendInfo {
            name: "scripted".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            isolation: "process".into(),
            env: vec!["SCRIPT_ROOT".into()],
            ..BackendInfo::default()
        }
    }

    fn diagnose(&self, _req: &EnvRequest, cancel: &Cancel) -> Result<Diagnosis> {
        during("diagnose", cancel)?;
        let finding = Finding { what: "nothing".into(), ok: true, found: "nothing".into(), hint: None };
        Ok(Diagnosis { findings: vec![finding], ..Diagnosis::default() })
    }

    fn validate(&self, _spec: &BottleSpec, cancel: &Cancel) -> Result<()> {
        during("validate", cancel)
    }

    fn resolve_plan(&self, spec: &BottleSpec, _stage: &Path, cancel: &Cancel) -> Result<Resolved> {
        during("resolve_plan", cancel)?;
        Ok(Resolved { world: World::new(&self.host, &spec.env, &spec.owner)?, spec: spec.clone() })
    }

    fn launch(&self, plan: Resolved, _req: &LaunchRequest, secrets: &Secrets, cancel: &Cancel) -> Result<Scripted> {
        if secrets.get("capability").is_none() {
            return Err(Error::new(ErrorKind::PROTOCOL, "the host sent no capability"));
        }
        let spec = &plan.spec;
        self.host.step("make the scripted bottle");
        KINDS[..2].iter().try_for_each(|kind| plan.world.make(&spec.identity, &spec.agent, kind))?;
        during("launch", cancel)?;
        plan.world.make(&spec.identity, &spec.agent, KINDS[2])?;
        let bottle = Scripted::new(plan.world.clone(), &spec.identity);
        self.provision(&bottle, &spec.provision, "no certificate\n", cancel)?;
        Ok(bottle)
    }

    fn attach(&self, req: &AttachRequest, cancel: &Cancel) -> Result<Scripted> {
        during("attach", cancel)?;
        let world = World::new(&self.host, &req.env, &req.owner)?;
        match world.of(&req.identity)?.len() {
            0 => Err(Error::new(ErrorKind::NOT_FOUND, format!("no bottle {} is running", req.identity))),
            _ => Ok(Scripted::new(world, &req.identity)),
        }
    }

    fn list_active(&self, req: &EnvRequest, cancel: &Cancel) -> Result<Vec<ActiveBottle>> {
        during("list_active", cancel)?;
        let all = World::new(&self.host, &req.env, &req.owner)?.all(false)?;
        let agents = all.into_iter().filter(|(item, _)| item.kind == "agent");
        Ok(agents
            .map(|(item, agent)| ActiveBottle { identity: item.identity, agent, ..ActiveBottle::default() })
            .collect())
    }

    fn prepare_cleanup(&self, req: &CleanupRequest, cancel: &Cancel) -> Result<Found> {
        during("prepare_cleanup", cancel)?;
        let world = World::new(&self.host, &req.env, &req.owner)?;
        let mut items: Vec<CleanupItem> = req.entries.iter().map(CleanupItem::from).collect();
        if req.sweep {
            let left = world.all(req.foreign)?.into_iter().map(|(item, _)| item);
            let known = |item: &CleanupItem| items.iter().any(|known| known.uuid == item.uuid);
            let others: Vec<_> = left.filter(|i| !req.live.contains(&i.identity) && !known(i)).collect();
            items.extend(others);
        }
        Ok(Found { world, items })
    }

    fn cleanup(&self, plan: Found, _deadline: Duration) -> Result<CleanupOutcome> {
        at("execute")?;
        plan.items.iter().try_for_each(|item| plan.world.remove(item))?;
        Ok(CleanupOutcome { removed: plan.items.clone(), left: vec![] })
    }
}

impl Plan for Resolved {
    fn summary(&self) -> PlanSummary {
        if let Err(error) = at("summary") {
            panic!("{error}");
        }
        // Whatever a plugin says of routes stands in its own section, and changes nothing in the host's.
        let lines = vec![("egress".into(), "everything, says the plugin".into())];
        let warnings = vec!["this backend isolates nothing".into()];
        PlanSummary { lines, warnings, ..PlanSummary::default() }
    }
}

impl Drop for Resolved {
    fn drop(&mut self) {
        at_drop("drop-plan");
    }
}

impl CleanupPlan for Found {
    fn items(&self) -> Vec<CleanupItem> {
        if let Err(error) = at("items") {
            panic!("{error}");
        }
        self.items.clone()
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        at_drop("drop-cleanup");
    }
}
