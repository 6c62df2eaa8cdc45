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
use bottle_policy::{
    Policy, Request, Scheme, Verdict, address as addresses, decide, host as hosts, path as paths, target as targets,
};
use bottle_scan::{Context, ExactSet, Finding, Options, Pack, Rules, Scanner};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

/// A target: its name, which is its corpus's too, and its body.
pub(crate) type Body = fn(&[u8]);

/// All of them.
pub(crate) const BODIES: [(&str, Body); 14] = [
    ("bottle", frontmatter::<BottleFields>),
    ("agent", frontmatter::<AgentFields>),
    ("ledger", ledger),
    ("control", control),
    ("filter", filter),
    ("plugin", plugin),
    ("policy", policy),
    ("host", host),
    ("path", path),
    ("target", target),
    ("address", address),
    ("scan", scan),
    ("encoded", encoded),
    ("pack", pack),
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
            assert!(route.paths.is_empty() || route.paths.iter().any(|prefix| paths::covers(prefix, path)));
            assert!(paths::ambiguity(path).is_none() && !paths::is_git_push(method, path, query));
            assert!(route.auth.is_none() || scheme == Scheme::Https);
            assert!(!header.is_empty());
        }
        Verdict::Deny(denial) => assert!(matches!(denial.status, 400 | 403) && !denial.reason.is_empty()),
    }
}

/// A host: what is plain is read in one way by everybody, by the old reader of addresses (`inet_aton`), too.
pub(crate) fn host(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if hosts::ambiguity(text).is_some() {
        return;
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-:[]".contains(&b);
    assert!(!text.is_empty() && text.bytes().all(plain), "{text:?}");
    assert_eq!(aton(text), hosts::address(text).filter(IpAddr::is_ipv4), "{text:?}");
    assert!(hosts::same(text, &text.to_ascii_uppercase()), "{text:?}");
}

/// One to four numbers, decimal, octal or hexadecimal, the last of which fills what is left: as `inet_aton` reads them.
fn aton(text: &str) -> Option<IpAddr> {
    let number = |part: &str| match part.to_ascii_lowercase() {
        hex if hex.starts_with("0x") => u32::from_str_radix(&hex[2..], 16).ok(),
        octal if octal.starts_with('0') && octal.len() > 1 => u32::from_str_radix(&octal[1..], 8).ok(),
        decimal => decimal.parse().ok(),
    };
    let parts = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, first) = parts.split_last().filter(|(_, first)| first.len() < 4)?;
    let room = 32 - 8 * u32::try_from(first.len()).ok()?;
    if first.iter().any(|part| *part > 255) || u64::from(*last) >> room != 0 {
        return None;
    }
    let high = first.iter().fold(0_u64, |sum, part| sum << 8 | u64::from(*part)) << room;
    u32::try_from(high | u64::from(*last)).ok().map(|bits| Ipv4Addr::from(bits).into())
}

/// A path: what is plain stays what it is under everything that servers do to paths.
pub(crate) fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if paths::ambiguity(text).is_some() {
        return;
    }
    let decoded = paths::percent_decoded(text);
    assert_eq!(paths::percent_decoded(&decoded), decoded, "{text:?} can be decoded twice");
    assert_eq!(decoded.matches(['/', '\\']).count(), text.matches('/').count(), "{text:?} has hidden separators");
    assert!(!decoded.contains("//") && !decoded.chars().any(|c| c.is_ascii_control() || c == ';'), "{text:?}");
    assert!(!decoded.split('/').any(|segment| matches!(segment, "." | "..")), "{text:?}");
    assert!(paths::covers("/", text) && paths::covers(text, text), "{text:?}");
}

/// The target of a request line: what is read says the same again when it is written.
pub(crate) fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (tunnel, url) = (targets::of_tunnel(text), targets::of_url(Scheme::Https, text));
    if let Ok(target) = &tunnel {
        assert_eq!(url.as_ref(), Ok(target), "{text:?}");
    }
    let Ok(target) = url else { return };
    assert!(hosts::ambiguity(&target.host).is_none() && target.port > 0, "{text:?}");
    let written = format!("{}:{}", target.host, target.port);
    assert_eq!(targets::of_tunnel(&written), Ok(target), "{text:?}");
    assert!(written.starts_with(&text.to_ascii_lowercase()), "{text:?}");
}

/// An address, of four bytes or of sixteen: what is refused is refused in every form of it, and by more names than its own.
pub(crate) fn address(bytes: &[u8]) {
    let address: IpAddr = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(four), _) => four.into(),
        (_, Ok(sixteen)) => sixteen.into(),
        _ => return,
    };
    let refused = |address: IpAddr, private: bool| addresses::refusal(address, private, &[]).is_some();
    assert!(!refused(address, true) || refused(address, false), "{address}: `allow_private` refuses more");
    assert!(addresses::refusal(address, true, &[address]).is_some(), "{address} is the machine's own");
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let forms = [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 0),
            ];
            for (form, private) in forms.into_iter().flat_map(|form| [(form, true), (form, false)]) {
                assert_eq!(refused(form.into(), private), refused(address, private), "{address} as {form}");
            }
        }
        IpAddr::V6(v6) => {
            let global = v6.segments()[0] & 0xe000 == 0x2000;
            let embedded = v6.to_ipv4_mapped().is_some() || matches!(v6.segments(), [0 | 0x64, ..]);
            assert!(global || embedded || refused(address, false), "{address} is not global");
        }
    }
}

fn scanner() -> &'static Arc<Scanner> {
    static SCANNER: OnceLock<Arc<Scanner>> = OnceLock::new();
    SCANNER.get_or_init(|| {
        let rules = Arc::new(Rules::builtin().expect("the built-in packs"));
        let secrets = ExactSet::new([("TOKEN", &b"vK8q-Zt2mPw7_Rj4Lx9+Nd3Hs6/Bc5Yf"[..])]);
        Arc::new(Scanner::new(rules, secrets, Options { entropy: true, ..Options::default() }))
    })
}

/// A body in parts: what was released, and what was found.
fn judged(bytes: &[u8], part: usize, encoding: &str) -> (Vec<u8>, Vec<Finding>) {
    let mut stream = scanner().stream(Context::outgoing("upload.example", "application/json"), encoding);
    let (mut released, mut findings) = (vec![], vec![]);
    for bytes in bytes.chunks(part.max(1)) {
        let verdict = stream.push(bytes);
        released.extend(verdict.released);
        findings.extend(verdict.findings);
    }
    let verdict = stream.finish();
    released.extend(verdict.released);
    findings.extend(verdict.findings);
    (released, findings)
}

/// A message that leaves, in all its places: the same however it is cut, released as it came; what is redacted holds
/// no secret any more, and where nothing is found nothing is changed.
pub(crate) fn scan(bytes: &[u8]) {
    let (released, findings) = judged(bytes, bytes.len(), "");
    assert_eq!(released, bytes);
    assert!(findings.iter().all(|f| f.start <= f.end && f.end <= bytes.len() as u64), "{findings:?}");
    for part in [1, 7] {
        assert_eq!(judged(bytes, part, ""), (released.clone(), findings.clone()), "in parts of {part}");
    }
    let context = Context::outgoing("upload.example", "");
    let redact = |bytes: &[u8]| {
        let mut redactor = scanner().redactor(context.clone());
        let mut out = redactor.push(bytes).bytes;
        out.extend(redactor.finish().bytes);
        out
    };
    let exact = |findings: &[Finding]| findings.iter().any(|finding| finding.kind == bottle_scan::Kind::Exact);
    if !exact(&findings) {
        assert_eq!(redact(bytes), bytes);
    }
    drop(scanner().judge_body(&Context::incoming("x.example", ""), "", bytes));
    drop(scanner().judge_headers([("x-any", bytes)]));
    drop(scanner().judge_message("x.example", bytes, false));
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    drop(scanner().judge_url(&text, path, Some(query)));
    drop(scanner().session().observe_url(&text, path, Some(query)));
}

/// A body and the name of its encoding in its first line: decoded or refused, the same however it is cut.
pub(crate) fn encoded(bytes: &[u8]) {
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(0);
    let (encoding, body) = bytes.split_at(end);
    let (encoding, body) = (String::from_utf8_lossy(encoding), body.get(1..).unwrap_or_default());
    let (released, findings) = judged(body, body.len(), &encoding);
    let opaque = |findings: &[Finding]| findings.iter().any(|finding| finding.kind == bottle_scan::Kind::Opaque);
    assert!(released == body || opaque(&findings), "neither refused nor released: {findings:?}");
    for part in [1, 7] {
        let (again, found) = judged(body, part, &encoding);
        assert_eq!(opaque(&found), opaque(&findings), "in parts of {part}");
        if !opaque(&found) {
            assert_eq!((again, found), (released.clone(), findings.clone()), "in parts of {part}");
        }
    }
}

/// A pack of a user: read or refused with its place.
pub(crate) fn pack(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Pack::parse("own.yaml", text) {
        Ok(pack) => drop(Rules::with_packs(&[pack])),
        Err(error) => assert!(error.starts_with("own.yaml:"), "{error}"),
    }
}
