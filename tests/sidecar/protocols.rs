//! HTTP/2, WebSocket, streams, passthrough, a proxy of the house and audit mode, on the wire.

use super::{
    get,
    origin::{Client, Origin, Parts, TOGETHER, collected, serve, tls},
    route,
};
use anyhow::{Context, Result};
use bottle_policy::{Auth, AuthScheme, Mode, Policy, Route, UpstreamProxy};
use bottle_tests::{
    lab::Lab,
    sidecar::{CAPABILITY, Sidecar},
    wire::Authority,
};
use hyper::{Method, Request, body::Frame, header::HeaderMap};
use std::{
    io::{Read, Write},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};

const HOSTS: [&str; 5] = ["new.example", "old.example", "api.example", "sealed.example", "pinned.example"];

struct Wire {
    sidecar: Sidecar,
    authority: Authority,
    new: Origin,
    old: Origin,
}

/// `new.example` speaks HTTP/2, the others HTTP/1.1; `api.example` gets a credential, `sealed.example` is not opened.
fn setup(change: impl FnOnce(&mut Policy)) -> Result<Wire> {
    let authority = Authority::new()?;
    let new = Origin::start(&authority, &HOSTS, &["h2", "http/1.1"])?;
    let old = Origin::start(&authority, &HOSTS, &["http/1.1"])?;
    let at = old.address.into();
    let mut policy = Policy {
        routes: vec![
            route("new.example", new.address.into()),
            route("old.example", at),
            Route {
                ports: vec![443],
                paths: vec!["/v1".into()],
                auth: Some(Auth { scheme: AuthScheme::Bearer, secret: "token".into() }),
                ..route("api.example", new.address.into())
            },
            Route { tls_passthrough: true, ports: vec![443], ..route("sealed.example", at) },
        ],
        upstream_ca_pem: Some(authority.pem.clone()),
        ..Policy::default()
    };
    change(&mut policy);
    Ok(Wire { sidecar: super::start(&policy)?, authority, new, old })
}

pub(crate) fn run<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test)
}

/// A request whose body ends at once, in the form that the protocol wants.
fn request(client: &Client, method: Method, host: &str, path: &str) -> Result<Request<Parts>> {
    let builder = Request::builder().method(method);
    Ok(match client {
        Client::Http1(_) => builder.uri(path).header("host", host),
        Client::Http2(_) => builder.uri(format!("https://{host}{path}")),
    }
    .body(Parts::new().1)?)
}

#[test]
fn each_protocol_reaches_each_other_with_bodies_and_trailers() -> Result<()> {
    let wire = setup(|_| {})?;
    run(async {
        for (host, arrives_as) in [("new.example", 2), ("old.example", 1)] {
            for protocol in ["h2", "http/1.1"] {
                let mut client = Client::open(&wire.sidecar.client, host, protocol).await?;
                for turn in 0..2 {
                    let mut request = request(&client, Method::POST, host, "/echo?a=b")?;
                    let (parts, body) = Parts::new();
                    *request.body_mut() = body;
                    let headers = request.headers_mut();
                    headers.insert("trailer", "x-end".parse()?);
                    headers.insert("te", "trailers".parse()?);
                    headers.append("cookie", "a=1".parse()?);
                    headers.append("cookie", "b=2".parse()?);
                    headers.insert("x-http-method-override", "DELETE".parse()?);
                    parts.send(Frame::data("some".into())).await?;
                    parts.send(Frame::data(" words".into())).await?;
                    let end = [("x-end", "1"), ("authorization", "Bearer x")];
                    let end = end.into_iter().map(|(n, v)| anyhow::Ok((n.parse()?, v.parse()?)));
                    parts.send(Frame::trailers(end.collect::<Result<HeaderMap>>()?)).await?;
                    drop(parts);
                    let answer = client.send(request).await?;
                    let what = format!("{protocol} to {host}, {turn}: {answer:?}");
                    let seen = answer.seen();
                    assert_eq!(answer.status, 200, "{what}");
                    assert_eq!((&seen["version"], &seen["body"]), (&arrives_as.into(), &"some words".into()), "{what}");
                    assert_eq!(seen["trailers"]["x-end"], "1", "{what}");
                    assert_eq!(seen["headers"]["cookie"], "a=1; b=2", "{what}");
                    assert_eq!(seen["headers"]["te"], "trailers", "{what}");
                    assert!(seen["headers"].get("x-http-method-override").is_none(), "{what}");
                    let named = if arrives_as == 2 { &seen["authority"] } else { &seen["headers"]["host"] };
                    assert_eq!(named, host, "{what}");
                    assert_eq!(answer.trailers["x-sum"], "42", "{what}");
                    assert!(!answer.headers.contains_key("alt-svc"), "{what}");
                }
            }
        }
        Ok(())
    })?;
    let log = wire.sidecar.log();
    assert_eq!(log.iter().filter(|l| l.decision == "allow" && l.sent == 10 && l.received > 50).count(), 8, "{log:#?}");
    Ok(())
}

#[test]
fn http2_is_judged_like_everything() -> Result<()> {
    let wire = setup(|_| {})?;
    run(async {
        let mut client = Client::open(&wire.sidecar.client, "api.example", "h2").await?;
        let mut failures = vec![];
        for (method, url, host, status, word) in [
            ("GET", "https://api.example/v1/x?access_token=t&a=b", None, 200, "Bearer the-real-token"),
            ("GET", "https://API.example:443/v1/x", None, 200, "Bearer the-real-token"),
            ("GET", "https://api.example/v1/x", Some("api.example"), 200, "\"version\":2"),
            ("GET", "https://new.example/v1/x", None, 400, "host-mismatch"),
            ("GET", "https://api.example:444/v1/x", None, 400, "host-mismatch"),
            ("GET", "https://u@api.example/v1/x", None, 400, "host-mismatch"),
            ("GET", "https://api.example/v1/x", Some("new.example"), 400, "host-mismatch"),
            ("GET", "http://api.example/v1/x", None, 400, "\"rule\":\"target\""),
            ("GET", "https://api.example/v2", None, 403, "\"rule\":\"path\""),
            ("GET", "https://api.example/v1/../v2", None, 400, "path-ambiguous"),
            ("TRACE", "https://api.example/v1", None, 403, "\"rule\":\"method\""),
            ("POST", "https://api.example/v1/r.git/git-receive-pack", None, 403, "git-push"),
        ] {
            let mut request = Request::builder().method(method).uri(url).header("authorization", "Bearer own");
            request = host.into_iter().fold(request, |request, host| request.header("host", host));
            let answer = client.send(request.body(Parts::new().1)?);
            let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.map_err(anyhow::Error::from);
            match &answer {
                Ok(Ok(answer)) if answer.status == status && answer.body.contains(word) => {}
                _ => failures.push(format!("{method} {url} {host:?}: expected {status} {word}, got {answer:?}")),
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
        Ok(())
    })?;
    let seen = wire.new.seen();
    assert_eq!(seen.len(), 3, "{seen:#?}");
    assert!(seen.iter().all(|s| s["path"] == "/v1/x" && s["headers"]["authorization"] == "Bearer the-real-token"));
    Ok(())
}

#[test]
fn streams_do_not_wait_for_each_other_and_pass_as_they_arrive() -> Result<()> {
    let wire = setup(|_| {})?;
    run(async {
        for (host, origin) in [("old.example", &wire.old), ("new.example", &wire.new)] {
            let client = Arc::new(Client::open(&wire.sidecar.client, host, "h2").await?);
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..TOGETHER {
                let (client, request) = (client.clone(), request(&client, Method::GET, host, "/together")?);
                all.spawn(async move { collected(client.begin(request).await?).await });
            }
            while let Some(answer) = all.join_next().await {
                assert_eq!(answer??.status, 200);
            }
            let mut events = client.begin(request(&client, Method::GET, host, "/events")?).await?;
            let first = http_body_util::BodyExt::frame(&mut events).await.context("an event")??;
            assert_eq!(first.data_ref().context("data")?, &"data: 1\n\n");
            origin.next_event();
            assert!(collected(events).await?.body.contains("/events"));
        }
        Ok(())
    })
}

#[test]
fn a_body_is_asked_for_after_the_verdict_only() -> Result<()> {
    let wire = setup(|_| {})?;
    run(async {
        for (path, expected) in
            [("/x", "HTTP/1.1 100 Continue\r\n\r\n"), ("/r/git-receive-pack", "HTTP/1.1 403 Forbidden\r")]
        {
            let proxy = &wire.sidecar.client;
            let mut io = tls(proxy, &proxy.ca_pem, "old.example:443", "old.example", "http/1.1").await?;
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: old.example\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            );
            io.write_all(head.as_bytes()).await?;
            let mut said = vec![0; expected.len()];
            io.read_exact(&mut said).await?;
            assert_eq!(String::from_utf8(said)?, expected);
            if path == "/x" {
                io.write_all(b"body").await?;
                let mut rest = vec![0; 15];
                io.read_exact(&mut rest).await?;
                assert_eq!(rest, b"HTTP/1.1 200 OK");
            }
        }
        Ok(())
    })?;
    assert_eq!(wire.old.seen().len(), 1);
    Ok(())
}

#[test]
fn a_request_within_a_request_is_never_one() -> Result<()> {
    let wire = setup(|_| {})?;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: old.example\r\n\r\n";
    for head in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}", 5 + hidden.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n0\r\n\r\n{hidden}", 5 + hidden.len()),
        format!("Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd{hidden}"),
        format!("Content-Length: +4\r\n\r\nabcd{hidden}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("X: a\0b\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{hidden}"),
    ] {
        let request = format!("POST /outer HTTP/1.1\r\nHost: old.example\r\n{head}");
        let _ = wire.sidecar.client.https("old.example:443", "old.example", &request);
    }
    let seen = wire.old.seen();
    assert!(seen.iter().all(|s| s["path"] == "/outer" && s["body"] == ""), "{seen:#?}");
    assert!(seen.iter().all(|s| s["headers"].get("content-length").is_none_or(|l| l == "0")), "{seen:#?}");
    Ok(())
}

fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: old.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
}

/// Everything that comes back to these bytes in a tunnel; what is sent after the head comes once that was answered.
async fn exchange(wire: &Wire, head: &str, then: &[u8], answer: usize) -> Result<(String, Vec<u8>)> {
    let proxy = &wire.sidecar.client;
    let mut io = tls(proxy, &proxy.ca_pem, "old.example:443", "old.example", "http/1.1").await?;
    io.write_all(head.as_bytes()).await?;
    let mut said = vec![];
    while !said.ends_with(b"\r\n\r\n") {
        said.push(io.read_u8().await?);
    }
    io.write_all(then).await?;
    let mut rest = vec![0; answer];
    let length = io.read(&mut rest).await.unwrap_or_default();
    rest.truncate(length);
    Ok((String::from_utf8(said)?, rest))
}

#[test]
fn after_a_websockets_handshake_only_its_frames_pass() -> Result<()> {
    let wire = setup(|_| {})?;
    run(async {
        let frame = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
        let (head, echo) = exchange(&wire, &handshake("/socket"), &frame, 4).await?;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert_eq!(echo, [0x81, 2, b'h', b'i']);
        for (path, bytes) in [("/socket", &b"GET / HTTP/1.1\r\n\r\n"[..]), ("/rude", b"")] {
            let (head, rest) = exchange(&wire, &handshake(path), bytes, 4).await?;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert!(rest.is_empty(), "{path}: {rest:?}");
        }
        for (from, to) in [
            ("websocket", "h2c"),
            ("websocket", "TLS/1.0"),
            ("websocket", "websocket, h2c"),
            ("GET", "POST"),
            ("Version: 13", "Version: 12"),
            ("Key: dGhl", "Key: "),
            ("Connection: Upgrade", "Connection: close"),
            ("Upgrade: websocket\r\n", ""),
        ] {
            let (head, _) = exchange(&wire, &handshake("/socket").replace(from, to), b"", 1).await?;
            assert!(head.starts_with("HTTP/1.1 403 "), "{from} as {to}: {head}");
        }
        // A host that changes the protocol unasked.
        let (head, _) = exchange(&wire, &get("old.example", "/switch"), b"", 1).await?;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        Ok(())
    })?;
    let seen = wire.old.seen();
    assert!(seen.iter().all(|s| s["headers"].get("sec-websocket-extensions").is_none()), "{seen:#?}");
    assert_eq!(seen.len(), 4, "{seen:#?}");
    let log = wire.sidecar.log();
    let line = log.iter().find(|l| l.decision == "allow" && l.path == "/socket").context("a line")?;
    assert_eq!((line.status, line.sent, line.received), (101, 8, 4), "{line:?}");
    assert_eq!(log.iter().filter(|l| l.rule == "websocket" && l.decision == "deny").count(), 2, "{log:#?}");
    assert_eq!(log.iter().filter(|l| l.rule == "upgrade").count(), 8, "{log:#?}");
    Ok(())
}

#[test]
fn what_is_passed_through_is_not_opened() -> Result<()> {
    let wire = setup(|_| {})?;
    let (proxy, own) = (&wire.sidecar.client, &wire.authority.pem);
    run(async {
        let mut io = tls(proxy, own, "sealed.example:443", "sealed.example", "http/1.1").await?;
        io.write_all(get("sealed.example", "/../any//path").as_bytes()).await?;
        let mut said = String::new();
        io.read_to_string(&mut said).await?;
        assert!(said.contains("/../any//path"), "{said}");
        drop(io);
        for (target, sni) in [
            ("sealed.example:443", "old.example"),
            ("sealed.example:443", "198.51.100.200"), // no name in the handshake
            ("sealed.example:8443", "sealed.example"),
        ] {
            assert!(tls(proxy, own, target, sni, "http/1.1").await.is_err(), "{target} {sni}");
        }
        anyhow::Ok(())
    })?;
    for bytes in ["GET / HTTP/1.1\r\nHost: sealed.example\r\n\r\n", "SSH-2.0-x\r\n"] {
        let mut tunnel = proxy.tunnel("sealed.example:443")?;
        tunnel.write_all(bytes.as_bytes())?;
        let mut rest = vec![];
        let _ = tunnel.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    assert_eq!(wire.old.seen().len(), 1);
    let log = wire.sidecar.log();
    let passed: Vec<_> = log.iter().filter(|l| l.decision == "allow").collect();
    assert_eq!(passed.len(), 1, "{log:#?}");
    assert!(passed[0].method == "CONNECT" && passed[0].sent > 300 && passed[0].received > 800, "{passed:?}");
    assert_eq!(log.iter().filter(|l| l.rule == "tunnel").count(), 4, "{log:#?}");
    Ok(())
}

#[test]
fn audit_mode_writes_down_what_it_sends_on_without_a_credential() -> Result<()> {
    let wire = setup(|policy| {
        policy.mode = Mode::Audit;
        policy.scan.blocklist = vec!["*.bad.example".into()];
    })?;
    let client = &wire.sidecar.client;
    let own = |host: &str, path: &str| get(&format!("{host}\r\nAuthorization: Bearer placeholder"), path);
    for (target, request, status, word) in [
        ("api.example:443", own("api.example", "/v1"), 200, "Bearer the-real-token"),
        ("api.example:443", own("api.example", "/v2"), 200, "/v2"),
        ("old.example:443", own("old.example", "/x").replace("GET", "TRACE"), 200, "Bearer placeholder"),
        ("old.example:443", own("old.example", "/r/git-receive-pack"), 403, "git-push"),
        ("old.example:443", own("api.example", "/v1"), 400, "host-mismatch"),
        ("127.0.0.1:443", own("127.0.0.1", "/"), 403, "\"rule\":\"address\""),
        ("127.1:443", own("127.1", "/"), 400, "\"rule\":\"target\""),
        ("2130706433:443", own("2130706433", "/"), 400, "\"rule\":\"target\""),
        ("0x7f.1:443", own("0x7f.1", "/"), 400, "\"rule\":\"target\""),
        ("0177.0.0.1:443", own("0177.0.0.1", "/"), 400, "\"rule\":\"target\""),
        ("[::ffff:127.0.0.1]:443", own("[::ffff:127.0.0.1]", "/"), 403, "\"rule\":\"address\""),
        ("localhost:443", own("localhost", "/"), 403, "\"rule\":\"address\""),
        ("a.bad.example:443", own("a.bad.example", "/"), 403, "\"rule\":\"dlp-blocklist\""),
    ] {
        let host = target.rsplit_once(':').context("a port")?.0;
        let sni = host.trim_matches(['[', ']']);
        // What no client can name in TLS is asked for in the clear.
        let answer = if sni.parse::<std::net::IpAddr>().is_err() && sni.starts_with(|c: char| c.is_ascii_digit()) {
            let login = "{auth}";
            client.plain(&format!(
                "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {login}\r\nConnection: close\r\n\r\n"
            ))?
        } else {
            client.https(target, sni, &request)?
        };
        assert!(answer.status == status && answer.body.contains(word), "{target} {request}: {answer:?}");
    }
    let seen = wire.new.seen();
    assert_eq!(seen[1]["path"], "/v2");
    assert!(seen[1]["headers"].get("authorization").is_none(), "{seen:#?}");
    let audited: Vec<_> = wire.sidecar.log().into_iter().filter(|l| l.decision == "audit").collect();
    let rules: Vec<_> = audited.iter().map(|l| (l.rule.as_str(), l.status)).collect();
    assert_eq!(rules, [("path", 200), ("method", 200)]);
    Ok(())
}

/// A proxy of the house, which sends every tunnel to one place and remembers what it was asked.
fn house_proxy(to: std::net::Ipv4Addr, asked: Arc<Mutex<Vec<String>>>) -> Result<std::net::Ipv4Addr> {
    let address = Lab::address()?;
    let listener = Lab::listen((address, 3128).into())?;
    listener.set_nonblocking(true)?;
    let inside = Arc::new(asked);
    serve(listener, move |mut client: TcpStream| {
        let asked = inside.clone();
        async move {
            let mut head = vec![];
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = client.read_u8().await else { return };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            asked.lock().unwrap().push(head.clone());
            if head.contains("denied.example") {
                return drop(client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await);
            }
            if head.contains("endless.example") {
                let _ = client.write_all(b"HTTP/1.1 200 OK\r\n").await;
                while client.write_all(&[b'x'; 1024]).await.is_ok() {}
                return;
            }
            let port = if head.contains(":80 ") { 80 } else { 443 };
            // The proxy of the house stands where this machine stands, the hosts in the lab behind it.
            let mut host = TcpStream::connect((to, port)).await.unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut host).await;
        }
    });
    Ok(address)
}

#[test]
fn a_proxy_of_the_house_is_asked_for_every_host() -> Result<()> {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let authority = Authority::new()?;
    let origin = Origin::start(&authority, &HOSTS, &["h2", "http/1.1"])?;
    let proxy = house_proxy(origin.address, asked.clone())?;
    let named = |host: &str| Route::to(host);
    let sidecar = super::start(&Policy {
        routes: vec![
            named("new.example"),
            named("denied.example"),
            named("endless.example"),
            named("localhost"),
            named("host.internal"),
            named("127.0.0.1"),
            named("127.1"),
            route("pinned.example", origin.address.into()),
            route("api.example", [169, 254, 169, 254].into()),
        ],
        upstream_proxy: Some(UpstreamProxy {
            host: proxy.to_string(),
            port: 3128,
            tls: false,
            secret: Some("proxy-login".into()),
        }),
        upstream_ca_pem: Some(authority.pem.clone()),
        ..Policy::default()
    })?;
    let plain = |host: &str| {
        let head = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {{auth}}\r\n");
        sidecar.client.plain(&format!("{head}Connection: close\r\n\r\n"))
    };
    for (host, status, word) in [
        ("new.example", 200, "\"path\""),
        ("pinned.example", 200, "\"path\""),
        ("denied.example", 502, "403 Forbidden"),
        ("endless.example", 502, "upstream"),
        ("localhost", 403, "\"rule\":\"address\""),
        ("host.internal", 403, "\"rule\":\"address\""),
        ("127.0.0.1", 403, "\"rule\":\"address\""),
        ("127.1", 400, "\"rule\":\"target\""),
        ("api.example", 403, "\"rule\":\"address\""),
    ] {
        let answer = plain(host)?;
        assert!(answer.status == status && answer.body.contains(word), "{host}: {answer:?}");
        assert!(!answer.body.contains(CAPABILITY));
    }
    let answer = sidecar.client.https("new.example:443", "new.example", &get("new.example", "/x"))?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let asked = asked.lock().unwrap();
    let lines: Vec<_> = asked.iter().filter_map(|head| head.lines().next()).collect();
    let pinned = format!("CONNECT {}:80 HTTP/1.1", origin.address);
    assert_eq!(
        lines,
        [
            "CONNECT new.example:80 HTTP/1.1",
            &pinned,
            "CONNECT denied.example:80 HTTP/1.1",
            "CONNECT endless.example:80 HTTP/1.1",
            "CONNECT new.example:443 HTTP/1.1"
        ]
    );
    assert!(asked.iter().all(|head| head.contains("asic dXNlcjp3b3Jk")), "{asked:?}");
    Ok(())
}
