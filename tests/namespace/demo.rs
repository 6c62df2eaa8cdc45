//! The demo on bare Linux: one bottle of namespaces, in which a script stands in for Claude Code and tries what it may not.
//! No engine, no root, no network. Prints a table of verdicts. Run by `cargo xtask demo`.

use anyhow::{Context, Result, ensure};
use bottle_tests::bottle::{Home, REAL_TOKEN};
use std::{
    fs,
    io::{Write, stdout},
    os::unix::fs::PermissionsExt,
};

/// What is tried, how, and what it must say.
const ROWS: [(&str, &str, &str, &str); 12] = [
    ("ask the sidecar what may be reached", "ask http://_egress.local/allowlist", "api.anthropic.com", "answered"),
    ("GET http://forbidden.example/", "ask http://forbidden.example/", "\"rule\":\"host\"", "refused"),
    ("the proxy without the bottle's password", "http_proxy= ask http://x.example/", " 407 ", "refused"),
    ("TCP to a raw address, past the proxy", "(echo > /dev/tcp/1.1.1.1/443) 2>&1", "unreachable", "no route"),
    (
        "DNS look-up of secrets.attacker.example",
        "getent hosts secrets.attacker.example || echo nobody",
        "nobody",
        "refused",
    ),
    (
        "the real credential, in any process",
        "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c \"^CLAUDE_CODE_OAUTH_TOKEN=$REAL\" || true",
        "0",
        "not found",
    ),
    ("become root", "su -c id 2>&1 | grep -c uid=0", "0", "no way"),
    ("a namespace of its own", "unshare -Ur true 2>&1", "not permitted", "refused"),
    ("write to the system", "touch /usr/bin/mine /etc/mine 2>&1", "Read-only", "refused"),
    ("files of the machine's users", "ls /root /home 2>/dev/null | grep -cv -e agent -e : -e '^$'", "0", "not there"),
    ("processes of the machine", "ls /proc | grep -c '^[0-9]'", "", "its own alone"),
    ("work in the workspace", "echo done > /workspace/file && cat /workspace/file", "done", "possible"),
];

/// Asks the proxy, with the password that is in the agent's environment. By the shell alone: a bare machine has no client.
const ASK: &str = r#"ask() {
    login=${http_proxy#http://} host=${1#http://} line=
    case $login in *@*) line="Proxy-Authorization: Basic $(printf %s "${login%@*}" | base64 -w0)"$'\r\n';; esac
    exec 3<>/dev/tcp/egress/9099
    printf 'GET %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n' "$1" "${host%%/*}" "$line" >&3
    timeout 5 cat <&3
}"#;

fn main() -> Result<()> {
    let home = Home::bare()?;
    let claude = home.path().join("claude");
    let script: String =
        ROWS.iter().map(|(_, command, ..)| format!("{{ {command}; }} 2>&1 | tr '\\n' ' '; echo\n")).collect();
    // Spelt so that the script itself is not what is found.
    let (head, tail) = REAL_TOKEN.split_at(20);
    fs::write(&claude, format!("#!/bin/bash\nREAL='{head}''{tail}'\n{ASK}\n{script}"))?;
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755))?;
    let home = home.with_env("CLAUDE_BOTTLE_CLAUDE", &claude.display().to_string());
    let run = home.run(&["--backend", "namespace", "start", "dev", "--yes", "--prompt", "x"])?;
    let mut out = stdout().lock();
    writeln!(out, "{}", run.stderr)?;
    let said: Vec<&str> = run.stdout.lines().collect();
    ensure!(said.len() == ROWS.len(), "{run:?}");
    writeln!(out, "{:<46}  {:<13}  VERDICT", "TRIED IN THE BOTTLE", "EXPECTED")?;
    let mut all = true;
    for ((tried, _, says, expected), said) in ROWS.iter().zip(&said) {
        let ok = match (*says, *expected) {
            ("", _) => said.trim().parse::<u32>().context("a number")? < 10,
            ("0", _) => said.trim() == "0",
            _ => said.contains(says),
        };
        all &= ok;
        writeln!(out, "{tried:<46}  {expected:<13}  {}", if ok { "as expected" } else { "NOT SO" })?;
    }
    ensure!(all, "the demo did not go as it should: {said:#?}");
    Ok(())
}
