//! How git reaches a remote over ssh: OpenSSH's client, told everything, with no file of anybody's.

use crate::mirror::{Trouble, Upstream};
use std::{fs, io, path::Path, time::Duration};
use thiserror::Error;

/// The name under which the pinned key is known; what the host is called does not matter to it.
const ALIAS: &str = "upstream";

/// A remote over ssh.
#[derive(Debug, Clone)]
pub struct Ssh<'a> {
    /// As whom.
    pub user: &'a str,
    /// Name or address.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// The repository there; begins with `/`.
    pub path: &'a str,
    /// The only key that the host may show: its kind and its base64.
    pub known_host_key: &'a str,
    /// The socket of an agent that holds the key.
    pub agent: &'a Path,
    /// A program that connects its standard streams with `host port`, which follow it; none: ssh dials.
    pub dial: Option<&'a str>,
}

/// What cannot be said to ssh without saying more.
#[derive(Debug, Error)]
pub enum TransportError {
    /// A part of the remote.
    #[error("the upstream's {0} has a character that ssh or a shell would take for something else")]
    Strange(&'static str),
    /// The file of the one known key.
    #[error("write the known host key: {0}")]
    Io(#[from] io::Error),
}

impl Ssh<'_> {
    /// How git reaches it. `known_hosts`: a file that is made for it; nothing in it is a secret.
    pub fn upstream(&self, known_hosts: &Path, limit: Duration, pack: u64) -> Result<Upstream, TransportError> {
        let plain = |text: &str, more: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
        };
        let (key, dial) = (self.known_host_key, self.dial.unwrap_or_default());
        let files = [known_hosts, self.agent].map(|path| path.to_str().unwrap_or_default());
        for (what, fits) in [
            ("user", plain(self.user, "._-")),
            ("host", plain(self.host, "._-:")),
            ("path", self.path.starts_with('/') && plain(self.path, "/._-~+@,=%:")),
            ("known host key", plain(key, "+/=-@. ") && key.split(' ').count() == 2),
            ("place", files.iter().all(|file| plain(file, "/._-"))),
            ("dialler", dial.is_empty() || plain(dial, "/._- ")),
        ] {
            if !fits {
                return Err(TransportError::Strange(what));
            }
        }
        fs::write(known_hosts, format!("{ALIAS} {key}\n"))?;
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_owned() };
        Ok(Upstream {
            url: format!("ssh://{}@{host}:{}{}", self.user, self.port, self.path),
            protocol: "ssh".into(),
            settings: vec![format!("core.sshCommand={}", self.command(files)), "ssh.variant=ssh".into()],
            environment: vec![],
            limit,
            pack,
            trouble: Trouble::default(),
        })
    }

    /// Git runs it by a shell: everything in it was looked at, or is ours.
    fn command(&self, [known_hosts, agent]: [&str; 2]) -> String {
        let kind = self.known_host_key.split(' ').next().unwrap_or_default();
        // The kind of a key is not how it signs.
        let algorithms = if kind == "ssh-rsa" { "rsa-sha2-512,rsa-sha2-256" } else { kind };
        let options = [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".into(),
            "UpdateHostKeys=no".into(),
            "VerifyHostKeyDNS=no".into(),
            "GlobalKnownHostsFile=/dev/null".into(),
            format!("UserKnownHostsFile={known_hosts}"),
            format!("HostKeyAlias={ALIAS}"),
            format!("HostKeyAlgorithms={algorithms}"),
            "CheckHostIP=no".into(),
            "IdentityFile=none".into(),
            format!("IdentityAgent={agent}"),
            "PreferredAuthentications=publickey".into(),
            "PasswordAuthentication=no".into(),
            "KbdInteractiveAuthentication=no".into(),
            "ForwardAgent=no".into(),
            "ClearAllForwardings=yes".into(),
            "PermitLocalCommand=no".into(),
            "ControlMaster=no".into(),
            "ControlPath=none".into(),
            "CanonicalizeHostname=no".into(),
            "ConnectTimeout=15".into(),
            "ServerAliveInterval=15".into(),
            "EscapeChar=none".into(),
        ];
        let mut command = "ssh -F none -T".to_owned();
        options.iter().for_each(|option| command += &format!(" -o {option}"));
        if let Some(dial) = self.dial {
            command += &format!(" -o 'ProxyCommand={dial} %h %p'");
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2nNqYbK0e3dO6kTQyG1cYzQpWq8vXl5h0bUuE6Zk4a";

    fn remote() -> Ssh<'static> {
        Ssh {
            user: "git",
            host: "git.example",
            port: 2222,
            path: "/o/app.git",
            known_host_key: ED25519,
            agent: Path::new("/run/gate/agent.sock"),
            dial: Some("/bottle-sidecar dial"),
        }
    }

    fn upstream(remote: &Ssh<'_>, dir: &Path) -> Result<Upstream, TransportError> {
        remote.upstream(&dir.join("known_hosts"), Duration::from_secs(60), 1 << 20)
    }

    #[test]
    fn ssh_understands_what_it_is_told_and_knows_one_host_key() {
        let dir = tempfile::tempdir().unwrap();
        let made = upstream(&remote(), dir.path()).unwrap();
        assert_eq!((made.url.as_str(), made.protocol.as_str()), ("ssh://git@git.example:2222/o/app.git", "ssh"));
        assert_eq!(fs::read_to_string(dir.path().join("known_hosts")).unwrap(), format!("upstream {ED25519}\n"));
        let command = made.settings[0].strip_prefix("core.sshCommand=").unwrap();
        // The settings as ssh itself reads them.
        let script = format!("{command} -G -p 2222 git@git.example");
        let out = Command::new("sh").args(["-c", &script]).env_clear().env("PATH", env!("PATH")).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "apt-get install openssh-client: {}", String::from_utf8_lossy(&out.stderr));
        for line in [
            "stricthostkeychecking true",
            "globalknownhostsfile /dev/null",
            &format!("userknownhostsfile {}", dir.path().join("known_hosts").display()),
            "hostkeyalias upstream",
            "hostkeyalgorithms ssh-ed25519",
            "identityfile none",
            "identityagent /run/gate/agent.sock",
            "batchmode yes",
            "passwordauthentication no",
            "forwardagent no",
            "permitlocalcommand no",
            "controlmaster false",
            "proxycommand /bottle-sidecar dial %h %p",
            "port 2222",
            "user git",
        ] {
            assert!(said.lines().any(|said| said == line), "{line}\n{said}");
        }
        let rsa = Ssh { known_host_key: "ssh-rsa AAAAB3NzaC1yc2E=", ..remote() };
        assert!(upstream(&rsa, dir.path()).unwrap().settings[0].contains("HostKeyAlgorithms=rsa-sha2-512,"));
        let six = Ssh { host: "2001:db8::7", ..remote() };
        assert_eq!(upstream(&six, dir.path()).unwrap().url, "ssh://git@[2001:db8::7]:2222/o/app.git");
    }

    #[test]
    fn nothing_that_a_shell_or_ssh_would_read_gets_there() {
        let dir = tempfile::tempdir().unwrap();
        let remote = remote();
        for (what, strange) in [
            ("user", Ssh { user: "-oProxyCommand=x", ..remote.clone() }),
            ("user", Ssh { user: "a b", ..remote.clone() }),
            ("host", Ssh { host: "-host", ..remote.clone() }),
            ("host", Ssh { host: "a;b", ..remote.clone() }),
            ("host", Ssh { host: "", ..remote.clone() }),
            ("path", Ssh { path: "o/app.git", ..remote.clone() }),
            ("path", Ssh { path: "/o/$(x)", ..remote.clone() }),
            ("path", Ssh { path: "/o/'x'", ..remote.clone() }),
            ("known host key", Ssh { known_host_key: "", ..remote.clone() }),
            ("known host key", Ssh { known_host_key: "ssh-ed25519", ..remote.clone() }),
            ("known host key", Ssh { known_host_key: "ssh-ed25519 AAAA\n* ssh-rsa BBBB", ..remote.clone() }),
            ("place", Ssh { agent: Path::new("/a b"), ..remote.clone() }),
            ("dialler", Ssh { dial: Some("/a'; x"), ..remote }),
        ] {
            match upstream(&strange, dir.path()) {
                Err(TransportError::Strange(said)) => assert_eq!(said, what),
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}
