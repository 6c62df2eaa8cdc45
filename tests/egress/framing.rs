//! Rows: where a request ends. What is smuggled behind another one, or into its headers, is `evil`.

use crate::world::get;
use anyhow::ensure;
use std::io::Write;

const INNER: &str = "GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n";

fn post(lines: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: open.example\r\n{lines}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

fn fine() -> String {
    post("Transfer-Encoding: chunked", "4\r\nbody\r\n0\r\n\r\n").replace("/x", "/fine")
}

rows! {
    a_length_and_chunks: |w| {
        for lines in ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Content-Length: 0\r\nTransfer-Encoding: chunked", "Transfer-encoding: CHUNKED\r\ncontent-length: 6"] {
            // Whichever is believed, what is passed on says one thing; a second request behind it is one, and judged.
            w.tls("open.example", post(lines, "0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")).defused()?;
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    two_lengths: |w| {
        for lines in ["Content-Length: 0\r\nContent-Length: 43", "Content-Length: 43\r\nContent-Length: 0", "Content-Length: 0, 43",
            "Content-Length: 43\r\ncontent-length : 0"] {
            w.tls("open.example", post(lines, INNER)).cut()?;
        }
        w.tls("open.example", post("Content-Length: 4", "fine")).passes().map(drop)
    };
    lengths_that_are_none: |w| {
        for length in ["-1", "+43", "0x2b", "43evil", "4 3", "", "4,3", "\t", "99999999999999999999", "1e1", "\u{664}"] {
            w.tls("open.example", post(&format!("Content-Length: {length}"), INNER)).cut()?;
        }
        w.tls("open.example", post("Content-Length: 4", "fine")).passes().map(drop)
    };
    other_encodings: |w| {
        for coding in ["xchunked", "identity", "chunked, identity", "gzip", "chunked, gzip", "chunked;evil", "\"chunked\"", ""] {
            w.tls("open.example", post(&format!("Transfer-Encoding: {coding}"), &format!("0\r\n\r\n{INNER}"))).cut()?;
        }
        for lines in ["Transfer-Encoding: chunked\r\nTransfer-Encoding: xchunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: gzip"] {
            w.tls("open.example", post(lines, &format!("0\r\n\r\n{INNER}"))).cut()?;
        }
        for coding in ["chunked, chunked", "gzip, chunked", "gzip\r\nTransfer-Encoding: chunked"] {
            let request = post(&format!("Transfer-Encoding: {coding}"), &format!("0\r\n\r\n{INNER}"));
            w.tls("open.example", request).refused(400, "framing")?;
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    chunks_with_bad_sizes: |w| {
        for body in ["-1\r\nevil", "0x4\r\nevil\r\n0\r\n\r\n", "g\r\nevil", "4evil\r\n", "\r\nevil\r\n", " 4\r\nevil\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nevil", "4\r\nabcdevil\r\n0\r\n\r\n", "+4\r\nevil\r\n0\r\n\r\n", "4_0\r\nevil"] {
            w.tls("open.example", chunked(body)).defused()?;
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    chunks_that_end_otherwise: |w| {
        // A lone line feed, an extension with one, trailers that would be headers.
        for body in ["1;a=\nx\r\n0\r\n\r\n", "1\nx\n0\n\n", "0\r\nTransfer-Encoding: evil\r\n\r\n", "0\r\nContent-Length: 3\r\nX: evil\r\n\r\n",
            "0\r\nHost: evil.example\r\n\r\n", "1;evil\"\r\nx\r\n0\r\n\r\n"] {
            w.tls("open.example", chunked(body)).defused()?;
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    folded_lines: |w| {
        for lines in ["X: a\r\n b-evil", "X: a\r\n\tevil", " X: evil", "\tTransfer-Encoding: chunked\r\nX: evil", "Transfer-Encoding:\r\n chunked",
            "Content-Length:\r\n 43"] {
            w.tls("open.example", post(lines, INNER)).cut()?;
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    lone_line_feeds: |w| {
        for lines in ["X: a\rEvil: b", "X: a\r\rEvil: b", "X: a\n\rEvil: b", "X: a\0Evil: b"] {
            w.tls("open.example", post(lines, "")).cut()?;
        }
        // A lone line feed ends a line for some: then it is one here, too, and whole when it is passed on.
        for lines in ["X: a\nTransfer-Encoding: chunked", "X: a\nContent-Length: 5"] {
            w.tls("open.example", post(lines, "0\r\n\r\n")).defused()?;
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    blanks_around_names: |w| {
        for lines in ["Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", "Content-Length : 43", "Host : evil.example", ": evil",
            "X Evil: a", "X\"Evil: a", "Evil", "X(evil): a", "\u{e9}vil: evil", "Transfer\0-Encoding: evil"] {
            w.tls("open.example", post(lines, INNER)).cut()?;
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    encodings_in_disguise: |w| {
        for line in ["Transfer_Encoding: chunked", "X: y\r\nTransfer-Encoding:\u{b}chunked", "Transfer-Encoding: chunked\u{b}",
            "Transfer-Encoding: ch\u{fb}nked", "Transfer-Encoding: chun\0ked", "Transfer-Encoding:\u{a0}chunked"] {
            // No body is announced then, and what follows is a second request: refused for its own sake.
            w.tls("open.example", post(line, "0\r\n\r\n")).defused()?;
        }
        w.tls("open.example", fine()).passes().map(drop)
    };
    /// A GET with a body has one; it is not the next request.
    a_body_where_none_is_expected: |w| {
        for method in ["GET", "OPTIONS", "DELETE"] {
            let inner = "GET /v2 HTTP/1.1\r\nHost: other.example\r\n\r\n";
            let request = format!("{method} /x HTTP/1.1\r\nHost: open.example\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
            w.tls("open.example", request).defused()?;
        }
        ensure!(w.origin.requests().iter().all(|seen| seen.path == "/x"), "{:?}", w.origin.requests());
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    /// The second one is judged by itself, on the connection on which the first one was refused.
    a_request_behind_a_denied_one: |w| {
        for first in [get("other.example", "/evil"), get("open.example", "/../evil"), post("X: y\r\nContent-Length: 43", INNER)] {
            let both = format!("{}{}", first.replace("POST /x", "TRACE /x"), get("other.example", "/evil"));
            w.tls("open.example", both).stopped()?;
        }
        w.outcome("behind".into(), b"fine", || {
            let mut tls = w.client().tls("open.example:443", "open.example", Default::default())?;
            tls.write_all(format!("{}{}", get("open.example", "//evil"), get("open.example", "/fine")).as_bytes())?;
            ensure!(bottle_tests::wire::read_answer(&mut tls)?.status == 400, "the first one");
            bottle_tests::wire::read_answer(&mut tls)
        }).passes().map(drop)
    };
    injected_lines: |w| {
        for path in ["/x HTTP/1.1\r\nEvil: a\r\nX:", "/x\r\nEvil: a", "/x\nEvil: a", "/x\rEvil: a", "/x Evil"] {
            w.tls("open.example", format!("GET {path} HTTP/1.1\r\n\r\n")).stopped()?;
        }
        // Encoded, they stay so: what is sent is what was judged.
        w.tls("open.example", get("open.example", "/x?%0d%0aEvil:%20a".replace("Evil", "Fine").as_str())).defused()?;
        w.tls("open.example", get("open.example", "/fine?%0d%0aX:%20a")).passes()?;
        let injected = w.origin.requests().iter().any(|seen| seen.header("x").or(seen.header("fine")).is_some());
        ensure!(!injected, "{:?}", w.origin.requests());
        Ok(())
    };
    expecting_to_be_told_to_go_on: |w| {
        for line in ["Expect: evil", "Expect: 100-continue, evil"] {
            w.tls("open.example", post(&format!("{line}\r\nContent-Length: 0"), "")).defused()?;
        }
        w.outcome("expects".into(), b"fine", || {
            let mut tls = w.client().tls("open.example:443", "open.example", Default::default())?;
            tls.write_all(post("Expect: 100-continue\r\nContent-Length: 4", "").as_bytes())?;
            let first = bottle_tests::wire::read_head(&mut tls)?;
            ensure!(first.starts_with("HTTP/1.1 100"), "{first}");
            tls.write_all(b"fine")?;
            bottle_tests::wire::read_answer(&mut tls)
        }).passes().map(drop)
    };
    heads_without_end: |w| {
        let many: String = (0..2000).map(|n| format!("X-Evil-{n}: a\r\n")).collect();
        w.tls("open.example", format!("GET /x HTTP/1.1\r\nHost: open.example\r\n{many}\r\n")).stopped()?;
        w.tls("open.example", get("open.example", &format!("/{}", "evil".repeat(50_000)))).stopped()?;
        w.tls("open.example", format!("GET /x HTTP/1.1\r\nHost: open.example\r\nX: {}\r\n\r\n", "evil".repeat(200_000))).stopped()?;
        w.tls("open.example", get("open.example", &format!("/fine/{}", "a".repeat(6_000)))).passes().map(drop)
    };
}
