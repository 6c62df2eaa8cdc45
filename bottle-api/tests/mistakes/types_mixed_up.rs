//! Types that are not what the backend's verbs return.

use bottle_api::{secret::Secrets, *};
use std::{path::Path, time::Duration};

struct Mine;

impl Backend for Mine {
    type Plan = String;
    type Bottle = ();
    type Cleanup = Vec<CleanupItem>;

    fn new(_: Host) -> Result<Self> {
        Ok(Mine)
    }
    fn info(&self) -> BackendInfo {
        BackendInfo::default()
    }
    fn resolve_plan(&self, _: &BottleSpec, _: &Path, _: &Cancel) -> Result<String> {
        Ok(String::new())
    }
    fn launch(&self, _: String, _: &LaunchRequest, _: &Secrets, _: &Cancel) -> Result<()> {
        Ok(())
    }
    fn list_active(&self, _: &EnvRequest, _: &Cancel) -> Result<Vec<ActiveBottle>> {
        Ok(vec![])
    }
    fn prepare_cleanup(&self, _: &CleanupRequest, _: &Cancel) -> Result<Vec<CleanupItem>> {
        Ok(vec![])
    }
    fn cleanup(&self, _: Vec<CleanupItem>, _: Duration) -> Result<CleanupOutcome> {
        Ok(CleanupOutcome::default())
    }
}

fn main() {}
