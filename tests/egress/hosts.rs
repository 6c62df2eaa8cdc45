//! Rows: for whom a request is.

use crate::world::{absolute, get};
use anyhow::ensure;

fn request(lines: &str) -> String {
    format!("{lines}\r\n\r\n")
}

rows! {
    the_header_names_another_host: |w| {
        for host in ["other.example", "api.example", "evil.example", "open.example.evil.example", "xopen.example", "example"] {
            w.tls("open.example", get(host, "/evil")).refused(400, "host-mismatch")?;
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    two_hosts: |w| {
        for second in ["other.example", "open.example"] {
            let two = format!("GET /evil HTTP/1.1\r\nHost: open.example\r\nHost: {second}");
            w.tls("open.example", request(&two)).stopped()?;
        }
        w.tls("open.example", request("GET /evil HTTP/1.1\r\nHost: other.example\r\nHost: open.example")).stopped()?;
        w.tls("open.example", request("GET /evil HTTP/1.1\r\nHost: open.example, other.example")).stopped()?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    no_host: |w| {
        w.tls("open.example", request("GET /evil HTTP/1.1\r\nAccept: */*")).stopped()?;
        w.tls("open.example", request("GET /evil HTTP/1.1\r\nHost:")).stopped()?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    http_1_0: |w| {
        w.tls("open.example", request("GET /evil HTTP/1.0\r\nAccept: */*")).stopped()?;
        w.tls("open.example", request("GET /evil HTTP/1.0\r\nHost: other.example")).stopped()?;
        w.tls("open.example", request("GET /fine HTTP/1.0\r\nHost: open.example")).passes().map(drop)
    };
    no_version: |w| {
        w.tls("open.example", "GET /evil\r\n\r\n").cut()?;
        w.tls("open.example", "GET /evil HTTP/0.9\r\nHost: open.example\r\n\r\n").cut()?;
        w.tls("open.example", "GET /evil HTTP/3.0\r\nHost: open.example\r\n\r\n").cut()?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// Whoever opens TLS for the client's request by itself would be a proxy that nobody verifies.
    https_in_absolute_form_to_the_proxy: |w| {
        for url in ["https://open.example/evil", "https://open.example:80/evil", "HTTPS://open.example/evil", "ftp://open.example/evil",
            "ws://open.example/evil", "gopher://open.example/evil", "file:///evil", "unix:/evil", "http:/open.example/evil"] {
            w.plain(request(&format!("GET {url} HTTP/1.1\r\nHost: open.example\r\nProxy-Authorization: Basic {{auth}}"))).stopped()?;
        }
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    absolute_form_in_a_tunnel: |w| {
        for url in ["https://other.example/evil", "http://open.example/evil", "https://evil@open.example/", "https://open.example/evil"] {
            w.tls("open.example", request(&format!("GET {url} HTTP/1.1\r\nHost: open.example"))).stopped()?;
        }
        w.tls("open.example", request("GET https://other.example/evil HTTP/1.1\r\nHost: other.example")).stopped()?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    absolute_form_and_another_host: |w| {
        for (url, host) in [("open.example", "other.example"), ("other.example", "evil.example"), ("evil.example", "open.example")] {
            let both = format!("GET http://{url}/evil HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {{auth}}");
            w.plain(request(&both)).stopped()?;
        }
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    /// Of a target without a host, the header would decide.
    origin_form_to_the_proxy: |w| {
        for target in ["/evil", "*", "open.example/evil", "//open.example/evil", "?evil"] {
            w.plain(request(&format!("GET {target} HTTP/1.1\r\nHost: open.example\r\nProxy-Authorization: Basic {{auth}}"))).stopped()?;
        }
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    userinfo: |w| {
        for authority in ["open.example@evil.example", "evil@open.example", "evil:evil@open.example", "open.example%40evil.example",
            "open.example%2f@evil.example", "open.example\\@evil.example", "open.example#@evil.example", "open.example:80@evil.example"] {
            w.plain(absolute(authority, "/evil")).stopped()?;
            w.plain(request(&format!("CONNECT {authority}:443 HTTP/1.1\r\nHost: open.example\r\nProxy-Authorization: Basic {{auth}}")))
                .defused()?;
            w.tls("open.example", get(authority, "/evil")).stopped()?;
        }
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    nul_and_control_characters: |w| {
        for byte in ['\0', '\t', '\u{b}', '\u{c}', '\u{7f}', '\u{1}', ' '] {
            for host in [format!("open.example{byte}.evil.example"), format!("open{byte}.example"), format!("{byte}open.example/evil")] {
                w.plain(absolute(&host, "/evil")).stopped()?;
                w.plain(request(&format!("CONNECT {host}:443 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {{auth}}"))).stopped()?;
                if !host.starts_with(['\t', ' ']) {
                    w.tls("open.example", get(&host, "/evil")).stopped()?;
                }
            }
        }
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    /// A name with a dot at its end is another route, and the same host for every resolver.
    a_trailing_dot: |w| {
        for host in ["open.example.", "open.example..", ".open.example", "open..example"] {
            w.plain(absolute(host, "/evil")).stopped()?;
            w.tls("open.example", get(host, "/evil")).refused(400, "host-mismatch")?;
        }
        w.tls_to("open.example.:443", "open.example", get("open.example", "/evil")).stopped()?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// Case is no difference; the legitimate neighbour is the row.
    mixed_case: |w| {
        w.tls_to("EVIL.example:443", "evil.example", get("EVIL.example", "/")).refused(403, "host")?;
        w.plain(absolute("OPEN.example.evil.example", "/evil")).refused(403, "host")?;
        w.tls_to("OPEN.Example:443", "open.example", get("oPEN.eXAMPLE", "/fine")).passes()?;
        w.plain(absolute("Open.EXAMPLE", "/fine")).passes().map(drop)
    };
    international_names: |w| {
        // Full-width letters, a Kelvin sign, a dotless i, ideographic full stops: each folds to ASCII somewhere.
        for host in ["b\u{fc}cher.example", "\u{ff4f}pen.example", "open\u{3002}example", "open.example\u{ff0e}evil.example",
            "\u{212a}.example", "open.e\u{445}ample", "xn--open-.example", "xn--bcher-kva.example.evil.example", "XN--.example"] {
            w.plain(absolute(host, "/evil")).stopped()?;
            w.plain(request(&format!("CONNECT {host}:443 HTTP/1.1\r\nHost: x\r\nX: evil\r\nProxy-Authorization: Basic {{auth}}"))).defused()?;
            w.tls("open.example", get(host, "/evil")).stopped()?;
        }
        w.tls_to("XN--BCHER-KVA.example:443", "xn--bcher-kva.example", get("xn--bcher-kva.example", "/fine")).passes().map(drop)
    };
    underscores: |w| {
        w.plain(absolute("evil_score.example", "/")).refused(403, "host")?;
        w.plain(absolute("under-score.example", "/evil")).refused(403, "host")?;
        w.plain(absolute("under_score.example", "/fine")).passes().map(drop)
    };
    percent_encoded_hosts: |w| {
        for host in ["%6fpen.example", "open%2eexample", "open.example%00.evil.example", "open.example%0d%0aevil", "open.example%2f.evil.example"] {
            w.plain(absolute(host, "/evil")).stopped()?;
            w.tls("open.example", get(host, "/evil")).stopped()?;
        }
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    hosts_without_a_route: |w| {
        for host in ["evil.example", "open.example.evil.example", "evil-open.example", "example", "203.0.113.10", "0x1.evil"] {
            w.plain(absolute(host, "/evil")).refused(403, "host")?;
        }
        w.tls("evil.example", get("evil.example", "/")).refused(403, "host")?;
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// An answer inside the proxy, for a bottle with the capability, and no host.
    the_proxys_own_name: |w| {
        for path in ["/evil", "/allowlist/evil", "//allowlist", "/allowlist?evil"] {
            let answer = w.plain(absolute("_egress.local", path)).defused()?;
            ensure!(answer.is_none_or(|answer| answer.status != 200 || path == "/allowlist?evil"), "{path}");
        }
        w.plain(absolute("_egress.local:8080", "/evil")).stopped()?;
        w.tls("_egress.local", get("_egress.local", "/evil")).stopped()?;
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
}
