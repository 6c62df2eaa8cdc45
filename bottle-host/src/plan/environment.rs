//! The agent's environment: what the manifest gives it, and what makes it use its sidecar.

use super::{credential::ModelCredential, host_variable};
use crate::{
    manifest::{Bottle, EnvValue},
    signals::Cancellation,
    ui::{self, hinted},
};
use anyhow::{Result, bail};
use bottle_api::{BottleInfo, HOME, Secret, control::PROXY_PORT};
use std::collections::BTreeMap;

/// Where the bottle's certificate authority stands; the second is the file that Debian's libraries read.
pub const CA_PATHS: [&str; 2] = ["/etc/bottle/ca.pem", "/etc/ssl/certs/ca-certificates.crt"];

/// Trust the sidecar's certificates.
const CA_VARIABLES: [&str; 5] =
    ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"];
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Keep the client from talking to anybody but the model.
const SWITCHES: [(&str, &str); 3] = [
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
];
/// Others that a manifest may not set: they would lead the client, or a credential, elsewhere.
const RESERVED: [&str; 10] = [
    "HOME",
    "ALL_PROXY",
    "all_proxy",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_API_KEY",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_BOTTLE_OAUTH_TOKEN",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "SSL_CERT_DIR",
];

/// The manifest's part, resolved as far as it can be before the y/N.
pub struct Environment {
    literals: BTreeMap<String, String>,
    host: BTreeMap<String, String>,
    asked: BTreeMap<String, String>,
}

impl Environment {
    /// Checks the names, and that the host's variables are set.
    pub fn resolve(bottle: &Bottle) -> Result<Self> {
        let mut out = Self { literals: BTreeMap::new(), host: BTreeMap::new(), asked: BTreeMap::new() };
        for (name, value) in &bottle.env {
            if !crate::manifest::is_variable(name) {
                bail!("env: `{name}` is no name of a variable");
            }
            if is_reserved(name) {
                return Err(hinted(
                    format!("env: bottle sets {name} itself"),
                    "Take it out of the bottle's `env`; the model's credential comes from the host's environment.",
                ));
            }
            match value {
                EnvValue::Literal(text) => drop(out.literals.insert(name.clone(), text.clone())),
                EnvValue::Asked(question) => drop(out.asked.insert(name.clone(), question.clone())),
                EnvValue::Host(variable) if RESERVED.contains(&variable.as_str()) => {
                    return Err(hinted(
                        format!("env: {name} would hand the model's own credential, ${{{variable}}}, to the agent"),
                        "The sidecar puts it in where it is needed; take it out of the bottle's `env`.",
                    ));
                }
                EnvValue::Host(variable) if host_variable(variable).is_some() => {
                    out.host.insert(name.clone(), variable.clone());
                }
                EnvValue::Host(variable) => {
                    return Err(hinted(
                        format!("env: {name} wants ${{{variable}}}, which is not set on this machine"),
                        format!("export {variable}=…, or take {name} out of the bottle."),
                    ));
                }
            }
        }
        Ok(out)
    }

    /// Names with where each value comes from, for the preflight. Never a value.
    pub fn shown(&self) -> Vec<String> {
        let literals = self.literals.keys().cloned();
        let host = self.host.iter().map(|(name, variable)| format!("{name} (secret, from ${variable})"));
        let asked = self.asked.keys().map(|name| format!("{name} (secret, asked for)"));
        literals.chain(host).chain(asked).collect()
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

fn is_reserved(name: &str) -> bool {
    let own = PROXY_VARIABLES.iter().chain(&NO_PROXY_VARIABLES).chain(&CA_VARIABLES).chain(&RESERVED);
    own.chain(SWITCHES.iter().map(|(switch, _)| switch)).any(|reserved| *reserved == name)
}

/// What makes the agent use its sidecar, whatever the manifest says.
pub fn base(
    bottle: &BottleInfo,
    capability: &Secret,
    credential: ModelCredential,
    term: &str,
) -> BTreeMap<String, Secret> {
    let capability = capability.expose_str().unwrap_or_default();
    let proxy = format!("http://bottle:{capability}@{}:{PROXY_PORT}", bottle.sidecar_host);
    let mut direct = vec!["localhost", "127.0.0.1", "::1"];
    direct.extend(bottle.sidecar_names.iter().map(String::as_str));
    let direct = direct.join(",");
    let (token_name, placeholder) = credential.placeholder();
    let fixed = [
        ("HOME", HOME),
        ("USER", "agent"),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("TERM", term),
        ("PATH", "/home/agent/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        (token_name, placeholder),
    ];
    let mut env: BTreeMap<String, Secret> = BTreeMap::new();
    let mut set = |name: &str, value: &str| drop(env.insert(name.to_owned(), Secret::new(value)));
    fixed.iter().chain(&SWITCHES).for_each(|(name, value)| set(name, value));
    PROXY_VARIABLES.iter().for_each(|name| set(name, &proxy));
    NO_PROXY_VARIABLES.iter().for_each(|name| set(name, &direct));
    CA_VARIABLES.iter().for_each(|name| set(name, CA_PATHS[0]));
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::bottle_from;

    #[test]
    fn the_manifest_cannot_replace_what_leads_to_the_sidecar() {
        for name in ["HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"] {
            let bottle = bottle_from(&format!("env: {{{name}: x}}"));
            assert!(Environment::resolve(&bottle).is_err(), "{name}");
        }
    }

    #[test]
    fn an_unset_host_variable_is_named() {
        let bottle = bottle_from("env: {A: '${BOTTLE_TEST_NOT_SET}'}");
        let Err(error) = Environment::resolve(&bottle) else { panic!("resolved") };
        assert!(error.to_string().contains("BOTTLE_TEST_NOT_SET"));
    }

    #[test]
    fn the_preflight_shows_names_only() {
        let bottle = bottle_from("env: {A: literal-value, B: '?question'}");
        assert_eq!(Environment::resolve(&bottle).unwrap().shown(), ["A", "B (secret, asked for)"]);
    }
}
