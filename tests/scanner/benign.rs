//! What honest tools send and are answered, recorded, and sent through the sidecar: it arrives as it was sent, and is read
//! as it was answered, byte by byte.

use crate::{
    exchange::{Request, Url},
    generator::{Generator, KNOWN},
    play::{Step, Verdict, play},
    sockets::Frame,
    world::{Setup, World, hold},
};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::{netns::Namespace, origin::Scripted};
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
};

/// At most so many in a thousand may be harmed.
pub(crate) const HARMED_PER_MILLE: usize = 5;
const LEAST: usize = 150;
/// The model's own host, on which a conversation must survive.
pub(crate) const MODEL: &str = "api.anthropic.com";
/// What a proxy may narrow: it must be able to read what comes back.
const THE_PROXYS: [&str; 1] = ["accept-encoding"];

/// One exchange.
#[derive(Deserialize)]
pub(crate) struct Recording {
    pub(crate) tool: String,
    method: String,
    pub(crate) url: String,
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: Bytes,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    answer_headers: Vec<(String, String)>,
    #[serde(default)]
    answer: Bytes,
    /// Of a WebSocket.
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Default, Deserialize)]
struct Bytes {
    text: Option<String>,
    base64: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    from_client: bool,
    #[serde(flatten)]
    content: Bytes,
}

impl Bytes {
    fn get(&self) -> Result<Vec<u8>> {
        Ok(match (&self.text, &self.base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(base64)) => BASE64_STANDARD.decode(base64)?,
            (None, None) => vec![],
        })
    }
}

impl Recording {
    /// What the tool sent.
    pub(crate) fn step(&self) -> Result<Step> {
        let (method, headers, body) = (self.method.clone(), self.headers.clone(), self.body.get()?);
        let request = Request { method, url: self.url.clone(), headers, body, chunk: 0 };
        if self.messages.is_empty() {
            let whole = request.body.len();
            return Ok(Step::Send(request, whole));
        }
        let frame = |message: &Message| {
            let opcode = if message.content.text.is_some() { 1 } else { 2 };
            Ok(Frame { opcode, fin: true, rsv1: false, payload: message.content.get()? })
        };
        let said = self.messages.iter().filter(|message| message.from_client);
        Ok(Step::Speak(request, said.map(frame).collect::<Result<_>>()?))
    }
}

#[test]
fn what_honest_tools_send_and_read_is_unharmed() -> Result<()> {
    let recordings = recordings()?;
    ensure!(recordings.len() >= LEAST, "{} recordings", recordings.len());
    let known = Generator::of_this_run()?.known();
    let secrets = (0..KNOWN).map(|n| format!("SECRET_{n}")).zip(known).collect();
    let mut setup = Setup { secrets, models: [MODEL.to_owned()].into(), ..Setup::default() };
    for recording in &recordings {
        setup.hosts.insert(Url::parse(&recording.url)?.host);
    }
    let outcomes = hold(setup, |world, net| {
        let outcome = |recording: &Recording| {
            world.alive()?;
            unharmed(world, net, recording).with_context(|| format!("in the log {:?}", world.sidecar.log().last()))
        };
        Ok(recordings.iter().map(outcome).collect::<Vec<_>>())
    })?;
    let (mut table, mut harmed) = (BTreeMap::<&str, (usize, usize)>::new(), vec![]);
    for (recording, outcome) in recordings.iter().zip(outcomes) {
        let row = table.entry(&recording.tool).or_default();
        row.1 += 1;
        if let Err(error) = outcome {
            row.0 += 1;
            harmed.push(format!("{} {} {}: {error:#}", recording.tool, recording.method, recording.url));
        }
    }
    println!("{:12} harmed", "tool");
    for (tool, (harmed, all)) in &table {
        println!("{tool:12} {harmed}/{all}");
    }
    println!("harmed {}/{} {harmed:#?}", harmed.len(), recordings.len());
    ensure!(harmed.len() * 1000 <= recordings.len() * HARMED_PER_MILLE, "harmed: {harmed:#?}");
    Ok(())
}

pub(crate) fn recordings() -> Result<Vec<Recording>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora/benign");
    let mut files: Vec<_> = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?.flatten().collect();
    files.sort_by_key(fs::DirEntry::path);
    let mut recordings = vec![];
    for file in files {
        for line in BufReader::new(GzDecoder::new(File::open(file.path())?)).lines() {
            recordings.push(serde_json::from_str(&line?).with_context(|| file.path().display().to_string())?);
        }
    }
    Ok(recordings)
}

fn unharmed(world: &World, net: &Namespace, recording: &Recording) -> Result<()> {
    let step = recording.step()?;
    let Step::Send(request, _) = &step else {
        return match play(world, net, &[step])? {
            Verdict::Allow => Ok(()),
            Verdict::Block(why) | Verdict::Harmed(why) => bail!("it did not arrive: {why}"),
        };
    };
    let (url, answer) = (Url::parse(&request.url)?, recording.answer.get()?);
    let headers = recording.answer_headers.clone();
    world.origin.script([Scripted { status: recording.status, headers, body: answer.clone().into() }]);
    let reply = world.send(request)?;
    let requests = world.origin.requests();
    let [seen] = requests.as_slice() else { bail!("it did not arrive: {:?} {:?}", reply.status, reply.rule()) };
    ensure!((&seen.method, &seen.path) == (&request.method, &url.path), "{} {} arrived", seen.method, seen.path);
    ensure!(seen.body == request.body, "its body was changed");
    for (name, value) in request.headers.iter().filter(|(name, _)| !THE_PROXYS.contains(&name.as_str())) {
        let arrived = seen.headers.iter().any(|(n, v)| n == name && v == value.trim());
        ensure!(arrived, "its header {name} was changed: {:?}", seen.header(name));
    }
    ensure!(!reply.cut && reply.status == recording.status, "its answer is {} {:?}", reply.status, reply.rule());
    let bodiless = request.method == "HEAD" || matches!(reply.status, 204 | 304);
    ensure!(bodiless || reply.body == answer, "the body of its answer was changed");
    for (name, value) in &recording.answer_headers {
        ensure!(
            reply.headers.iter().any(|(n, v)| n == name && v == value.trim()),
            "its answer's header {name} was changed"
        );
    }
    Ok(())
}
