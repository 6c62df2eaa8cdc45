//! The scanner: megabytes a second of one core, memory, start; beside kingfisher, and gitleaks where it is installed.

use super::{rival, scratch};
use crate::run::{self, root};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Bytes of each input.
const SIZE: usize = 32 << 20;
/// What is asked of each, in MB/s; compressed input counts as it comes.
const KINDS: [(&str, Option<f64>); 4] =
    [("source", Some(200.0)), ("json", Some(200.0)), ("base64", Some(80.0)), ("gzip", None)];
const START_MS: f64 = 5.0;
const RESIDENT_MB: f64 = 120.0;

/// Builds the scanner's own program and feeds it.
pub(super) fn bench() -> Result<()> {
    // As it is shipped.
    run::run(run::cargo().args(["build", "--profile", "dist", "--package", "bottle-scan", "--example", "speed"]))?;
    let program = root().join("target/dist/examples/speed");
    let dir = scratch("scan")?;
    let rivals = rival::all()?;
    println!("MB per second of processor time, and per second that passed while others used the machine, too;");
    println!("the others' without what they take for nothing, with as many threads as they like.");
    print!("{:<8} {:>8} {:>8} {:>8} {:>8}", "input", "worked", "passed", "limit", "RSS MB");
    rivals.iter().for_each(|rival| print!(" {:>12}", rival.name));
    println!();
    for (kind, limit) in KINDS {
        let file = dir.join(kind);
        fs::write(&file, input(kind)?)?;
        let output = Command::new(&program).arg(kind).arg(&file).output()?;
        let [worked, passed, resident] = figures(&output.stdout)?;
        ensure!(resident > 0.0, "the program has said nothing of its memory");
        let resident = resident / 1024.0;
        let asked = limit.map_or("-".to_owned(), |limit| format!("{limit:.0}"));
        print!("{kind:<8} {worked:>8.1} {passed:>8.1} {asked:>8} {resident:>8.1}");
        for rival in &rivals {
            print!(" {:>12.1}", rival.speed(&file)?);
        }
        let slow = if limit.is_some_and(|limit| worked < limit) { "  BELOW" } else { "" };
        println!("{slow}{}", if resident > RESIDENT_MB { "  TOO LARGE" } else { "" });
    }
    let mut starts: Vec<f64> = (0..20)
        .map(|_| Ok(figures(&Command::new(&program).arg("start").output()?.stdout)?[0]))
        .collect::<Result<_>>()?;
    starts.sort_by(f64::total_cmp);
    let median = starts[starts.len() / 2];
    let over = if median > START_MS { "  OVER" } else { "" };
    println!("start    {median:>8.2} ms (at most {START_MS}), the median of {}{over}", starts.len());
    Ok(())
}

/// `name number number number`; what is not there is nothing.
fn figures(output: &[u8]) -> Result<[f64; 3]> {
    let text = String::from_utf8_lossy(output);
    let numbers: Vec<f64> = text.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    ensure!(!numbers.is_empty(), "the scanner's program has printed {text:?}");
    Ok([0, 1, 2].map(|n| numbers.get(n).copied().unwrap_or(0.0)))
}

fn input(kind: &str) -> Result<Vec<u8>> {
    let mut source = vec![];
    let mut files = vec![];
    for dir in ["bottle-api", "bottle-host", "backends", "tests", "xtask"] {
        collect(&root().join(dir), &mut files)?;
    }
    while source.len() < SIZE {
        for file in &files {
            source.extend(fs::read(file)?);
        }
    }
    source.truncate(SIZE);
    Ok(match kind {
        "source" => source,
        "json" => {
            let mut out = b"{\"model\":\"any\",\"messages\":[".to_vec();
            for part in source.chunks(16 << 10) {
                let text = String::from_utf8_lossy(part);
                let message = serde_json::json!({"role": "user", "content": [{"type": "text", "text": text}]});
                write!(out, "{message},")?;
            }
            out.extend(b"null]}");
            out
        }
        "base64" => {
            const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let mut number = 0x9e37_79b9_7f4a_7c15_u64;
            let mut next = || {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                DIGITS[(number >> 58) as usize]
            };
            let mut out = b"{\"data\":\"".to_vec();
            out.extend((0..SIZE / 4 * 4).map(|_| next()));
            out.extend(b"\"}");
            out
        }
        _ => {
            let mut child =
                Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("gzip")?;
            let mut to = child.stdin.take().context("gzip's input")?;
            let writer = std::thread::spawn(move || to.write_all(&source));
            let output = child.wait_with_output()?;
            writer.join().map_err(|_| anyhow::anyhow!("feeding gzip"))??;
            output.stdout
        }
    })
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}
