//! Archives inside of bodies: what can be decoded is judged, what cannot is refused where a body may carry data, and where
//! it is only a file it passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_scan::{Context, ExactSet, Finding, Kind, Options, Rules, Scanner};
use bzip2::{Compression, write::BzEncoder};
use flate2::Crc;
use lzma_rust2::{XzOptions, XzWriter};
use std::{
    io::Write,
    sync::{Arc, OnceLock},
};

const SECRET: &str = "vK8q-Zt2mPw7_Rj4Lx9+Nd3Hs6/Bc5Yf";
/// A line of text by `xz -9`, which asks for more memory than a scan may take.
const LARGE: &str = "fd377a585a000004e6d6b446020021011c00000010cf58cc01001a68656c6c6f2074686572652c207468697320697320612066696c6500000ecfdff86d5e488f0001331bf719885e1fb6f37d010000000004595a";

fn scanner() -> &'static Arc<Scanner> {
    static SCANNER: OnceLock<Arc<Scanner>> = OnceLock::new();
    SCANNER.get_or_init(|| {
        let set = ExactSet::new([("API_TOKEN", SECRET.as_bytes())]);
        Arc::new(Scanner::new(Arc::new(Rules::builtin().unwrap()), set, Options::default()))
    })
}

fn body() -> Context {
    Context::outgoing("upload.example", "application/octet-stream")
}

/// As git-gate looks at an object.
fn file() -> Context {
    Context { archives: false, ..body() }
}

/// What stops a body that comes in such pieces, and how much of it had gone before.
fn stops(context: &Context, bytes: &[u8], piece: usize) -> (Vec<Finding>, usize) {
    let mut stream = scanner().stream(context.clone(), "");
    let (mut found, mut released) = (vec![], 0);
    for part in bytes.chunks(piece) {
        let verdict = stream.push(part);
        released += if found.is_empty() && verdict.findings.is_empty() { verdict.released.len() } else { 0 };
        found.extend(verdict.findings);
    }
    found.extend(stream.finish().findings);
    found.retain(|finding| finding.kind == Kind::Exact || finding.blocks());
    (found, released)
}

fn is_told(found: &[Finding]) -> bool {
    found.iter().any(|finding| finding.kind == Kind::Exact && finding.rule == "API_TOKEN")
}

fn is_sealed(found: &[Finding]) -> bool {
    found.iter().any(|finding| finding.kind == Kind::Opaque && finding.rule == "archive-unreadable")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut to = XzWriter::new(vec![], XzOptions::with_preset(1)).unwrap();
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut to = BzEncoder::new(vec![], Compression::new(1));
    to.write_all(bytes).unwrap();
    to.finish().unwrap()
}

/// The head of a file in a ZIP, and something behind it.
fn zip(flags: u8, method: u8) -> Vec<u8> {
    let head = [&b"PK\x03\x04\x14\0"[..], &[flags, 0, method, 0], &[0x21; 16], &[5, 0, 0, 0], b"a.txt"].concat();
    [&head[..], &noise(300)].concat()
}

fn seven_zip() -> Vec<u8> {
    let place = [7; 20];
    let mut crc = Crc::new();
    crc.update(&place);
    [b"7z\xbc\xaf\x27\x1c\0\x04", &crc.sum().to_le_bytes()[..], &place, &noise(300)].concat()
}

/// Bytes of all kinds, ever other ones.
fn noise(length: usize) -> Vec<u8> {
    let states =
        std::iter::successors(Some(1_u64), |n| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)));
    states.take(length).map(|state| (state >> 56) as u8).collect()
}

#[test]
fn a_secret_in_an_archive_is_found_wherever_the_archive_stands() {
    let text = format!("{} token={SECRET} and on", "some honest words ".repeat(30));
    for (name, pack) in [("xz", xz as fn(&[u8]) -> Vec<u8>), ("bzip2", bzip2)] {
        let (telling, honest) = (pack(text.as_bytes()), pack(&b"some honest words ".repeat(40)));
        for (around, wrap) in [
            ("alone", (|bytes| bytes) as fn(Vec<u8>) -> Vec<u8>),
            ("in a form", |bytes| [b"--b\r\n\r\n\0\xff", &bytes[..], b"\r\n--b--"].concat()),
            ("in base64", |bytes| BASE64_STANDARD.encode(bytes).into()),
            ("in hex", |bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>().into()),
            ("twice", |bytes| xz(&bytes)),
            ("behind a window", |bytes| [&noise(250_000)[..], &bytes].concat()),
        ] {
            for context in [body(), file()] {
                let found = stops(&context, &wrap(telling.clone()), 10_000).0;
                assert!(is_told(&found), "{name}, {around}: {found:?}");
                let found = stops(&context, &wrap(honest.clone()), 10_000).0;
                assert!(found.is_empty(), "{name}, {around}: {found:?}");
            }
        }
    }
}

#[test]
fn an_archive_longer_than_a_window_is_judged_to_its_end() {
    let honest = noise(800_000);
    let text = [&honest[..600_000], b" key ", SECRET.as_bytes(), b" ", &honest[600_000..]].concat();
    for (name, pack) in [("xz", xz as fn(&[u8]) -> Vec<u8>), ("bzip2", bzip2)] {
        let telling = pack(&text);
        assert!(telling.len() > 700_000, "it is to be longer than some windows");
        let mut said = vec![];
        for piece in [7_777, usize::MAX / 2] {
            let (found, released) = stops(&body(), &telling, piece);
            assert!(is_told(&found), "{name}: {found:?}");
            assert!(released < telling.len() * 16 / 20, "{name}: {released} of {} were released", telling.len());
            said.push(found);
        }
        assert!(said.iter().all(|found| *found == said[0]), "{name}: it depends on how it comes");
        let found = stops(&body(), &pack(&honest), 10_000).0;
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}

#[test]
fn what_cannot_be_looked_into_is_refused_in_a_body_and_passes_as_a_file() {
    let digits: Vec<u32> = LARGE.chars().map(|c| c.to_digit(16).unwrap()).collect();
    let large: Vec<u8> = digits.chunks(2).map(|two| (two[0] * 16 + two[1]) as u8).collect();
    let (whole, long) = (xz(&noise(5_000)), xz(&noise(900_000)));
    for (name, archive) in [
        ("7-Zip", seven_zip()),
        ("a ZIP with a password", zip(1, 8)),
        ("a stored ZIP with a password", zip(1, 0)),
        ("LZMA in a ZIP", zip(0, 14)),
        ("AES in a ZIP", zip(1, 99)),
        ("xz that needs much memory", large),
        ("xz without its end", whole[..whole.len() / 2].to_vec()),
        ("long xz without its end", long[..600_000].to_vec()),
    ] {
        let coded = BASE64_STANDARD.encode(&archive).into_bytes();
        let form = [b"--b\r\n\r\n\0\xff", &archive[..]].concat();
        for (place, bytes) in [("alone", &archive), ("in base64", &coded), ("in a form", &form)] {
            // Of what is in a text of base64, a window's part is decoded.
            if place == "in base64" && bytes.len() > 200_000 {
                continue;
            }
            let found = stops(&body(), bytes, 10_000).0;
            assert!(is_sealed(&found), "{name}, {place}: {found:?}");
            let found = stops(&file(), bytes, 10_000).0;
            assert!(found.is_empty(), "{name}, {place}, as a file: {found:?}");
            let found = stops(&Context::incoming("host.example", ""), bytes, 10_000).0;
            assert!(found.is_empty(), "{name}, {place}, as an answer: {found:?}");
        }
        assert!(is_sealed(&scanner().judge_message("socket.example", &archive, false)), "{name}, in a message");
    }
}

#[test]
fn what_only_begins_like_an_archive_goes() {
    let noise = noise(4_000);
    for (name, begin) in [
        ("a program's table of first bytes", &b"\xfd7zXZ\0 7z\xbc\xaf\x27\x1c PK\x03\x04 BZh91AY&SY \x1f\x8b"[..]),
        ("a source of one", b"const MAGIC: &[u8] = b\"BZh91AY&SY\xc3\xa9\""),
        ("xz with another checksum", b"\xfd7zXZ\0\0\x04\0\0\0\0"),
        ("7-Zip with another checksum", b"7z\xbc\xaf\x27\x1c\0\x04\0\0\0\0"),
        ("a ZIP of no version", b"PK\x03\x04\xff\xff\x01\0\x08\0"),
    ] {
        let found = stops(&body(), &[begin, &noise].concat(), 1_000).0;
        assert!(found.is_empty(), "{name}: {found:?}");
    }
    let (plain, stored) = (zip(0, 8), zip(0, 0));
    assert!(stops(&body(), &[plain, stored].concat(), 1_000).0.is_empty());
}

#[test]
fn zeros_without_end_are_a_bomb_to_a_host_and_a_file_in_a_repository() {
    for (name, bomb) in [("xz", xz(&vec![0; 64 << 20])), ("bzip2", bzip2(&vec![0; 64 << 20]))] {
        let found = stops(&body(), &bomb, 10_000).0;
        assert!(found.iter().any(|finding| finding.kind == Kind::Opaque), "{name}: {found:?}");
        let found = stops(&file(), &bomb, 10_000).0;
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}
