//! Rows: one connection, many requests; other protocols asked for on it; and the names that a bottle may look up.

use crate::world::{SIDECAR, absolute, get};
use anyhow::{Result, ensure};
use bottle_tests::wire::{Answer, Hello, read_answer};
use std::{
    io::{Read, Write},
    net::UdpSocket,
    time::Duration,
};

fn upgrade(to: &str, lines: &str) -> String {
    format!("GET /evil HTTP/1.1\r\nHost: open.example\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n{lines}\r\n")
}

rows! {
    /// Each request of a kept connection goes to its own host, and nobody else's connection.
    two_hosts_on_one_connection: |w| {
        w.outcome("kept".into(), b"fine", || {
            let mut stream = w.client().connect()?;
            let password = w.client().password();
            let mut last = None;
            for (host, path) in [("open.example", "/fine"), ("other.example", "/other"), ("evil.example", "/evil"), ("open.example", "/fine")] {
                stream.write_all(absolute(host, path).replace("{auth}", &password).as_bytes())?;
                let answer = read_answer(&mut stream)?;
                ensure!((answer.status == 200) == (host != "evil.example"), "{host}: {answer:?}");
                last = Some(answer);
            }
            last.ok_or_else(|| anyhow::anyhow!("nothing was asked"))
        }).passes()?;
        w.tls("open.example", get("other.example", "/evil")).refused(400, "host-mismatch")?;
        for seen in w.origin.requests() {
            let other = seen.header("host") == Some("other.example");
            ensure!(other == (seen.path == "/other"), "{seen:?}");
        }
        let mixed = w.origin.connections().into_iter().find(|connection| {
            let said = String::from_utf8_lossy(&connection.bytes).to_ascii_lowercase();
            said.contains("host: open.example") && said.contains("host: other.example")
        });
        ensure!(mixed.is_none(), "{mixed:?}");
        Ok(())
    };
    a_second_host_in_one_tunnel: |w| {
        w.outcome("kept".into(), b"fine", || {
            let mut tls = w.client().tls("open.example:443", "open.example", Hello::default())?;
            let mut last = None;
            for (host, status) in [("open.example", 200), ("other.example", 400), ("api.example", 400), ("open.example", 200)] {
                tls.write_all(get(host, if status == 200 { "/fine" } else { "/evil" }).as_bytes())?;
                let answer = read_answer(&mut tls)?;
                ensure!(answer.status == status, "{host}: {answer:?}");
                last = Some(answer);
            }
            last.ok_or_else(|| anyhow::anyhow!("nothing was asked"))
        }).passes()?;
        w.tls("open.example", get("api.example", "/v1/evil")).refused(400, "host-mismatch")
    };
    /// What the password opened stays judged: it is asked for again with each request.
    the_capability_with_the_first_request_only: |w| {
        w.outcome("kept".into(), b"evil", || {
            let mut stream = w.client().connect()?;
            stream.write_all(absolute("open.example", "/fine").replace("{auth}", &w.client().password()).as_bytes())?;
            ensure!(read_answer(&mut stream)?.status == 200, "the first one");
            stream.write_all(b"GET http://open.example/evil HTTP/1.1\r\nHost: open.example\r\n\r\n")?;
            read_answer(&mut stream)
        }).stopped()?;
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    upgrades_to_other_protocols: |w| {
        for to in ["h2c", "TLS/1.0", "evil", "websocket, evil", "HTTP/2.0", "tcp", ""] {
            let answer = w.tls("open.example", upgrade(to, "HTTP2-Settings: AAMAAABkAAQAAP__\r\n").replace("/evil", "/x")
                .replace("evil", "other")).defused()?;
            ensure!(answer.is_none_or(|answer| answer.status != 101), "{to}");
        }
        w.plain(absolute("open.example", "/x").replace("\r\n\r\n", "\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
            HTTP2-Settings: evil\r\n\r\n")).defused()?;
        for seen in w.origin.requests() {
            ensure!(seen.header("upgrade").is_none() && seen.header("http2-settings").is_none(), "{seen:?}");
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// Nobody asked to switch: what follows the answer is no tunnel.
    an_answer_that_switches_protocols_by_itself: |w| {
        w.outcome("101".into(), b"evil", || {
            let mut tls = w.client().tls("open.example:443", "open.example", Hello::default())?;
            tls.write_all(b"GET /x HTTP/1.1\r\nHost: open.example\r\nX-Answer-Status: 101\r\n\r\n")?;
            let first = bottle_tests::wire::read_head(&mut tls)?;
            ensure!(!first.starts_with("HTTP/1.1 101"), "{first}");
            tls.write_all(b"evil evil evil\r\n\r\n")?;
            let mut rest = vec![];
            let _ = tls.read_to_end(&mut rest);
            Ok(Answer { status: 400, head: String::new(), body: String::new() })
        }).cut()?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    names_that_a_bottle_looks_up: |w| {
        for name in ["evil.example", "open.example", "evil.egress", "egress.evil.example", "localhost", "_egress.local",
            "ZXZpbA.evil.example", "e\0vil", "evil evil", "*", "_tcp.evil"] {
            for kind in [1_u16, 28, 16, 255, 12, 15, 65] {
                ensure!(!look_up(name, kind)?, "{name} is answered");
            }
        }
        ensure!(look_up("egress", 1)?, "its own name is not answered");
        w.tls("evil.example", get("evil.example", "/")).refused(403, "host")?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// Queries that are none, and answers in place of questions: none is answered, and the daemon lives on.
    queries_that_are_none: |w| {
        let socket = UdpSocket::bind((SIDECAR, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        for bytes in [&b""[..], b"evil", &[0; 12], &[0xff; 512], b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01",
            b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x04evil\0\0\x01\0\x01", b"\0\x07\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\x3fevil"] {
            socket.send_to(bytes, (SIDECAR, 53))?;
            if let Ok((length, _)) = socket.recv_from(&mut [0; 512]) {
                ensure!(length <= 12 + bytes.len(), "{length} bytes come back for {bytes:?}");
            }
        }
        ensure!(look_up("egress", 1)?, "its own name is not answered");
        w.tls("evil.example", get("evil.example", "/")).refused(403, "host")?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
}

/// Does the bottle's resolver have an address, or anything, for this name?
fn look_up(name: &str, kind: u16) -> Result<bool> {
    let socket = UdpSocket::bind((SIDECAR, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes().into_iter().chain([0, 1]));
    socket.send_to(&query, (SIDECAR, 53))?;
    let mut reply = [0; 512];
    let (length, _) = socket.recv_from(&mut reply)?;
    ensure!(length >= 12 && reply[2] & 0x80 != 0, "no reply");
    Ok(reply[6..8] != [0, 0])
}
