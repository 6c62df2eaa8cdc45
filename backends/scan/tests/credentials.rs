//! Credentials of every kind in every place where an agent would put them, and texts that only look like them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

use base64::Engine;
use bottle_scan::{Context, ExactSet, Finding, Kind, Options, Pack, Rules, Scanner};
use std::{fs, path::Path, sync::Arc};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SEED: u64 = 0x0b07_71e5_ca17_0001;

/// xorshift64*: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(alphabet[(self.next() >> 33) as usize % alphabet.len()])).collect()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 40) as u8).collect()
    }
}

const HEX: &[u8] = b"0123456789abcdef";
const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

fn scanner() -> Arc<Scanner> {
    Arc::new(Scanner::new(Arc::new(Rules::builtin().unwrap()), ExactSet::default(), Options::default()))
}

fn blocked(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.kind == Kind::Pattern && finding.blocks())
}

#[test]
fn every_kind_is_found_in_every_place() {
    println!("seed {SEED:#x}");
    let mut numbers = Numbers(SEED);
    let scanner = scanner();
    let mut kinds = vec![];
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("rules")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            kinds.extend(Pack::parse("pack", &fs::read_to_string(&path).unwrap()).unwrap().rules);
        }
    }
    kinds.retain(|rule| rule.severity >= bottle_scan::Severity::High);
    let context = Context::outgoing("upload.example", "application/json");
    let body = |text: &str| scanner.judge_body(&context, "", text.as_bytes());
    let filler = numbers.text(b"etaoin shrdlu\n", 300);
    type Place<'a> = (&'a str, &'a dyn Fn(&str) -> Vec<Finding>);
    let places: [Place<'_>; 6] = [
        ("bare", &|value| body(value)),
        ("chat message", &|value| {
            let text =
                serde_json::json!({"role": "user", "content": format!("{filler}\nit is {value} I think\n{filler}")});
            body(&serde_json::json!({"messages": [text]}).to_string())
        }),
        ("env line", &|value| body(&format!("HOME=/home/agent\nVALUE={value}\nSHELL=/bin/sh\n"))),
        ("header", &|value| {
            scanner.judge_headers([("authorization", format!("Bearer {value}").as_bytes()), ("accept", b"*/*")])
        }),
        ("query", &|value| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
            let escaped: String =
                value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
            scanner.judge_url("upload.example", "/log", Some(&format!("a=1&v={escaped}&b=2")))
        }),
        ("base64", &|value| {
            body(&format!("{{\"data\": \"{}\"}}", base64::engine::general_purpose::STANDARD.encode(value)))
        }),
    ];
    for (place, judge) in places {
        let missed: Vec<&str> =
            kinds.iter().filter(|rule| !blocked(&judge(&rule.examples[0]))).map(|rule| rule.id.as_str()).collect();
        let recall = 100.0 * (1.0 - missed.len() as f64 / kinds.len() as f64);
        println!("{place:<14} {recall:.1} % of {} kinds; missed {missed:?}", kinds.len());
        assert!(recall >= 92.0, "{place}: {recall:.1} %: {missed:?}");
    }
}

/// Texts that hold nothing.
fn negatives(numbers: &mut Numbers) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = vec![];
    let mut add = |name: &str, text: String| all.push((name.to_owned(), text));
    for n in 0..30 {
        let hex = |numbers: &mut Numbers, length| numbers.text(HEX, length);
        let parts = [8, 4, 4, 4, 12].map(|length| hex(numbers, length));
        add("uuid", format!("{{\"id\": \"{}\", \"n\": {n}}}", parts.join("-")));
        add("commit", format!("commit {}\nAuthor: A <a@example.org>\n\n    text {n}\n", hex(numbers, 40)));
        add("sha-256", format!("{}  file-{n}.tar.gz\n", hex(numbers, 64)));
        let sum = base64::engine::general_purpose::STANDARD.encode(numbers.bytes(64));
        add(
            "lockfile",
            format!("\"integrity\": \"sha512-{sum}\",\n\"resolved\": \"https://registry.example/a/-/a-{n}.0.0.tgz\""),
        );
        add(
            "cargo lock",
            format!("[[package]]\nname = \"a{n}\"\nversion = \"1.0.{n}\"\nchecksum = \"{}\"\n", hex(numbers, 64)),
        );
        let picture = [b"\x89PNG\r\n\x1a\n".to_vec(), numbers.bytes(3000)].concat();
        add("picture", format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(picture)));
        let key = base64::engine::general_purpose::STANDARD
            .encode([b"\0\0\0\x0bssh-ed25519\0\0\0 ".to_vec(), numbers.bytes(32)].concat());
        add("public key", format!("ssh-ed25519 {key} a@example.org"));
        add(
            "minified",
            format!(
                "!function(e,t){{var n=\"{}\";return e[t]=n}}({n},\"{}\");",
                numbers.text(LETTERS, 12),
                hex(numbers, 8)
            ),
        );
        add(
            "etag",
            format!(
                "HTTP/1.1 200 OK\netag: W/\"{}\"\nx-request-id: {}\ncf-ray: {}-FRA\n",
                hex(numbers, 32),
                hex(numbers, 32),
                hex(numbers, 16)
            ),
        );
        add(
            "timestamp",
            format!("{{\"ts\": 17{:014}, \"user\": {}}}", numbers.next() % 100_000_000_000_000, numbers.next()),
        );
    }
    for text in [
        "AWS_ACCESS_KEY_ID=your-access-key-id",
        "api_key = \"YOUR_API_KEY_HERE\"",
        "token: ${GITHUB_TOKEN}",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-ant-api03-...",
        "password: <password>",
        "postgres://user:password@localhost:5432/db",
        "https://user:pass@example.com/x",
        "Authorization: Bearer $TOKEN",
        "key: {{ secrets.API_KEY }}",
        "export STRIPE=sk_test_xxxxxxxxxxxxxxxxxxxxxxxx",
        "secret: changeme",
        "AKIAXXXXXXXXXXXXXXXX",
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ2VydGlmaWNhdGU\n-----END CERTIFICATE-----",
        "slack: xoxb-your-token-here",
    ] {
        add("placeholder", text.to_owned());
    }
    // Sources and documents of the repository itself.
    let mut files = vec![Path::new(ROOT).join("README.md")];
    for dir in [
        "docs",
        "backends/policy/src",
        "backends/kit/src",
        "backends/sidecar/src",
        "bottle-host/src",
        "bottle-host/src/manifest",
        "bottle-host/src/session",
        "xtask/src",
    ] {
        files.extend(fs::read_dir(Path::new(ROOT).join(dir)).unwrap().map(|e| e.unwrap().path()));
    }
    files.push(Path::new(ROOT).join("Cargo.lock"));
    for path in files.into_iter().filter(|path| path.is_file()) {
        add(&path.display().to_string(), fs::read_to_string(&path).unwrap());
    }
    all
}

#[test]
fn nothing_is_found_where_nothing_is() {
    println!("seed {SEED:#x}");
    let scanner = scanner();
    let all = negatives(&mut Numbers(SEED));
    assert!(all.len() >= 240, "{}", all.len());
    let mut wrong = vec![];
    for (name, text) in &all {
        let as_chat = serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string();
        for (place, body) in [("bare", text), ("chat message", &as_chat)] {
            let context = Context::outgoing("upload.example", "application/json");
            let findings = scanner.judge_body(&context, "", body.as_bytes());
            if let Some(finding) = findings.iter().find(|finding| finding.blocks()) {
                wrong.push(format!("{name}, {place}: {finding}"));
                break;
            }
        }
    }
    println!("{} of {} texts harmed: {wrong:#?}", wrong.len(), all.len());
    assert!(wrong.len() <= 1, "{wrong:#?}");
}
