//! A socket before the engine's that writes down which calls pass, and when.

use anyhow::Result;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// One call: when it came, and when its answer began.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) what: String,
    pub(super) began: Instant,
    pub(super) answered: Instant,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// The socket.
pub(super) struct Trace {
    pub(super) socket: PathBuf,
    calls: Calls,
}

impl Trace {
    /// Listens, for as long as the process lives.
    pub(super) fn before(engine: &Path) -> Result<Self> {
        // Not below target/: a socket's path is short.
        let socket = std::env::temp_dir().join(format!("bottle-bench-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let (calls, engine): (Calls, _) = (Calls::default(), engine.to_owned());
        let kept = calls.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&engine) else { continue };
                pass(client, server, &kept);
            }
        });
        Ok(Self { socket, calls })
    }

    /// The calls since the last time, in the order in which they came.
    pub(super) fn take(&self) -> Vec<Call> {
        let mut calls = std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner));
        calls.sort_by_key(|call| call.began);
        calls
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Carries a connection's bytes both ways.
fn pass(client: UnixStream, server: UnixStream, calls: &Calls) {
    let asked: Arc<Mutex<Option<(String, Instant)>>> = Arc::default();
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { return };
    let asking = asked.clone();
    thread::spawn(move || {
        carry(from_client, server, |chunk| {
            if let Some(what) = request(chunk) {
                *asking.lock().unwrap_or_else(PoisonError::into_inner) = Some((what, Instant::now()));
            }
        });
    });
    let calls = calls.clone();
    thread::spawn(move || {
        carry(from_server, client, |_| {
            if let Some((what, began)) = asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let call = Call { what, began, answered: Instant::now() };
                calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
            }
        });
    });
}

fn carry(mut from: UnixStream, mut to: UnixStream, mut seen: impl FnMut(&[u8])) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        seen(&chunk[..n]);
        if to.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Method and path of a request that begins here, ids and queries left out.
fn request(chunk: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(chunk.split(|byte| *byte == b'\r').next()?).ok()?;
    let (call, _) = line.split_once(" HTTP/1.1")?;
    let (method, path) = call.split_once(' ')?;
    let path = path.split('?').next()?;
    let words: Vec<&str> = path.split('/').map(|word| if word.len() == 64 { "…" } else { word }).collect();
    Some(format!("{method} {}", words.join("/")))
}

/// Prints when each call of a run came and how long it took, medians of several runs.
#[allow(clippy::print_stdout)]
pub(super) fn print(runs: &[(Instant, Vec<Call>, Instant)]) {
    let mut rows: BTreeMap<(String, usize), Vec<(f64, f64)>> = BTreeMap::new();
    for (began, calls, _) in runs {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for call in calls {
            let nth = count.entry(&call.what).and_modify(|n| *n += 1).or_insert(1);
            let at = (call.began - *began).as_secs_f64() * 1e3;
            let took = (call.answered - call.began).as_secs_f64() * 1e3;
            rows.entry((call.what.clone(), *nth)).or_default().push((at, took));
        }
    }
    let median = |values: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = values.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|((what, nth), times)| (median(&times, |t| t.0), median(&times, |t| t.1), what, nth))
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!(
        "{:<46} {:>9} {:>9}",
        format!("the calls of our bottle, medians of {} runs", runs.len()),
        "at (ms)",
        "took"
    );
    for (at, took, what, nth) in rows {
        println!("{:<46} {at:>9.1} {took:>9.1}", format!("{what} {nth}"));
    }
    let ends: Vec<(f64, f64)> = runs.iter().map(|(began, _, end)| ((*end - *began).as_secs_f64() * 1e3, 0.0)).collect();
    println!("{:<46} {:>9.1}\n", "the end of the program", median(&ends, |t| t.0));
}
