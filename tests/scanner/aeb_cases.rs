//! The cases of agent-egress-bench: read as they are published, and made into what an agent sends and is answered.
//!
//! What a case does follows from its payload, whatever its `input_type` is called: a card, messages of JSON-RPC, frames, a
//! response, or a request. Fields that nobody here knows are passed over; a payload that is none of these is an error.

use crate::{
    exchange::{Request, Url},
    play::Step,
    sockets::Frame,
};
use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Where messages of MCP go, and where A2A does, unless a case says it.
const MCP: &str = "https://mcp.example.com/mcp";
const A2A: &str = "https://agent.example.com/a2a";
const CARD: &str = "https://agent.example.com/.well-known/agent-card.json";

/// A case.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) category: String,
    pub(crate) transport: String,
    payload: Payload,
    expected_verdict: String,
    #[serde(default)]
    requires: Vec<String>,
    #[serde(default)]
    capability_tags: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Payload {
    method: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    content_type: Option<String>,
    response_body: Option<Value>,
    frames: Option<Vec<FrameText>>,
    jsonrpc_messages: Option<Vec<Value>>,
    agent_card: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct FrameText {
    #[serde(default)]
    opcode: Value,
    fin: Option<bool>,
    #[serde(default)]
    rsv1: bool,
    #[serde(default)]
    payload: String,
    payload_base64: Option<String>,
}

impl Case {
    /// Every case below a directory.
    pub(crate) fn all(dir: &Path) -> Result<Vec<Self>> {
        let mut files = vec![];
        collect(dir, &mut files)?;
        files.sort();
        let read = |file: &PathBuf| {
            serde_json::from_slice(&fs::read(file)?).with_context(|| format!("{} is no case", file.display()))
        };
        files.iter().map(read).collect()
    }

    /// Is it an attack?
    pub(crate) fn must_block(&self) -> Result<bool> {
        match self.expected_verdict.as_str() {
            "block" => Ok(true),
            "allow" => Ok(false),
            other => bail!("{}: it expects {other:?}, neither `block` nor `allow`", self.id),
        }
    }

    /// What a wrapper of MCP could know, and a proxy cannot: what a tool was before, what a tool did before, a shell's words.
    pub(crate) fn needs_wrapper(&self) -> bool {
        let drift = |word: &String| ["baseline", "drift", "rug"].iter().any(|part| word.contains(part));
        matches!(self.category.as_str(), "mcp_chain" | "shell_obfuscation")
            || self.category == "mcp_tool" && self.requires.iter().chain(&self.capability_tags).any(drift)
    }

    /// What the operator would have to have listed: a host that is named, without anything being wrong with what is sent.
    pub(crate) fn is_of_a_list(&self) -> bool {
        self.capability_tags.iter().chain(&self.requires).any(|tag| tag.contains("blocklist"))
            || self.id.contains("blocklist")
    }

    /// What it does.
    pub(crate) fn steps(&self) -> Result<Vec<Step>> {
        self.plan().with_context(|| format!("{} cannot be played", self.id))
    }

    fn plan(&self) -> Result<Vec<Step>> {
        let payload = &self.payload;
        if let Some(card) = &payload.agent_card {
            let url = payload.url.as_deref().unwrap_or(CARD);
            return Ok(vec![Step::Read(self.request("GET", url), json(card), "application/json")]);
        }
        if let Some(messages) = &payload.jsonrpc_messages {
            let to = if self.transport == "a2a" { A2A } else { MCP };
            return Ok(messages.iter().map(|message| self.message(to, message)).collect());
        }
        let url = payload.url.as_deref().context("it has neither a URL nor messages nor a card")?;
        if let Some(frames) = &payload.frames {
            let frames = frames.iter().map(FrameText::frame).collect::<Result<_>>()?;
            return Ok(vec![Step::Speak(self.request("GET", url), frames)]);
        }
        let request = self.request("GET", url);
        Ok(vec![match &payload.response_body {
            Some(body) => {
                let body = text(body);
                let kind = payload.content_type.as_deref();
                let kind = match (serde_json::from_slice::<Value>(&body), body.first()) {
                    _ if kind.is_some_and(|kind| kind.contains("markdown")) => "text/markdown",
                    (Ok(_), _) => "application/json",
                    (_, Some(b'<')) => "text/html; charset=utf-8",
                    _ => "text/plain; charset=utf-8",
                };
                Step::Read(request, body, kind)
            }
            None => sent(request),
        }])
    }

    fn request(&self, method: &str, url: &str) -> Request {
        let payload = &self.payload;
        let mut headers: Vec<(String, String)> = payload.headers.clone().into_iter().collect();
        let body = payload.body.as_ref().map(text).unwrap_or_default();
        let has_type = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        if !body.is_empty() && !has_type {
            headers.push(("Content-Type".into(), payload.content_type.clone().unwrap_or_else(|| "text/plain".into())));
        }
        let method = payload.method.clone().unwrap_or_else(|| method.into());
        Request { method, url: url.into(), headers, body, chunk: 0 }
    }

    /// A call is what an agent sends; a result is what it reads.
    fn message(&self, to: &str, message: &Value) -> Step {
        let url = self.payload.url.as_deref().unwrap_or(to);
        if message.get("method").is_some() {
            return sent(Request::post(url, "application/json", json(message)));
        }
        let asked = serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "method": "tools/list"});
        Step::Read(Request::post(url, "application/json", json(&asked)), json(message), "application/json")
    }
}

impl FrameText {
    fn frame(&self) -> Result<Frame> {
        let opcode = match &self.opcode {
            Value::Number(number) => number.as_u64().and_then(|n| u8::try_from(n).ok()).filter(|n| *n < 16),
            Value::String(name) => match name.as_str() {
                "continuation" | "cont" => Some(0),
                "text" => Some(1),
                "binary" => Some(2),
                "close" => Some(8),
                "ping" => Some(9),
                "pong" => Some(10),
                _ => None,
            },
            Value::Null => Some(1),
            _ => None,
        };
        let payload = match &self.payload_base64 {
            Some(text) => BASE64_STANDARD.decode(text)?,
            None => self.payload.clone().into_bytes(),
        };
        let opcode = opcode.with_context(|| format!("a frame of the kind {}", self.opcode))?;
        Ok(Frame { opcode, fin: self.fin.unwrap_or(true), rsv1: self.rsv1, payload })
    }
}

/// The first half of a payload is taken for all of it.
fn sent(request: Request) -> Step {
    let half = request.body.len().div_ceil(2);
    Step::Send(request, half)
}

/// The host that a request asks for, in lower case.
pub(crate) fn host(request: &Request) -> Result<String> {
    Ok(Url::parse(&request.url)?.host.to_ascii_lowercase())
}

fn json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// A text as it is; anything else as JSON.
fn text(value: &Value) -> Vec<u8> {
    value.as_str().map_or_else(|| json(value), |text| text.as_bytes().to_vec())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(())
}
