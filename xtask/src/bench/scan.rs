//! The scanner: megabytes a second of processor time on one core, memory, start; beside gitleaks where it is installed.

use super::scratch;
use crate::run::{self, root};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
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
    println!("{:<10} {:>10} {:>10} {:>8} {:>10}", "input", "MB/s", "limit", "RSS MB", "gitleaks");
    for (kind, limit) in KINDS {
        let file = dir.join(kind);
        fs::write(&file, input(kind)?)?;
        let output = Command::new(&program).arg(kind).stdin(fs::File::open(&file)?).output()?;
        let [_, speed, resident, _] = figures(&output.stdout)?;
        let other = gitleaks(&file, kind)?.map_or("-".to_owned(), |speed| format!("{speed:.1}"));
        let asked = limit.map_or("-".to_owned(), |limit| format!("{limit:.0}"));
        let over = if limit.is_some_and(|limit| speed < limit) { "  BELOW" } else { "" };
        println!("{kind:<10} {speed:>10.1} {asked:>10} {:>8.1} {other:>10}{over}", resident / 1024.0);
        ensure!(resident > 0.0, "the program has said nothing of its memory");
        if resident / 1024.0 > RESIDENT_MB {
            println!("{:<10} more than {RESIDENT_MB} MB in memory", "");
        }
    }
    let mut starts: Vec<f64> = (0..20)
        .map(|_| Ok(figures(&Command::new(&program).arg("start").output()?.stdout)?[1]))
        .collect::<Result<_>>()?;
    starts.sort_by(f64::total_cmp);
    let median = starts[starts.len() / 2];
    let over = if median > START_MS { "  OVER" } else { "" };
    println!("start      {median:>10.2} ms (at most {START_MS}), the median of {}{over}", starts.len());
    Ok(())
}

/// `name number number number`.
fn figures(output: &[u8]) -> Result<[f64; 4]> {
    let text = String::from_utf8_lossy(output);
    let numbers: Vec<f64> = text.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    let number = |n: usize| numbers.get(n).copied().unwrap_or(0.0);
    ensure!(!numbers.is_empty(), "the scanner's program has printed {text:?}");
    Ok([0.0, number(0), number(1), number(2)])
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

/// The same by gitleaks, if there is one that reads standard input (8.20 and later).
fn gitleaks(file: &Path, kind: &str) -> Result<Option<f64>> {
    let size = fs::metadata(file)?.len() as f64;
    let began = Instant::now();
    let mut command = Command::new("gitleaks");
    command.args(["stdin", "--no-banner", "--log-level", "error", "--exit-code", "0", "--redact"]);
    let status = command.stdin(fs::File::open(file)?).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // It does not decompress.
    let ran = kind != "gzip" && status.is_ok_and(|status| status.success());
    Ok(ran.then(|| size / 1e6 / began.elapsed().as_secs_f64()))
}
