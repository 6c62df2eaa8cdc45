//! What stands between the sidecar and the hosts: further authorities, and a proxy of the operator's.

use super::host_variable;
use crate::ui::hinted;
use anyhow::{Context, Result, bail};
use bottle_api::{Secret, secret::Secrets};
use bottle_policy::{UpstreamProxy, host, path::percent_decoded};

/// The host's variable that names a PEM file of further trust anchors for upstream certificates.
pub const CA_ENV: &str = "CLAUDE_BOTTLE_UPSTREAM_CA";
/// The host's variable that names a proxy through which every host is reached.
pub const PROXY_ENV: &str = "CLAUDE_BOTTLE_UPSTREAM_PROXY";
/// The name, among the sidecar's secrets, of the proxy's `user:password`.
const SECRET: &str = "upstream-proxy";

/// The further trust anchors, PEM.
pub fn authorities() -> Result<Option<String>> {
    let Some(path) = std::env::var_os(CA_ENV).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let pem = std::fs::read_to_string(&path).with_context(|| format!("{CA_ENV}: read {}", path.to_string_lossy()))?;
    if !pem.contains("BEGIN CERTIFICATE") {
        bail!("{CA_ENV}: {} holds no certificate in PEM", path.to_string_lossy());
    }
    Ok(Some(pem))
}

/// The proxy; its password stays where it is.
pub fn proxy() -> Result<Option<UpstreamProxy>> {
    host_variable(PROXY_ENV).map(|url| Ok(read(&url)?.0)).transpose()
}

/// Adds the proxy's `user:password`, where it wants one.
pub fn add_to(secrets: &mut Secrets) -> Result<()> {
    let Some(url) = host_variable(PROXY_ENV) else { return Ok(()) };
    if let (UpstreamProxy { secret: Some(name), .. }, Some(login)) = read(&url)? {
        secrets.insert(name, login);
    }
    Ok(())
}

/// `http[s]://[user:password@]host[:port]`, the login percent-encoded. No error shows any of it: it may hold a password.
fn read(url: &str) -> Result<(UpstreamProxy, Option<Secret>)> {
    let wrong = |what: &str| {
        hinted(
            format!("{PROXY_ENV}: {what}"),
            "Write http://HOST:PORT, or https://USER:PASSWORD@HOST:PORT with the login percent-encoded.",
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("only proxies of the schemes http and https are known")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(Secret::new(percent_decoded(login))), place),
        None => (None, rest),
    };
    let (name, port) = match place.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            (name, port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong("its port is none"))?)
        }
        _ => (place, if tls { 443 } else { 80 }),
    };
    if let Some(why) = host::ambiguity(name) {
        return Err(wrong(why));
    }
    let secret = login.is_some().then(|| SECRET.to_owned());
    Ok((UpstreamProxy { host: name.to_ascii_lowercase(), port, tls, secret }, login))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_its_login_apart() {
        for (url, host, port, tls, login) in [
            ("http://proxy.example:3128", "proxy.example", 3128, false, None),
            ("HTTP://Proxy.example/", "proxy.example", 80, false, None),
            ("https://u:p%40x@proxy.example", "proxy.example", 443, true, Some("u:p@x")),
            ("http://10.0.0.1:8080", "10.0.0.1", 8080, false, None),
            ("http://[2001:db8::1]:8080", "[2001:db8::1]", 8080, false, None),
            ("http://[2001:db8::1]", "[2001:db8::1]", 80, false, None),
        ] {
            let (proxy, secret) = read(url).unwrap();
            assert_eq!((proxy.host.as_str(), proxy.port, proxy.tls), (host, port, tls), "{url}");
            assert_eq!(secret.as_ref().and_then(Secret::expose_str), login, "{url}");
            assert_eq!(proxy.secret.is_some(), login.is_some(), "{url}");
        }
        for url in [
            "",
            "proxy.example:3128",
            "socks5://u:hidden@proxy.example:1080",
            "http://u:hidden@",
            "http://u:hidden@proxy.example:0",
            "http://u:hidden@proxy.example:x",
            "http://u:hidden@proxy.example/path",
            "http://u:hidden@127.1:3128",
        ] {
            let error = format!("{:#}", read(url).map(drop).unwrap_err());
            assert!(error.contains(PROXY_ENV) && !error.contains("hidden"), "{url}: {error}");
        }
    }
}
