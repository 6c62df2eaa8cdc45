//! What a manifest means for one launch: the spec for the backend, the policy for the sidecar, the environment for the
//! agent, and which secrets each of them needs.

pub mod credential;
pub mod environment;
pub mod files;
pub mod policy;

use crate::{
    manifest::{Agent, Bottle},
    paths::Paths,
    ui::hinted,
};
use anyhow::{Result, bail};
use bottle_api::{
    BottleSpec, Error, ErrorKind, Limits,
    control::{CAPABILITY, DNS_DAEMON, EGRESS_DAEMON},
    secret::Secrets,
};
use bottle_policy::Policy;
use credential::ModelCredential;
use environment::Environment;

/// The sidecar's daemons that every bottle has.
pub const DAEMONS: [&str; 2] = [EGRESS_DAEMON, DNS_DAEMON];

/// One launch, resolved; nothing of it exists yet.
pub struct Resolved {
    /// For the backend.
    pub spec: BottleSpec,
    /// For the sidecar.
    pub policy: Policy,
    /// For the agent.
    pub environment: Environment,
    /// The model's.
    pub credential: ModelCredential,
    /// The variables of the host whose values the sidecar injects.
    pub token_refs: Vec<String>,
    /// What is weaker than the default.
    pub warnings: Vec<String>,
}

/// Resolves an agent for one launch. Reads the host's variables, takes none of their values along but the spec's.
pub fn resolve(
    paths: &Paths,
    agent: &Agent,
    bottle: &Bottle,
    credential: ModelCredential,
    identity: &str,
    slug: &str,
) -> Result<Resolved> {
    let environment = Environment::resolve(bottle)?;
    let (policy, warnings) = policy::render(bottle, &credential)?;
    let token_refs: Vec<String> =
        bottle.egress.routes.iter().filter_map(|r| Some(r.auth.as_ref()?.token_ref.clone())).collect();
    for name in &token_refs {
        if host_variable(name).is_none() {
            return Err(hinted(
                format!("a route's credential: the variable {name} is not set on this machine"),
                format!("export {name}=…, or take the route's `auth` out of the bottle."),
            ));
        }
    }
    let spec = BottleSpec {
        identity: identity.into(),
        slug: slug.into(),
        agent: agent.name.clone(),
        bottle: agent.fields.bottle.clone(),
        owner: paths.owner(),
        daemons: DAEMONS.map(str::to_owned).to_vec(),
        limits: Limits {
            memory: bottle.limits.memory,
            milli_cpus: bottle.limits.cpus,
            pids: bottle.limits.pids.map(|pids| u32::from(pids).into()),
        },
        provision: files::render(paths, agent, &credential)?,
        ..BottleSpec::default()
    };
    Ok(Resolved { spec, policy, environment, credential, token_refs, warnings })
}

/// The checks that no backend can skip.
pub fn validate(spec: &BottleSpec) -> Result<()> {
    let wrong = |what: &str| Err(Error::new(ErrorKind::INVALID_SPEC, what).into_std().into());
    if spec.identity.is_empty() || spec.slug.is_empty() || !spec.identity.starts_with(&spec.slug) {
        return wrong("the bottle has no identity of its own");
    }
    if spec.owner.is_empty() {
        return wrong("the bottle has no owner");
    }
    if DAEMONS.iter().any(|needed| !spec.daemons.iter().any(|d| d == needed)) {
        return wrong("the daemons egress and dns cannot be left out");
    }
    if spec.provision.ca_paths.is_empty() {
        return wrong("the bottle would not trust its own sidecar");
    }
    Ok(())
}

impl Resolved {
    /// The secrets that the sidecar injects, and the bottle's capability: read from the host now, not before.
    pub fn sidecar_secrets(&self) -> Result<Secrets> {
        let mut secrets = Secrets::default();
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes)?;
        let capability: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        secrets.insert(CAPABILITY, bottle_api::Secret::new(capability));
        self.credential.add_to(&mut secrets)?;
        for name in &self.token_refs {
            match host_variable(name) {
                Some(value) => secrets.insert(policy::route_secret(name), bottle_api::Secret::new(value)),
                None => bail!("the variable {name} is not set any more"),
            }
        }
        Ok(secrets)
    }
}

/// A variable of the host that is set and not empty.
fn host_variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
