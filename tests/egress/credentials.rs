//! Rows: whose credential goes where. `api.example` and `basic.example` have one injected.

use crate::world::{absolute, get};
use anyhow::{Context, ensure};
use bottle_tests::sidecar::TOKEN;

fn with(host: &str, path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n\r\n")
}

rows! {
    the_agents_own_in_a_header: |w| {
        for line in ["Authorization: Bearer evil", "authorization: Basic ZXZpbA==evil", "AUTHORIZATION: evil", "X-Api-Key: evil",
            "Proxy-Authorization: Basic evil", "Authorization: Bearer a\r\nAuthorization: Bearer evil", "X-Goog-Api-Key: evil",
            "Private-Token: evil", "Cookie: a=b\r\nAuthorization:evil"] {
            w.tls("api.example", with("api.example", "/v1/x", line)).defused()?;
        }
        w.tls("open.example", with("open.example", "/", "Authorization: Bearer fine")).passes()?;
        let seen = w.origin.requests();
        let api: Vec<_> = seen.iter().filter(|seen| seen.path.starts_with("/v1")).collect();
        ensure!(!api.is_empty(), "nothing was passed on");
        for request in api {
            let values: Vec<_> = request.headers.iter().filter(|(name, _)| name == "authorization").collect();
            ensure!(values.len() == 1 && values[0].1 == format!("Bearer {TOKEN}"), "{request:?}");
        }
        Ok(())
    };
    the_agents_own_in_the_query: |w| {
        for query in ["access_token=evil", "api_key=evil", "key=evil", "a=b&token=evil", "API-KEY=evil", "access%5Ftoken=evil", "%74oken=evil",
            "token=a&token=evil", "token=evil&b=c", "&&token=evil", "client_secret=evil", "Token=evil"] {
            w.tls("api.example", get("api.example", &format!("/v1/x?{query}"))).defused()?;
        }
        w.tls("api.example", get("api.example", "/v1/x?beta=fine&monkey=1")).passes()?;
        w.tls("open.example", get("open.example", "/x?access_token=fine")).passes().map(drop)
    };
    the_agents_own_in_userinfo: |w| {
        for url in ["https://evil:evil@api.example/v1", "https://evil@api.example/v1"] {
            w.tls("api.example", format!("GET {url} HTTP/1.1\r\nHost: api.example\r\n\r\n")).stopped()?;
        }
        w.tls("api.example", get("evil:evil@api.example", "/v1")).stopped()?;
        w.plain(absolute("evil:evil@api.example", "/v1")).stopped()?;
        w.tls("api.example", get("api.example", "/v1/fine")).passes().map(drop)
    };
    /// Not in the clear, whichever way it is asked for.
    injection_over_plain_http: |w| {
        for authority in ["api.example", "api.example:80", "api.example:443", "API.example:443"] {
            w.plain(absolute(authority, "/v1/evil")).stopped()?;
        }
        w.tunnel("api.example:443", get("api.example", "/v1/evil")).cut()?;
        w.tls_to("api.example:80", "api.example", get("api.example:80", "/v1/evil")).refused(403, "port")?;
        w.tls("api.example", get("api.example", "/v1/fine")).passes()?;
        let seen = w.origin.requests();
        let token = seen.last().and_then(|seen| seen.header("authorization")).context("a credential")?;
        ensure!(token == format!("Bearer {TOKEN}"), "{seen:?}");
        Ok(())
    };
    /// What is named in `Connection` goes no further, the credential excepted.
    the_injected_one_named_as_of_this_hop: |w| {
        for line in ["Connection: authorization", "Connection: close, Authorization", "Connection: host\r\nX: evil-no"] {
            w.tls("api.example", with("api.example", "/v1/x", &line.replace("evil-no", "x"))).defused()?;
        }
        w.tls("api.example", get("api.example", "/v1/fine")).passes()?;
        for request in w.origin.requests() {
            ensure!(request.header("authorization").is_some() && request.header("host").is_some(), "{request:?}");
        }
        Ok(())
    };
    /// Would invite the client past the proxy.
    alternative_services: |w| {
        let asks = "X-Answer-Alt-Svc: h3=\":443\"\r\nX-Answer-X-Fine: 1";
        let answer = w.tls("open.example", with("open.example", "/", asks)).defused()?.context("an answer")?;
        ensure!(!answer.head.to_ascii_lowercase().contains("\r\nalt-svc:"), "{answer:?}");
        ensure!(answer.head.to_ascii_lowercase().contains("\r\nx-fine: 1"), "{answer:?}");
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
    headers_of_this_hop: |w| {
        let lines = "Connection: close, X-Evil\r\nX-Evil: 1\r\nKeep-Alive: evil\r\nProxy-Connection: evil\r\nTE: evil";
        w.tls("open.example", with("open.example", "/", lines)).defused()?;
        w.tls("open.example", with("open.example", "/", "X-Other: fine\r\nConnection: close")).passes().map(drop)
    };
    /// The proxy's password is for the proxy.
    the_capability: |w| {
        w.plain(absolute("open.example", "/x")).defused()?;
        w.plain(absolute("open.example", "/fine")).passes()?;
        for connection in w.origin.connections() {
            let said = String::from_utf8_lossy(&connection.bytes).to_ascii_lowercase();
            ensure!(!said.contains("proxy-") && !said.contains(&w.client().password().to_ascii_lowercase()), "{said}");
        }
        Ok(())
    };
    /// More than is looked at before it is answered: the rest comes too.
    long_answers_where_there_is_one: |w| {
        for length in [10, 256 << 10, (256 << 10) + 1, 1 << 20] {
            w.origin.page("/v1/long", vec![b'x'; length]);
            let answer = w.tls("api.example", get("api.example", "/v1/long")).defused()?.context("an answer")?;
            ensure!(answer.body.bytes().filter(|byte| *byte == b'x').count() == length, "of {length}: {}", answer.head);
        }
        w.tls("open.example", get("open.example", "/fine")).passes().map(drop)
    };
}
