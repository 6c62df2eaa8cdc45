//! What a manifest means for one launch: the spec for the backend, the policy for the sidecar, the environment for the
//! agent, and which secrets each of them needs.

pub mod credential;
pub mod environment;
pub mod files;
pub mod git;
pub mod key;
pub mod pipelock;
pub mod policy;
pub mod recognised;
pub mod rules;
pub mod upstream;

use crate::{
    manifest::{Agent, Bottle, Step},
    paths::Paths,
    random,
    signals::Cancellation,
    ui::hinted,
};
use anyhow::{Context, Result, bail};
use bottle_api::{
    BottleSpec, Error, ErrorKind, Limits, Secret,
    control::{CAPABILITY, DNS_DAEMON, EGRESS_DAEMON, GIT_GATE_DAEMON, PIPELOCK_DAEMON, SUPERVISE_DAEMON},
    secret::Secrets,
};
use bottle_policy::{EnvSecret, Policy};
use credential::ModelCredential;
use environment::Environment;
use std::{collections::BTreeMap, path::PathBuf};

/// The sidecar's daemons that every bottle has.
pub const DAEMONS: [&str; 2] = [EGRESS_DAEMON, DNS_DAEMON];

/// One launch, resolved; nothing of it exists yet.
pub struct Resolved {
    /// Where things are on this machine.
    pub paths: Paths,
    /// For the backend.
    pub spec: BottleSpec,
    /// For the sidecar.
    pub policy: Policy,
    /// The program that stands behind the sidecar's proxy, if one does.
    pub pipelock: Option<PathBuf>,
    /// For the agent.
    pub environment: Environment,
    /// The model's.
    pub credential: ModelCredential,
    /// The variables of the host whose values the sidecar injects.
    pub token_refs: Vec<String>,
    /// The host's keys that the sidecar uses.
    pub keys: git::Keys,
    /// Hosts that a preset grants, and its name.
    pub presets: BTreeMap<String, &'static str>,
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
    let environment = Environment::resolve(paths, bottle)?;
    let (mut policy, mut warnings) = policy::render(paths, bottle, &credential)?;
    let (remotes, keys) = git::resolve(paths, bottle)?;
    policy.git = remotes;
    warnings.extend(git::warnings(bottle));
    let pipelock = pipelock::program(&policy)?;
    let optional = [
        (GIT_GATE_DAEMON, !policy.git.is_empty()),
        (PIPELOCK_DAEMON, pipelock.is_some()),
        (SUPERVISE_DAEMON, bottle.supervise),
    ];
    let optional = optional.into_iter().filter_map(|(name, wanted)| wanted.then_some(name));
    let daemons = DAEMONS.into_iter().chain(optional);
    let presets = policy.routes.iter().filter_map(|r| Some((r.host.clone(), policy::preset_of(bottle, &r.host)?)));
    let presets = presets.collect();
    let token_refs = token_refs(paths, bottle)?;
    warnings.extend(unrecognised(&environment, &token_refs, credential));
    let spec = BottleSpec {
        identity: identity.into(),
        slug: slug.into(),
        agent: agent.name.clone(),
        bottle: agent.fields.bottle.clone(),
        owner: paths.owner(),
        daemons: daemons.map(str::to_owned).collect(),
        limits: Limits {
            memory: bottle.limits.memory,
            milli_cpus: bottle.limits.cpus,
            pids: bottle.limits.pids.map(|pids| u32::from(pids).into()),
        },
        provision: files::render(paths, agent, bottle, &credential)?,
        ..BottleSpec::default()
    };
    Ok(Resolved {
        paths: paths.clone(),
        spec,
        policy,
        pipelock,
        environment,
        credential,
        token_refs,
        keys,
        presets,
        warnings,
    })
}

/// The host's variables that routes and remotes name, each of them set.
fn token_refs(paths: &Paths, bottle: &Bottle) -> Result<Vec<String>> {
    let mut names = vec![];
    for (i, route) in bottle.egress.routes.iter().enumerate() {
        let Some(auth) = &route.auth else { continue };
        let name = &auth.token_ref;
        if host_variable(name).is_none() {
            let steps =
                [Step::Key("egress"), Step::Key("routes"), Step::Index(i), Step::Key("auth"), Step::Key("token_ref")];
            return Err(hinted(
                format!("{}: the variable {name} is not set on this machine", bottle.place(paths, &steps)),
                format!("export {name}=…, or take the route's `auth` out of the bottle."),
            ));
        }
        names.push(name.clone());
    }
    names.extend(bottle.git.iter().filter_map(|entry| entry.token_ref.clone()));
    Ok(names)
}

/// What the sidecar will be told of the host's variables and not look for. What is asked for nobody knows yet.
fn unrecognised(environment: &Environment, token_refs: &[String], credential: ModelCredential) -> Vec<String> {
    let injected = token_refs.iter().map(String::as_str).chain([credential.host_variable()]);
    let mut known: Vec<(String, &str)> = injected.map(|variable| (format!("${variable}"), variable)).collect();
    known.extend(environment.from_host().map(|(name, variable)| (name.to_owned(), variable)));
    let value = |(name, variable): (String, &str)| Some((name, Secret::new(host_variable(variable)?)));
    let known: BTreeMap<String, Secret> = known.into_iter().filter_map(value).collect();
    recognised::warnings(known.iter().map(|(name, secret)| (name.as_str(), secret)))
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
    /// The secrets that the sidecar injects, those of the agent's environment, which it knows again, and the bottle's
    /// capability: read from the host now, not before.
    /// What opens a key is asked for.
    pub fn sidecar_secrets(&self, env: &BTreeMap<String, Secret>, cancel: &Cancellation) -> Result<Secrets> {
        let mut secrets = Secrets::default();
        for EnvSecret { name, secret, .. } in &self.policy.scan.env {
            let value = env.get(name).with_context(|| format!("{name} has no value"))?;
            secrets.insert(secret.clone(), value.clone());
        }
        secrets.insert(CAPABILITY, Secret::new(random::hex::<24>()?));
        self.credential.add_to(&mut secrets)?;
        upstream::add_to(&mut secrets)?;
        for name in &self.token_refs {
            match host_variable(name) {
                Some(value) => secrets.insert(policy::route_secret(name), Secret::new(value)),
                None => bail!("the variable {name} is not set any more"),
            }
        }
        self.keys.add_to(&mut secrets, cancel)?;
        Ok(secrets)
    }
}

/// A variable of the host that is set and not empty.
fn host_variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
