//! A real OpenSSH server: one key opens it, and it writes down what it is asked to run.

use crate::work::{output, said};
use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    net::{IpAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const PROGRAM: &str = "/usr/sbin/sshd";
/// Where it insists on a directory of its own.
const SEPARATION: &str = "/run/sshd";
const START_TIME: Duration = Duration::from_secs(20);

/// It ends with this.
pub(crate) struct Sshd {
    child: Child,
    dir: PathBuf,
    /// The host's public key: `TYPE BASE64`.
    pub(crate) host_key: String,
    /// The key that it lets in, as its file has it.
    pub(crate) key: String,
}

impl Sshd {
    /// On port 22 of that address, in the calling thread's network. The key has that passphrase.
    pub(crate) fn start(dir: &Path, address: IpAddr, passphrase: &str) -> Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing; run `cargo xtask setup`");
        fs::create_dir_all(SEPARATION)?;
        for (name, passphrase) in [("host", ""), ("user", passphrase)] {
            let file = dir.join(name);
            // One round: every remote of a test opens it anew.
            let words = ["-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-f"];
            output(Command::new("ssh-keygen").args(words).arg(file))?;
        }
        let public = |name: &str| -> Result<String> {
            let text = fs::read_to_string(dir.join(name).with_extension("pub"))?;
            Ok(text.split(' ').take(2).collect::<Vec<_>>().join(" "))
        };
        fs::write(dir.join("authorized"), public("user")?)?;
        let asked = dir.join("asked");
        fs::write(&asked, "")?;
        let shell = dir.join("shell");
        let script = format!(
            "#!/bin/sh\necho \"$SSH_ORIGINAL_COMMAND\" >> {}\neval \"$SSH_ORIGINAL_COMMAND\"\n",
            asked.display()
        );
        fs::write(&shell, script)?;
        fs::set_permissions(&shell, fs::Permissions::from_mode(0o755))?;
        let config = format!(
            "ListenAddress {address}\nPort 22\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nForceCommand {dir}/shell\nAcceptEnv GIT_PROTOCOL\nMaxStartups 100\n\
             SetEnv PATH={path} HOME={dir}\n",
            dir = dir.display(),
            path = std::env::var("PATH")?,
        );
        fs::write(dir.join("config"), config)?;
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new(PROGRAM);
        command.args(["-D", "-e", "-f"]).arg(dir.join("config")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().context("run sshd")?;
        let began = Instant::now();
        while TcpStream::connect((address, 22)).is_err() {
            let ended = child.try_wait()?.is_some() || began.elapsed() > START_TIME;
            ensure!(!ended, "sshd does not listen: {}", fs::read_to_string(dir.join("log"))?);
            thread::sleep(Duration::from_millis(10));
        }
        let (host_key, key) = (public("host")?, fs::read_to_string(dir.join("user"))?);
        Ok(Self { child, dir: dir.to_owned(), host_key, key })
    }

    /// All that it was asked to run, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.dir.join("asked")).unwrap_or_default();
        asked.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    /// A further public key, which is nobody's.
    pub(crate) fn another_key(&self) -> Result<String> {
        let file = self.dir.join("other");
        said(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file));
        let text = fs::read_to_string(file.with_extension("pub"))?;
        Ok(text.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
