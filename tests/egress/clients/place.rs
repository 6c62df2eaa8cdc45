//! Where clients run: a network of their own, a home of their own, and the environment of a bottle.

use crate::world::SIDECAR;
use anyhow::{Context, Result};
use bottle_api::{BottleInfo, Secret};
use bottle_host::plan::{
    credential::ModelCredential,
    environment::{CA_PATHS, base},
};
use bottle_policy::{Policy, Route};
use bottle_tests::{
    netns::Namespace,
    origin::Origin,
    sidecar::{CAPABILITY, Sidecar},
    wire::Authority,
};
use std::{ffi::OsStr, fs, net::Ipv4Addr, path::Path, process::Command};
use tempfile::TempDir;

/// Every host is there.
const ORIGIN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// A place for clients.
pub(super) struct Place {
    pub(super) origin: Origin,
    pub(super) home: TempDir,
    env: Vec<(String, String)>,
    _sidecar: Sidecar,
}

impl Place {
    /// Runs something where these hosts have a route, on HTTPS.
    pub(super) fn with(hosts: &[&str], run: impl FnOnce(&Self) -> Result<()> + Send) -> Result<()> {
        let net = Namespace::new()?;
        net.run(|| run(&Self::new(hosts)?))
    }

    fn new(hosts: &[&str]) -> Result<Self> {
        let (authority, home) = (Authority::new()?, tempfile::tempdir()?);
        let origin = Origin::start(&authority, hosts)?;
        let route = |host: &&str| Route { address: Some(ORIGIN.into()), ports: vec![443], ..Route::to(*host) };
        let policy = Policy {
            routes: hosts.iter().map(route).collect(),
            upstream_ca_pem: Some(authority.pem.clone()),
            ..Policy::default()
        };
        let sidecar = Sidecar::start(SIDECAR, &policy)?;
        let ca = home.path().join("ca.pem");
        fs::write(&ca, &sidecar.client.ca_pem)?;
        let info = BottleInfo { sidecar_host: SIDECAR.to_string(), ..BottleInfo::default() };
        let env = base(&info, &Secret::new(CAPABILITY), ModelCredential::ApiKey, "dumb");
        let here = |(name, value): (String, Secret)| {
            let value = match (name.as_str(), value.expose_str().unwrap_or_default()) {
                ("HOME", _) => home.path().display().to_string(),
                ("PATH", own) => format!("{}:{own}", std::env::var("PATH").unwrap_or_default()),
                (_, value) if value == CA_PATHS[0] => ca.display().to_string(),
                (_, value) => value.to_owned(),
            };
            (name, value)
        };
        let mut env: Vec<_> = env.into_iter().map(here).collect();
        // What this machine is configured to is not what a bottle is.
        let machine =
            [("PIP_CONFIG_FILE", "/dev/null"), ("npm_config_globalconfig", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")];
        env.extend(machine.map(|(name, value)| (name.into(), value.into())));
        Ok(Self { origin, home, env, _sidecar: sidecar })
    }

    /// A client, as a bottle would run it.
    pub(super) fn client(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.home);
        command
    }

    /// Serves every file of a directory below a path.
    pub(super) fn serve(&self, directory: &Path, path: &str) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let (entry, path) = (entry?, path.to_owned());
            let path = format!("{path}/{}", entry.file_name().into_string().ok().context("a name")?);
            match entry.file_type()?.is_dir() {
                true => self.serve(&entry.path(), &path)?,
                false => self.origin.page(&path, fs::read(entry.path())?),
            }
        }
        Ok(())
    }
}
