//! Where a git remote is: `ssh://user@host[:port]/path` or `https://host[:port]/path`, and nothing else that git knows.

use super::{
    names::host_name,
    read::{Checked, quoted, text, wrong},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Where a remote is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// How it is reached.
    pub transport: Transport,
    /// In lower case.
    pub host: String,
    /// Where it is not the usual one.
    pub port: Option<u16>,
    /// Begins with `/`.
    pub path: String,
}

/// How a remote is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// As this user.
    Ssh(String),
    /// Over TLS.
    Https,
}

impl Upstream {
    fn parse(url: &str) -> Checked<Self> {
        let shown = quoted(url);
        let no = |hint: String| wrong(format!("{shown} is no upstream"), hint);
        let forms = "Write ssh://user@host/path or https://host/path.";
        let Some((scheme, rest)) = url.split_once("://") else {
            // What `git clone` shows as the usual form.
            return match url.split_once(':') {
                Some((at, path)) if at.contains('@') && !path.is_empty() => {
                    let path = path.trim_start_matches('/');
                    no(format!("Write {}.", quoted(&format!("ssh://{at}/{path}"))))
                }
                _ => no(forms.into()),
            };
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
        let transport = match (scheme, user) {
            ("ssh", Some(user)) if is_user(user) => Transport::Ssh(user.into()),
            ("ssh", None) => return no("Say as whom: ssh://git@host/path.".into()),
            ("ssh", Some(_)) => return no("A user's name is letters, digits, dots, dashes and underscores.".into()),
            ("https", None) => Transport::Https,
            // It may be a token: not repeated.
            ("https", Some(_)) => {
                return wrong(
                    "the upstream has a user or a token in it",
                    "Write https://host/path, and the name of the host's variable that holds the token in `TokenRef`.",
                );
            }
            ("http" | "git", _) => return no("It would travel in the clear: write https:// or ssh://.".into()),
            _ => return no(forms.into()),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && !place.ends_with(']') => match port.parse::<u16>() {
                Ok(port) if port > 0 => (host, Some(port)),
                _ => return no("A port is a number from 1 to 65535.".into()),
            },
            _ => (place, None),
        };
        let host = host_name(host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host))?;
        if path.len() < 2 || path.ends_with('/') {
            return no("It needs the repository's path: https://host/owner/repository.git say.".into());
        }
        if bottle_policy::path::ambiguity(path).is_some() || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return no("Its path is no plain one: no `..`, `//`, spaces or encoded separators.".into());
        }
        // What ssh, a shell and git read as it stands.
        if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-~+@,=:".contains(&b)) {
            return no("Its path has a character that no repository's path has.".into());
        }
        Ok(Self { transport, host, port, path: path.into() })
    }
}

fn is_user(user: &str) -> bool {
    user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Ssh(user) => write!(f, "ssh://{user}@")?,
            Transport::Https => f.write_str("https://")?,
        }
        if self.host.contains(':') { write!(f, "[{}]", self.host) } else { f.write_str(&self.host) }?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))?;
        f.write_str(&self.path)
    }
}

impl<'de> Deserialize<'de> for Upstream {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text(d, Self::parse)
    }
}

impl Serialize for Upstream {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_ssh_or_https_and_nothing_else() {
        for url in [
            "ssh://git@github.com/o/r.git",
            "ssh://git@forge.example:2222/~me/r",
            "https://github.com/o/r",
            "https://[2001:db8::1]:8443/o/r.git",
        ] {
            assert_eq!(Upstream::parse(url).unwrap().to_string(), url);
        }
        for url in [
            "",
            "git@github.com:o/r.git",
            "ssh://github.com/o/r",
            "ssh://-oProxyCommand=x@h/p",
            "ssh://git@-oProxyCommand=x/p",
            "https://me:secret@h.example/p",
            "http://h.example/p",
            "git://h.example/p",
            "file:///tmp/r",
            "ext::sh -c x",
            "https://h.example",
            "https://h.example/",
            "https://h.example:0/p",
            "https://h.example/a/../b",
            "https://h.example/a b",
            "https://h.example/a?b",
            "https://h.example/a;b",
            "https://h.example/a[b]",
        ] {
            assert!(Upstream::parse(url).is_err(), "{url}");
        }
    }
}
