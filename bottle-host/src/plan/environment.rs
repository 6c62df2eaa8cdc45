//! The agent's environment: what the manifest gives it, and what makes it use its sidecar.

use super::{credential::ModelCredential, host_variable};
use crate::{
    manifest::{
        Bottle, EnvValue, Step,
        env::{
            CA_VARIABLES, NO_PROXY_VARIABLES, PROXY_VARIABLES, SUPERVISE_SWITCHES, SUPERVISE_TOKEN, SWITCHES,
            SecretSource, is_reserved,
        },
    },
    paths::Paths,
    signals::Cancellation,
    ui::{self, hinted},
};
use anyhow::{Result, bail};
use bottle_api::{BottleInfo, HOME, Secret, control::PROXY_PORT};
use bottle_policy::dockerfile::{self, User};
use std::collections::BTreeMap;

/// Where the bottle's certificate authority stands; the second is the file that Debian's libraries read.
pub const CA_PATHS: [&str; 2] = ["/etc/bottle/ca.pem", "/etc/ssl/certs/ca-certificates.crt"];

/// The manifest's part, resolved as far as it can be before the y/N.
pub struct Environment {
    literals: BTreeMap<String, String>,
    host: BTreeMap<String, String>,
    asked: BTreeMap<String, String>,
}

impl Environment {
    /// Checks that the host's variables are set.
    pub fn resolve(paths: &Paths, bottle: &Bottle) -> Result<Self> {
        let mut out = Self { literals: BTreeMap::new(), host: BTreeMap::new(), asked: BTreeMap::new() };
        for (name, value) in &bottle.env.0 {
            match value {
                EnvValue::Literal(text) => drop(out.literals.insert(name.clone(), text.clone())),
                EnvValue::Secret { from: SecretSource::Asked(question), .. } => {
                    out.asked.insert(name.clone(), question.clone());
                }
                EnvValue::Secret { from: SecretSource::Host(variable), .. } => {
                    if host_variable(variable).is_none() {
                        let place = bottle.place(paths, &[Step::Key("env"), Step::Key(name)]);
                        return Err(hinted(
                            format!("{place}: the variable {variable} is not set on this machine"),
                            format!("export {variable}=…, or take {name} out of the bottle."),
                        ));
                    }
                    out.host.insert(name.clone(), variable.clone());
                }
            }
        }
        Ok(out)
    }

    /// The variables whose values will be asked for.
    pub fn asked(&self) -> impl Iterator<Item = &str> {
        self.asked.keys().map(String::as_str)
    }

    /// The variables whose values the host has, and its own names for them.
    pub fn from_host(&self) -> impl Iterator<Item = (&str, &str)> {
        self.host.iter().map(|(name, variable)| (name.as_str(), variable.as_str()))
    }

    /// Asks for what is asked for and reads what the host has: after the y/N only.
    pub fn collect(&self, cancel: &Cancellation) -> Result<BTreeMap<String, Secret>> {
        let mut all: BTreeMap<String, Secret> =
            self.literals.iter().map(|(name, value)| (name.clone(), Secret::new(value.as_str()))).collect();
        for (name, variable) in &self.host {
            match host_variable(variable) {
                Some(value) => all.insert(name.clone(), Secret::new(value)),
                None => bail!("the variable {variable} is not set any more"),
            };
        }
        for (name, question) in &self.asked {
            let question = if question.is_empty() { name.clone() } else { format!("{question} ({name})") };
            all.insert(name.clone(), Secret::new(ui::ask_secret(&question, cancel)?.as_bytes()));
        }
        Ok(all)
    }
}

/// What makes the agent use its sidecar, whatever the manifest says.
pub fn base(
    bottle: &BottleInfo,
    capability: &Secret,
    credential: ModelCredential,
    term: &str,
) -> BTreeMap<String, Secret> {
    let (token_name, placeholder) = credential.placeholder();
    let fixed = [
        ("HOME", HOME),
        ("USER", "agent"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("TERM", term),
        ("PATH", PATH),
        (token_name, placeholder),
    ];
    let mut env: BTreeMap<String, Secret> = BTreeMap::new();
    let mut set = |name: &str, value: &str| drop(env.insert(name.to_owned(), Secret::new(value)));
    fixed.iter().chain(&SWITCHES).for_each(|(name, value)| set(name, value));
    to_sidecar(&mut env, bottle, capability);
    env
}

fn to_sidecar(env: &mut BTreeMap<String, Secret>, bottle: &BottleInfo, capability: &Secret) {
    let capability = capability.expose_str().unwrap_or_default();
    let proxy = format!("http://bottle:{capability}@{}:{PROXY_PORT}", bottle.sidecar_host);
    let mut direct = vec!["localhost", "127.0.0.1", "::1"];
    direct.extend(bottle.sidecar_names.iter().map(String::as_str));
    let direct = direct.join(",");
    let mut set = |name: &str, value: &str| drop(env.insert(name.to_owned(), Secret::new(value)));
    PROXY_VARIABLES.iter().for_each(|name| set(name, &proxy));
    NO_PROXY_VARIABLES.iter().for_each(|name| set(name, &direct));
    CA_VARIABLES.iter().for_each(|name| set(name, CA_PATHS[0]));
}

/// Where the agent's programs are looked for.
pub const PATH: &str = "/home/agent/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a step of an image is surrounded by: what was left to the agent before, what its Dockerfile sets, and over both what
/// leads to the sidecar.
pub fn builder(
    bottle: &BottleInfo,
    capability: &Secret,
    step: &dockerfile::Step,
    before: &BTreeMap<String, String>,
) -> BTreeMap<String, Secret> {
    let (home, user) = if step.user == User::Root { ("/root", "root") } else { (HOME, "agent") };
    let usual = [
        ("HOME", home),
        ("USER", user),
        ("LANG", "C.UTF-8"),
        ("PATH", PATH),
        // Nobody is there to answer.
        ("DEBIAN_FRONTEND", "noninteractive"),
    ];
    let mut env: BTreeMap<String, Secret> = usual.map(|(name, value)| (name.to_owned(), Secret::new(value))).into();
    env.extend(before.iter().chain(&step.env).map(|(name, value)| (name.clone(), Secret::new(value.as_str()))));
    to_sidecar(&mut env, bottle, capability);
    env
}

/// What an image leaves to the agent, but for what bottle sets itself.
pub fn of_image(env: &BTreeMap<String, String>) -> BTreeMap<String, Secret> {
    let own = env.iter().filter(|(name, _)| !is_reserved(name));
    own.map(|(name, value)| (name.clone(), Secret::new(value.as_str()))).collect()
}

/// What an agent that has an operator to ask has besides.
pub fn supervised(env: &mut BTreeMap<String, Secret>, capability: &Secret) {
    for (name, value) in SUPERVISE_SWITCHES {
        env.entry(name.to_owned()).or_insert_with(|| Secret::new(value));
    }
    env.insert(SUPERVISE_TOKEN.to_owned(), capability.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{bottle_from, env::is_reserved};

    fn resolve(yaml: &str) -> Result<Environment> {
        let paths = Paths { home: "/nowhere".into(), cwd: "/".into() };
        Environment::resolve(&paths, &bottle_from(yaml))
    }

    #[test]
    fn the_manifest_cannot_replace_what_leads_to_the_sidecar() {
        let harmless = ["USER", "SHELL", "LANG", "TERM", "PATH"];
        let info = BottleInfo::default();
        for credential in [ModelCredential::OauthToken, ModelCredential::ApiKey] {
            for (name, _) in base(&info, &Secret::new("x"), credential, "xterm") {
                assert!(is_reserved(&name) || harmless.contains(&name.as_str()), "{name}");
            }
        }
    }

    #[test]
    fn an_unset_host_variable_is_named() {
        let Err(error) = resolve("env: {A: '${BOTTLE_TEST_NOT_SET}'}") else { panic!("resolved") };
        assert!(error.to_string().contains("BOTTLE_TEST_NOT_SET"));
    }
}
