//! Pipelock behind the proxy: a stand-in with its command line, from its delivery over the channel to its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result, ensure};
use bottle_host::{
    paths::Paths,
    session::sidecar::SidecarChannel,
    supervise::{
        desk::{self, Closing, Decision, Desk, Word},
        queue::Queue,
    },
};
use bottle_policy::{
    Auth, AuthScheme, Policy, Route,
    message::{Down, Up},
};
use bottle_tests::{
    bottle::{PATIENCE, eventually},
    bundle::{Bundle, CAPABILITY, TOKEN, command_line, program},
    lab::Lab,
    wire::{Answer, Authority},
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::{fd::BorrowedFd, unix::fs::PermissionsExt},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError, mpsc::channel},
    thread,
    time::Duration,
};
use tokio_rustls::rustls::{ServerConnection, StreamOwned};

/// Pipelock listens at one port of the machine that it runs on.
static ALONE: Mutex<()> = Mutex::new(());

const STANDIN: &str = env!("CARGO_BIN_EXE_standin-pipelock");

/// A host that answers every request with `hello`, and keeps what arrived. Its name is its address: pipelock resolves
/// for itself.
fn host(authority: &Authority) -> Result<(String, Arc<Mutex<Vec<String>>>)> {
    let address = Lab::address()?;
    let name = address.to_string();
    let (listener, config) = (Lab::listen((address, 443).into())?, authority.server_config(&[&name])?);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = seen.clone();
    thread::spawn(move || -> Result<()> {
        for stream in listener.incoming() {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone())?, stream?);
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if tls.read_exact(&mut byte).is_err() {
                    break;
                }
                head.push(byte[0]);
            }
            sink.lock().unwrap().push(String::from_utf8_lossy(&head).to_ascii_lowercase());
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
        Ok(())
    });
    Ok((name, seen))
}

fn launch(scratch: Option<&Path>, policy: &Policy) -> Result<Bundle> {
    launch_with(scratch, policy, [127, 0, 96, 2], "egress,dns,pipelock")
}

fn launch_with(scratch: Option<&Path>, policy: &Policy, bind: [u8; 4], daemons: &str) -> Result<Bundle> {
    let mut command = Command::new(program());
    command.arg("bundle").env_clear();
    if let Some(scratch) = scratch {
        command.env("CLAUDE_BOTTLE_SIDECAR_SCRATCH", scratch);
    }
    Bundle::launch(command, bind.into(), daemons, policy)
}

fn post(bundle: &Bundle, host: &str, body: &str) -> Result<Answer> {
    let length = body.len();
    let request =
        format!("POST /v1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    bundle.client.https(&format!("{host}:443"), host, &request)
}

fn serving(bundle: &Bundle) -> usize {
    bundle.words().iter().filter(|word| matches!(word, Up::Serving { daemon } if daemon == "pipelock")).count()
}

/// The stand-in's own process.
fn running(bundle: &Bundle) -> Option<u32> {
    bundle.processes().into_iter().find(|pid| command_line(*pid).get(1).is_some_and(|word| word == "run"))
}

#[test]
fn everything_goes_through_it_once_it_serves_and_nothing_without_it() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let authority = Authority::new()?;
    let (name, seen) = host(&authority)?;
    let auth = Some(Auth { scheme: AuthScheme::Bearer, secret: "token".into() });
    let route = Route { auth, ports: vec![443], ..Route::to(&name) };
    let policy = Policy { routes: vec![route], upstream_ca_pem: Some(authority.pem.clone()), ..Policy::default() };
    let scratch = tempfile::tempdir()?;
    let mut bundle = launch(Some(scratch.path()), &policy)?;
    bundle.read();
    let through = |bundle: &Bundle| post(bundle, &name, "{}").is_ok_and(|a| a.status == 200 && a.body == "hello");

    // It has not come yet: nothing passes.
    assert_eq!(post(&bundle, &name, "{}")?.status, 502);
    assert!(seen.lock().unwrap().is_empty());
    bundle.deliver("pipelock", &fs::read(STANDIN)?)?;
    eventually("it serves", || (serving(&bundle) == 1).then_some(()))?;
    let answer = post(&bundle, &name, "{}")?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"), "{answer:?}");
    let arrived = seen.lock().unwrap().pop().context("a request")?;
    assert!(arrived.contains("x-through: pipelock"), "{arrived}");
    assert!(arrived.contains(&format!("authorization: bearer {TOKEN}")), "{arrived}");
    // What it finds does not get out.
    let blocked = post(&bundle, &name, "SCAN-ME")?;
    assert_eq!((blocked.status, blocked.body.as_str()), (403, "blocked by pipelock"));
    assert!(seen.lock().unwrap().is_empty());
    for file in ["pipelock.yaml", "roots.pem", "ca/ca-key.pem"] {
        assert_eq!(fs::metadata(scratch.path().join(file))?.permissions().mode() & 0o777, 0o600, "{file}");
    }
    let files = fs::read_to_string(scratch.path().join("pipelock.yaml"))?;
    assert!(!files.contains(TOKEN) && files.contains(&name), "{files}");

    // Killed, it is told of and comes back; while it is away nothing passes.
    let before = running(&bundle).context("it runs")?;
    Bundle::signal(before, Signal::KILL)?;
    eventually("its end is told", || {
        let told = |word: &Up| matches!(word, Up::DaemonEnded { daemon, .. } if daemon == "pipelock");
        bundle.words().iter().any(told).then_some(())
    })?;
    eventually("it serves again", || through(&bundle).then_some(()))?;
    // Restarted on request.
    let before = running(&bundle).context("it runs")?;
    bundle.say(&Down::Restart { daemon: "pipelock".into() })?;
    eventually("another one runs", || running(&bundle).filter(|pid| *pid != before))?;
    eventually("it serves again", || through(&bundle).then_some(()))?;
    // Told of a new policy.
    let (other, _) = host(&authority)?;
    let newer = Policy { routes: vec![Route::to(&other)], ..policy.clone() };
    assert_eq!(bundle.reload(serde_json::to_value(&newer)?)?, None);
    eventually("the new route is open", || post(&bundle, &other, "{}").ok().filter(|a| a.status == 200))?;
    assert_eq!(post(&bundle, &name, "{}")?.status, 403);
    let refused =
        Policy { routes: vec![Route { address: Some([10, 0, 0, 1].into()), ..Route::to("a.example") }], ..newer };
    let said = bundle.reload(serde_json::to_value(&refused)?)?.context("taken")?;
    assert!(said.contains("`address`"), "{said}");

    let processes = bundle.processes();
    bundle.close();
    bundle.ends_within(Duration::from_secs(1))?;
    eventually("nothing is left", || processes.iter().all(|pid| command_line(*pid).is_empty()).then_some(()))?;

    // Without a place, or with a program that is none, no bottle is served.
    let error = launch(None, &policy).map(drop).unwrap_err().to_string();
    assert!(error.contains("no place for its files"), "{error}");
    let scratch = tempfile::tempdir()?;
    let mut bundle = launch(Some(scratch.path()), &policy)?;
    bundle.read();
    bundle.deliver("pipelock", b"no program at all")?;
    assert!(!bundle.ends_within(Duration::from_secs(20))?.success());
    assert_eq!(serving(&bundle), 0);
    Ok(())
}

/// Between a real desk and a real sidecar: the operator says yes, and the program behind the proxy lets it through, too.
#[test]
fn a_url_that_an_operator_approves_passes_the_second_hop_at_once() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const BIND: [u8; 4] = [127, 0, 96, 3];
    const IDENTITY: &str = "dev-12345";
    let authority = Authority::new()?;
    let ((known, _), (asked, seen)) = (host(&authority)?, host(&authority)?);
    let route = Route { ports: vec![443], ..Route::to(&known) };
    let policy = Policy { routes: vec![route], upstream_ca_pem: Some(authority.pem.clone()), ..Policy::default() };
    let (scratch, home) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut bundle = launch_with(Some(scratch.path()), &policy, BIND, "egress,dns,supervise,pipelock")?;
    let paths = Paths { home: home.path().into(), cwd: "/".into() };
    let state = paths.state().join(IDENTITY);
    fs::create_dir_all(&state)?;
    let (words, to_desk) = desk::words();
    let sidecar = SidecarChannel::follow(bundle.channel()?, &state.join("egress.jsonl"), Some(words.clone()))?;
    let no_images = |_: &str, _: &str, _: BorrowedFd<'_>| anyhow::bail!("no images here");
    let served = thread::scope(|scope| -> Result<()> {
        let _closing = Closing(Some(words.clone()));
        let desk = Desk::new(&paths, IDENTITY, policy.clone(), &sidecar, &no_images);
        scope.spawn(move || desk.serve(&to_desk));
        sidecar.deliver("pipelock", fs::File::open(STANDIN)?)?;
        ensure!(post(&bundle, &known, "{}")?.status == 200 && post(&bundle, &asked, "{}")?.status == 403);
        let before = running(&bundle).context("it runs")?;

        let agent = scope.spawn(|| propose(BIND, &format!("https://{asked}/v1")));
        let queue = Queue::of(&paths, IDENTITY);
        let id = eventually("a proposal waits", || Some(queue.entries().ok()?.0.first()?.id.clone()))?;
        let (answer, answered) = channel();
        let decision = Decision::Approve { once: false, note: String::new() };
        words.send(Word::Decided { id, decision, answer })?;
        answered.recv()??;
        // No request is lost on the way: another one runs, and serves.
        let answer = post(&bundle, &asked, "{}")?;
        ensure!((answer.status, answer.body.as_str()) == (200, "hello"), "{answer:?}");
        ensure!(running(&bundle).is_some_and(|now| now != before), "it was not restarted");
        let arrived = seen.lock().unwrap().pop().context("a request")?;
        ensure!(arrived.contains("x-through: pipelock"), "{arrived}");
        ensure!(post(&bundle, &asked, "SCAN-ME")?.status == 403, "what it finds gets out");
        let told = agent.join().expect("no panic")?;
        ensure!(told.contains("was approved"), "{told}");
        Ok(())
    });
    sidecar.finish();
    served
}

/// Calls `pipelock-block` as the agent's client does; all that the server answers.
fn propose(server: [u8; 4], url: &str) -> Result<String> {
    let arguments = json!({"url": url, "justification": "a test needs it"});
    let params = json!({"name": "pipelock-block", "arguments": arguments, "_meta": {"progressToken": 1}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let mut stream = TcpStream::connect((Ipv4Addr::from(server), 9100))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: supervise:9100\r\nAuthorization: Bearer {CAPABILITY}\r\nConnection: close\r\n\
         Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n\
         Mcp-Protocol-Version: 2025-11-25\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
