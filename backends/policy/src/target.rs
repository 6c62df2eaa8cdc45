//! What a client asks a proxy for, as its request line names it.

use crate::{Scheme, host};

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Lower-case, in its plain spelling; an IPv6 address in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// The target of a CONNECT: `host:port`, and nothing beside it.
pub fn of_tunnel(authority: &str) -> Result<Target, &'static str> {
    parse(authority, None)
}

/// The authority of an absolute URL, whose port may be left to its scheme.
pub fn of_url(scheme: Scheme, authority: &str) -> Result<Target, &'static str> {
    parse(authority, Some(scheme.port()))
}

fn parse(authority: &str, default: Option<u16>) -> Result<Target, &'static str> {
    if authority.contains('@') {
        return Err("it has userinfo");
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match (port, default) {
        (Some(digits), _) => number(digits).ok_or("its port is no number from 1 to 65535")?,
        (None, Some(default)) => default,
        (None, None) => return Err("it has no port"),
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err("an IPv6 address stands in brackets");
    }
    match host::ambiguity(host) {
        Some(why) => Err(why),
        None => Ok(Target { host: host.to_ascii_lowercase(), port }),
    }
}

/// A port in its one spelling: no sign, no zeros before it.
pub(crate) fn number(digits: &str) -> Option<u16> {
    digits.parse::<u16>().ok().filter(|port| *port > 0 && port.to_string() == digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_one_spelling() {
        let target = |host: &str, port| Ok(Target { host: host.into(), port });
        assert_eq!(of_tunnel("A.example:443"), target("a.example", 443));
        assert_eq!(of_tunnel("[2001:DB8::1]:8443"), target("[2001:db8::1]", 8443));
        assert_eq!(of_url(Scheme::Http, "a.example"), target("a.example", 80));
        assert_eq!(of_url(Scheme::Https, "[::1]"), target("[::1]", 443));
        assert_eq!(of_url(Scheme::Http, "a.example:8080"), target("a.example", 8080));
        for wrong in [
            "",
            ":",
            ":443",
            "a.example",
            "a.example:",
            "a.example:0",
            "a.example:0443",
            "a.example:+443",
            "a.example:65536",
            "a.example:443:443",
            "u@a.example:443",
            "u:p@a.example:443",
            "2001:db8::1:443",
            "[2001:db8::1]",
            "[2001:db8::1]443",
            "[fe80::1%1]:443",
            "a b:443",
            "a.example.:443",
            "127.1:443",
            "a.example:443/",
            "http://a.example:443",
        ] {
            assert!(of_tunnel(wrong).is_err(), "{wrong:?}");
        }
    }
}
