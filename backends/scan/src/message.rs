//! What a message says to an agent or to a tool: MCP and A2A inside of bodies, one message at a time. What only the
//! order of several messages shows (a tool that changes, a chain of calls) is not seen here.

use crate::{
    finding::{Finding, Kind},
    injection,
    rule::Severity,
    shell,
};
use aho_corasick::packed::Searcher;
use serde_json::Value;
use std::sync::OnceLock;

/// Larger messages are not read as a whole.
const MOST: usize = 1 << 20;

/// Judges a body: whole JSON, lines of JSON, or events with JSON in them.
pub(crate) fn judge(bytes: &[u8], incoming: bool) -> Vec<Finding> {
    let mut findings = vec![];
    if incoming {
        findings.extend(injection::judge(bytes));
    }
    if bytes.len() > MOST || !speaks(bytes) {
        return findings;
    }
    let messages: Vec<Value> = match serde_json::from_slice(bytes) {
        Ok(Value::Array(messages)) => messages,
        Ok(message) => vec![message],
        Err(_) => lines(bytes).take(2000).filter_map(|line| serde_json::from_slice(line).ok()).collect(),
    };
    for message in &messages {
        descriptions(message, 0, &mut findings);
        let call = &message["params"];
        if message["method"] == "tools/call" {
            arguments(&call["arguments"], 0, &mut findings);
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

/// Whether it has a word that such messages have.
fn speaks(bytes: &[u8]) -> bool {
    static MARKS: OnceLock<Option<Searcher>> = OnceLock::new();
    let marks = MARKS.get_or_init(|| Searcher::new(["jsonrpc", "inputSchema", "\"skills\"", "securitySchemes"]));
    // Where nothing can search for them, all may be one.
    marks.as_ref().is_none_or(|marks| marks.find(bytes).is_some())
}

/// Lines that may be JSON, events' data too.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', bytes).chain(std::iter::once(bytes.len()));
    let lines = ends.map(move |end| {
        let line = &bytes[start..end];
        start = end + 1;
        line.strip_prefix(b"data:").unwrap_or(line).trim_ascii_start()
    });
    lines.filter(|line| matches!(line.first(), Some(b'{' | b'[')))
}

fn found(rule: &'static str) -> Finding {
    Finding {
        rule: rule.into(),
        kind: Kind::Structure,
        severity: Severity::High,
        place: "message".into(),
        start: 0,
        end: 0,
        decoders: String::new(),
    }
}

/// Tools, skills and cards: a description tells what a tool does, never an agent what to do first.
fn descriptions(value: &Value, depth: usize, findings: &mut Vec<Finding>) {
    if depth > 32 {
        return;
    }
    match value {
        Value::Object(fields) => {
            let described = fields.contains_key("name") || fields.contains_key("type");
            for (name, value) in fields {
                match value {
                    Value::String(text) if described && matches!(name.as_str(), "description" | "name" | "title") => {
                        if injection::is_poisoned(text) {
                            findings.push(found("tool-poisoning"));
                        }
                    }
                    _ => descriptions(value, depth + 1, findings),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| descriptions(value, depth + 1, findings)),
        _ => {}
    }
}

/// What a tool is asked to do.
fn arguments(value: &Value, depth: usize, findings: &mut Vec<Finding>) {
    match value {
        Value::String(text) => {
            if shell::is_obfuscated(text) {
                findings.push(found("shell-obfuscation"));
            }
            if shell::reads_secrets(text) {
                findings.push(found("secret-file"));
            }
        }
        Value::Array(values) if depth < 32 => values.iter().for_each(|v| arguments(v, depth + 1, findings)),
        Value::Object(fields) if depth < 32 => fields.values().for_each(|v| arguments(v, depth + 1, findings)),
        _ => {}
    }
}
