//! A backend with no mistake in it, for the cases to have one in one place.
#![allow(dead_code)]

use bottle_api::{secret::Secrets, *};
use std::{fs::File, os::fd::OwnedFd, path::Path, time::Duration};

pub struct Good;

impl Backend for Good {
    type Plan = Good;
    type Bottle = Good;
    type Cleanup = Good;

    fn new(_: Host) -> Result<Self> {
        Ok(Good)
    }
    fn info(&self) -> BackendInfo {
        BackendInfo::default()
    }
    fn resolve_plan(&self, _: &BottleSpec, _: &Path, _: &Cancel) -> Result<Good> {
        Ok(Good)
    }
    fn launch(&self, plan: Good, _: &LaunchRequest, _: &Secrets, _: &Cancel) -> Result<Good> {
        Ok(plan)
    }
    fn list_active(&self, _: &EnvRequest, _: &Cancel) -> Result<Vec<ActiveBottle>> {
        Ok(vec![])
    }
    fn prepare_cleanup(&self, _: &CleanupRequest, _: &Cancel) -> Result<Good> {
        Ok(Good)
    }
    fn cleanup(&self, _: Good, _: Duration) -> Result<CleanupOutcome> {
        Ok(CleanupOutcome::default())
    }
}

impl Plan for Good {
    fn summary(&self) -> PlanSummary {
        PlanSummary::default()
    }
}

impl CleanupPlan for Good {
    fn items(&self) -> Vec<CleanupItem> {
        vec![]
    }
}

impl Bottle for Good {
    type Process = Good;

    fn describe(&self) -> Result<BottleInfo> {
        Ok(BottleInfo::default())
    }
    fn start(&self, _: &StartRequest, _: Stdio, _: &Cancel) -> Result<Good> {
        Ok(Good)
    }
    fn put(&self, _: &PutRequest, _: File, _: &Cancel) -> Result<()> {
        Ok(())
    }
    fn get(&self, _: &GetRequest, _: File, _: &Cancel) -> Result<()> {
        Ok(())
    }
    fn channel(&self, _: &ChannelRequest) -> Result<OwnedFd> {
        Err(Error::unsupported("channels"))
    }
    fn close(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}

impl Process for Good {
    fn wait(&self, _: &Cancel) -> Result<ExitStatus> {
        Ok(ExitStatus::default())
    }
}
