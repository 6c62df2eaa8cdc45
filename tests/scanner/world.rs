//! A network of its own with the staged sidecar, whose policy allows every host of a corpus, and a fixture that is all of
//! them.

use crate::{
    exchange::{Reply, Request},
    names::{Answers, Names, RESOLVER},
};
use anyhow::{Context, Result, anyhow, ensure};
use bottle_policy::{EnvSecret, Policy, Responses, Route, Scan};
use bottle_tests::{netns::Namespace, origin::Origin, sidecar::Sidecar, wire::Authority};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

const SIDECAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// Where every host is. No private address, so that the rules about those stay on.
pub(crate) const FIXTURE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
/// A host that nothing is wrong with.
const ALIVE: &str = "alive.example";
/// The ports at which a host may be asked; the fixture is at some of them.
const PORTS: [u16; 4] = [443, 80, 8443, 8080];

/// What a world is made of.
#[derive(Default)]
pub(crate) struct Setup {
    /// Hosts that are the fixture.
    pub(crate) hosts: BTreeSet<String>,
    /// Hosts with a route that are somewhere else, and where a resolver says they are. None: it is an address itself.
    pub(crate) elsewhere: BTreeMap<String, Option<IpAddr>>,
    /// Hosts of a model.
    pub(crate) models: BTreeSet<String>,
    /// What the sidecar knows: names and values. The agent knows them too; they may go nowhere.
    pub(crate) secrets: Vec<(String, String)>,
}

/// A world that is there.
pub(crate) struct World {
    pub(crate) origin: Origin,
    pub(crate) sidecar: Sidecar,
    names: Names,
    /// Names that somebody may look up: they have no address in the policy.
    looked_up: BTreeSet<String>,
}

/// Makes a world and does something in it.
pub(crate) fn hold<T: Send>(setup: Setup, run: impl FnOnce(&World, &Namespace) -> Result<T> + Send) -> Result<T> {
    let net = Namespace::new()?;
    net.run(|| {
        let world = World::new(setup)?;
        let result = run(&world, &net)?;
        let asked: Vec<String> = world.names.asked();
        // A name that is looked up has left, whoever is dialled then.
        let astray = asked.iter().find(|name| !world.looked_up.contains(name.trim_end_matches('.')));
        ensure!(astray.is_none(), "{astray:?} was looked up, and its address is known");
        Ok(result)
    })
}

impl World {
    fn new(mut setup: Setup) -> Result<Self> {
        setup.hosts.insert(ALIVE.into());
        let authority = Authority::new()?;
        let known = setup.elsewhere.iter().filter_map(|(host, at)| Some((host.clone(), (*at)?)));
        let known: BTreeMap<&'static str, Answers> =
            known.map(|(host, at)| (&*Box::leak(host.into_boxed_str()), vec![vec![at]])).collect();
        let resolver = tempfile::NamedTempFile::new()?;
        std::fs::write(&resolver, format!("nameserver {RESOLVER}\noptions timeout:2 attempts:1\n"))?;
        let policy = policy(&setup, authority.pem.clone())?;
        let secrets: Vec<(&str, &str)> = setup.secrets.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let hosts: Vec<&str> = setup.hosts.iter().map(String::as_str).collect();
        Ok(Self {
            names: Names::start(known)?,
            looked_up: setup.elsewhere.into_keys().collect(),
            origin: Origin::start(&authority, &hosts)?,
            sidecar: Sidecar::start_knowing(SIDECAR, &policy, Some(resolver.path()), &secrets)?,
        })
    }

    /// Sends a request.
    pub(crate) fn send(&self, request: &Request) -> Result<Reply> {
        request.send(&self.sidecar.client)
    }

    /// Fails unless the proxy passes an honest request on and its answer back, and forgets what was sent before.
    pub(crate) fn alive(&self) -> Result<()> {
        let reply = self.send(&Request::get(&format!("https://{ALIVE}/alive"))).context("the proxy does not answer")?;
        ensure!(reply.status == 200 && reply.body == b"GET /alive\n", "the proxy is not well: {reply:?}");
        self.origin.begin_anew();
        Ok(())
    }

    /// Does it still pass honest requests on? Without forgetting.
    pub(crate) fn still_alive(&self) -> Result<()> {
        let reply = self.send(&Request::get(&format!("https://{ALIVE}/alive"))).context("the proxy has died")?;
        ensure!(reply.status == 200, "the proxy is not well any more: {reply:?}");
        Ok(())
    }
}

fn policy(setup: &Setup, upstream_ca_pem: String) -> Result<Policy> {
    let route = |host: &String| Route { ports: PORTS.into(), responses: Responses::Block, ..Route::to(host) };
    let mut routes: Vec<Route> =
        setup.hosts.iter().map(|host| Route { address: Some(FIXTURE), ..route(host) }).collect();
    for own in &mut routes {
        own.conversation = setup.models.contains(&own.host);
        if own.conversation {
            own.responses = Responses::Warn;
        }
    }
    routes.extend(setup.elsewhere.keys().map(route));
    let env =
        setup.secrets.iter().map(|(name, _)| EnvSecret { name: name.clone(), secret: name.clone(), hosts: vec![] });
    let scan = Scan { env: env.collect(), ..Scan::default() };
    let policy = Policy {
        routes,
        own_addresses: vec![SIDECAR],
        upstream_ca_pem: Some(upstream_ca_pem),
        scan,
        ..Policy::default()
    };
    policy.check().map_err(|why| anyhow!(why))?;
    Ok(policy)
}
