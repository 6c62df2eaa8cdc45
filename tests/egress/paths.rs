//! Rows: what is asked for. `api.example` has paths below `/v1` only, `get.example` the method GET only.

use crate::world::{absolute, get};
use anyhow::ensure;

/// What some server takes for `/evil` or `/v2`, whoever judges the bytes.
const TRICKS: [&str; 45] = [
    "/v1/../evil",
    "/v1/..",
    "/v1/./../evil",
    "/v1/.",
    "/./evil",
    "/v1/%2e%2e/evil",
    "/v1/%2E%2e/evil",
    "/v1/.%2e/evil",
    "/v1/%2e./evil",
    "/v1/%2e/evil",
    "//v1/evil",
    "/v1//evil",
    "/v1//../evil",
    "///evil",
    "/v1;/../evil",
    "/v1;evil",
    "/v1/..;/evil",
    "/v1/;evil",
    "/v1%3bevil",
    "/v1/..%3b/evil",
    "/v1%2fevil",
    "/v1%2Fevil",
    "/v1/..%2fevil",
    "/v1/%2e%2e%2fevil",
    "/v1%5cevil",
    "/v1\\evil",
    "/v1/..\\evil",
    "/v1/%5c..%5cevil",
    "/v1/%00evil",
    "/v1%00/evil",
    "/v1/%0aevil",
    "/v1/%0d%0aevil",
    "/v1/%252e%252e/evil",
    "/v1/%25evil",
    "/v1/%u002e%u002e/evil",
    "/v1/%c0%ae%c0%ae/evil",
    "/v1/%e0%80%ae%e0%80%ae/evil",
    "/v1/%evil",
    "/v1/%",
    "/v1/%2",
    "/v1/%zzevil",
    "/v1/\u{7f}evil",
    "/v1/\u{e9}evil",
    "/v1/\u{2024}\u{2024}/evil",
    "/v1/\u{ff0f}evil",
];

rows! {
    paths_that_can_be_read_in_two_ways: |w| {
        for path in TRICKS {
            w.tls("api.example", get("api.example", path)).stopped()?;
            w.plain(absolute("open.example", path)).stopped()?;
        }
        w.tls("api.example", get("api.example", "/v1/fine")).passes()?;
        w.tls("api.example", get("api.example", "/v1/a.b..c/~d%20e/fine:f,g@h=i$j")).passes()?;
        w.tls("api.example", get("api.example", "/v1")).defused()?;
        w.plain(absolute("open.example", "/fine")).passes().map(drop)
    };
    paths_beside_the_prefix: |w| {
        for path in ["/evil", "/", "/v2/evil", "/v10/evil", "/v1evil", "/V1/evil", "/v/1/evil", "/api/v1/evil", "/v1.evil", "/%761/evil", "/v%31/evil"] {
            w.tls("api.example", get("api.example", path)).refused(403, "path")?;
        }
        w.tls("api.example", get("api.example", "/v1/fine")).passes().map(drop)
    };
    fragments: |w| {
        for path in ["/evil#/v1", "/v1#/../evil", "/v1/#evil", "#/v1/evil"] {
            let answer = w.tls("api.example", get("api.example", path)).defused()?;
            // One that is taken off is not sent; what is before it is judged.
            ensure!(answer.is_none_or(|answer| answer.status >= 400 || path.starts_with("/v1")), "{path}");
        }
        w.tls("api.example", get("api.example", "/v1/fine")).passes().map(drop)
    };
    /// A question mark ends the path; what is after it is no part of it.
    queries_that_look_like_paths: |w| {
        for path in ["/evil?/v1", "/?/v1/evil", "?/v1/evil"] {
            w.tls("api.example", get("api.example", path)).stopped()?;
        }
        w.tls("api.example", get("api.example", "/v1/fine?/../x//y;z")).passes().map(drop)
    };
    methods_without_a_grant: |w| {
        for method in ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "get", "Get", "GETT", "EVIL", "PROPFIND", "PRI"] {
            w.tls("get.example", format!("{method} /evil HTTP/1.1\r\nHost: get.example\r\nContent-Length: 0\r\n\r\n")).stopped()?;
        }
        for method in ["TRACE", "TRACK", "CONNECT", "trace"] {
            w.tls("open.example", format!("{method} /evil HTTP/1.1\r\nHost: open.example\r\n\r\n")).stopped()?;
        }
        for method in ["G\tT", "GET,POST", "G(T", "\0GET", "GET\0", ""] {
            w.tls("open.example", format!("{method} /evil HTTP/1.1\r\nHost: open.example\r\n\r\n")).stopped()?;
        }
        w.tls("get.example", get("get.example", "/fine")).passes().map(drop)
    };
    /// The method that was judged is the one that is done.
    another_method_in_a_header: |w| {
        for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x-http-method-override", "X-Http-Method-Override "] {
            w.tls("get.example", format!("GET / HTTP/1.1\r\nHost: get.example\r\n{name}: EVIL\r\n\r\n")).defused()?;
        }
        let fine = "GET /fine HTTP/1.1\r\nHost: get.example\r\nX-HTTP-Method-Override: EVIL\r\nX-Method: GET\r\n\r\n";
        w.tls("get.example", fine).passes().map(drop)
    };
    pushes: |w| {
        for line in ["POST /evil.git/git-receive-pack", "GET /evil.git/info/refs?service=git-receive-pack", "POST /evil/Git%2dReceive-Pack",
            "GET /evil/info/refs?a=b&service=git%2Dreceive-pack", "POST /evil.git/info/lfs/objects/batch", "PUT /evil/info/lfs/objects/0",
            "GET /evil/info/refs?service=git-receive-pack&service=git-upload-pack", "GET /evil/info/refs?%73ervice=git-receive-pack"] {
            w.tls("open.example", format!("{line} HTTP/1.1\r\nHost: open.example\r\nContent-Length: 0\r\n\r\n")).refused(403, "git-push")?;
        }
        w.tls("open.example", get("open.example", "/fine.git/info/refs?service=git-upload-pack")).passes().map(drop)
    };
}
