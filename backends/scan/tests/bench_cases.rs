//! The public cases of agent-egress-bench (`tests/corpora/agent-egress-bench`, Apache-2.0), judged in this process: each
//! payload through what the proxy would call for it. What only a wrapper around an MCP server sees is counted apart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

use bottle_scan::{Context, ExactSet, Finding, Kind, Options, Rules, Scanner, Severity};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpora/agent-egress-bench");
/// They ask for a memory over several messages, or for a shell.
const APART: [&str; 3] = ["mcp_tool", "mcp_chain", "shell_obfuscation"];

fn url(scanner: &Arc<Scanner>, url: &str) -> Vec<Finding> {
    let (_, rest) = url.split_once("://").unwrap();
    let (host, target) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut findings = scanner.judge_url(host, path, query);
    // Which addresses are dialled is the policy's business.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let literal = bare.parse().ok().or_else(|| bare.parse::<u32>().ok().map(|n| std::net::Ipv4Addr::from(n).into()));
    let refused = literal.is_some_and(|address| bottle_policy::address::refusal(address, false, &[]).is_some());
    if refused {
        let rule = "address".into();
        let (kind, severity, place) = (Kind::Listed, Severity::Critical, "host".into());
        findings.push(Finding { rule, kind, severity, place, start: 0, end: 0, decoders: String::new() });
    }
    findings
}

fn judge(scanner: &Arc<Scanner>, case: &Value) -> Vec<Finding> {
    let payload = &case["payload"];
    let mut findings = vec![];
    let response = case["input_type"] == "response_content";
    if let Some(text) = payload["url"].as_str().filter(|_| !response) {
        findings.extend(url(scanner, text));
    }
    if let Some(headers) = payload["headers"].as_object() {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()));
        findings.extend(scanner.judge_headers(headers));
    }
    let kind = payload["content_type"].as_str().unwrap_or("application/json");
    let mut body = |bytes: &[u8], context: Context| findings.extend(scanner.judge_body(&context, "", bytes));
    if let Some(text) = payload["body"].as_str() {
        body(text.as_bytes(), Context::outgoing("evil.example.com", kind));
    }
    if let Some(text) = payload["response_body"].as_str() {
        body(text.as_bytes(), Context::incoming("evil.example.com", kind));
    }
    for message in payload["jsonrpc_messages"].as_array().into_iter().flatten() {
        let text = message.to_string();
        body(text.as_bytes(), Context::outgoing("evil.example.com", kind));
        if message.get("result").is_some() {
            body(text.as_bytes(), Context::incoming("evil.example.com", kind));
        }
    }
    if payload.get("agent_card").is_some() {
        body(payload["agent_card"].to_string().as_bytes(), Context::incoming("evil.example.com", kind));
    }
    let frames = payload["frames"].as_array().into_iter().flatten();
    let (mut message, mut compressed) = (String::new(), false);
    for frame in frames {
        message += frame["payload"].as_str().unwrap_or_default();
        compressed |= frame["rsv1"] == true;
    }
    if !message.is_empty() {
        findings.extend(scanner.judge_message("example.com", message.as_bytes(), compressed));
    }
    findings
}

#[test]
fn what_is_to_be_blocked_is_and_nothing_else() {
    let rules = Arc::new(Rules::builtin().unwrap());
    let options = Options { blocklist: vec!["exfil-collector.example.net".into()], entropy: true };
    let scanner = Arc::new(Scanner::new(rules, ExactSet::default(), options));
    let mut files: Vec<_> = fs::read_dir(Path::new(CASES))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|path| path.is_dir())
        .flat_map(|dir| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()))
        .collect();
    files.sort();
    assert!(files.len() > 60, "{} cases in {CASES}", files.len());
    let mut table: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    let (mut missed, mut harmed) = (vec![], vec![]);
    for file in files {
        let case: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let (id, category) = (case["id"].as_str().unwrap(), case["category"].as_str().unwrap().to_owned());
        let findings: Vec<_> = judge(&scanner, &case).into_iter().filter(Finding::blocks).collect();
        let row = table.entry(category.clone()).or_default();
        let to_block = case["expected_verdict"] == "block";
        let at = if to_block { 0 } else { 2 };
        row[at + 1] += 1;
        row[at] += usize::from(!findings.is_empty());
        match (to_block, findings.is_empty()) {
            (true, true) if !APART.contains(&category.as_str()) => missed.push(id.to_owned()),
            (false, false) => harmed.push(format!("{id}: {}", findings[0])),
            _ => {}
        }
    }
    println!("{:<24} {:>9} {:>9}", "category", "contained", "harmed");
    for (category, [blocked, block, hurt, allow]) in &table {
        let apart = if APART.contains(&category.as_str()) { "  (apart)" } else { "" };
        println!("{category:<24} {:>9} {:>9}{apart}", format!("{blocked}/{block}"), format!("{hurt}/{allow}"));
    }
    let counted = table.iter().filter(|(category, _)| !APART.contains(&category.as_str()));
    let all: usize = counted.map(|(_, row)| row[1]).sum();
    println!("missed: {missed:?}\nharmed: {harmed:?}");
    assert!(harmed.is_empty(), "{harmed:?}");
    assert!(missed.len() * 20 <= all, "{} of {all}: {missed:?}", missed.len());
}
