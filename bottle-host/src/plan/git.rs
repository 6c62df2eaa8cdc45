//! The `git` entries of a bottle: what the sidecar is told of each remote, which secrets open it, and the configuration by
//! which the agent's git comes to the gate.

use super::{host_variable, key::KeyFile, policy::route_secret};
use crate::{
    manifest::{Bottle, GitEntry, Step, Transport, Upstream},
    paths::Paths,
    signals::Cancellation,
    ui::{self, hinted},
};
use anyhow::{Context, Result};
use bottle_api::{FileEntry, HOME, Secret, control::GIT_GATE_DAEMON, secret::Secrets};
use bottle_policy::{GitHttps, GitLimits, GitRemote, GitSsh, GitUpstream, push::PushRules};

/// Where the agent's git finds the gate; the capability is in it.
const CONFIG_PATH: &str = "/home/agent/.bottle/gitconfig";

/// The keys of a bottle's remotes, each once.
#[derive(Default)]
pub struct Keys(Vec<KeyFile>);

/// The remotes as the policy document has them, and the keys that open them.
pub fn resolve(paths: &Paths, bottle: &Bottle) -> Result<(Vec<GitRemote>, Keys)> {
    let (mut remotes, mut keys) = (vec![], Keys::default());
    for (i, entry) in bottle.git.iter().enumerate() {
        let place = |key| bottle.place(paths, &[Step::Key("git"), Step::Index(i), Step::Key(key)]);
        if let Some(name) = entry.token_ref.as_ref().filter(|name| host_variable(name).is_none()) {
            return Err(hinted(
                format!("{}: the variable {name} is not set on this machine", place("TokenRef")),
                format!(
                    "export {name}=…, or take `TokenRef` out: the agent then reads what everybody may, and pushes nothing."
                ),
            ));
        }
        let key = match &entry.identity_file {
            Some(file) => {
                let at = || format!("{}: the IdentityFile {}", place("IdentityFile"), ui::printable(file));
                Some(keys.look(paths, file).with_context(at)?)
            }
            None => None,
        };
        remotes.push(remote(entry, key)?);
    }
    Ok((remotes, keys))
}

fn remote(entry: &GitEntry, key: Option<&KeyFile>) -> Result<GitRemote> {
    let Upstream { transport, host, port, path } = entry.upstream.clone();
    let upstream = match transport {
        Transport::Ssh(user) => {
            let key = key.context("an ssh remote has a key")?;
            GitUpstream::Ssh(GitSsh {
                user,
                host,
                port: port.unwrap_or(22),
                path,
                known_host_key: entry.known_host_key.clone().context("an ssh remote has a known host key")?,
                key: key_secret(key),
                passphrase: key.encrypted.then(|| passphrase_secret(key)),
            })
        }
        Transport::Https => {
            let token = entry.token_ref.as_deref().map(route_secret);
            GitUpstream::Https(GitHttps { host, port: port.unwrap_or(443), path, token })
        }
    };
    Ok(GitRemote {
        name: entry.name.clone(),
        upstream,
        push: PushRules {
            allow_refs: entry.allow_refs.clone(),
            allow_delete: entry.allow_delete,
            allow_force: entry.allow_force,
        },
        address: entry.address,
        allow_private: entry.allow_private,
        limits: GitLimits::default(),
    })
}

/// What of a bottle's remotes is weaker than the default.
pub fn warnings(bottle: &Bottle) -> Vec<String> {
    let of = |entry: &GitEntry| {
        let GitEntry { name, upstream, .. } = entry;
        [
            entry.allow_force.then(|| format!("a push to {name} may take commits away from a branch, and move a tag")),
            entry.allow_delete.then(|| format!("a push to {name} may delete branches and tags")),
            entry.address.map(|address| format!("{} is dialled at {address} for {name}", upstream.host)),
            entry.allow_private.then(|| format!("{} may be at a private address, for {name}", upstream.host)),
        ]
    };
    bottle.git.iter().flat_map(of).flatten().collect()
}

/// The names of a key, and of its passphrase, among the sidecar's secrets.
fn key_secret(key: &KeyFile) -> String {
    format!("ssh-key:{}", key.shown)
}

fn passphrase_secret(key: &KeyFile) -> String {
    format!("ssh-passphrase:{}", key.shown)
}

impl Keys {
    /// Looks at a key's file, which several remotes may share.
    fn look(&mut self, paths: &Paths, file: &str) -> Result<&KeyFile> {
        let at = match self.0.iter().position(|key| key.shown == file) {
            Some(at) => at,
            None => {
                self.0.push(KeyFile::look(paths.expand(file), file)?);
                self.0.len() - 1
            }
        };
        self.0.get(at).context("a key that was looked at")
    }

    /// Those whose passphrase will be asked for.
    pub fn asked(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|key| key.encrypted).map(|key| key.shown.as_str())
    }

    /// Reads all of them, and asks for what opens them: after the y/N only.
    pub fn add_to(&self, secrets: &mut Secrets, cancel: &Cancellation) -> Result<()> {
        for key in &self.0 {
            let (bytes, passphrase) = key.unlock(cancel)?;
            secrets.insert(key_secret(key), bytes);
            if let Some(passphrase) = passphrase {
                secrets.insert(passphrase_secret(key), passphrase);
            }
        }
        Ok(())
    }
}

/// `~/.gitconfig`, as far as it may be known before the y/N: whose commits they are, and where the rest stands.
pub fn config(bottle: &Bottle, user: Option<String>) -> Option<FileEntry> {
    let rest = (!bottle.git.is_empty()).then(|| format!("[include]\n\tpath = {CONFIG_PATH}\n"));
    let text = [user, rest].into_iter().flatten().collect::<String>();
    (!text.is_empty()).then(|| FileEntry::agent(format!("{HOME}/.gitconfig"), text))
}

/// The rest: every spelling of an upstream leads to the gate. The capability is a secret, which no plan may hold, so the
/// host puts this file into the bottle once that runs.
pub fn gate_config(remotes: &[GitRemote], capability: &Secret) -> Option<FileEntry> {
    let capability = capability.expose_str().filter(|_| !remotes.is_empty())?;
    let section = |remote: &GitRemote| {
        let at = format!("git://{GIT_GATE_DAEMON}/{capability}/{}.git", remote.name);
        let lines = spellings(&remote.upstream).into_iter().map(|url| format!("\tinsteadOf = {url}\n"));
        format!("[url \"{at}\"]\n{}", lines.collect::<String>())
    };
    let text: String = remotes.iter().map(section).collect();
    Some(FileEntry::agent(CONFIG_PATH, text).own_parents(1))
}

/// The ways to write an upstream's URL.
fn spellings(upstream: &GitUpstream) -> Vec<String> {
    let host = upstream.host();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let (begin, usual) = match upstream {
        GitUpstream::Ssh(ssh) => (format!("ssh://{}@{host}", ssh.user), 22),
        GitUpstream::Https(_) => (format!("https://{host}"), 443),
    };
    let mut begins = vec![format!("{begin}:{}", upstream.port())];
    if upstream.port() == usual {
        begins.push(begin);
        if let GitUpstream::Ssh(ssh) = upstream {
            // `user@host:path` begins in the user's home, which for a forge is the root of all.
            begins.push(format!("{}@{host}:", ssh.user));
        }
    }
    let bare = upstream.path().strip_suffix(".git").unwrap_or(upstream.path());
    let paths = [format!("{bare}.git"), bare.to_owned()];
    let all = |begin: &String| {
        let is_short = begin.ends_with(':');
        let spelled = |path: &String| {
            let relative = is_short.then(|| format!("{begin}{}", path.trim_start_matches('/')));
            [Some(format!("{begin}{path}")), relative]
        };
        paths.iter().flat_map(spelled).flatten().collect::<Vec<_>>()
    };
    begins.iter().flat_map(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::bottle_from;
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    const CAPABILITY: &str = "0123456789abcdef";

    fn remotes(home: &std::path::Path, yaml: &str) -> (Vec<GitRemote>, Keys) {
        let paths = Paths { home: home.into(), cwd: "/".into() };
        let found = resolve(&paths, &bottle_from(&yaml.replace("HOST_KEY", HOST_KEY)));
        found.unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn keygen(file: &std::path::Path, passphrase: &str) {
        let mut keygen = Command::new("ssh-keygen");
        let made = keygen.args(["-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f"]).arg(file).output();
        let made = made.expect("ssh-keygen is missing: apt-get install openssh-client");
        assert!(made.status.success(), "{made:?}");
    }

    #[test]
    fn entries_become_remotes_and_each_key_is_there_once() {
        let home = tempfile::tempdir().unwrap();
        keygen(&home.path().join("plain"), "");
        keygen(&home.path().join("locked"), "a passphrase");
        let (remotes, keys) = remotes(
            home.path(),
            "git:\n\
             - {Name: a, Upstream: 'ssh://git@Forge.example/o/a.git', IdentityFile: ~/plain, KnownHostKey: HOST_KEY}\n\
             - {name: b, upstream: 'ssh://me@forge.example:2222/b', identity_file: ~/locked, known_host_key: HOST_KEY,\n   \
                allow_refs: [refs/heads/agent/*], allow_force: true}\n\
             - {Name: c, Upstream: 'ssh://git@forge.example/o/c', IdentityFile: ~/plain, KnownHostKey: HOST_KEY}\n\
             - {Name: d, Upstream: 'https://forge.example/o/d', TokenRef: HOME, address: 10.1.2.3, allow_private: true,\n   \
                allow_delete: true}\n\
             - {Name: e, Upstream: 'https://forge.example:8443/o/e'}",
        );
        let policy = bottle_policy::Policy { git: remotes.clone(), ..bottle_policy::Policy::default() };
        policy.check().unwrap();
        let shown = |remote: &GitRemote| match &remote.upstream {
            GitUpstream::Ssh(ssh) => format!(
                "{} ssh {}@{}:{}{} {} {:?}",
                remote.name, ssh.user, ssh.host, ssh.port, ssh.path, ssh.key, ssh.passphrase
            ),
            GitUpstream::Https(https) => {
                format!("{} https {}:{}{} {:?}", remote.name, https.host, https.port, https.path, https.token)
            }
        };
        let expected = [
            "a ssh git@forge.example:22/o/a.git ssh-key:~/plain None",
            r#"b ssh me@forge.example:2222/b ssh-key:~/locked Some("ssh-passphrase:~/locked")"#,
            "c ssh git@forge.example:22/o/c ssh-key:~/plain None",
            r#"d https forge.example:443/o/d Some("$HOME")"#,
            "e https forge.example:8443/o/e None",
        ];
        assert_eq!(remotes.iter().map(shown).collect::<Vec<_>>(), expected);
        let rules = |at: usize| {
            let PushRules { allow_refs, allow_delete, allow_force } = &remotes[at].push;
            (allow_refs.join(" "), *allow_delete, *allow_force)
        };
        let usual = "refs/heads/* refs/tags/*".to_owned();
        assert_eq!(rules(0), (usual.clone(), false, false));
        assert_eq!(rules(1), ("refs/heads/agent/*".into(), false, true));
        assert_eq!(rules(3), (usual, true, false));
        assert_eq!((remotes[3].address, remotes[3].allow_private), (Some([10, 1, 2, 3].into()), true));
        assert_eq!((remotes[0].address, remotes[0].allow_private), (None, false));
        assert_eq!((keys.0.len(), keys.asked().collect::<Vec<_>>()), (2, vec!["~/locked"]));
    }

    #[test]
    fn what_opens_a_remote_must_be_there_before_the_launch() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        keygen(&home.path().join("open"), "");
        fs::set_permissions(home.path().join("open"), fs::Permissions::from_mode(0o640)).unwrap();
        for (entry, why) in [
            ("Upstream: 'https://f.example/o', TokenRef: BOTTLE_TEST_NOT_SET", "BOTTLE_TEST_NOT_SET is not set"),
            (
                "Upstream: 'ssh://g@f.example/o', IdentityFile: ~/none, KnownHostKey: HOST_KEY",
                "~/none: it is not there",
            ),
            ("Upstream: 'ssh://g@f.example/o', IdentityFile: ~/open, KnownHostKey: HOST_KEY", "its mode is 0640"),
        ] {
            let yaml = format!("git: [{{Name: a, {}}}]", entry.replace("HOST_KEY", HOST_KEY));
            let Err(error) = resolve(&paths, &bottle_from(&yaml)) else { panic!("{entry}") };
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }

    #[test]
    fn git_itself_goes_to_the_gate_by_every_spelling_of_an_upstream() {
        let home = tempfile::tempdir().unwrap();
        keygen(&home.path().join("key"), "");
        let yaml = "git:\n\
            - {Name: app, Upstream: 'ssh://git@forge.example/o/app.git', IdentityFile: ~/key, KnownHostKey: HOST_KEY}\n\
            - {Name: odd, Upstream: 'ssh://me@forge.example:2222/odd', IdentityFile: ~/key, KnownHostKey: HOST_KEY}\n\
            - {Name: web, Upstream: 'https://forge.example/o/web'}\n\
            - {Name: six, Upstream: 'https://[2001:db8::7]:8443/o/six.git'}";
        let yaml = yaml.replace("HOST_KEY", HOST_KEY);
        let (remotes, _) = remotes(home.path(), &yaml);
        let file = gate_config(&remotes, &Secret::new(CAPABILITY)).unwrap();
        assert_eq!((file.mode, file.uid, file.path.as_str()), (0o600, bottle_api::AGENT_UID, CONFIG_PATH));
        let included = home.path().join("included");
        fs::write(&included, &file.data).unwrap();
        let user = config(&bottle_from(&yaml), Some("[user]\n\tname = \"A\"\n".into())).unwrap();
        let user = String::from_utf8(user.data).unwrap();
        assert!(!user.contains(CAPABILITY), "a plan holds no secret");
        fs::write(home.path().join(".gitconfig"), user.replace(CONFIG_PATH, included.to_str().unwrap())).unwrap();
        let asked = |url: &str| {
            let mut git = Command::new("git");
            git.args(["ls-remote", "--get-url", url]).env_clear().env("PATH", env!("PATH"));
            let out = git.env("HOME", home.path()).env("GIT_CONFIG_NOSYSTEM", "1").current_dir("/").output();
            String::from_utf8(out.expect("git is missing: apt-get install git").stdout).unwrap().trim_end().to_owned()
        };
        for (url, name) in [
            ("ssh://git@forge.example/o/app.git", Some("app")),
            ("ssh://git@forge.example/o/app", Some("app")),
            ("ssh://git@forge.example:22/o/app.git", Some("app")),
            ("git@forge.example:o/app.git", Some("app")),
            ("git@forge.example:o/app", Some("app")),
            ("git@forge.example:/o/app.git", Some("app")),
            ("ssh://me@forge.example:2222/odd", Some("odd")),
            ("ssh://me@forge.example:2222/odd.git", Some("odd")),
            ("https://forge.example/o/web", Some("web")),
            ("https://forge.example/o/web.git", Some("web")),
            ("https://forge.example:443/o/web.git", Some("web")),
            ("https://[2001:db8::7]:8443/o/six", Some("six")),
            ("ssh://git@forge.example:2222/o/app.git", None),
            ("ssh://other@forge.example/o/app.git", None),
            ("me@forge.example:odd", None),
            ("https://forge.example/o/app.git", None),
            ("https://forge.example/o/other", None),
        ] {
            let expected = name.map_or(url.to_owned(), |name| format!("git://git-gate/{CAPABILITY}/{name}.git"));
            assert_eq!(asked(url), expected, "{url}");
        }
        assert_eq!((gate_config(&[], &Secret::new("x")), config(&bottle_from("{}"), None)), (None, None));
    }
}
