//! A forge of the lab's: a real OpenSSH server that runs git for one key, and writes down what it was asked for.

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{KillOnDrop, eventually},
    lab::{Lab, output},
};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";
const NAMESPACE: &str = "bottle-lab";
/// The name that the host has in manifests, and nowhere else.
const HOST: &str = "forge.example";

/// The forge, until it is dropped.
pub(crate) struct Upstream {
    /// Where it is.
    pub(crate) address: Ipv4Addr,
    /// The key that it shows.
    pub(crate) host_key: String,
    dir: TempDir,
    _server: KillOnDrop,
}

impl Upstream {
    /// One repository with a commit and two branches, and a key of that passphrase that opens it.
    pub(crate) fn start(passphrase: &str) -> Result<Self> {
        ensure!(Path::new(SSHD).exists(), "there is no sshd: apt-get install openssh-server");
        let (address, dir) = (Lab::address()?, tempfile::tempdir()?);
        let at = |name: &str| dir.path().join(name);
        keygen(&at("host"), "")?;
        keygen(&at("key"), passphrase)?;
        repository(dir.path())?;
        // What git is asked for is written down first.
        let serve = format!(
            "#!/bin/sh\necho \"$SSH_ORIGINAL_COMMAND\" >>{}\nexec git shell -c \"$SSH_ORIGINAL_COMMAND\"\n",
            at("asked").display()
        );
        fs::write(at("asked"), "")?;
        fs::write(at("serve"), serve)?;
        fs::set_permissions(at("serve"), fs::Permissions::from_mode(0o755))?;
        let public = fs::read_to_string(at("key.pub"))?;
        fs::write(at("authorized"), format!("restrict,command=\"{}\" {public}", at("serve").display()))?;
        let settings = [
            format!("ListenAddress {address}:22"),
            format!("HostKey {}", at("host").display()),
            format!("AuthorizedKeysFile {}", at("authorized").display()),
            "PidFile none".into(),
            "UsePAM no".into(),
            // The test's files stand below a directory that everybody may write to.
            "StrictModes no".into(),
            "PermitRootLogin forced-commands-only".into(),
            "PasswordAuthentication no".into(),
            "KbdInteractiveAuthentication no".into(),
        ];
        fs::write(at("sshd_config"), settings.join("\n") + "\n")?;
        // sshd wants it, and nobody else makes it where no service manager runs.
        fs::create_dir_all("/run/sshd")?;
        let mut server = Command::new("ip");
        server.args(["netns", "exec", NAMESPACE, SSHD, "-D", "-f"]).arg(at("sshd_config"));
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(at("said"))?);
        let server = KillOnDrop(server.spawn()?);
        eventually("sshd listens", || std::net::TcpStream::connect((address, 22)).ok().map(drop))
            .with_context(|| fs::read_to_string(at("said")).unwrap_or_default())?;
        let host_key = fs::read_to_string(at("host.pub"))?;
        let host_key = host_key.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned();
        Ok(Self { address, host_key, dir, _server: server })
    }

    /// The private key's file.
    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    /// A line of the private key.
    pub(crate) fn key_line(&self) -> Result<String> {
        let key = fs::read_to_string(self.key())?;
        Ok(key.lines().nth(3).context("a key of several lines")?.to_owned())
    }

    /// The repository's URL.
    pub(crate) fn url(&self) -> String {
        format!("ssh://root@{HOST}{}", self.repository().display())
    }

    /// The same as people write it.
    pub(crate) fn scp_url(&self) -> String {
        format!("root@{HOST}:{}", self.repository().display())
    }

    /// Where its repositories are: `app.git`, and for somebody else to serve `web.git`.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("app.git")
    }

    /// Git in the repository itself.
    pub(crate) fn git(&self, args: &[&str]) -> Result<String> {
        git(&self.repository(), args)
    }

    /// The commands that the server has run.
    pub(crate) fn asked(&self) -> Result<Vec<String>> {
        Ok(fs::read_to_string(self.dir.path().join("asked"))?.lines().map(str::to_owned).collect())
    }

    /// How often somebody came to push.
    pub(crate) fn pushes(&self) -> Result<usize> {
        Ok(self.asked()?.iter().filter(|asked| asked.starts_with("git-receive-pack ")).count())
    }
}

fn keygen(file: &Path, passphrase: &str) -> Result<()> {
    let mut keygen = Command::new("ssh-keygen");
    output(keygen.args(["-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f"]).arg(file)).map(drop)
}

fn repository(dir: &Path) -> Result<()> {
    git(dir, &["init", "-q", "-b", "main", "work"])?;
    let work = dir.join("work");
    fs::write(work.join("README"), "read me\n")?;
    for args in [&["add", "-A"][..], &["commit", "-q", "-m", "first"], &["branch", "other"]] {
        git(&work, args)?;
    }
    git(dir, &["clone", "-q", "--bare", "work", "web.git"])?;
    git(dir, &["clone", "-q", "--bare", "work", "app.git"]).map(drop)
}

fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    let who = [("AUTHOR", "NAME"), ("AUTHOR", "EMAIL"), ("COMMITTER", "NAME"), ("COMMITTER", "EMAIL")];
    git.envs(who.map(|(who, what)| (format!("GIT_{who}_{what}"), "somebody")));
    output(git.args(args).current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1"))
}
