//! Credentials by their form in spellings of their own, archives that are longer than a window, and honest texts that look
//! alike.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_scan::{Context, ExactSet, Finding, Kind, Options, Rules, Scanner};
use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use std::{io::Write, sync::Arc};

/// In two pieces: nobody's search for keys shall find one in this file.
fn key() -> String {
    ["glpat", "-x7Kp2mQ9vR4sL8nW1bY6"].concat()
}

const SECRET: &str = "vK8q-Zt2mPw7_Rj4Lx9+Nd3Hs6/Bc5Yf";

fn scanner() -> Arc<Scanner> {
    let set =
        ExactSet::new([("API_TOKEN", SECRET.as_bytes()), ("LOGIN", b"a-rather-long-name-of-a-user:Zt2mPw7Rj4Lx9Nd3")]);
    Arc::new(Scanner::new(Arc::new(Rules::builtin().unwrap()), set, Options::default()))
}

fn stops(content_type: &str, body: &[u8]) -> Vec<Finding> {
    let mut found = scanner().judge_body(&Context::outgoing("upload.example", content_type), "", body);
    found.retain(|finding| finding.kind == Kind::Exact || finding.blocks());
    found
}

fn each(text: &str, to: impl Fn(u8) -> String, between: &str) -> Vec<u8> {
    text.bytes().map(to).collect::<Vec<_>>().join(between).into()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut to = ZlibEncoder::new(vec![], Compression::default());
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

/// Lines of 45 bytes, each with its length before it.
fn uuencode(bytes: &[u8], line_end: &str) -> Vec<u8> {
    let digit = |n: u32| char::from(if n == 0 { b'`' } else { n as u8 + b' ' });
    let line = |part: &[u8]| {
        let fours = part.chunks(3).map(|three| {
            let all = (0..3).fold(0, |all, n| all << 8 | u32::from(three.get(n).copied().unwrap_or(0)));
            (0..4).rev().map(|n| digit(all >> (6 * n) & 63)).collect::<String>()
        });
        format!("{}{}{line_end}", digit(part.len() as u32), fours.collect::<String>())
    };
    format!("begin 644 notes{line_end}{}`{line_end}end", bytes.chunks(45).map(line).collect::<String>()).into()
}

fn base58(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let (mut number, mut out) = (bytes.to_vec(), vec![]);
    while number.iter().any(|byte| *byte > 0) {
        let rest = number.iter_mut().fold(0, |rest, byte| {
            let all = rest << 8 | u32::from(*byte);
            *byte = (all / 58) as u8;
            all % 58
        });
        out.push(DIGITS[rest as usize]);
    }
    out.reverse();
    out
}

#[test]
fn a_credential_is_found_in_every_spelling() {
    let key = key();
    let long = format!("{} {key}\n", "the quick brown fox jumps over the lazy dog ".repeat(3));
    let hex = each(&long, |b| format!("{b:02x}"), "");
    let mut deflated = DeflateEncoder::new(vec![], Compression::default());
    deflated.write_all(long.as_bytes()).unwrap();
    let length = key.len() as u8;
    let object = zlib(format!("blob 40\0{key}").as_bytes());
    for (name, content_type, body) in [
        ("spaces", "text/plain", each(&key, |b| char::from(b).into(), " ")),
        ("dots", "text/plain", each(&key, |b| char::from(b).into(), ".")),
        ("letters of JSON", "application/json", each(&key, |b| format!("\"{}\"", char::from(b)), ",")),
        ("letters of a list", "text/plain", each(&key, |b| format!("'{}'", char::from(b)), ", ")),
        ("uuencode", "text/plain", uuencode(long.as_bytes(), "\n")),
        ("uuencode in JSON", "application/json", uuencode(long.as_bytes(), "\\n")),
        ("base58", "text/plain", base58(key.as_bytes())),
        ("hex in lines", "text/plain", hex.chunks(30).collect::<Vec<_>>().join(&b'\n')),
        ("hex in strings", "application/json", each(&key, |b| format!("\"{b:02x}\""), ", ")),
        (
            "PowerShell",
            "text/plain",
            BASE64_STANDARD.encode(key.bytes().flat_map(|b| [b, 0]).collect::<Vec<_>>()).into(),
        ),
        ("bare deflate", "text/plain", BASE64_STANDARD.encode(deflated.finish().unwrap()).into()),
        (
            "tags",
            "text/plain",
            key.chars().map(|c| char::from_u32(0xe0000 + c as u32).unwrap()).collect::<String>().into(),
        ),
        ("a soft break", "message/rfc822", format!("it is{}=\r\n{} here", &key[..0], &key).into_bytes()),
        ("a soft break inside", "message/rfc822", format!("it is {}=\r\n{} here", &key[..9], &key[9..]).into_bytes()),
        (
            "protobuf",
            "application/x-protobuf",
            [b"\x0a\x02hi\x52", &[length][..], key.as_bytes(), b"\x18\x01"].concat(),
        ),
        ("a letter for a length", "application/grpc", {
            let padded = format!("{key} {}", "x".repeat(usize::from(b'A') - key.len() - 1));
            [b"\0\0\0\0\x43\x0a\x41", padded.as_bytes(), b"\x18\x01"].concat()
        }),
        ("git pack", "application/x-git-receive-pack-request", {
            [b"PACK\0\0\0\x02\0\0\0\x02\xb4\x0a".as_slice(), &zlib(b"tree of other things"), b"\xb4\x0a", &object]
                .concat()
        }),
        (
            "PDF",
            "application/pdf",
            [b"%PDF-1.4\n1 0 obj <</Filter /FlateDecode>> stream\n\xe2".as_slice(), &object, b"\nendstream"].concat(),
        ),
        (
            "a key file in a form",
            "application/x-www-form-urlencoded",
            format!(
                "a=1&key=-----BEGIN+RSA+PRIVATE{}-----%0A{}%0A-----END+RSA+PRIVATE{0}-----",
                "+KEY",
                BASE64_STANDARD.encode([0x30, 0x82, 4, 0xa4, 2, 1, 0].repeat(60))
            )
            .into(),
        ),
    ] {
        assert!(!stops(content_type, &body).is_empty(), "{name}: {}", String::from_utf8_lossy(&body));
    }
}

/// Numbers of no kind that a compression makes smaller by much.
fn noise(length: usize) -> Vec<u8> {
    let states =
        std::iter::successors(Some(1_u64), |n| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
    states.take(length).map(|state| b' ' + (state >> 58) as u8).collect()
}

#[test]
fn an_archive_is_judged_to_its_end() {
    let text = [&noise(1_500_000)[..], b" key ", SECRET.as_bytes(), b" ", &noise(600_000)].concat();
    let mut gzip = GzEncoder::new(vec![], Compression::default());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    assert!(gzip.len() > 1_000_000, "it is to be longer than some windows: {}", gzip.len());
    for (name, body) in [
        ("at the beginning", gzip.clone()),
        ("inside", [b"--boundary\r\n\r\n\0\xff", &gzip[..], b"\r\n--boundary--"].concat()),
    ] {
        let mut stream = scanner().stream(Context::outgoing("upload.example", "multipart/form-data"), "");
        let (mut found, mut released) = (vec![], 0);
        for part in body.chunks(10_000) {
            let verdict = stream.push(part);
            found.extend(verdict.findings);
            if found.iter().any(|finding: &Finding| finding.rule == "API_TOKEN") {
                break;
            }
            released += verdict.released.len();
        }
        found.extend(stream.finish().findings);
        assert!(found.iter().any(|finding| finding.rule == "API_TOKEN"), "{name}: {found:?}");
        // Where the secret is in it: 1.5 of 2.1 MB, nearly.
        assert!(released < gzip.len() * 15 / 21, "{name}: {released} of {} were released", body.len());
    }
}

#[test]
fn what_only_looks_like_it_goes() {
    let honest = zlib(&noise(4000));
    for (name, content_type, body) in [
        (
            "a table of code points",
            "text/plain",
            b"card 5423 5424 5425 5426 5427 5428 5429 5430 5431 5432 5433 5434".to_vec(),
        ),
        ("an example", "text/plain", b"age : 22\nssn : 111-22-3333\n".to_vec()),
        ("a name of the user", "text/plain", b"mail from a-rather-long-name-of-a-user at noon".to_vec()),
        ("mail", "message/rfc822", b"Dear all=\r\n, this is the=20end of all=\r\n of it".to_vec()),
        (
            "a spaced headline",
            "text/plain",
            b"W E L C O M E   T O   T H E   H O U S E   O F   M A N Y   W O R D S".to_vec(),
        ),
        (
            "a pack",
            "application/x-git-receive-pack-request",
            [b"PACK\0\0\0\x02\0\0\0\x01\xb4\x0a".as_slice(), &honest].concat(),
        ),
        ("an archive cut off", "application/octet-stream", honest[..honest.len() / 2].to_vec()),
        ("the beginning of a story", "text/plain", b"begin 644 times, and\nit will not end\n".to_vec()),
        ("hex in lines", "text/plain", b"00112233445566778899aabbccddeeff\n".repeat(20)),
    ] {
        let found = stops(content_type, &body);
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}

#[test]
fn of_a_login_the_password_is_weighed() {
    let mut session = scanner().session();
    assert_eq!(session.observe("host.example", "body", b"signed by a-rather-long-name-of-a-user"), []);
    assert_eq!(session.observe("host.example", "query q", b"Zt2mPw7R"), []);
    let found = session.observe("host.example", "query r", b"j4Lx9Nd3");
    assert!(found.iter().any(|finding| finding.kind == Kind::Split && finding.rule == "LOGIN"), "{found:?}");
}
