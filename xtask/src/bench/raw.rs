//! A bottle's resources by calls to the engine and nothing else: what our bottle is measured against.
//!
//! The requests are those of a bottle that `bottle` has started, read back from the engine: the same images, the same
//! hardening, the same networks, whatever they are by now.
//!
//! ```text
//! internal ─┬─ agent: create, files, start ────────────┬─ exec ─┬─ agent ───────────────┬─ internal
//!           └─ sidecar: create ─┬─ connect, start ─────┘        └─ sidecar ─── egress ──┘
//! egress ───────────────────────┘
//! ```

use super::{
    engine::Engine,
    place::{AGENT, EGRESS, INTERNAL, Place, SIDECAR},
    scratch,
};
use crate::run::{host_target, output};
use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use std::{fs, process::Command, thread};

const IDENTITY: &str = "claude-bottle.identity";
/// In place of our labels' beginning: no cleanup is to take these for a bottle's.
pub(super) const LABELS: [&str; 2] = ["claude-bottle.", "bottle-bench."];

/// A container as it was found: the request that makes it, and its place on each network.
pub(super) struct Container {
    pub(super) body: Value,
    pub(super) internal: Value,
    pub(super) egress: Value,
}

/// A bottle as it was found.
pub(super) struct Recording {
    pub(super) agent: Container,
    pub(super) sidecar: Container,
    pub(super) internal: Value,
    pub(super) egress: Value,
    /// Everything that is put into the agent's container.
    pub(super) files: Vec<u8>,
}

impl Recording {
    /// Reads a bottle that runs back from the engine.
    pub(super) fn of(place: &Place) -> Result<Self> {
        let engine = &place.engine;
        let filter = json!({ "label": [format!("{IDENTITY}={}", place.identity()?)] }).to_string();
        let filter = filter.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
        let networks = engine.get(&format!("/networks?filters={filter}"))?;
        let role = |thing: &Value| thing["Labels"]["claude-bottle.role"].as_str().map(str::to_owned);
        let of_role = |things: &Value, wanted: &str| {
            let mut things = things.as_array().into_iter().flatten();
            let found = things.find(|thing| role(thing).as_deref() == Some(wanted)).cloned();
            found.with_context(|| format!("the bottle has no {wanted}"))
        };
        let (internal, egress) = (of_role(&networks, "internal")?, of_role(&networks, "egress")?);
        let containers = engine.get(&format!("/containers/json?filters={filter}"))?;
        let container = |wanted| {
            let found = of_role(&containers, wanted)?;
            let id = found["Id"].as_str().context("a container's id")?;
            container(&engine.get(&format!("/containers/{id}/json"))?, &internal, &egress)
        };
        Ok(Self {
            agent: container("agent")?,
            sidecar: container("sidecar")?,
            internal: network(&internal, INTERNAL),
            egress: network(&egress, EGRESS),
            files: files(place)?,
        })
    }

    /// The bottle up, its agent run, the bottle down.
    pub(super) fn up_and_down(&self, engine: &Engine) -> Result<()> {
        let create_network = |body: &Value| id(&engine.call("POST", "/networks/create", body)?);
        let remove_container = |id: &str| engine.delete(&format!("/containers/{id}?force=true&v=true"));
        let remove_network = |id: &str| engine.delete(&format!("/networks/{id}"));
        thread::scope(|scope| {
            let egress = scope.spawn(|| create_network(&self.egress));
            let internal = create_network(&self.internal)?;
            let network = internal.clone();
            let agent = scope.spawn(move || {
                let agent = create(engine, AGENT, &self.agent, &network)?;
                engine.send("PUT", &format!("/containers/{agent}/archive?path=/"), "application/x-tar", &self.files)?;
                engine.call("POST", &format!("/containers/{agent}/start"), &Value::Null)?;
                Ok(agent)
            });
            let sidecar = create(engine, SIDECAR, &self.sidecar, &internal)?;
            let egress = joined(egress)?;
            let leg = json!({ "Container": sidecar, "EndpointConfig": self.sidecar.egress });
            engine.call("POST", &format!("/networks/{egress}/connect"), &leg)?;
            engine.call("POST", &format!("/containers/{sidecar}/start"), &Value::Null)?;
            let agent = joined(agent)?;

            let exec = json!({ "AttachStdout": true, "AttachStderr": true, "User": "1000:1000", "Cmd": ["/usr/local/bin/claude"] });
            let exec = id(&engine.call("POST", &format!("/containers/{agent}/exec"), &exec)?)?;
            engine.send(
                "POST",
                &format!("/exec/{exec}/start"),
                "application/json",
                br#"{"Detach":false,"Tty":false}"#,
            )?;

            let gone = scope.spawn(move || remove_container(&agent));
            remove_container(&sidecar)?;
            remove_network(&egress)?;
            joined(gone)?;
            remove_network(&internal)
        })
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a part of the bench panicked"))?
}

fn create(engine: &Engine, name: &str, container: &Container, internal: &str) -> Result<String> {
    let mut body = container.body.clone();
    body["HostConfig"]["NetworkMode"] = internal.into();
    body["NetworkingConfig"] = json!({ "EndpointsConfig": { internal: container.internal } });
    id(&engine.call("POST", &format!("/containers/create?name={name}"), &body)?)
}

fn id(answer: &Value) -> Result<String> {
    Ok(answer["Id"].as_str().context("the engine gives no id")?.to_owned())
}

/// The request that makes a container like this one.
fn container(found: &Value, internal: &Value, egress: &Value) -> Result<Container> {
    let short = &id(found)?[..12];
    let mut body = found["Config"].clone();
    body["HostConfig"] = found["HostConfig"].clone();
    // The engine's own choice.
    if body["Hostname"] == short {
        body["Hostname"] = Value::Null;
    }
    body["Labels"] = relabelled(&body["Labels"]);
    let leg = |network: &Value| {
        let found = &found["NetworkSettings"]["Networks"][network["Name"].as_str().unwrap_or_default()];
        let aliases = found["Aliases"].as_array().into_iter().flatten().filter(|alias| **alias != *short);
        json!({ "IPAMConfig": found["IPAMConfig"], "Aliases": aliases.collect::<Vec<_>>() })
    };
    Ok(Container { body, internal: leg(internal), egress: leg(egress) })
}

/// The request that makes a network like this one.
fn network(found: &Value, name: &str) -> Value {
    json!({
        "Name": name,
        "Driver": found["Driver"],
        "Internal": found["Internal"],
        "EnableIPv6": found["EnableIPv6"],
        "IPAM": found["IPAM"],
        "Options": found["Options"],
        "Labels": relabelled(&found["Labels"]),
    })
}

fn relabelled(labels: &Value) -> Value {
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(name, value)| (name.replacen(LABELS[0], LABELS[1], 1), value.clone())).collect()
}

/// The helper, certificates, and the client's files, as an archive.
fn files(place: &Place) -> Result<Vec<u8>> {
    let (_, arch) = host_target()?;
    let root = scratch("files")?;
    let helper = fs::read(place.tree.join(format!("libexec/bottle/bottle-sidecar-{arch}")))?;
    for (path, data) in [
        ("usr/local/libexec/bottle-helper", &helper[..]),
        ("etc/bottle/ca.pem", &[b'x'; 600]),
        ("home/agent/.claude.json", &[b'x'; 300]),
        ("home/agent/.claude/settings.json", &[b'x'; 100]),
        ("home/agent/.bottle/prompt.md", &[b'x'; 20]),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        fs::write(path, data)?;
    }
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root.join("usr/local/libexec/bottle-helper"), fs::Permissions::from_mode(0o755))?;
    let archive = root.with_extension("tar");
    output(Command::new("tar").args(["--owner=0", "--group=0", "-cf"]).arg(&archive).args(["-C"]).arg(&root).arg("."))?;
    Ok(fs::read(archive)?)
}
