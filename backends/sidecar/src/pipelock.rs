//! Pipelock (github.com/luckyPipewrench/pipelock), a program of the host's own, as a second hop behind the proxy.
//!
//! ```text
//! bottle ─▶ egress: judges, injects ─ CONNECT, TLS by pipelock's authority ─▶ pipelock: scans ─▶ host
//! ```
//!
//! It has a user of its own, no secret, and files in a directory in memory that is its own. Its program is run from sealed
//! memory. The proxy sends everything through it, so that nothing passes while it is away.

mod config;

use crate::{
    daemon::{DaemonStart, DaemonUp, Reloads},
    feed::Feed,
    tied::UNBOUNDED,
};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::control::PIPELOCK_PORT;
use bottle_policy::{Policy, UpstreamProxy};
use config::Config;
use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Between two looks whether it serves.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it may take to answer that it is well.
const HEALTH_TIME: Duration = Duration::from_secs(2);
/// Where programs look for others. The image has none.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a policy cannot be served with pipelock behind the proxy, if it cannot.
pub(crate) fn check(policy: &Policy) -> Result<()> {
    ensure!(policy.upstream_proxy.is_none(), "pipelock and another upstream proxy cannot both be the proxy's next hop");
    if let Some(route) = policy.routes.iter().find(|route| route.address.is_some()) {
        bail!("pipelock resolves names itself, so the route {} cannot have an `address`", route.host);
    }
    Ok(())
}

/// The proxy's policy in front of pipelock: all goes through it, and its certificates are trusted.
pub(crate) fn in_front(policy: &Policy, authority: Option<&str>) -> Policy {
    let hop = UpstreamProxy { host: Ipv4Addr::LOCALHOST.to_string(), port: PIPELOCK_PORT, tls: false, secret: None };
    let trusted = [policy.upstream_ca_pem.as_deref(), authority];
    let trusted: Vec<&str> = trusted.into_iter().flatten().collect();
    Policy {
        upstream_proxy: Some(hop),
        upstream_ca_pem: (!trusted.is_empty()).then(|| trusted.join("\n")),
        ..policy.clone()
    }
}

/// Would pipelock be told something else by the newer policy?
pub(crate) fn differ(older: &Policy, newer: &Policy) -> bool {
    let home = Path::new("");
    older.upstream_ca_pem != newer.upstream_ca_pem || Config::of(older, home) != Config::of(newer, home)
}

/// Runs pipelock for ever. `program`: the number of its descriptor.
pub(crate) async fn serve(start: DaemonStart, program: &str, _reloads: Reloads, feed: Feed) -> Result<()> {
    let home = start.scratch.context("pipelock has no place for its files")?;
    let program = format!("/proc/self/fd/{program}");
    let authority = home.join("ca/ca.pem");
    if !authority.exists() {
        let made = tied(&program, &home, &["tls", "init", "--force", "--out"]).arg(home.join("ca")).status().await?;
        ensure!(made.success(), "`pipelock tls init` ended with {made}");
    }
    let (config, roots) = (home.join("pipelock.yaml"), home.join("roots.pem"));
    // JSON is YAML, too.
    write_private(&config, &serde_json::to_string_pretty(&Config::of(&start.policy, &home))?)?;
    write_private(&roots, &trusted(&start.policy))?;
    let authority = fs::read_to_string(&authority).context("read pipelock's certificate authority")?;
    feed.report(DaemonUp::Authority(authority));
    let mut pipelock = tied(&program, &home, &["run", "-c"]).arg(&config).env("SSL_CERT_FILE", &roots).spawn()?;
    tokio::select! {
        ended = pipelock.wait() => bail!("pipelock ended before it served: {}", ended?),
        () = healthy() => feed.report(DaemonUp::Listening),
    }
    bail!("pipelock ended: {}", pipelock.wait().await?)
}

/// It is told nothing but where its files are. What it writes may hold what it has seen: only its complaints are kept.
fn tied(program: &str, home: &Path, words: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.args(["tied", UNBOUNDED, program]).args(words).current_dir(home).env_clear().env("PATH", PATH);
    command.envs(["HOME", "PIPELOCK_HOME", "TMPDIR"].map(|name| (name, home)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command
}

async fn healthy() {
    while !timeout(HEALTH_TIME, is_healthy()).await.is_ok_and(|healthy| healthy.unwrap_or(false)) {
        sleep(PAUSE).await;
    }
}

async fn is_healthy() -> Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PIPELOCK_PORT)).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.") && answer.ends_with(b" 200"))
}

/// The certificates that pipelock trusts as the proxy does: there is no system store.
fn trusted(policy: &Policy) -> String {
    let mut pem = policy.upstream_ca_pem.clone().unwrap_or_default();
    for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let lines = BASE64_STANDARD.encode(root).into_bytes();
        let lines = lines.chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect::<Vec<_>>();
        pem += &format!("\n-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    }
    pem
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let write = || {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_policy::Route;

    #[test]
    fn the_proxy_sends_everything_through_it_and_trusts_it() {
        let policy = Policy { upstream_ca_pem: Some("ONE".into()), ..Policy::default() };
        let chained = in_front(&policy, Some("TWO"));
        assert_eq!(chained.upstream_ca_pem.as_deref(), Some("ONE\nTWO"));
        assert_eq!(chained.upstream_proxy.as_ref().map(|hop| hop.port), Some(8888));
        // Without its authority too: nothing passes then.
        assert!(in_front(&Policy::default(), None).upstream_proxy.is_some());
        assert!(check(&policy).is_ok() && check(&chained).is_err());
        let pinned = Route { address: Some([10, 0, 0, 1].into()), ..Route::to("a.example") };
        assert!(check(&Policy { routes: vec![pinned], ..policy }).is_err());
    }

    #[test]
    fn what_it_trusts_is_pem_that_the_proxy_can_read() {
        let pem = trusted(&Policy::default());
        assert!(pem.matches("BEGIN CERTIFICATE").count() > 100);
        crate::egress::check(&Policy { upstream_ca_pem: Some(pem), ..Policy::default() }).unwrap();
    }
}
