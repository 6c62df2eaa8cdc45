//! What each fuzz target does with its bytes, and what must hold of them. Shared by the targets, which libfuzzer drives
//! without end, and by `bottle-host/tests/fuzz.rs`, which drives them for a moment in every test run.

use bottle_api::{
    LedgerEntry,
    control::{ExecFrame, First, SecretsFrame, Start, encode, read_frame},
};
use bottle_host::{
    manifest::{AgentFields, BottleFields, Frontmatter, parse_text, print},
    plugin::vet::vet,
    session::filtered,
    state::ledger::Ledger,
};
use bottle_policy::{Policy, Request, Scheme, Verdict, decide, path};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// A target: its name, which is its corpus's too, and its body.
pub(crate) type Body = fn(&[u8]);

/// All of them.
pub(crate) const BODIES: [(&str, Body); 7] = [
    ("bottle", frontmatter::<BottleFields>),
    ("agent", frontmatter::<AgentFields>),
    ("ledger", ledger),
    ("control", control),
    ("filter", filter),
    ("plugin", plugin),
    ("policy", policy),
];

/// A file of the manifest: read or refused, and what was read is written so that it is read again.
pub(crate) fn frontmatter<T: Frontmatter + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse_text::<T>("x.md", text) {
        Ok(value) => {
            let printed = print(&value, "").expect("what was read can be written");
            match parse_text::<T>("x.md", &printed) {
                Ok(again) => assert_eq!(again, value, "{printed}"),
                Err(error) => panic!("{error:#}\n{printed}"),
            }
        }
        Err(error) => assert!(error.to_string().starts_with("x.md:"), "{error:#}"),
    }
}

/// A ledger file, whatever is in it: opened, and what is announced after that is remembered.
pub(crate) fn ledger(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.jsonl");
    std::fs::write(&path, bytes).expect("a file");
    let Ok(Some(ledger)) = Ledger::read(&path) else { return };
    let before = ledger.entries();
    let entry = LedgerEntry { kind: "network".into(), name: "new".into(), ..LedgerEntry::default() };
    let entry = ledger.intent(entry).expect("the ledger can be written to");
    let again = Ledger::read(&path).expect("it was read before").expect("it is there").entries();
    assert_eq!(again.first(), Some(&entry));
    assert_eq!(again[1..], before);
}

/// Frames of the control channel: read or refused; what was read is written so that it is read again.
pub(crate) fn control(bytes: &[u8]) {
    fn round<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
        let mut from = bytes;
        while let Ok(Some(frame)) = read_frame::<T>(&mut from) {
            let wire = encode(&frame).expect("what was read can be written");
            let again: T = read_frame(&mut &wire[..]).expect("it was just written").expect("a frame");
            assert_eq!(encode(&again).expect("the same again"), wire);
        }
    }
    round::<Start>(bytes);
    round::<First>(bytes);
    round::<ExecFrame>(bytes);
    let mut from = bytes;
    while let Ok(Some(frame)) = read_frame::<SecretsFrame>(&mut from) {
        drop(frame.decode());
    }
}

/// What a guest writes to the terminal: the same however it is cut, and nothing in it that reaches the clipboard or
/// makes the terminal answer with what the guest has chosen.
pub(crate) fn filter(bytes: &[u8]) {
    let whole = filtered(bytes, bytes.len().max(1));
    for part in [1, 2, 7] {
        assert_eq!(filtered(bytes, part), whole, "in parts of {part}");
    }
    let again = filtered(&whole, whole.len().max(1));
    // The beginning of a sequence is held back until its end.
    assert!(whole.starts_with(&again), "taking out has made something to take out: {}", whole.escape_ascii());
    // Wherever a terminal sees a sequence begin: not only where the filter does.
    for at in (0..whole.len()).filter(|at| whole[*at] == 0x1b) {
        let rest = &whole[at + 1..];
        let ends = |ends: &[&[u8]]| ends.iter().any(|end| rest.windows(end.len()).any(|bytes| bytes == *end));
        let clipboard = rest.starts_with(b"]52;") && ends(&[b"\x07", b"\x1b\\"]);
        let report = [&b"[21t"[..], b"[20t", b"P$q", b"P+q"].iter().any(|report| rest.starts_with(report));
        let answers = report && ends(&[b"t", b"\x1b\\"]);
        assert!(!clipboard && !answers, "{}", whole.escape_ascii());
    }
}

/// A file that calls itself a plugin: vetted, which runs none of its code.
pub(crate) fn plugin(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("libbottle_backend_small.so");
    std::fs::write(&path, bytes).expect("a file");
    if let Err(error) = vet(&path) {
        assert!(!format!("{error:#}").contains(|c: char| c.is_control()), "{error:#}");
    }
}

/// A policy document and a request, one line each: what is allowed is allowed by a route of the document.
pub(crate) fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    let Ok(policy) = serde_json::from_str::<Policy>(line()) else { return };
    if policy.check().is_err() {
        return;
    }
    let scheme = if line() == "http" { Scheme::Http } else { Scheme::Https };
    let (host, port, header, method, target) = (line(), line(), line(), line(), line());
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let request = Request {
        scheme,
        host,
        port: port.parse().unwrap_or(443),
        host_header: (!header.is_empty()).then_some(header),
        method,
        path,
        query,
    };
    match decide(&policy, &request) {
        Verdict::Allow(route) => {
            assert!(policy.routes.iter().any(|own| std::ptr::eq(own, route)));
            assert!(route.host.eq_ignore_ascii_case(host) && route.ports.contains(&request.port));
            assert!(route.methods.is_empty() || route.methods.iter().any(|m| m == method));
            assert!(route.paths.is_empty() || route.paths.iter().any(|prefix| path::covers(prefix, path)));
            assert!(path::ambiguity(path).is_none() && !path::is_git_push(method, path, query));
            assert!(route.auth.is_none() || scheme == Scheme::Https);
            assert!(!header.is_empty());
        }
        Verdict::Deny(denial) => assert!(matches!(denial.status, 400 | 403) && !denial.reason.is_empty()),
    }
}
