//! `list active` where fifty bottles run.

use super::{
    Figure,
    launch::timed,
    place::Place,
    print,
    raw::{LABELS, Recording},
    trace::Trace,
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::Path;

const BOTTLES: usize = 50;
/// What the list may take, in calls to the engine.
const CALLS: f64 = 2.0;

/// Measures. A bottle is what the list looks for: a running container with an agent's labels.
pub(super) fn bench(place: &Place, recording: &Recording, trace: &Trace, runs: usize) -> Result<()> {
    let agents = Agents::start(place, recording)?;
    let list = |socket: &Path| -> Result<()> {
        let out = place.bottle(socket, &["list", "active", "--json"]).output()?;
        let listed: Value = serde_json::from_slice(&out.stdout)?;
        let found = listed["bottles"].as_array().map_or(0, Vec::len);
        ensure!(found == BOTTLES, "{found} bottles are listed");
        Ok(())
    };
    trace.take();
    list(&trace.socket)?;
    let calls = trace.take();
    let (mut whole, mut without, mut one) = (vec![], vec![], vec![]);
    for _ in 0..runs {
        whole.push(timed(|| list(&place.engine.socket))?.0);
        without.push(timed(|| Ok(place.bottle(Path::new("/nowhere"), &["list", "active"]).output()?))?.0);
        one.push(timed(|| place.engine.get("/containers/json"))?.0);
    }
    drop(agents);
    let figure = |what: &str, values| Figure { what: what.into(), unit: "ms", limit: None, values };
    let (without, one) = (figure("the same, no engine there", without), figure("one call that lists containers", one));
    let limit = without.median()? + CALLS * one.median()?;
    let whole = Figure { limit: Some(limit), ..figure("list active", whole) };
    let calls = Figure {
        what: format!("engine calls ({})", calls.iter().map(|c| c.what.as_str()).collect::<Vec<_>>().join(", ")),
        unit: "n",
        limit: Some(CALLS),
        values: vec![calls.len() as f64],
    };
    print(&format!("{BOTTLES} bottles, {runs} runs"), &[whole, without, one, calls])
}

/// Containers that the list takes for bottles' agents, until they are dropped.
struct Agents<'a>(&'a Place, Vec<String>);

impl<'a> Agents<'a> {
    fn start(place: &'a Place, recording: &Recording) -> Result<Self> {
        let mut agents = Self(place, vec![]);
        let mut body = recording.agent.body.clone();
        let labels = body["Labels"].as_object().into_iter().flatten();
        body["Labels"] = labels.map(|(name, value)| (name.replacen(LABELS[1], LABELS[0], 1), value.clone())).collect();
        body["HostConfig"] = json!({ "NetworkMode": "none", "LogConfig": { "Type": "none" } });
        body["Entrypoint"] = json!(["/usr/local/bin/claude", "stay"]);
        for n in 0..BOTTLES {
            body["Labels"]["claude-bottle.identity"] = format!("measured-{n:05}").into();
            let made = place.engine.call("POST", "/containers/create", &body)?;
            let id = made["Id"].as_str().unwrap_or_default().to_owned();
            let started = place.engine.call("POST", &format!("/containers/{id}/start"), &Value::Null);
            agents.1.push(id);
            started?;
        }
        Ok(agents)
    }
}

impl Drop for Agents<'_> {
    fn drop(&mut self) {
        for id in &self.1 {
            let _ = self.0.engine.delete(&format!("/containers/{id}?force=true"));
        }
    }
}
