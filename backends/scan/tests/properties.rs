//! What holds of every input: any split gives the same findings, nothing but what was found is changed, and every form
//! of a secret is found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

use base64::Engine;
use bottle_scan::{Context, ExactSet, Finding, Kind, Options, Rules, Scanner};
use proptest::prelude::*;
use std::{
    io::Write,
    sync::{Arc, OnceLock},
};

const SECRET: &str = "vK8q-Zt2mPw7_Rj4Lx9+Nd3Hs6/Bc5Yf";
const OTHER: &str = "hunter-2-Correct-Horse-9-Battery";

fn scanner() -> &'static Arc<Scanner> {
    static SCANNER: OnceLock<Arc<Scanner>> = OnceLock::new();
    SCANNER.get_or_init(|| {
        let secrets = [("API_TOKEN", SECRET.as_bytes()), ("OTHER", OTHER.as_bytes())];
        let rules = Arc::new(Rules::builtin().unwrap());
        Arc::new(Scanner::new(rules, ExactSet::new(secrets), Options::default()))
    })
}

fn outgoing() -> Context {
    Context::outgoing("upload.example", "application/json")
}

fn exact(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.kind == Kind::Exact && finding.rule == "API_TOKEN")
}

fn streamed(bytes: &[u8], cuts: &[usize], encoding: &str) -> (Vec<u8>, Vec<Finding>) {
    let mut stream = scanner().stream(outgoing(), encoding);
    let (mut released, mut findings, mut at) = (vec![], vec![], 0);
    let mut sizes = cuts.iter().cycle();
    while at < bytes.len() {
        let end = (at + sizes.next().copied().unwrap_or(1).max(1)).min(bytes.len());
        let verdict = stream.push(&bytes[at..end]);
        released.extend(verdict.released);
        findings.extend(verdict.findings);
        at = end;
    }
    let verdict = stream.finish();
    released.extend(verdict.released);
    findings.extend(verdict.findings);
    (released, findings)
}

/// Forms of the secret, as an agent could write them.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let s = SECRET.as_bytes();
    let each = |f: &dyn Fn(u8) -> String| s.iter().map(|b| f(*b)).collect::<String>().into_bytes();
    let joined = |by: &str, f: &dyn Fn(u8) -> String| s.iter().map(|b| f(*b)).collect::<Vec<_>>().join(by).into_bytes();
    let cut = |by: &str, n: usize| {
        s.chunks(n).map(|c| String::from_utf8_lossy(c).into_owned()).collect::<Vec<_>>().join(by).into_bytes()
    };
    let rot = |b: &u8| match b {
        b'a'..=b'z' => (b - b'a' + 13) % 26 + b'a',
        b'A'..=b'Z' => (b - b'A' + 13) % 26 + b'A',
        _ => *b,
    };
    let gzip = |bytes: &[u8]| {
        let mut to = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        to.write_all(bytes).unwrap();
        to.finish().unwrap()
    };
    let mime = |bytes: &[u8]| {
        let text = STANDARD.encode(bytes);
        text.as_bytes()
            .chunks(20)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect::<Vec<_>>()
            .join("\r\n")
    };
    vec![
        ("raw", s.to_vec()),
        ("upper case", SECRET.to_uppercase().into_bytes()),
        ("base64", STANDARD.encode(s).into_bytes()),
        ("base64, offset 1", STANDARD.encode([b"x", s].concat()).into_bytes()),
        ("base64, offset 2", STANDARD.encode([b"xy", s].concat()).into_bytes()),
        ("base64, url-safe", URL_SAFE_NO_PAD.encode(s).into_bytes()),
        ("base64, in lines", mime(s).into_bytes()),
        ("base64, twice", STANDARD.encode(STANDARD.encode(s)).into_bytes()),
        ("base64, three times", STANDARD.encode(STANDARD.encode(STANDARD.encode(s))).into_bytes()),
        ("hex", each(&|b| format!("{b:02x}"))),
        ("hex, upper case", each(&|b| format!("{b:02X}"))),
        ("hex with colons", joined(":", &|b| format!("{b:02x}"))),
        ("hex with spaces", joined(" ", &|b| format!("{b:02x}"))),
        ("hex with \\x", each(&|b| format!("\\x{b:02x}"))),
        ("hex with 0x", joined(", ", &|b| format!("0x{b:02x}"))),
        ("hex in base64", STANDARD.encode(each(&|b| format!("{b:02x}"))).into_bytes()),
        ("percent, all", each(&|b| format!("%{b:02X}"))),
        ("percent, some", SECRET.replace('+', "%2B").replace('K', "%4b").replace('_', "%5F").into_bytes()),
        ("percent, twice", each(&|b| format!("%25{b:02X}"))),
        ("\\u", each(&|b| format!("\\u{b:04x}"))),
        ("\\u of some", SECRET.replace('q', "\\u0071").replace('/', "\\/").into_bytes()),
        ("html, decimal", each(&|b| format!("&#{b};"))),
        ("html, hex", each(&|b| format!("&#x{b:x};"))),
        ("utf-16", s.iter().flat_map(|b| [*b, 0]).collect()),
        ("utf-16, big end first", s.iter().flat_map(|b| [0, *b]).collect()),
        ("reversed", s.iter().rev().copied().collect()),
        ("rot13", s.iter().map(rot).collect()),
        ("zero width between", joined("\u{200b}", &|b| char::from(b).to_string())),
        ("quoted-printable", each(&|b| format!("={b:02X}"))),
        ("octal", each(&|b| format!("\\{b:03o}"))),
        ("decimal", joined(",", &|b| b.to_string())),
        ("binary", joined(" ", &|b| format!("{b:08b}"))),
        ("dots", joined(".", &|b| char::from(b).to_string())),
        ("spaces", cut(" ", 4)),
        ("dashes", cut("-", 3)),
        ("plus", cut("\" + \"", 8)),
        ("lines", cut("\n", 6)),
        ("escaped lines", cut("\\n", 6)),
        ("array", cut("\",\"", 5)),
        ("gzip", gzip(s)),
        ("gzip in base64", STANDARD.encode(gzip(s)).into_bytes()),
        (
            "full width",
            s.iter().map(|b| char::from_u32(u32::from(*b) + 0xfee0).unwrap()).collect::<String>().into_bytes(),
        ),
    ]
}

#[test]
fn every_form_of_a_secret_is_found_alone_and_in_a_body() {
    let mut missed = vec![];
    let all = forms();
    assert!(all.len() >= 25);
    for (name, form) in all {
        for (around, body) in [
            ("alone", form.clone()),
            ("in JSON", [b"{\"text\": \"please keep: ".as_slice(), &form, b" thanks\"}"].concat()),
            (
                "deep in a large body",
                [&b"{\"a\": 1}\n".repeat(40_000), form.as_slice(), &b" and more".repeat(9000)].concat(),
            ),
        ] {
            if !exact(&scanner().judge_body(&outgoing(), "", &body)) {
                missed.push(format!("{name}, {around}"));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The same text by node's `zlib.brotliCompressSync`: no crate that compresses is needed for it.
const BROTLI: &str = "5b8f6a87df48ed743771a8c179314c07eb93d04095025d3782d561af690110f8672c1405bd576db0f9437f0de940e1cd2c\
                      ee2766fec899bf0cec9a552f8128151fb44f9c39110208";

#[test]
fn a_body_is_decoded_as_its_header_says_or_is_opaque() {
    let plain = format!("{}{SECRET}{}", "a line of text\n".repeat(30_000), "and another\n".repeat(3000));
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gzip.write_all(plain.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut zlib = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
    zlib.write_all(plain.as_bytes()).unwrap();
    let zlib = zlib.finish().unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zstd = ruzstd::encoding::compress_to_vec(plain.as_bytes(), level);
    let frames = [&zstd[..], &ruzstd::encoding::compress_to_vec(&b"before"[..], level)].concat();
    let digits: Vec<u32> = BROTLI.chars().map(|c| c.to_digit(16).unwrap()).collect();
    let brotli: Vec<u8> = digits.chunks(2).map(|two| (two[0] * 16 + two[1]) as u8).collect();
    for (encoding, body) in [
        ("gzip", &gzip),
        ("x-gzip", &gzip),
        ("deflate", &zlib),
        ("zstd", &zstd),
        ("zstd", &frames),
        ("br", &brotli),
        ("identity", &plain.clone().into_bytes()),
    ] {
        let (released, findings) = streamed(body, &[1000], encoding);
        assert!(exact(&findings), "{encoding}: {findings:?}");
        assert_eq!(&released, body, "{encoding}");
    }
    let opaque = |body: &[u8], encoding: &str| {
        let findings = streamed(body, &[1000], encoding).1;
        findings.iter().find(|f| f.kind == Kind::Opaque).map(|f| f.rule.to_string())
    };
    assert_eq!(opaque(b"anything", "compress").as_deref(), Some("encoding-unknown"));
    assert_eq!(opaque(b"no gzip at all", "gzip").as_deref(), Some("encoding-broken"));
    assert_eq!(opaque(&gzip[..gzip.len() / 2], "gzip").as_deref(), Some("encoding-broken"));
    let mut bomb = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    bomb.write_all(&vec![0; 64 << 20]).unwrap();
    assert_eq!(opaque(&bomb.finish().unwrap(), "gzip").as_deref(), Some("encoding-bomb"));
}

#[test]
fn no_byte_of_a_secret_is_released_before_it_is_judged() {
    for before in [0, 10, 100_000, 196_600, 196_608, 229_370, 500_000] {
        let body = [&b"plain text. ".repeat(before / 12 + 1)[..before], SECRET.as_bytes(), b" and an end"].concat();
        let mut stream = scanner().stream(outgoing(), "");
        let (mut released, mut known) = (0, false);
        for part in body.chunks(1000) {
            let verdict = stream.push(part);
            known |= exact(&verdict.findings);
            released += verdict.released.len();
            assert!(known || released <= before, "{before}: {released} bytes released, and nothing found");
        }
        assert!(known || exact(&stream.finish().findings), "{before}");
    }
}

#[test]
fn pieces_of_a_secret_are_put_together() {
    let piece = |n: usize| String::from_utf8_lossy(SECRET.as_bytes().chunks(n).next().unwrap()).into_owned();
    assert_eq!(piece(4), &SECRET[..4]);
    for size in [1, 2, 4, 8, 11, 16] {
        let mut session = scanner().session();
        let mut gone = false;
        for (n, part) in SECRET.as_bytes().chunks(size).enumerate() {
            session.observe("api.example", "query page", n.to_string().as_bytes());
            gone |= session.observe("api.example", "frame", part).iter().any(|f| f.kind == Kind::Split);
        }
        assert!(gone, "pieces of {size}");
    }
    // Halves in different places.
    let mut session = scanner().session();
    assert!(session.observe("api.example", "header x-a", &SECRET.as_bytes()[..16]).is_empty());
    assert!(!session.observe("api.example", "body", format!("rest: {}", &SECRET[16..]).as_bytes()).is_empty());
    // Three parts too short to be told from chance, unless each is all that stands in its place.
    let secrets = ExactSet::new([("SHORT", &b"Xk7mQ2vR9tLw4ZpB8nYd"[..])]);
    let rules = Arc::new(Rules::builtin().unwrap());
    let mut session = Arc::new(Scanner::new(rules, secrets, Options::default())).session();
    assert!(session.observe("api.example", "header x-a", b"Xk7mQ2").is_empty());
    assert!(session.observe("api.example", "body", b"a longer text with vR9tLw4 inside").is_empty());
    assert!(session.observe("api.example", "body", b"8nYd").is_empty());
    assert!(!session.observe("api.example", "query b", b"vR9tLw4").is_empty());
    // To different hosts: of no use to either.
    let mut session = scanner().session();
    session.observe("one.example", "header x-a", &SECRET.as_bytes()[..16]);
    assert!(session.observe("two.example", "body", &SECRET.as_bytes()[16..]).is_empty());
    // Labels of names below one domain.
    let mut session = scanner().session();
    let hex: String = SECRET.bytes().map(|b| format!("{b:02x}")).collect();
    let gone = hex.as_bytes().chunks(16).any(|part| {
        !session.observe_url(&format!("{}.tunnel.example", String::from_utf8_lossy(part)), "/", None).is_empty()
    });
    assert!(gone);
}

#[test]
fn what_is_redacted_is_the_secret_and_nothing_else() {
    let redact = |text: &str| {
        let mut redactor = scanner().redactor(outgoing());
        let mut out = vec![];
        for part in text.as_bytes().chunks(7001) {
            out.extend(redactor.push(part).bytes);
        }
        out.extend(redactor.finish().bytes);
        String::from_utf8(out).unwrap()
    };
    let marker = "[bottle:redacted API_TOKEN]";
    let long = "fn main() { println!(\\\"hello\\\"); }\\n".repeat(20_000);
    for (name, form) in forms() {
        let Ok(form) = String::from_utf8(form) else { continue };
        if form.contains(['\r', '\n', '\0', '\x01']) || name == "plus" {
            continue;
        }
        let escaped = if name == "hex with \\x" || name == "octal" { form.replace('\\', "\\\\") } else { form };
        let text = format!("{{\"a\":[\"{long}\",\"before {escaped} after\"],\"n\":12}}");
        let out = redact(&text);
        serde_json::from_str::<serde_json::Value>(&out)
            .unwrap_or_else(|e| panic!("{name}: {e}: {}", &out[out.len() - 300..]));
        assert!(out.contains(marker) || name == "decimal", "{name}: {}", &out[out.len() - 200..]);
        assert!(
            out.starts_with(&text[..long.len()]) && out.ends_with(" after\"],\"n\":12}"),
            "{name}: {}",
            &out[out.len() - 200..]
        );
        assert!(!exact(&scanner().judge_body(&outgoing(), "", out.as_bytes())), "{name}: {}", &out[out.len() - 200..]);
    }
    let text = format!("{{\"a\":\"{long}\"}}");
    assert_eq!(redact(&text), text);
}

#[test]
fn values_that_would_be_found_everywhere_are_named_and_left_alone() {
    let set = ExactSet::new([
        ("SHORT", &b"abc123"[..]),
        ("SAME", b"aaaaaaaaaaaaaaaa"),
        ("WORD", b"development"),
        ("GOOD", SECRET.as_bytes()),
    ]);
    let skipped: Vec<&str> = set.skipped().iter().map(|skipped| skipped.name.as_str()).collect();
    assert_eq!(skipped, ["SHORT", "SAME", "WORD"]);
    assert_eq!(set.len(), 1);
    assert!(!format!("{set:?}").contains("Zt2m"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_split_gives_the_same(
        parts in prop::collection::vec((0_usize..60_000, 0_usize..12), 1..8),
        cuts in prop::collection::vec(1_usize..70_000, 1..6),
        seed in any::<u64>(),
    ) {
        let forms = forms();
        let mut numbers = seed | 1;
        let mut body = vec![];
        for (filler, kind) in parts {
            for _ in 0..filler / 8 {
                numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let word = base64::engine::general_purpose::STANDARD.encode((numbers >> 16).to_le_bytes());
                body.extend_from_slice(if kind % 3 == 0 { &word.as_bytes()[..8] } else { b"a word, " });
            }
            body.extend_from_slice(&forms[(kind * 7) % forms.len()].1);
        }
        let whole = streamed(&body, &[usize::MAX / 2], "");
        let split = streamed(&body, &cuts, "");
        prop_assert_eq!(&whole.0, &body);
        prop_assert_eq!(&split.0, &body);
        prop_assert_eq!(whole.1, split.1);
    }
}
