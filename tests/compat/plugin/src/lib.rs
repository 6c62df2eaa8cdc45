//! A backend that answers every verb and does nothing. With the feature `v1_1` it answers, and calls, the verbs too that
//! `cargo xtask compat` appends to every object.

use bottle_api::{
    ActiveBottle, AttachRequest, Backend, BackendInfo, Bottle, BottleInfo, BottleSpec, Cancel, ChannelRequest,
    CleanupItem, CleanupOutcome, CleanupPlan, CleanupRequest, EnvRequest, ExitStatus, GetRequest, Host, LaunchRequest,
    Plan, PlanSummary, Process, PutRequest, ResizeRequest, Result, SignalRequest, StartRequest, Stdio, secret::Secrets,
};
use std::{fs::File, os::fd::OwnedFd, path::Path, time::Duration};

bottle_api::export_backend!("compat", Compat);

struct Compat(Host);
struct Thing(Host);

impl Backend for Compat {
    type Plan = Thing;
    type Bottle = Thing;
    type Cleanup = Thing;

    fn new(host: Host) -> Result<Self> {
        Ok(Self(host))
    }

    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "compat".into(),
            #[cfg(feature = "v1_1")]
            appended: "appended".into(),
            ..BackendInfo::default()
        }
    }

    fn resolve_plan(&self, _: &BottleSpec, _: &Path, _: &Cancel) -> Result<Thing> {
        Ok(Thing(self.0.clone()))
    }

    /// Calls every service of the host.
    fn launch(&self, plan: Thing, _: &LaunchRequest, _: &Secrets, _: &Cancel) -> Result<Thing> {
        self.0.warn("a line");
        self.0.step("a step");
        let ledger = self.0.ledger("identity");
        let mut entry = ledger.intent("kind", "name")?;
        ledger.created(&mut entry, "id")?;
        ledger.gone(&entry)?;
        self.0.artifact("name", "linux/amd64")?;
        Ok(plan)
    }

    fn attach(&self, _: &AttachRequest, _: &Cancel) -> Result<Thing> {
        Ok(Thing(self.0.clone()))
    }

    fn list_active(&self, _: &EnvRequest, _: &Cancel) -> Result<Vec<ActiveBottle>> {
        Ok(vec![])
    }

    fn prepare_cleanup(&self, _: &CleanupRequest, _: &Cancel) -> Result<Thing> {
        Ok(Thing(self.0.clone()))
    }

    fn cleanup(&self, _: Thing, _: Duration) -> Result<CleanupOutcome> {
        Ok(CleanupOutcome::default())
    }

    #[cfg(feature = "v1_1")]
    fn appended(&self) -> Result<String> {
        Ok("appended".into())
    }
}

impl Plan for Thing {
    fn summary(&self) -> PlanSummary {
        PlanSummary::default()
    }

    #[cfg(feature = "v1_1")]
    fn appended(&self) -> Result<String> {
        Ok("appended".into())
    }
}

impl CleanupPlan for Thing {
    fn items(&self) -> Vec<CleanupItem> {
        vec![]
    }

    #[cfg(feature = "v1_1")]
    fn appended(&self) -> Result<String> {
        Ok("appended".into())
    }
}

impl Bottle for Thing {
    type Process = Thing;

    /// Its name is what the host's appended service answers.
    fn describe(&self) -> Result<BottleInfo> {
        #[cfg(feature = "v1_1")]
        let name = match self.0.appended() {
            Ok(answer) => answer,
            Err(error) if error.kind == bottle_api::ErrorKind::UNSUPPORTED => "UNSUPPORTED".into(),
            Err(error) => error.to_string(),
        };
        #[cfg(not(feature = "v1_1"))]
        let name = "not called".into();
        Ok(BottleInfo { name, ..BottleInfo::default() })
    }

    fn start(&self, _: &StartRequest, _: Stdio, _: &Cancel) -> Result<Thing> {
        Ok(Thing(self.0.clone()))
    }

    fn put(&self, _: &PutRequest, _: File, _: &Cancel) -> Result<()> {
        Ok(())
    }

    fn get(&self, _: &GetRequest, _: File, _: &Cancel) -> Result<()> {
        Ok(())
    }

    fn channel(&self, _: &ChannelRequest) -> Result<OwnedFd> {
        Ok(File::open("/dev/null")?.into())
    }

    fn close(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    #[cfg(feature = "v1_1")]
    fn appended(&self) -> Result<String> {
        Ok("appended".into())
    }
}

impl Process for Thing {
    fn wait(&self, _: &Cancel) -> Result<ExitStatus> {
        Ok(ExitStatus::default())
    }

    fn resize(&self, _: &ResizeRequest) -> Result<()> {
        Ok(())
    }

    fn signal(&self, _: &SignalRequest) -> Result<()> {
        Ok(())
    }

    #[cfg(feature = "v1_1")]
    fn appended(&self) -> Result<String> {
        Ok("appended".into())
    }
}
