//! The repositories that a bottle works with: where each is, as whom, and what a push to it may do.

use crate::{host, push::PushRules};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The longest name of a remote.
const LONGEST_NAME: usize = 64;

/// One `git` entry of a bottle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitRemote {
    /// What the agent calls it: the last part of its URL, without `.git`.
    pub name: String,
    /// Where it is, and with which credential.
    pub upstream: GitUpstream,
    /// What a push to it may do.
    pub push: PushRules,
    /// Dial this address and no other.
    pub address: Option<IpAddr>,
    /// Private addresses may be dialled.
    pub allow_private: bool,
    /// What talking with it may take.
    pub limits: GitLimits,
}

/// Where a repository is. Hosts are lower-case, paths begin with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GitUpstream {
    /// `ssh://user@host:port/path`
    Ssh(GitSsh),
    /// `https://host:port/path`
    Https(GitHttps),
}

/// A repository over ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitSsh {
    /// As whom.
    pub user: String,
    /// Name or address; an IPv6 one without brackets.
    pub host: String,
    /// 22 where the manifest says nothing.
    pub port: u16,
    /// The repository there.
    pub path: String,
    /// The only key that the host may show: `TYPE BASE64`, one line.
    pub known_host_key: String,
    /// The name of the secret that is the private key, as its file has it.
    pub key: String,
    /// The name of the secret that is its passphrase, if it has one.
    pub passphrase: Option<String>,
}

/// A repository over https.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitHttps {
    /// Name or address; an IPv6 one without brackets.
    pub host: String,
    /// 443 where the manifest says nothing.
    pub port: u16,
    /// The repository there.
    pub path: String,
    /// The name of the secret that is the token. None: everybody may read it, and nobody pushes.
    pub token: Option<String>,
}

/// What talking with upstream may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitLimits {
    /// Bytes of the largest pack that a push may send.
    pub push_bytes: u64,
    /// Bytes of the largest pack that a fetch may bring.
    pub fetch_bytes: u64,
    /// Seconds that one fetch or push may take.
    pub seconds: u32,
}

impl Default for GitLimits {
    fn default() -> Self {
        Self { push_bytes: 512 << 20, fetch_bytes: 2 << 30, seconds: 600 }
    }
}

impl GitUpstream {
    /// Name or address.
    pub fn host(&self) -> &str {
        match self {
            Self::Ssh(ssh) => &ssh.host,
            Self::Https(https) => &https.host,
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ssh(ssh) => ssh.port,
            Self::Https(https) => https.port,
        }
    }

    /// The repository there.
    pub fn path(&self) -> &str {
        match self {
            Self::Ssh(ssh) => &ssh.path,
            Self::Https(https) => &https.path,
        }
    }
}

/// Why these cannot be served, if they cannot.
pub(crate) fn check(remotes: &[GitRemote]) -> Result<(), String> {
    for (i, remote) in remotes.iter().enumerate() {
        let name = &remote.name;
        if !is_plain(name, "._-") || name.len() > LONGEST_NAME || name.starts_with(['.', '-']) || name.ends_with(".git")
        {
            return Err(format!("git remote `{name}` has no plain name"));
        }
        if remotes[..i].iter().any(|earlier| earlier.name == *name) {
            return Err(format!("git remote `{name}` stands twice"));
        }
        if let Some(wrong) = wrong(&remote.upstream) {
            return Err(format!("git remote `{name}`: its {wrong}"));
        }
    }
    Ok(())
}

fn wrong(upstream: &GitUpstream) -> Option<&'static str> {
    let (host, path) = (upstream.host(), upstream.path());
    if host != host.to_ascii_lowercase() || host.starts_with('[') || host::ambiguity(host).is_some() {
        return Some("host is not in its one plain spelling");
    }
    if upstream.port() == 0 {
        return Some("port is none");
    }
    let dots = path.split('/').any(|part| matches!(part, "." | ".."));
    if !path.starts_with('/') || path.len() < 2 || path.contains("//") || dots || !is_plain(path, "/._-~+@,=:") {
        return Some("path has a character or a part that is none of a repository's");
    }
    match upstream {
        GitUpstream::Https(_) => None,
        GitUpstream::Ssh(ssh) if !is_plain(&ssh.user, "._-") || ssh.user.starts_with('-') => Some("user is no name"),
        GitUpstream::Ssh(ssh) => {
            let parts: Vec<&str> = ssh.known_host_key.split(' ').collect();
            let is_key = matches!(parts[..], [kind, key] if is_plain(kind, "-@.") && !kind.starts_with('-') && is_plain(key, "+/="));
            (!is_key).then_some("known host key is not `TYPE BASE64`")
        }
    }
}

fn is_plain(text: &str, more: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh() -> GitSsh {
        GitSsh {
            user: "git".into(),
            host: "git.example".into(),
            port: 22,
            path: "/o/app.git".into(),
            known_host_key: "ssh-ed25519 AAAA+/=".into(),
            key: "git-app-key".into(),
            passphrase: None,
        }
    }

    fn https(host: &str, path: &str) -> GitUpstream {
        GitUpstream::Https(GitHttps { host: host.into(), port: 443, path: path.into(), token: None })
    }

    fn named(name: &str, upstream: GitUpstream) -> GitRemote {
        let push = PushRules { allow_refs: vec![], allow_delete: false, allow_force: false };
        let limits = GitLimits::default();
        GitRemote { name: name.into(), upstream, push, address: None, allow_private: false, limits }
    }

    #[test]
    fn a_remote_is_plain_or_none() {
        let of = GitUpstream::Ssh;
        for (good, remote) in [
            (true, named("app", of(ssh()))),
            (true, named("a.b_c-1", https("git.example", "/o/app"))),
            (true, named("six", https("2001:db8::7", "/o/app.git"))),
            (true, named("home", of(GitSsh { path: "/~me/app.git".into(), ..ssh() }))),
            (false, named("", of(ssh()))),
            (false, named("a/b", of(ssh()))),
            (false, named("..", of(ssh()))),
            (false, named("-x", of(ssh()))),
            (false, named("app.git", of(ssh()))),
            (false, named(&"a".repeat(65), of(ssh()))),
            (false, named("app", https("Git.example", "/o"))),
            (false, named("app", https("127.1", "/o"))),
            (false, named("app", https("[2001:db8::7]", "/o"))),
            (false, named("app", https("", "/o"))),
            (false, named("app", https("git.example", "/"))),
            (false, named("app", https("git.example", "o"))),
            (false, named("app", https("git.example", "/o/../p"))),
            (false, named("app", https("git.example", "/o//p"))),
            (false, named("app", https("git.example", "/o?x"))),
            (false, named("app", https("git.example", "/o%2e"))),
            (false, named("app", of(GitSsh { port: 0, ..ssh() }))),
            (false, named("app", of(GitSsh { user: "-o".into(), ..ssh() }))),
            (false, named("app", of(GitSsh { user: "a b".into(), ..ssh() }))),
            (false, named("app", of(GitSsh { known_host_key: "ssh-ed25519".into(), ..ssh() }))),
            (false, named("app", of(GitSsh { known_host_key: "* ssh-ed25519 AAAA".into(), ..ssh() }))),
            (false, named("app", of(GitSsh { known_host_key: "ssh-ed25519 AAAA\nb".into(), ..ssh() }))),
        ] {
            assert_eq!(check(std::slice::from_ref(&remote)).is_ok(), good, "{remote:?}");
        }
        assert!(check(&[named("a", of(ssh())), named("b", of(ssh()))]).is_ok());
        assert!(check(&[named("a", of(ssh())), named("a", https("b.example", "/b"))]).is_err());
    }

    #[test]
    fn a_field_that_is_not_known_is_an_error() {
        let written = serde_json::to_value(named("app", GitUpstream::Ssh(ssh()))).unwrap();
        assert_eq!(
            serde_json::from_value::<GitRemote>(written.clone()).unwrap(),
            named("app", GitUpstream::Ssh(ssh()))
        );
        for place in ["", "/upstream/ssh", "/push", "/limits"] {
            let mut more = written.clone();
            more.pointer_mut(place).unwrap().as_object_mut().unwrap().insert("new".into(), true.into());
            assert!(serde_json::from_value::<GitRemote>(more).is_err(), "{place}");
        }
    }
}
