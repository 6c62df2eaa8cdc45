//! Rows: which address is dialled.

use crate::world::{SPELLINGS, absolute, get};
use anyhow::{Context, ensure};

rows! {
    names_that_point_at_the_neighbourhood: |w| {
        for host in ["private.example", "loopback.example", "metadata.example", "machine.example", "mapped.example",
            "translated.example", "six.example"] {
            w.tls(host, get(host, "/evil")).refused(403, "address")?;
            w.plain(absolute(host, "/evil")).refused(403, "address")?;
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// The good one is no reason to dial either.
    one_good_and_one_private_address: |w| {
        w.tls("mixed.example", get("mixed.example", "/evil")).refused(403, "address")?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// The name is looked up once, and what was judged is dialled; asked for again, it is judged again.
    another_answer_the_second_time: |w| {
        w.tls("rebind.example", get("rebind.example", "/fine")).passes()?;
        let dialled: Vec<String> = w.origin.connections().iter().map(|c| c.at.to_string()).collect();
        ensure!(dialled == ["203.0.113.14:443"], "{dialled:?}");
        for _ in 0..3 {
            w.tls("rebind.example", get("rebind.example", "/evil")).refused(403, "address")?;
        }
        w.plain(absolute("rebind.example", "/evil")).refused(403, "address")
    };
    /// Each has a route: a manifest that names loopback in another spelling opens nothing.
    every_spelling_of_an_address: |w| {
        for host in SPELLINGS {
            w.plain(absolute(host, "/evil")).stopped()?;
            let tunnel = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\nX: evil\r\nProxy-Authorization: Basic {{auth}}\r\n\r\n");
            w.plain(tunnel).defused()?;
        }
        for host in ["127.0.0.1", "169.254.169.254", "localhost", "::1", "::ffff:127.0.0.1"] {
            let target = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            w.tls_to(&format!("{target}:443"), host, get(&target, "/evil")).refused(403, "address")?;
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    zones_and_brackets: |w| {
        for host in ["[fe80::1%25lo]", "[fe80::1%lo]", "[::1%25lo]", "[::1", "::1]", "::1", "[[::1]]", "[open.example]", "[127.0.0.1]", "[]",
            "[::ffff:127.0.0.1%251]", "[v1.evil]"] {
            w.plain(absolute(host, "/evil")).stopped()?;
            let tunnel = format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\nX: evil\r\nProxy-Authorization: Basic {{auth}}\r\n\r\n");
            let answer = w.plain(tunnel).defused()?;
            ensure!(answer.is_none_or(|answer| answer.status == 200 || answer.status >= 400), "{host}");
            w.tls("open.example", get(host, "/evil")).stopped()?;
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// The client follows by itself, and is refused by itself.
    a_redirect_to_a_private_address: |w| {
        for to in ["http://10.1.2.3/evil", "http://127.0.0.1/evil", "http://169.254.169.254/evil", "http://private.example/evil",
            "http://loopback.example/evil", "http://evil.example/", "https://open.example/evil"] {
            let asks = format!("GET http://open.example/fine HTTP/1.1\r\nHost: open.example\r\nX-Answer-Status: 302\r\n\
                                X-Answer-Location: {}\r\nProxy-Authorization: Basic {{auth}}\r\n\r\n", to.replace("evil", "e-vil"));
            let answer = w.plain(asks).defused()?.context("the redirect")?;
            ensure!(answer.status == 302, "{answer:?}");
            w.plain(format!("GET {to} HTTP/1.1\r\nHost: {}\r\nProxy-Authorization: Basic {{auth}}\r\n\r\n",
                to.split('/').nth(2).context("a host")?)).stopped()?;
        }
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
}
