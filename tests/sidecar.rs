//! The sidecar on the wire: the staged program, run as a bundle on this machine, with the lab's hosts behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

#[path = "sidecar/origin.rs"]
mod origin;
#[path = "sidecar/pieces.rs"]
mod pieces;
#[path = "sidecar/protocols.rs"]
mod protocols;

use anyhow::{Context, Result};
use bottle_api::control::First;
use bottle_policy::{Auth, AuthScheme, Policy, Route};
use bottle_tests::{
    bottle::eventually,
    lab::Target,
    sidecar::{Sidecar, launch},
    standin::Standin,
    wire::{Authority, Hello, read_answer},
};
use std::{
    io::{Read, Write},
    net::IpAddr,
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

/// An address of this machine that no other run of these tests has.
fn own_address(n: u8) -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    [127, 128 | high, low, n].into()
}

fn start(policy: &Policy) -> Result<Sidecar> {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    Sidecar::start(own_address(NEXT.fetch_add(1, Ordering::SeqCst)), policy)
}

fn route(host: &str, address: IpAddr) -> Route {
    Route { address: Some(address), ..Route::to(host) }
}

/// `open.example` without a credential, `api.example` with one below `/v1`, both at the stand-in.
fn setup() -> Result<(Sidecar, Standin, Target)> {
    let authority = Authority::new()?;
    let standin =
        Standin::start(&authority, &["open.example", "api.example", "other.example"], "Bearer the-real-token")?;
    let target = Target::new()?;
    let at: IpAddr = standin.address.into();
    let api = Route {
        ports: vec![443],
        paths: vec!["/v1".into(), "/api".into()],
        auth: Some(Auth { scheme: AuthScheme::Bearer, secret: "token".into() }),
        ..route("api.example", at)
    };
    let unset = Route {
        auth: Some(Auth { scheme: AuthScheme::Bearer, secret: "unset".into() }),
        ports: vec![443],
        ..route("unset.example", at)
    };
    let routes = vec![
        api,
        unset,
        route("open.example", at),
        route("wrong-name.example", at),
        route("loopback.example", [127, 0, 0, 1].into()),
        route("private.example", [10, 1, 2, 3].into()),
        route("own.example", [198, 51, 100, 1].into()),
        route("metadata.example", [169, 254, 169, 254].into()),
        Route { address: None, ..route("localhost", at) },
        route("target.example", target.address.into()),
    ];
    let sidecar = start(&Policy {
        routes,
        own_addresses: vec![[198, 51, 100, 1].into()],
        upstream_ca_pem: Some(authority.pem.clone()),
        ..Policy::default()
    })?;
    Ok((sidecar, standin, target))
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[test]
fn the_table_of_the_wire() -> Result<()> {
    let (sidecar, standin, _target) = setup()?;
    let client = &sidecar.client;
    // tunnel's target, name in the TLS handshake, request, status, a word of the answer
    let smuggled =
        "POST /r.git/git-receive-pack HTTP/1.1\r\nHost: open.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut failures = vec![];
    for (target, sni, request, status, word) in [
        ("open.example:443", "open.example", get("open.example", "/api/hello"), 200, "hello"),
        ("OPEN.example:443", "open.example", get("open.example:443", "/api/hello"), 200, "hello"),
        ("api.example:443", "api.example", get("api.example", "/api/hello?access_token=stolen&a=b"), 200, "hello"),
        ("api.example:443", "api.example", get("api.example", "/v2"), 403, "\"rule\":\"path\""),
        ("api.example:443", "api.example", get("api.example", "/v1/../v2"), 400, "path-ambiguous"),
        ("api.example:443", "api.example", get("api.example", "/v1/%2e%2e/v2"), 400, "path-ambiguous"),
        ("nowhere.example:443", "nowhere.example", get("nowhere.example", "/"), 403, "\"rule\":\"host\""),
        ("open.example:8443", "open.example", get("open.example:8443", "/"), 403, "\"rule\":\"port\""),
        ("open.example:443", "open.example", get("api.example", "/v1"), 400, "host-mismatch"),
        ("open.example:443", "open.example", get("https://api.example/v1", "/"), 400, "host-mismatch"),
        ("open.example:443", "open.example", get("open.example", "https://api.example/v1"), 400, "\"rule\":\"target\""),
        ("open.example:443", "open.example", get("open.example\r\nHost: api.example", "/"), 400, "host-mismatch"),
        ("open.example:443", "open.example", smuggled.into(), 403, "git-push"),
        (
            "open.example:443",
            "open.example",
            get("open.example", "/r/info/refs?service=git-receive-pack"),
            403,
            "git-push",
        ),
        (
            "open.example:443",
            "open.example",
            get("open.example\r\nConnection: Upgrade\r\nUpgrade: websocket", "/"),
            403,
            "upgrade",
        ),
        ("unset.example:443", "unset.example", get("unset.example", "/"), 502, "credential"),
        ("wrong-name.example:443", "wrong-name.example", get("wrong-name.example", "/"), 502, "upstream"),
        ("loopback.example:443", "loopback.example", get("loopback.example", "/"), 403, "\"rule\":\"address\""),
        ("localhost:443", "localhost", get("localhost", "/"), 403, "\"rule\":\"address\""),
        ("private.example:443", "private.example", get("private.example", "/"), 403, "\"rule\":\"address\""),
        ("metadata.example:443", "metadata.example", get("metadata.example", "/"), 403, "\"rule\":\"address\""),
        ("own.example:443", "own.example", get("own.example", "/"), 403, "\"rule\":\"address\""),
        (
            "open.example:443",
            "open.example",
            get("open.example", "/").replace("GET", "TRACE"),
            403,
            "\"rule\":\"method\"",
        ),
    ] {
        match client.https(target, sni, &request) {
            Ok(answer) if answer.status == status && answer.body.contains(word) => {}
            other => failures.push(format!("{target} {request:?}: expected {status} {word}, got {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let seen = standin.seen();
    assert_eq!(
        seen.iter().map(|s| s.path.as_str()).collect::<Vec<_>>(),
        ["/api/hello", "/api/hello", "/api/hello?a=b"]
    );
    assert_eq!(seen[2].header("authorization"), Some("Bearer the-real-token"));
    let log = sidecar.log();
    assert_eq!(log.len(), 23, "one line per request: {log:#?}");
    assert_eq!(log.iter().filter(|l| l.decision == "allow").count(), 3);
    assert!(log.iter().all(|l| !l.path.contains('?') && !l.time.is_empty()));
    Ok(())
}

#[test]
fn the_bottles_own_credentials_and_method_overrides_never_leave() -> Result<()> {
    let (sidecar, standin, _target) = setup()?;
    let request = "POST /v1/messages?key=stolen&beta=true HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer placeholder\r\n\
                   x-api-key: placeholder\r\nX-HTTP-Method-Override: DELETE\r\nConnection: close, x-secret\r\nx-secret: 1\r\n\
                   Content-Length: 2\r\n\r\n{}";
    let answer = sidecar.client.https("api.example:443", "api.example", request)?;
    assert_ne!(answer.status, 401, "{answer:?}");
    let seen = standin.seen().pop().context("a request")?;
    assert_eq!((seen.path.as_str(), seen.body.as_ref()), ("/v1/messages?beta=true", &b"{}"[..]));
    assert_eq!(seen.header("authorization"), Some("Bearer the-real-token"));
    for name in ["x-api-key", "x-http-method-override", "x-secret", "proxy-authorization"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    Ok(())
}

#[test]
fn what_is_not_tls_or_names_another_host_is_cut_off_before_it_reaches_anybody() -> Result<()> {
    let (sidecar, standin, target) = setup()?;
    let before = target.packets()?;
    for bytes in ["POST / HTTP/1.1\r\nHost: target.example\r\n\r\nsecret", "SSH-2.0-x\r\n", "\0\0\0\0"] {
        let mut tunnel = sidecar.client.tunnel("target.example:443")?;
        tunnel.write_all(bytes.as_bytes())?;
        let mut rest = vec![];
        let _ = tunnel.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    assert!(sidecar.client.https("open.example:443", "api.example", &get("api.example", "/v1")).is_err());
    assert_eq!((target.packets()?, target.seen().len(), standin.seen().len()), (before, 0, 0));
    let log = sidecar.log();
    assert_eq!(
        log.iter().filter(|l| l.method == "CONNECT" && l.rule == "tunnel" && l.decision == "deny").count(),
        4,
        "{log:#?}"
    );
    // The counter counts: a request that is allowed does reach the target.
    let _ = sidecar.client.https("target.example:443", "target.example", &get("target.example", "/"));
    assert!(target.packets()? > before);
    Ok(())
}

#[test]
fn without_the_capability_nothing_is_served() -> Result<()> {
    let (sidecar, standin, _target) = setup()?;
    let client = &sidecar.client;
    for (request, status) in [
        ("CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\n\r\n", 407),
        (
            "CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\nProxy-Authorization: Basic Ym90dGxlOng=\r\n\r\n",
            407,
        ),
        ("GET http://open.example/api/hello HTTP/1.1\r\nHost: open.example\r\nConnection: close\r\n\r\n", 407),
        ("GET http://_egress.local/allowlist HTTP/1.1\r\nHost: _egress.local\r\nConnection: close\r\n\r\n", 407),
        (
            "GET http://_egress.local/allowlist HTTP/1.1\r\nHost: _egress.local\r\nProxy-Authorization: Basic {auth}\r\nConnection: close\r\n\r\n",
            200,
        ),
        (
            "GET http://nowhere.example/ HTTP/1.1\r\nHost: nowhere.example\r\nProxy-Authorization: Basic {auth}\r\nConnection: close\r\n\r\n",
            403,
        ),
        (
            "GET http://api.example/v1 HTTP/1.1\r\nHost: api.example\r\nProxy-Authorization: Basic {auth}\r\nConnection: close\r\n\r\n",
            403,
        ),
        (
            "GET http://u:p@open.example/ HTTP/1.1\r\nHost: open.example\r\nProxy-Authorization: Basic {auth}\r\nConnection: close\r\n\r\n",
            400,
        ),
        (
            "GET /allowlist HTTP/1.1\r\nHost: _egress.local\r\nProxy-Authorization: Basic {auth}\r\nConnection: close\r\n\r\n",
            400,
        ),
    ] {
        let answer = client.plain(request)?;
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert!(!answer.body.contains("the-real-token"));
    }
    assert!(standin.seen().is_empty());
    eventually("three challenges and one wrong password are in the log", || {
        let log = sidecar.log();
        let count = |rule: &str| log.iter().filter(|line| line.rule == rule).count();
        (count("challenge") == 3 && count("capability") == 1).then_some(())
    })
}

#[test]
fn what_cannot_be_read_as_a_request_has_its_line_in_the_log() -> Result<()> {
    let (sidecar, standin, _target) = setup()?;
    let client = &sidecar.client;
    let bad = "GET /x HTTP/1.1\r\nHost : open.example\r\n\r\n";
    assert_eq!(client.https("open.example:443", "open.example", bad)?.status, 400);
    assert_eq!(client.plain("GET http://open.example/ HTTP/1.1\r\nX\r\n\r\n")?.status, 400);
    // After a good one on the same connection, too.
    let mut tls = client.tls("open.example:443", "open.example", Hello::default())?;
    for (request, status) in [(&*get("open.example", "/api/hello").replace("close", "keep-alive"), 200), (bad, 400)] {
        tls.write_all(request.as_bytes())?;
        assert_eq!(read_answer(&mut tls)?.status, status);
    }
    let lines = eventually("each has a line", || {
        let lines = sidecar.log().into_iter().filter(|line| line.rule == "unreadable");
        let lines: Vec<_> = lines.map(|line| (line.host, line.decision, line.status)).collect();
        (lines.len() == 3).then_some(lines)
    })?;
    let line = |host: &str| (host.to_owned(), "deny".to_owned(), 400);
    assert_eq!(lines, [line("open.example:443"), line(""), line("open.example:443")]);
    assert_eq!(standin.seen().len(), 1);
    Ok(())
}

#[test]
fn it_ends_with_its_channel() -> Result<()> {
    let (mut sidecar, _standin, _target) = setup()?;
    let _open = sidecar.client.tunnel("open.example:443")?;
    drop(sidecar.channel.take());
    let began = Instant::now();
    while sidecar.child.try_wait()?.is_none() {
        assert!(began.elapsed() < Duration::from_secs(5), "it lives on without its channel");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(sidecar.client.tunnel("open.example:443").is_err());
    Ok(())
}

#[test]
fn what_it_does_not_understand_it_refuses() -> Result<()> {
    let good = serde_json::to_value(Policy::default())?;
    let mut newer = good.clone();
    newer["schema"] = 99.into();
    let mut unknown = good.clone();
    unknown["deny_everything"] = true.into();
    for (n, (daemons, policy, word)) in [
        ("egress,dns", newer, "schema 99"),
        ("egress,dns", unknown, "deny_everything"),
        ("egress", good.clone(), "dns cannot be left out"),
        ("egress,dns,git-gate", good, "git-gate"),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut child, first, _channel) = launch(own_address(200 + u8::try_from(n)?), daemons, policy, None)?;
        let First::Refused { message } = first else { anyhow::bail!("{daemons}: {first:?}") };
        assert!(message.contains(word), "{message}");
        assert!(!child.wait()?.success());
    }
    Ok(())
}
