//! A private key of the host's for ssh: looked at before the y/N, read and unlocked after it. Its bytes go to the sidecar
//! and nowhere else.

use crate::{
    signals::Cancellation,
    ui::{self, hinted},
};
use anyhow::{Context, Result, bail, ensure};
use bottle_api::Secret;
use rustix::{fs::OFlags, process::geteuid};
use ssh_key::PrivateKey;
use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// No key is longer.
const MAX_BYTES: usize = 64 << 10;
/// How often a passphrase is asked for.
const TRIES: usize = 3;

/// A key's file.
pub struct KeyFile {
    path: PathBuf,
    /// As the manifest has it.
    pub shown: String,
    /// It has a passphrase.
    pub encrypted: bool,
}

impl KeyFile {
    /// Looks at it: is it a private key, and nobody else's to read? What was read is forgotten again.
    pub fn look(path: PathBuf, shown: &str) -> Result<Self> {
        let encrypted = is_encrypted(&read(&path)?)?;
        Ok(Self { path, shown: shown.into(), encrypted })
    }

    /// Reads it, and where it has a passphrase asks for that until it is the right one.
    pub fn unlock(&self, cancel: &Cancellation) -> Result<(Secret, Option<Secret>)> {
        let bytes = read(&self.path).with_context(|| format!("read the key {}", self.shown))?;
        ensure!(is_encrypted(&bytes)? == self.encrypted, "the key {} is not the one that was there before", self.shown);
        let passphrase = self.encrypted.then(|| self.ask(&bytes, cancel)).transpose()?;
        Ok((Secret::new(&bytes[..]), passphrase))
    }

    fn ask(&self, bytes: &[u8], cancel: &Cancellation) -> Result<Secret> {
        let key = parse(bytes)?;
        for _ in 0..TRIES {
            let passphrase = ui::ask_secret(&format!("passphrase of {}", self.shown), cancel)?;
            if key.decrypt(passphrase.as_bytes()).is_ok() {
                return Ok(Secret::new(passphrase.as_bytes()));
            }
            ui::say(format!("that is not the passphrase of {}", self.shown));
        }
        bail!("the key {} was not unlocked", self.shown)
    }
}

/// The bytes of a file that nobody else may read: ssh itself takes no other.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    // A pipe would be waited for.
    let nonblock = OFlags::NONBLOCK.bits() as i32;
    let file = match File::options().read(true).custom_flags(nonblock).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let hint = "Name the file of a private key, or make one: ssh-keygen -t ed25519 -f FILE";
            return Err(hinted("it is not there", hint));
        }
        file => file?,
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(hinted("it is no file", "Name the file of a private key."));
    }
    let mode = about.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(hinted(
            format!("others may use it, its mode is {mode:04o}"),
            format!("chmod 600 {}", path.display()),
        ));
    }
    if ![0, geteuid().as_raw()].contains(&about.uid()) {
        return Err(hinted(format!("it belongs to the user {}", about.uid()), "Name a key of your own."));
    }
    // With room for all of it: what has grown would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    file.take(MAX_BYTES as u64).read_to_end(&mut bytes)?;
    ensure!(bytes.len() < MAX_BYTES, "it has more than {} KiB, and no key has", MAX_BYTES >> 10);
    Ok(bytes)
}

/// Has a private key a passphrase? What is none is an error.
fn is_encrypted(bytes: &[u8]) -> Result<bool> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim_start();
    let kind = text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----")).map(|(kind, _)| kind);
    match kind {
        Some("OPENSSH PRIVATE KEY") => Ok(parse(bytes)?.is_encrypted()),
        Some(kind) if kind == "ENCRYPTED PRIVATE KEY" || text.contains("\nProc-Type: 4,ENCRYPTED") => Err(hinted(
            "its passphrase cannot be checked here: it is encrypted in an older format",
            "Write it in OpenSSH's own, with the same passphrase or another: ssh-keygen -p -f FILE",
        )),
        Some("PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY") => Ok(false),
        None if text.starts_with("ssh-") || text.starts_with("ecdsa-") => {
            Err(hinted("it is a public key", "Name the private key's file, which has the same name without `.pub`."))
        }
        _ => Err(hinted("it is no private key", "Name the file that `ssh-keygen` made: ~/.ssh/id_ed25519 say.")),
    }
}

fn parse(bytes: &[u8]) -> Result<PrivateKey> {
    PrivateKey::from_openssh(bytes).map_err(|_| {
        hinted("it is a damaged private key", "Does `ssh-keygen -y -f FILE` read it? Name another, or make one.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    /// A key of `ssh-keygen`'s.
    fn make(file: &Path, arguments: &[&str]) {
        let mut keygen = Command::new("ssh-keygen");
        let made = keygen.args(["-q", "-C", "", "-f"]).arg(file).args(arguments).output();
        let made = made.expect("ssh-keygen is missing: apt-get install openssh-client");
        assert!(made.status.success(), "{made:?}");
    }

    #[test]
    fn a_key_is_looked_at_before_anybody_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        for (arguments, expected) in [
            (&["-t", "ed25519", "-N", ""][..], Ok(false)),
            (&["-t", "ed25519", "-N", "a passphrase"], Ok(true)),
            (&["-t", "ecdsa", "-N", "a passphrase"], Ok(true)),
            (&["-t", "rsa", "-b", "2048", "-N", "a passphrase"], Ok(true)),
            (&["-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"], Ok(false)),
            (&["-t", "ecdsa", "-N", "", "-m", "PKCS8"], Ok(false)),
            (&["-t", "rsa", "-b", "2048", "-N", "a passphrase", "-m", "PEM"], Err("older format")),
            (&["-t", "ecdsa", "-N", "a passphrase", "-m", "PKCS8"], Err("older format")),
        ] {
            make(&file, arguments);
            match (KeyFile::look(file.clone(), "~/key"), expected) {
                (Ok(key), Ok(encrypted)) => assert_eq!(key.encrypted, encrypted, "{arguments:?}"),
                (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{arguments:?}: {error}"),
                (Ok(_), Err(why)) => panic!("{arguments:?}: not {why}"),
                (Err(error), Ok(_)) => panic!("{arguments:?}: {error}"),
            }
            // Its other half.
            let public = file.with_extension("pub");
            fs::set_permissions(&public, fs::Permissions::from_mode(0o600)).unwrap();
            let error = KeyFile::look(public.clone(), "~/key.pub").map(drop).unwrap_err();
            assert!(error.to_string().contains("public key"), "{error}");
            [file.as_path(), &public].into_iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    }

    #[test]
    fn only_its_own_passphrase_opens_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        make(&file, &["-t", "ed25519", "-N", "a passphrase"]);
        let key = parse(&read(&file).unwrap()).unwrap();
        assert!(key.decrypt("a passphrase").is_ok());
        for wrong in ["", "a passphras", "A passphrase", "a passphrase "] {
            assert!(key.decrypt(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_others_may_use_and_what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        for (mode, text, why) in [
            (0o644, "", "its mode is 0644"),
            (0o620, "", "its mode is 0620"),
            (0o601, "", "its mode is 0601"),
            (0o600, "", "no private key"),
            (0o600, "hello", "no private key"),
            (0o600, "-----BEGIN CERTIFICATE-----\n", "no private key"),
            (0o600, "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
            (0o600, &"x".repeat(MAX_BYTES), "64 KiB"),
        ] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = KeyFile::look(file.clone(), "~/key").map(drop).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{why}: {error:#}");
        }
        for (path, why) in [(dir.path().join("none"), "not there"), (dir.path().into(), "no file")] {
            let error = KeyFile::look(path, "~/key").map(drop).unwrap_err();
            assert!(error.to_string().contains(why), "{error:#}");
        }
    }
}
