//! Rows: what is said inside a CONNECT, and where to.

use crate::world::{MACHINE, get};
use anyhow::ensure;
use bottle_tests::wire::{Hello, ProxyClient, read_answer};
use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

const OPEN: &str = "open.example:443";

fn fine() -> String {
    get("open.example", "/fine")
}

rows! {
    plain_http_in_a_tunnel: |w| {
        w.tunnel(OPEN, get("open.example", "/evil")).cut()?;
        w.tls("open.example", fine()).passes().map(drop)
    };
    /// Port 80 is one of the route's; a tunnel to it is for TLS all the same.
    plain_http_in_a_tunnel_to_port_80: |w| {
        w.tunnel("open.example:80", get("open.example", "/evil")).cut()?;
        w.tls("open.example", fine()).passes().map(drop)
    };
    an_ssh_banner_in_a_tunnel: |w| {
        w.tunnel(OPEN, "SSH-2.0-evil\r\n").cut()?;
        w.tls("open.example", fine()).passes().map(drop)
    };
    random_bytes_in_a_tunnel: |w| {
        for bytes in [&b"\0\0\0\0evil"[..], b"\xff\xfe\xfd evil", b"\n\nevil", b"evil", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nevil"] {
            w.tunnel(OPEN, bytes).cut()?;
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    /// A record that is TLS by its version, and no handshake; a handshake that is none.
    a_tls_record_of_another_type: |w| {
        for bytes in [
            &b"\x17\x03\x03\x00\x04evil"[..],
            b"\x15\x03\x03\x00\x04evil",
            b"\x16\x03\x01\x00\x04evil",
            b"\x16evil evil evil",
            b"\x80\x2e\x01\x00\x02evil",
        ] {
            let answer = w.tunnel(OPEN, bytes).defused()?;
            // An alert is all that may be said to it.
            ensure!(answer.is_none_or(|answer| answer.body.starts_with('\x15')), "it was answered");
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    /// Whoever waits for the first byte must not take its absence for anything.
    a_slow_first_byte: |w| {
        w.outcome("slow".into(), b"evil", || {
            let mut tunnel = w.client().tunnel(OPEN)?;
            thread::sleep(Duration::from_millis(700));
            tunnel.write_all(b"GET /evil HTTP/1.1\r\nHost: open.example\r\n\r\n")?;
            read_answer(&mut tunnel)
        }).cut()?;
        w.outcome("slow".into(), b"fine", || {
            let mut tls = w.client().tls(OPEN, "open.example", Hello::default())?;
            thread::sleep(Duration::from_millis(700));
            for byte in fine().as_bytes().chunks(9) {
                tls.write_all(byte)?;
            }
            read_answer(&mut tls)
        }).passes().map(drop)
    };
    another_name_in_the_handshake: |w| {
        w.tls_to(OPEN, "other.example", get("other.example", "/evil")).cut()?;
        w.tls_to(OPEN, "api.example", get("open.example", "/evil")).cut()?;
        w.tls_to(OPEN, "evil.example", get("open.example", "/evil")).cut()?;
        w.tls_to("OPEN.Example:443", "open.example", fine()).passes().map(drop)
    };
    /// Nothing disagrees then: it is the tunnel's host that is judged, dialled and named to the host.
    no_name_in_the_handshake: |w| {
        let nameless = |request: &str| {
            let mut tls = w.client().tls(OPEN, "open.example", Hello { sni: false, alpn: &[] })?;
            tls.write_all(request.as_bytes())?;
            read_answer(&mut tls)
        };
        w.outcome("nameless".into(), b"evil", || nameless(&get("other.example", "/evil"))).refused(400, "host-mismatch")?;
        w.outcome("nameless".into(), b"fine", || nameless(&fine())).passes()?;
        let named = w.origin.connections().iter().all(|c| c.sni.as_deref() == Some("open.example"));
        ensure!(named, "{:?}", w.origin.connections());
        Ok(())
    };
    a_tunnel_to_nowhere_in_particular: |w| {
        for target in ["open.example", "open.example:", ":443", "open.example:0", "open.example:65536", "open.example:-1",
            "open.example:+443", "open.example:443/evil", "open.example:443?evil", "evil@open.example:443",
            "open.example:443@evil.example:443", "https://open.example:443", "open.example:443:443", "*", "/evil"] {
            let said = format!("CONNECT {target} HTTP/1.1\r\nHost: open.example\r\nProxy-Authorization: Basic {{auth}}\r\n\r\n");
            let answer = w.plain(said).defused()?;
            // A tunnel to a port without a route is one in which the refusal can be read.
            ensure!(answer.is_none_or(|answer| answer.status >= 400 || target.ends_with(":0")), "{target}");
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    ports_without_a_route: |w| {
        for port in [22, 25, 8443, 53, 9099, 444] {
            w.tls_to(&format!("open.example:{port}"), "open.example", get(&format!("open.example:{port}"), "/evil"))
                .refused(403, "port")?;
        }
        w.tls_to("open.example:0", "open.example", get("open.example:0", "/evil")).stopped()?;
        w.tls_to("api.example:80", "api.example", get("api.example:80", "/v1/evil")).refused(403, "port")?;
        // The tunnel's port and the header's are one.
        w.tls("open.example", get("open.example:80", "/evil")).refused(400, "host-mismatch")?;
        w.tls("open.example", get("open.example:8443", "/evil")).refused(400, "host-mismatch")?;
        w.tls("open.example", get("open.example:443", "/fine")).passes().map(drop)
    };
    /// Neither the proxy nor its machine can be reached by way of itself, routed or not.
    the_proxy_by_itself: |w| {
        for target in ["198.51.100.2:9099", "198.51.100.2:53", "127.0.0.1:9099", "localhost:9099", "egress:9099",
            "_egress.local:443", "_egress.local:80", &format!("{MACHINE}:443"), "[::ffff:198.51.100.2]:9099"] {
            let host = target.rsplit_once(':').unwrap().0;
            let request = get(target, "/allowlist?evil");
            let inside = host.trim_matches(['[', ']']);
            w.tls_to(target, inside, request).stopped()?;
            w.tunnel(target, get(host, "/evil")).cut()?;
        }
        w.tls("sidecar.example", get("sidecar.example", "/evil")).refused(403, "address")?;
        w.plain(crate::world::absolute("sidecar.example:9099", "/evil")).refused(403, "port")?;
        w.tls("open.example", fine()).passes().map(drop)
    };
    /// A second CONNECT inside the first.
    a_tunnel_in_a_tunnel: |w| {
        w.tls("open.example", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n").stopped()?;
        w.tls("open.example", "CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\nX: evil\r\n\r\n").stopped()?;
        w.tls("open.example", fine()).passes().map(drop)
    };
    /// What follows the CONNECT before its answer is inside the tunnel already.
    bytes_ahead_of_the_answer: |w| {
        let head = "CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\nProxy-Authorization: Basic {auth}\r\n\r\n";
        w.outcome("ahead".into(), b"evil", || {
            let mut stream = w.client().connect()?;
            let ahead = format!("{}GET /evil HTTP/1.1\r\nHost: open.example\r\n\r\n", head.replace("{auth}", &w.client().password()));
            stream.write_all(ahead.as_bytes())?;
            read_answer(&mut stream)?;
            let mut rest = vec![];
            let _ = stream.read_to_end(&mut rest);
            ensure!(!rest.is_empty(), "closed");
            read_answer(&mut rest.as_slice())
        }).cut()?;
        w.tls("open.example", fine()).passes().map(drop)
    };
    a_body_on_the_connect: |w| {
        for framing in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
            let head = format!("CONNECT open.example:443 HTTP/1.1\r\nHost: open.example\r\n{framing}\r\nProxy-Authorization: Basic {{auth}}\r\n\r\n");
            w.plain(head + "evil").defused()?;
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    without_the_capability: |w| {
        for value in ["", "Proxy-Authorization: Basic Ym90dGxlOmV2aWw=\r\n", "Proxy-Authorization: Bearer evil\r\n",
            "Authorization: Basic {auth}\r\n"] {
            w.plain(format!("GET http://open.example/evil HTTP/1.1\r\nHost: open.example\r\n{value}\r\n")).stopped()?;
            w.plain(format!("CONNECT open.example:443 HTTP/1.1\r\nHost: open.example:443\r\n{value}\r\n")).stopped()?;
        }
        w.plain(crate::world::absolute("open.example", "/fine")).passes().map(drop)
    };
    /// What is passed through unseen is so for the name of its route alone, and only where it is named.
    what_is_passed_through: |w| {
        let sealed = ProxyClient {
            proxy: w.client().proxy,
            capability: w.client().capability.clone(),
            ca_pem: w.origin_ca.clone(),
        };
        let ask = |target: &str, host: &str, sni: bool, request: &str| {
            let mut tls = sealed.tls(target, host, Hello { sni, alpn: &[] })?;
            tls.write_all(request.as_bytes())?;
            read_answer(&mut tls)
        };
        const SEALED: &str = "sealed.example:443";
        for (host, sni) in [("open.example", true), ("api.example", true), ("sealed.example", false)] {
            w.outcome(format!("sealed {host} {sni}"), b"evil", || ask(SEALED, host, sni, &get(host, "/evil"))).cut()?;
        }
        for bytes in [&b"GET /evil HTTP/1.1\r\nHost: sealed.example\r\n\r\n"[..], b"SSH-2.0-evil\r\n", b"\x17\x03\x03\0\x04evil", b"\x16evil"] {
            let answer = w.tunnel(SEALED, bytes).defused()?;
            ensure!(answer.is_none_or(|answer| answer.body.starts_with('\x15')), "it was answered");
        }
        w.outcome("sealed".into(), b"evil", || ask("sealed.example:8443", "sealed.example", true, &get("sealed.example", "/evil"))).stopped()?;
        w.outcome("sealed".into(), b"fine", || ask(SEALED, "sealed.example", true, &get("sealed.example", "/fine"))).passes().map(drop)
    };
}
