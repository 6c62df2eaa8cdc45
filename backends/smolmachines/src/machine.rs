//! Machines: what smolvm says of them, and the few things that it is asked to do.

use crate::cli::{ANSWER_TIME, Smolvm};
use bottle_api::{ActiveBottle, BottleSpec, Error, ErrorKind, Host, Limits, Result, error::Context};
use bottle_kit::{
    engine::Stop,
    names::{AGENT, DAEMONS, ENTRY, IDENTITY, OWNER, ROLE, Role, labels},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::atomic::AtomicU32,
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The ledger's word for one.
pub(crate) const KIND: &str = "machine";
/// The label that says where its sidecar is.
const SIDECAR: &str = "claude-bottle.sidecar";
/// The label that says how many processes its agent may have.
const PIDS: &str = "claude-bottle.pids";
/// The one name that a machine's resolver would ask for: nobody can own it (RFC 2606), and an exact pattern lets nothing
/// below it through. Without a rule for names, every name would be asked for.
const NO_NAME: &str = "no-name.invalid";
/// Memory that a machine may come to use.
pub(crate) const DEFAULT_MEMORY: u64 = 4 << 30;
const MIB: u64 = 1 << 20;
/// How long one may take to boot: what it unpacks the first time is gigabytes.
const START_TIME: Duration = Duration::from_secs(540);

/// One machine of `machine ls --json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) labels: BTreeMap<String, String>,
    created_at: i64,
}

impl Machine {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map(String::as_str).unwrap_or_default()
    }

    pub(crate) fn identity(&self) -> &str {
        self.label(IDENTITY)
    }

    pub(crate) fn entry(&self) -> &str {
        self.label(ENTRY)
    }

    pub(crate) fn owner(&self) -> Option<&str> {
        self.labels.get(OWNER).map(String::as_str)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Is it a bottle's?
    pub(crate) fn is_agents(&self) -> bool {
        self.label(ROLE) == Role::Agent.label()
    }

    pub(crate) fn sidecar(&self) -> Option<Ipv4Addr> {
        self.label(SIDECAR).parse().ok()
    }

    pub(crate) fn pids(&self) -> Option<u64> {
        self.label(PIDS).parse().ok()
    }

    /// As a row of `list active`.
    pub(crate) fn active(&self) -> ActiveBottle {
        let started = OffsetDateTime::from_unix_timestamp(self.created_at).ok();
        ActiveBottle {
            identity: self.identity().to_owned(),
            agent: self.label(AGENT).to_owned(),
            started: started.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default(),
            daemons: self.label(DAEMONS).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        }
    }
}

/// Reads `machine ls --json`.
pub(crate) fn parse(said: &str) -> Result<Vec<Machine>> {
    serde_json::from_str(said)
        .context("read smolvm's list of machines")
        .map_err(|error| error.kind(ErrorKind::PROTOCOL))
}

/// All machines of this user.
pub(crate) async fn list(smolvm: &Smolvm) -> Result<Vec<Machine>> {
    parse(&smolvm.run(&["machine", "ls", "--json"], ANSWER_TIME).await.context("list the machines")?)
}

/// The name of a bottle's machine: its identity's, which is nobody else's.
pub(crate) fn name(spec: &BottleSpec) -> String {
    Role::Agent.base_name(&spec.identity)
}

/// Whole processors that a limit leaves room for; one at least.
pub(crate) fn cpus(limits: &Limits) -> Option<u64> {
    limits.milli_cpus.map(|milli| (milli / 1000).max(1))
}

/// MiB.
pub(crate) fn memory(limits: &Limits) -> u64 {
    (limits.memory.unwrap_or(DEFAULT_MEMORY) / MIB).max(1)
}

/// Creates a bottle's machine, announced to the ledger; it does not run yet.
pub(crate) async fn create(
    smolvm: &Smolvm,
    host: &Host,
    spec: &BottleSpec,
    archive: &Path,
    sidecar: Ipv4Addr,
) -> Result<String> {
    let name = name(spec);
    let ledger = host.ledger(&spec.identity);
    let mut entry = ledger.intent(KIND, &name)?;
    let mut labels: BTreeMap<String, String> = labels(spec, Role::Agent, &entry).into_iter().collect();
    labels.insert(SIDECAR.into(), sidecar.to_string());
    labels.extend(spec.limits.pids.map(|pids| (PIDS.into(), pids.to_string())));
    let args = arguments(&name, &spec.limits, archive, sidecar, &labels);
    match smolvm.run(&args, ANSWER_TIME).await {
        Ok(_) => {}
        // There already: a success where our entry's label is on it, and on nothing else.
        Err(error) if error.kind == ErrorKind::CONFLICT => {
            if !list(smolvm).await?.iter().any(|machine| machine.name == name && machine.entry() == entry.uuid) {
                return Err(error).with_context(|| format!("create the machine {name}: it is somebody else's"));
            }
        }
        Err(error) => return Err(error).with_context(|| format!("create the machine {name}")),
    }
    ledger.created(&mut entry, &name)?;
    Ok(name)
}

/// The policy: one address, all of whose ports ask for the bottle's capability, and no name. No directory of the host, no
/// port, no socket and no key of it is ever named here.
fn arguments(
    name: &str,
    limits: &Limits,
    archive: &Path,
    sidecar: Ipv4Addr,
    labels: &BTreeMap<String, String>,
) -> Vec<OsString> {
    let cidr = format!("{}/32", IpAddr::from(sidecar));
    let mut args: Vec<OsString> = ["machine", "create", "--name", name, "--image"].map(OsString::from).into();
    args.push(archive.into());
    args.extend(["--net", "--allow-cidr", &cidr, "--allow-host-pattern", NO_NAME].map(OsString::from));
    args.extend(["--mem".into(), memory(limits).to_string().into()]);
    args.extend(cpus(limits).into_iter().flat_map(|cpus| ["--cpus".into(), cpus.to_string().into()]));
    args.extend(labels.iter().flat_map(|(name, value)| ["--label".into(), format!("{name}={value}").into()]));
    args
}

/// Boots it.
pub(crate) async fn start(smolvm: &Smolvm, name: &str, stop: &Stop) -> Result<()> {
    let pid = AtomicU32::new(0);
    let booted = stop.or(smolvm.run_as(&["machine", "start", "--name", name], START_TIME, &pid)).await;
    if booted.is_err() {
        // That it cannot be removed is no reason to hide why the machine did not boot.
        let _ = remove_seed(smolvm, pid.into_inner()).await;
    }
    booted.map(drop).with_context(|| format!("start the machine {name}"))
}

/// A first start unpacks an image in a machine of its own, which is named by the client's process. It forgets it where it
/// is killed meanwhile.
pub(crate) async fn remove_seed(smolvm: &Smolvm, client: u32) -> Result<()> {
    for machine in list(smolvm).await?.iter().filter(|machine| is_seed_of(&machine.name, client)) {
        delete(smolvm, &machine.name).await?;
    }
    Ok(())
}

/// `image-seed-<hash>-<process>`
fn is_seed_of(name: &str, client: u32) -> bool {
    let parts = name.strip_prefix("image-seed-").and_then(|rest| rest.rsplit_once('-'));
    client != 0 && parts.is_some_and(|(_, process)| process == client.to_string())
}

/// Removes it, running or not. One that is not there is removed.
pub(crate) async fn delete(smolvm: &Smolvm, name: &str) -> Result<()> {
    match smolvm.run(&["machine", "delete", "--name", name, "--force"], ANSWER_TIME).await {
        Err(error) if error.kind != ErrorKind::NOT_FOUND => Err(error).context(format!("remove the machine {name}")),
        _ => Ok(()),
    }
}

/// The running machine of a bottle.
pub(crate) async fn find(smolvm: &Smolvm, identity: &str, owner: &str) -> Result<Machine> {
    let is_it = |machine: &Machine| {
        machine.is_running() && machine.is_agents() && machine.identity() == identity && machine.owner() == Some(owner)
    };
    list(smolvm).await?.into_iter().find(is_it).ok_or_else(|| {
        Error::new(ErrorKind::NOT_FOUND, format!("the bottle {identity} does not run in a machine of smolvm"))
            .hint("`bottle list active` shows the bottles that run.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_lists_are_read() {
        let found = parse(include_str!("../recorded/ls.out")).unwrap();
        let machine = found.iter().find(|machine| machine.is_running()).unwrap();
        assert!(machine.is_agents() && machine.owner() == Some("recorder"));
        assert_eq!((machine.identity(), machine.entry()), ("demo-12345", "8d7c"));
        assert_eq!((machine.sidecar(), machine.pids()), (Some(Ipv4Addr::new(10, 232, 7, 2)), Some(300)));
        let row = machine.active();
        assert_eq!((row.agent.as_str(), row.daemons), ("demo", vec!["egress".to_owned(), "dns".into()]));
        assert!(row.started.starts_with("20") && row.started.ends_with('Z'), "{}", row.started);
        let stopped = parse(include_str!("../recorded/ls-stopped.out")).unwrap();
        assert!(!stopped.is_empty() && stopped.iter().all(|machine| !machine.is_running()));
        assert!(parse(include_str!("../recorded/ls-empty.out")).unwrap().is_empty());
        assert_eq!(parse("no JSON").unwrap_err().kind, ErrorKind::PROTOCOL);
    }

    #[test]
    fn a_machine_gets_one_address_no_name_and_nothing_of_the_host() {
        let limits = Limits { memory: Some(1 << 30), milli_cpus: Some(1500), pids: None };
        let labels = BTreeMap::from([("a".to_owned(), "b=c".to_owned())]);
        let args = arguments("m", &limits, Path::new("/x/image.tar"), Ipv4Addr::new(10, 232, 7, 2), &labels);
        let words: Vec<&str> = args.iter().map(|word| word.to_str().unwrap()).collect();
        let expected = "machine create --name m --image /x/image.tar --net --allow-cidr 10.232.7.2/32 \
                        --allow-host-pattern no-name.invalid --mem 1024 --cpus 1 --label a=b=c";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn a_seed_is_known_by_the_client_that_made_it() {
        assert!(is_seed_of("image-seed-7eeb4e83ab7d42ae-325", 325));
        for (name, client) in [("image-seed-7eeb4e83ab7d42ae-325", 25), ("image-seed-0-0", 0), ("m-325", 325), ("", 1)]
        {
            assert!(!is_seed_of(name, client), "{name}");
        }
    }

    #[test]
    fn limits_leave_whole_processors() {
        let limits = |milli_cpus| Limits { milli_cpus, ..Limits::default() };
        let found = [None, Some(500), Some(1999), Some(4000)].map(|milli| cpus(&limits(milli)));
        assert_eq!(found, [None, Some(1), Some(1), Some(4)]);
        assert_eq!(memory(&Limits::default()), 4096);
    }
}
