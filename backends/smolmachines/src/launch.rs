//! From a plan to a running bottle.
//!
//! ```text
//! bridge ──┬─▶ bundle on it, ready ─────────┐
//! sidecar image ─┘                          ├─▶ machine booted ─▶ settled ─▶ bottle
//! agent image ─▶ packed, once ─▶ machine ───┘
//! ```
//!
//! The machine's policy is made from the network that was created, not from the one that was planned. Branches are always
//! waited for, an error in one or not: nothing may still be under way when the host begins to clean up.

use crate::{
    MachinePlan,
    bottle::{MachineBottle, Whose},
    machine,
};
use bottle_api::{BottleSpec, Error, Host, LaunchRequest, Result, secret::Secrets};
use bottle_kit::{
    bundle,
    engine::Stop,
    export, image,
    names::Role,
    network::{self, Network},
};
use std::future::Ready;

/// Makes everything that the bottle consists of, up to settling. Returns its certificate authority too, PEM.
pub(crate) async fn launch(
    host: &Host,
    plan: &MachinePlan,
    req: &LaunchRequest,
    secrets: &Secrets,
    stop: &Stop,
) -> Result<(MachineBottle, String)> {
    let MachinePlan { spec, smolvm, engine, platform, cache, .. } = plan;
    host.step("make the bottle");
    let bridge = network::create(engine, host, spec, Role::Bridge, stop).await?;
    let sidecar = async {
        let image = image::sidecar(engine, host, spec, platform, stop).await?;
        let alone: Option<Ready<Result<Network>>> = None;
        bundle::start(engine, host, spec, Role::Bundle, &image, &bridge, alone, req, secrets, stop).await
    };
    let address = bundle::sidecar_address(&bridge);
    let machine = async {
        let image = image::agent(engine, host, spec, platform, stop).await?;
        let archive = export::archive(engine, host, spec, platform, &image, cache, stop).await?;
        stop.check()?;
        let name = machine::create(smolvm, host, spec, &archive, address).await?;
        stop.check()?;
        host.step("boot the machine");
        machine::start(smolvm, &name, stop).await?;
        Ok::<_, Error>(name)
    };
    let (sidecar, machine) = tokio::join!(sidecar, machine);
    let (sidecar, machine) = (sidecar?, machine?);
    stop.check()?;
    let ca_pem = sidecar.ca_pem.clone();
    let channel = Some(sidecar.channel.into());
    let (host, smolvm) = (host.clone(), smolvm.clone());
    Ok((MachineBottle::new(host, smolvm, whose(spec), machine, address, spec.limits.pids, channel), ca_pem))
}

fn whose(spec: &BottleSpec) -> Whose {
    Whose { env: spec.env.clone(), identity: spec.identity.clone(), owner: spec.owner.clone() }
}
