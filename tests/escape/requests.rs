//! Requests whose answers must be the same wherever the bottle is.

use anyhow::{Result, ensure};
use bottle_tests::running::Running;
use std::net::Ipv4Addr;

/// Requests whose answers must be the same wherever the bottle is.
pub(crate) fn requests(target: Ipv4Addr, allowed: &str) -> Vec<(&'static str, String)> {
    let code = "curl -s -m 60 -o /dev/null -w '%{http_code} %{http_connect}'";
    let body = "curl -s -m 60";
    let unproxied = "env -u http_proxy -u HTTP_PROXY -u https_proxy -u HTTPS_PROXY -u ALL_PROXY -u all_proxy";
    vec![
        ("a granted host", format!("{code} https://{allowed}/")),
        ("another path of it", format!("{code} https://{allowed}/a/b?c=d")),
        ("a host that is not granted", format!("{body} https://forbidden.example/")),
        ("the same without TLS", format!("{body} http://forbidden.example/")),
        ("a granted host on another port", format!("{body} https://{allowed}:8443/")),
        ("an address", format!("{body} -k https://{target}/")),
        ("an address with a granted name", format!("{body} -H 'Host: {allowed}' http://{target}/")),
        (
            "a granted name for an address's certificate",
            format!("{body} -k --connect-to ::{target}:443 https://forbidden.example/"),
        ),
        ("metadata", format!("{body} http://169.254.169.254/latest/meta-data/")),
        ("the machine outside by its loopback", format!("{body} http://127.0.0.2/")),
        ("a path that is not what it seems", format!("{body} --path-as-is https://{allowed}/a/../b")),
        ("a push over HTTPS", format!("{body} 'https://{allowed}/x.git/info/refs?service=git-receive-pack'")),
        ("the list of routes", format!("{body} http://_egress.local/allowlist")),
        (
            "the proxy without a password",
            format!("{unproxied} {code} -x http://egress:9099 http://_egress.local/allowlist"),
        ),
        (
            "the proxy with another's password",
            format!("{unproxied} {code} -x http://bottle:x@egress:9099 https://{allowed}/"),
        ),
        ("no proxy at all", format!("{unproxied} {code} -m 3 https://{allowed}/; echo \" $?\"")),
    ]
}

/// The answers, one per request.
pub(crate) fn answers(
    bottle: &Running<'_>,
    requests: &[(&'static str, String)],
) -> Result<Vec<(&'static str, String)>> {
    let commands: String = requests.iter().map(|(_, command)| format!("({command}) 2>&1; printf '\\001'\n")).collect();
    let run = bottle.sh(&commands)?;
    let said: Vec<String> = run.stdout.split('\u{1}').map(|text| text.trim().to_owned()).collect();
    ensure!(said.len() == requests.len() + 1, "{run:?}");
    Ok(requests.iter().zip(said).map(|((name, _), answer)| (*name, answer)).collect())
}
