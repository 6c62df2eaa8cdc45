//! Rows: HTTP/2, in whose frames every byte can be said that HTTP/1.1 is made of.

use crate::world::{Outcome, World, absolute, get};
use anyhow::{Context, Result, ensure};
use bottle_tests::{
    h2::{self, PREFACE, read_answer, request, upload},
    wire::{Answer, Hello},
};
use std::io::Write;

const ALPN: Hello<'_> = Hello { sni: true, alpn: &["h2"] };

/// Sends frames on a new connection, and waits for what becomes of a stream.
fn frames<'w>(world: &'w World, host: &str, frames: &[u8], stream: u32) -> Outcome<'w> {
    world.outcome(format!("h2 {host}"), frames, || exchange(world, host, frames, stream))
}

fn exchange(world: &World, host: &str, frames: &[u8], stream: u32) -> Result<Answer> {
    let mut tls = world.client().tls(&format!("{host}:443"), host, ALPN)?;
    ensure!(tls.conn.alpn_protocol() == Some(b"h2"), "HTTP/2 is not offered");
    tls.write_all(&[PREFACE, frames].concat())?;
    read_answer(&mut tls, stream)
}

fn asks<'w>(world: &'w World, host: &str, fields: &[(&str, &str)]) -> Outcome<'w> {
    frames(world, host, &request(1, fields), 1)
}

/// A GET with one more field.
fn with<'w>(world: &'w World, name: &str, value: &str) -> Outcome<'w> {
    asks(world, "open.example", &[&h2::get("open.example", "/x")[..], &[(name, value)]].concat())
}

/// The legitimate neighbour.
fn fine(world: &World) -> Result<()> {
    asks(world, "open.example", &h2::get("open.example", "/fine")).passes().map(drop)
}

/// A GET whose field of that name is another one.
fn but(name: &str, value: &str, path: &str) -> Vec<u8> {
    let fields = h2::get("open.example", path);
    let fields: Vec<_> = fields.into_iter().map(|field| if field.0 == name { (name, value) } else { field }).collect();
    request(1, &fields)
}

rows! {
    /// Or nothing here would be about HTTP/2.
    both_sides_speak_it: |w| {
        asks(w, "open.example", &h2::get("evil.example", "/")).refused(400, "host-mismatch")?;
        fine(w)?;
        ensure!(w.origin.connections().iter().any(|connection| connection.h2), "the origin was not asked in HTTP/2");
        Ok(())
    };
    another_authority: |w| {
        for authority in ["other.example", "evil.example", "open.example:80", "open.example:8443", "open.example.", "open.example@evil.example",
            "evil@open.example", "", " ", "open.example evil", "open.example,evil.example", "[open.example]", "open.example:+443", "open.example/evil"] {
            asks(w, "open.example", &h2::get(authority, "/evil")).stopped()?;
        }
        asks(w, "open.example", &h2::get("OPEN.example:443", "/fine")).passes().map(drop)
    };
    an_authority_and_another_host: |w| {
        for host in ["other.example", "evil.example", "open.example:80", ""] {
            asks(w, "open.example", &[&h2::get("open.example", "/evil")[..], &[("host", host)]].concat()).stopped()?;
            asks(w, "open.example", &[&h2::get(host, "/evil")[..], &[("host", "open.example")]].concat()).stopped()?;
        }
        asks(w, "open.example", &[&h2::get("open.example", "/evil")[..], &[("host", "open.example"), ("host", "evil.example")]].concat())
            .stopped()?;
        asks(w, "open.example", &[(":method", "GET"), (":scheme", "https"), (":path", "/evil"), ("host", "evil.example")]).stopped()?;
        asks(w, "open.example", &[(":method", "GET"), (":scheme", "https"), (":path", "/evil")]).stopped()?;
        asks(w, "open.example", &[&h2::get("open.example", "/fine")[..], &[("host", "open.example")]].concat()).passes().map(drop)
    };
    /// One connection, the certificate of one host: another one is asked for on a connection of its own.
    streams_for_several_hosts: |w| {
        let streams = |hosts: [&str; 3], path: &str| {
            (1..).step_by(2).zip(hosts).flat_map(|(n, host)| request(n, &h2::get(host, path))).collect::<Vec<u8>>()
        };
        for host in ["other.example", "api.example", "evil.example"] {
            let all = [request(1, &h2::get("open.example", "/x")), request(3, &h2::get(host, "/v1/evil"))].concat();
            frames(w, "open.example", &all, 3).refused(400, "host-mismatch")?;
        }
        frames(w, "open.example", &streams(["open.example"; 3], "/fine"), 5).passes().map(drop)
    };
    without_having_agreed_on_it: |w| {
        let said = [PREFACE, &request(1, &h2::get("open.example", "/evil"))].concat();
        w.tls("open.example", &said).defused()?;
        w.outcome("h1 agreed on".into(), &said, || {
            let mut tls = w.client().tls("open.example:443", "open.example", Hello { sni: true, alpn: &["http/1.1"] })?;
            tls.write_all(&said)?;
            bottle_tests::wire::read_answer(&mut tls)
        }).stopped()?;
        w.plain(&said).stopped()?;
        w.tunnel("open.example:443", &said).cut()?;
        w.tunnel("open.example:80", &said).cut()?;
        fine(w)
    };
    agreed_on_and_http_1_spoken: |w| {
        w.outcome("h2 agreed on".into(), b"evil", || {
            let mut tls = w.client().tls("open.example:443", "open.example", ALPN)?;
            tls.write_all(get("open.example", "/evil").as_bytes())?;
            read_answer(&mut tls, 1)
        }).cut()?;
        fine(w)
    };
    /// The length is what the host would believe in HTTP/1.1.
    lengths_that_do_not_fit: |w| {
        let post = |length: &'static str| {
            [(":method", "POST"), (":scheme", "https"), (":authority", "open.example"), (":path", "/x"), ("content-length", length)]
        };
        let inner = b"GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        for length in ["0", "1", "4096", "-1", "+42", "0x2a", "42, 42", "", "99999999999999999999"] {
            // What was sent before it is known that it does not fit is cut off, not completed.
            let inner: &[u8] = if ["4096"].contains(&length) { b"short" } else { inner };
            frames(w, "open.example", &upload(1, &post(length), inner), 1).stopped()?;
        }
        let two = [&post("0")[..], &[("content-length", "42")]].concat();
        frames(w, "open.example", &upload(1, &two, inner), 1).stopped()?;
        frames(w, "open.example", &request(1, &post("42")), 1).stopped()?;
        let fine = [(":method", "POST"), (":scheme", "https"), (":authority", "open.example"), (":path", "/fine"), ("content-length", "4")];
        frames(w, "open.example", &upload(1, &fine, b"fine"), 1).passes().map(drop)
    };
    headers_of_a_connection: |w| {
        for (name, value) in [("transfer-encoding", "chunked"), ("transfer-encoding", "evil"), ("connection", "evil"), ("connection", "close"),
            ("keep-alive", "evil"), ("proxy-connection", "evil"), ("upgrade", "evil"), ("te", "evil"), ("te", "trailers, evil")] {
            // Malformed (RFC 9113, 8.2.2); if it is passed on all the same, then without it.
            with(w, name, value).defused()?;
        }
        for seen in w.origin.requests() {
            ensure!(seen.header("transfer-encoding").is_none() && seen.header("connection").is_none(), "{seen:?}");
        }
        with(w, "te", "trailers").defused()?;
        fine(w)
    };
    lines_in_values: |w| {
        for value in ["a\r\nevil: b", "a\nevil: b", "a\revil: b", "a\0evil", "a\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n", "\r\nevil"] {
            with(w, "x", value).stopped()?;
            with(w, "cookie", value).stopped()?;
        }
        with(w, "x-other", "fine").passes().map(drop)
    };
    names_that_are_none: |w| {
        for name in ["Evil", "X-EVIL", "evil: a\r\nx", "evil:", "evil a", "\u{e9}vil", "ev\0il", "evil\r\nx", "", "evil\t", ":evil", "transfer-Encoding", "ev(il"] {
            with(w, name, "evil").stopped()?;
        }
        with(w, "x-other", "fine").passes().map(drop)
    };
    paths: |w| {
        for path in ["/x HTTP/1.1\r\nEvil: a\r\nX:", "/ evil", "/x\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil.example", "/\nevil", "/\0evil", "evil", "",
            "*", "https://evil.example/", "https://open.example/evil", "//evil.example/x", "/../evil", "/%2e%2e/evil", "/a;evil", "/\\evil", "/\tevil",
            "/e\u{e9}vil", "/%c0%aeevil"] {
            frames(w, "open.example", &but(":path", path, "/"), 1).stopped()?;
        }
        asks(w, "api.example", &h2::get("api.example", "/evil")).refused(403, "path")?;
        asks(w, "api.example", &h2::get("api.example", "/v1evil")).refused(403, "path")?;
        asks(w, "api.example", &h2::get("api.example", "/v1/fine")).passes().map(drop)
    };
    methods: |w| {
        for method in ["GET /evil HTTP/1.1\r\nX: ", "GET evil", "", "GE\0T", "TRACE", "CONNECT", "G\r\nET"] {
            frames(w, "open.example", &but(":method", method, "/evil"), 1).stopped()?;
        }
        let get = |method| [(":method", method), (":scheme", "https"), (":authority", "get.example"), (":path", "/evil")];
        for method in ["POST", "get", "DELETE", "EVIL"] {
            asks(w, "get.example", &get(method)).refused(403, "method")?;
        }
        asks(w, "get.example", &h2::get("get.example", "/fine")).passes().map(drop)
    };
    /// A tunnel in the tunnel, and a WebSocket of RFC 8441, to whom nobody may speak unseen.
    a_tunnel_in_a_stream: |w| {
        for authority in ["evil.example:443", "open.example:443", "10.1.2.3:443"] {
            asks(w, "open.example", &[(":method", "CONNECT"), (":authority", authority)]).stopped()?;
        }
        let extended = [&h2::get("open.example", "/evil")[1..], &[(":method", "CONNECT"), (":protocol", "websocket")]].concat();
        asks(w, "open.example", &extended).stopped()?;
        with(w, ":protocol", "websocket").stopped()?;
        fine(w)
    };
    pseudo_headers: |w| {
        for (name, value) in [(":authority", "evil.example"), (":path", "/evil"), (":method", "EVIL"), (":scheme", "http"), (":status", "200"), (":evil", "evil")] {
            with(w, name, value).stopped()?;
        }
        for scheme in ["http", "ftp", "https://evil.example/", "", "evil"] {
            frames(w, "open.example", &but(":scheme", scheme, "/evil"), 1).stopped()?;
        }
        let late = [(":method", "GET"), (":scheme", "https"), (":authority", "open.example"), ("x", "y"), (":path", "/evil")];
        asks(w, "open.example", &late).stopped()?;
        asks(w, "open.example", &[(":method", "GET"), (":authority", "open.example")]).stopped()?;
        fine(w)
    };
    trailers: |w| {
        let post = [(":method", "POST"), (":scheme", "https"), (":authority", "open.example"), (":path", "/x")];
        let with = |trailers: &[(&str, &str)]| {
            let head = h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &h2::block(&post));
            [head, h2::frame(h2::DATA, 0, 1, b"body"), request(1, trailers)].concat()
        };
        for trailer in [(":path", "/evil"), (":status", "200"), ("transfer-encoding", "evil"), ("content-length", "9"), ("host", "evil.example"),
            ("x\r\nevil", "a"), ("x", "a\r\nevil: b"), ("x-http-method-override", "EVIL")] {
            frames(w, "open.example", &with(&[trailer]), 1).defused()?;
        }
        fine(w)
    };
    credentials: |w| {
        for (name, value) in [("authorization", "Bearer evil"), ("x-api-key", "evil"), ("proxy-authorization", "Basic evil"), ("x-http-method-override", "EVIL")] {
            asks(w, "api.example", &[&h2::get("api.example", "/v1/x?token=evil")[..], &[(name, value)]].concat()).defused()?;
        }
        asks(w, "api.example", &h2::get("api.example", "/v1/fine")).passes()?;
        let seen = w.origin.requests();
        let token = seen.last().and_then(|seen| seen.header("authorization")).context("a credential")?;
        ensure!(token == format!("Bearer {}", bottle_tests::sidecar::TOKEN), "{seen:?}");
        Ok(())
    };
    /// Asked for over HTTP/2, sent over HTTP/1.1, and the other way: what is said stays the same.
    addresses_and_pushes: |w| {
        asks(w, "private.example", &h2::get("private.example", "/evil")).refused(403, "address")?;
        asks(w, "mixed.example", &h2::get("mixed.example", "/evil")).refused(403, "address")?;
        asks(w, "evil.example", &h2::get("evil.example", "/")).refused(403, "host")?;
        asks(w, "open.example", &h2::get("open.example", "/evil/info/refs?service=git-receive-pack")).refused(403, "git-push")?;
        w.plain(absolute("open.example", "/fine")).passes()?;
        fine(w)
    };
}
