//! A test's world: a network of its own with a sidecar, an OpenSSH server and a forge, and a repository behind each.

use crate::{
    forge::{Forge, TOKEN},
    names::Names,
    sshd::Sshd,
    work::{SECRET, Work, git, numbers},
};
use anyhow::{Context, Result, anyhow, ensure};
use bottle_policy::{
    EnvSecret, GitHttps, GitLimits, GitRemote, GitSsh, GitUpstream, Policy, message::LogLine, push::PushRules,
};
use bottle_tests::{
    bottle::eventually,
    netns::Namespace,
    sidecar::{CAPABILITY, Sidecar},
    wire::Authority,
};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

const SIDECAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
pub(crate) const SSH: (&str, &str) = ("git.example", "203.0.113.20");
pub(crate) const FORGE: (&str, &str) = ("forge.example", "203.0.113.21");
/// A host that is where nobody may go.
pub(crate) const PRIVATE: (&str, &str) = ("private.example", "10.1.2.3");
pub(crate) const PASSPHRASE: &str = "pass phrase of 4 words";

pub(crate) struct World {
    pub(crate) sidecar: Sidecar,
    pub(crate) sshd: Sshd,
    pub(crate) forge: Forge,
    pub(crate) policy: Policy,
    root: TempDir,
    pub(crate) names: Names,
}

/// Makes a world, and has a test run in it. `change` may give it other remotes; it sees the usual ones, `app` over ssh and
/// `web` over https.
pub(crate) fn hold(
    change: impl FnOnce(&mut Vec<GitRemote>, &Sshd) -> Result<()> + Send,
    test: impl FnOnce(&mut World) -> Result<()> + Send,
) -> Result<()> {
    let net = Namespace::new()?;
    net.run(|| {
        let mut world = World::new(change)?;
        test(&mut world)
    })
}

pub(crate) fn usual(_: &mut Vec<GitRemote>, _: &Sshd) -> Result<()> {
    Ok(())
}

impl World {
    fn new(change: impl FnOnce(&mut Vec<GitRemote>, &Sshd) -> Result<()>) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("gitgate-").tempdir()?;
        // Like the bottle's own, so that another user's git looks at it.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        for dir in ["sshd", "mirrors", "seed"] {
            fs::create_dir(root.path().join(dir))?;
        }
        let known = [SSH, FORGE, PRIVATE].into_iter().map(|(host, at)| Ok((host, vec![vec![at.parse()?]])));
        let names = Names::start(known.collect::<Result<BTreeMap<_, _>>>()?)?;
        let resolver = root.path().join("resolv.conf");
        fs::write(&resolver, format!("nameserver {}\noptions timeout:2 attempts:1\n", crate::names::RESOLVER))?;
        let authority = Authority::new()?;
        seed(root.path())?;
        let forge = Forge::start(&authority, root.path(), FORGE.1.parse()?, FORGE.0)?;
        let sshd = Sshd::start(&root.path().join("sshd"), SSH.1.parse()?, PASSPHRASE)?;
        let mut git = vec![app(root.path(), &sshd), web()];
        change(&mut git, &sshd)?;
        let mut policy = Policy { git, upstream_ca_pem: Some(authority.pem.clone()), ..Policy::default() };
        policy.scan.env = vec![EnvSecret { name: "TOKEN".into(), secret: "env:TOKEN".into(), hosts: vec![] }];
        policy.check().map_err(|why| anyhow!(why))?;
        let secrets = [
            ("git:key", sshd.key.as_str()),
            ("git:passphrase", PASSPHRASE),
            ("git:token", TOKEN),
            ("git:expired", "an-expired-token-9Xw2"),
            ("env:TOKEN", SECRET),
        ];
        let mirrors = root.path().join("mirrors");
        let sidecar = Sidecar::start_beside(SIDECAR, &policy, Some(&resolver), &secrets, Some(&mirrors))?;
        Ok(Self { sidecar, sshd, forge, policy, root, names })
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// As the agent's git is told it.
    pub(crate) fn url(&self, remote: &str) -> String {
        format!("git://{SIDECAR}/{CAPABILITY}/{remote}.git")
    }

    /// Refs of an upstream repository.
    pub(crate) fn refs(&self, repository: &str) -> String {
        self.at(repository, &["for-each-ref", "--format=%(refname) %(objectname)"])
    }

    /// Runs git in an upstream repository.
    pub(crate) fn at(&self, repository: &str, args: &[&str]) -> String {
        let said = git(&self.path(repository), args);
        assert!(said.ok, "{repository}: git {args:?}: {}", said.text);
        said.text.trim_end().to_owned()
    }

    /// Somebody else commits to an upstream repository.
    pub(crate) fn upstream_gets(&self, repository: &str, file: &str) {
        let dir = self.path(&format!("other-{repository}"));
        let run = |dir: &Path, args: &[&str]| {
            let said = git(dir, args);
            assert!(said.ok, "{}", said.text);
        };
        if !dir.exists() {
            run(self.root(), &["clone", "-q", repository, dir.to_str().unwrap()]);
        }
        fs::write(dir.join(file), "x\n").unwrap();
        run(&dir, &["pull", "-q", "--rebase", "--autostash"]);
        run(&dir, &["add", "-A"]);
        run(&dir, &["commit", "-q", "-m", file]);
        run(&dir, &["push", "-q", "origin", "HEAD:main"]);
    }

    /// An upstream repository's answer to pushes from now on: a shell script.
    pub(crate) fn upstream_says(&self, repository: &str, script: &str) {
        let hook = self.path(repository).join("hooks/pre-receive");
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(hook, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// How often somebody asked an upstream to take a push.
    pub(crate) fn push_attempts(&self) -> usize {
        let pushes = |asked: Vec<String>| asked.iter().filter(|line| line.contains("git-receive-pack")).count();
        pushes(self.sshd.asked()) + pushes(self.forge.asked())
    }

    /// Waits for a line of the log.
    pub(crate) fn logged(&self, what: &str, is_it: impl Fn(&LogLine) -> bool) -> Result<LogLine> {
        let line =
            eventually(what, || self.sidecar.log().into_iter().find(|line| line.daemon == "git-gate" && is_it(line)));
        line.with_context(|| format!("{:#?}", self.sidecar.log()))
    }
}

/// Two upstream repositories with the same beginning.
fn seed(root: &Path) -> Result<()> {
    let run = |dir: &Path, args: &[&str]| {
        let said = git(dir, args);
        ensure!(said.ok, "git {args:?}: {}", said.text);
        Ok(())
    };
    let dir = root.join("seed");
    run(&dir, &["init", "-q", "-b", "main", "."])?;
    fs::write(dir.join("base.txt"), "base\n")?;
    fs::write(dir.join("large.txt"), numbers(4000))?;
    run(&dir, &["add", "-A"])?;
    run(&dir, &["commit", "-q", "-m", "base"])?;
    for name in ["app.git", "web.git"] {
        run(root, &["clone", "-q", "--bare", "seed", name])?;
    }
    Ok(())
}

fn rules() -> PushRules {
    let allow_refs = ["refs/heads/*", "refs/tags/*", "refs/notes/*"].map(str::to_owned).into();
    PushRules { allow_refs, allow_delete: false, allow_force: false }
}

fn remote(name: &str, upstream: GitUpstream) -> GitRemote {
    let limits = GitLimits { seconds: 120, ..GitLimits::default() };
    GitRemote { name: name.into(), upstream, push: rules(), address: None, allow_private: false, limits }
}

fn app(root: &Path, sshd: &Sshd) -> GitRemote {
    let upstream = GitSsh {
        user: "root".into(),
        host: SSH.0.into(),
        port: 22,
        path: root.join("app.git").to_string_lossy().into_owned(),
        known_host_key: sshd.host_key.clone(),
        key: "git:key".into(),
        passphrase: Some("git:passphrase".into()),
    };
    remote("app", GitUpstream::Ssh(upstream))
}

fn web() -> GitRemote {
    let (host, path, token) = (FORGE.0.into(), "/web.git".into(), Some("git:token".into()));
    remote("web", GitUpstream::Https(GitHttps { host, port: 443, path, token }))
}

/// A clone that a table's rows are copies of.
pub(crate) fn template(world: &World, remote: &str) -> Result<Work> {
    Work::clone(world, remote, &format!("template-{remote}"), &[])
}
