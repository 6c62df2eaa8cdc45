//! The server as the bundle runs it, a process of its own: a thousand calls at once, and whoever does not know the capability.

use anyhow::{Context, Result, ensure};
use bottle_policy::{
    Policy, Route,
    message::{Answer, Down, Up},
};
use bottle_tests::bottle::{PATIENCE, report};
use bottle_tests::bundle::{Bundle, CAPABILITY, program};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const CALLS: usize = 1000;
/// The daemon's memory at its most, in KiB.
const MOST: u64 = 96 << 10;
/// Of a call's body, as much as is taken: most of it is blank.
const BLANK: usize = 250_000;

fn bundle(last: u8) -> Result<(Bundle, Ipv4Addr)> {
    // Another run's bundle may be at any fixed one.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 | (high & 63), low, last);
    let mut command = Command::new(program());
    command.arg("bundle").env_clear();
    let policy = Policy { routes: vec![Route::to("known.example")], ..Policy::default() };
    let mut bundle = Bundle::launch(command, address.into(), "egress,dns,supervise", &policy)?;
    bundle.read();
    Ok((bundle, address))
}

/// A call, and the status and text that it is answered with.
fn call(server: Ipv4Addr, authorization: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect((server, 9100))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: supervise:9100\r\n{authorization}Content-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: 2025-11-25\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).context("a status")?;
    Ok((status, answer))
}

fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn proposing(host: &str) -> Value {
    let arguments = json!({"routes": [{"host": host}], "justification": "x".repeat(4000)});
    request("tools/call", json!({"name": "egress-block", "arguments": arguments, "_meta": {"progressToken": 1}}))
}

#[test]
fn a_thousand_calls_at_once_are_answered_or_refused_in_bounded_memory() -> Result<()> {
    let (mut bundle, server) = bundle(2)?;
    let daemon = bundle.daemon("supervise")?;
    let bearer = format!("Authorization: Bearer {CAPABILITY}\r\n");
    let began = Instant::now();
    let (done, before) = (AtomicBool::new(false), peak(daemon)?);
    let answers = thread::scope(|scope| -> Result<Vec<(u16, String)>> {
        // The host answers whatever comes.
        let host = scope.spawn(|| -> Result<()> {
            let mut answered = HashSet::new();
            while !done.load(Ordering::SeqCst) && began.elapsed() < PATIENCE * 2 {
                for word in bundle.words() {
                    let Up::Proposal { id, .. } = word else { continue };
                    if answered.insert(id.clone()) {
                        bundle.say(&Down::Answer { id, answer: Answer::Approved { note: String::new() } })?;
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let bearer = bearer.as_str();
        let ask = move |n: usize| {
            let body = proposing(&format!("host{n}.example")).to_string() + &" ".repeat(BLANK);
            call(server, bearer, &body)
        };
        let small = || thread::Builder::new().stack_size(256 << 10);
        let calls = (0..CALLS).map(|n| small().spawn_scoped(scope, move || ask(n)));
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        // All of them have ended before one may fail: without the host who is left would wait for ever.
        let answers: Vec<_> = calls.into_iter().map(|call| call.join().expect("no panic")).collect();
        done.store(true, Ordering::SeqCst);
        host.join().expect("no panic")?;
        answers.into_iter().collect()
    })?;
    let count = |word: &str| answers.iter().filter(|(status, text)| *status == 200 && text.contains(word)).count();
    let (approved, refused, after) = (count("was approved"), count("too many proposals"), peak(daemon)?);
    let counted = format!("{CALLS} calls at once: {approved} answered, {refused} refused");
    report(format!("{counted}; the daemon's memory at its most {after} KiB, {before} KiB before"));
    ensure!(approved > 0 && approved + refused == CALLS, "{approved} answered, {refused} refused");
    ensure!(after <= MOST, "{after} KiB");
    // The same life serves on.
    ensure!(bundle.daemon("supervise")? == daemon);
    let (status, text) = call(server, &bearer, &request("tools/list", json!({})).to_string())?;
    ensure!(status == 200 && text.contains("egress-block"), "{status} {text}");
    Ok(())
}

#[test]
fn without_the_capability_every_call_is_refused_and_nobody_is_asked() -> Result<()> {
    let (bundle, server) = bundle(3)?;
    let calls = [
        request("initialize", json!({})),
        request("tools/list", json!({})),
        request("tools/call", json!({"name": "list-egress-routes", "arguments": {}})),
        proposing("a.example"),
        Value::Null,
    ];
    let half = &CAPABILITY[..CAPABILITY.len() / 2];
    for authorization in [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Basic Ym90dGxlOg==\r\n",
        &format!("Authorization: Bearer {half}\r\n"),
    ] {
        for body in &calls {
            let (status, text) = call(server, authorization, &body.to_string())?;
            ensure!(status == 401 && !text.contains("known.example"), "{authorization} {body}: {text}");
        }
    }
    let asked = bundle.words().iter().any(|word| matches!(word, Up::Proposal { .. } | Up::Asked { .. }));
    ensure!(!asked, "the host heard of it");
    Ok(())
}

/// A process's memory at its most so far, in KiB.
fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
