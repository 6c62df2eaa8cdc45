//! The control channel: length-prefixed JSON over a duplex byte stream, the same on every backend.
//!
//! A frame is a big-endian `u32` length and that many bytes of JSON ([`MAX_FRAME`] at most). The first frames
//! have fixed shapes, which a backend must carry at launch: down [`Start`], then [`SecretsFrame`]; up one
//! [`First`]. What follows is between host and sidecar, and opaque to a backend.
//!
//! When the channel closes, the host is dead: the sidecar drops its secrets and refuses everything.
//!
//! To run a bundle a backend starts artifact [`crate::SIDECAR_ARTIFACT`] with [`BUNDLE_ARGUMENT`], the variables
//! [`BIND_ENV`] and [`DAEMONS_ENV`], any user but root, and a network of its own beside the bottle's; then
//! [`handshake`]. Where it can, it starts it as root with [`UIDS_ENV`], so that no daemon shares its user with another.

use crate::secret::{Secret, Secrets};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};
use zeroize::{Zeroize, Zeroizing};

/// Version of the handshake. A sidecar that does not know it refuses.
pub const CONTROL_VERSION: u32 = 1;

/// The longest frame either side accepts, in bytes.
pub const MAX_FRAME: usize = 8 << 20;

/// The byte by which the in-bottle helper says that it is ready for its [`ExecFrame`].
pub const HELPER_READY: u8 = 0x05;

/// A variable by which a backend may mark what it starts as `bottle-helper run`: the program keeps it, so that
/// `bottle-helper signal MARK NUMBER`, run beside it as the same user, finds it.
pub const MARK_ENV: &str = "BOTTLE_PROCESS";

/// The argument that makes artifact [`crate::SIDECAR_ARTIFACT`] a bundle. Its channel is standard input and output.
pub const BUNDLE_ARGUMENT: &str = "bundle";
/// The bundle's variable that says which address it listens on: the bottle's own leg, never another.
pub const BIND_ENV: &str = "CLAUDE_BOTTLE_SIDECAR_BIND";
/// The bundle's variable that lists its daemons, separated by commas (the spec's `daemons`).
pub const DAEMONS_ENV: &str = "CLAUDE_BOTTLE_SIDECAR_DAEMONS";
/// The bundle's variable that names the first of the users that it and its daemons run as, each as one of its own. The
/// bundle is then started as root with the capabilities SETUID, SETGID and SETPCAP and no other; all three and root are
/// given up before it reads anything.
pub const UIDS_ENV: &str = "CLAUDE_BOTTLE_SIDECAR_UIDS";
/// The bundle's variable, where it is given its listeners: the number of a socket from which one message comes with them,
/// those of each daemon of [`DAEMONS_ENV`] in its order, as [`listeners_of`] says. It then binds nothing.
pub const LISTENERS_ENV: &str = "CLAUDE_BOTTLE_SIDECAR_LISTENERS";
/// The proxy, on [`PROXY_PORT`]. Cannot be left out.
pub const EGRESS_DAEMON: &str = "egress";
/// The resolver, on UDP and TCP port 53: the bundle must be allowed to bind it. Cannot be left out.
pub const DNS_DAEMON: &str = "dns";
/// A program of the host's own behind the proxy, [`PIPELOCK_PORT`] on the loopback alone. Optional: it comes over the
/// channel once the bundle serves, and until then nothing passes.
pub const PIPELOCK_DAEMON: &str = "pipelock";
/// The host's repositories, on [`GIT_GATE_PORT`]. Optional.
pub const GIT_GATE_DAEMON: &str = "git-gate";
/// Git's port.
pub const GIT_GATE_PORT: u16 = 9418;
/// The agent's questions to the operator, on [`SUPERVISE_PORT`]. Optional.
pub const SUPERVISE_DAEMON: &str = "supervise";
/// The port of these questions.
pub const SUPERVISE_PORT: u16 = 9100;
/// Pipelock's port.
pub const PIPELOCK_PORT: u16 = 8888;
/// The bundle's variable that names an empty directory, in memory, which the daemon [`PIPELOCK_DAEMON`] owns by its user
/// ([`UIDS_ENV`]: the one after as many as stand before it in [`DAEMONS_ENV`]) and nobody else may enter. Only wanted
/// where that daemon is.
pub const SCRATCH_ENV: &str = "CLAUDE_BOTTLE_SIDECAR_SCRATCH";
/// The bundle's variable that names an empty directory, in memory, for the daemon [`GIT_GATE_DAEMON`] as [`SCRATCH_ENV`] is
/// for pipelock: it keeps its mirrors there. That daemon also needs git and OpenSSH's client in `/usr/local/bin`, `/usr/bin`
/// or `/bin`.
pub const MIRRORS_ENV: &str = "CLAUDE_BOTTLE_SIDECAR_MIRRORS";
/// The proxy's port.
pub const PROXY_PORT: u16 = 9099;

/// A socket of the bottle's own leg that a daemon listens at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Of that port.
    Tcp(u16),
    /// Of that port.
    Udp(u16),
}

/// All that a daemon listens at there; nothing, where it is none that a bottle speaks with.
pub fn listeners_of(daemon: &str) -> &'static [Listener] {
    match daemon {
        EGRESS_DAEMON => &[Listener::Tcp(PROXY_PORT)],
        DNS_DAEMON => &[Listener::Udp(53), Listener::Tcp(53)],
        GIT_GATE_DAEMON => &[Listener::Tcp(GIT_GATE_PORT)],
        SUPERVISE_DAEMON => &[Listener::Tcp(SUPERVISE_PORT)],
        _ => &[],
    }
}

/// Names by which a bottle knows its sidecar, and the only ones that its resolver answers.
pub const SIDECAR_NAMES: [&str; 4] = ["egress", "git-gate", "supervise", "sidecar"];
/// The secret that every daemon of a bottle asks for: the proxy's password.
pub const CAPABILITY: &str = "capability";

/// First frame down: what the bundle is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// [`CONTROL_VERSION`] of the sender.
    pub version: u32,
    /// The policy document: rendered by the host, parsed by the sidecar, opaque to everybody between.
    pub policy: serde_json::Value,
}

/// Second frame down: every injected credential and the bottle's capability, by name, base64 of the bytes.
#[derive(Serialize, Deserialize)]
pub struct SecretsFrame {
    /// Name → base64 of the bytes.
    pub secrets: BTreeMap<String, String>,
}

impl SecretsFrame {
    /// The frame that carries these secrets, encoded and ready to write; the buffer wipes itself.
    pub fn encode(secrets: &Secrets) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut frame = Self {
            secrets: secrets
                .iter()
                .map(|(name, secret)| (name.to_owned(), BASE64_STANDARD.encode(secret.expose())))
                .collect(),
        };
        let bytes = encode(&frame).map(Zeroizing::new);
        frame.secrets.values_mut().for_each(Zeroize::zeroize);
        bytes
    }

    /// The secrets themselves.
    pub fn decode(mut self) -> io::Result<Secrets> {
        let mut out = Secrets::default();
        for (name, text) in &mut self.secrets {
            let bytes = BASE64_STANDARD
                .decode(text.as_bytes())
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("secret {name} is not base64")))?;
            text.zeroize();
            out.insert(name.clone(), Secret::new(bytes));
        }
        Ok(out)
    }
}

/// First frame up: the bundle serves, or says why it will not.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum First {
    /// Every daemon listens.
    Ready {
        /// The bottle's own certificate authority, PEM. Its key never leaves the bundle.
        ca_pem: String,
    },
    /// The bundle will not serve; it ends after this frame.
    Refused {
        /// Why, in one line.
        message: String,
    },
}

/// What the in-bottle helper reads from its standard input once it has said [`HELPER_READY`]: the program to
/// become. The environment travels here and not in the engine's exec request, so that no engine ever stores it.
#[derive(Serialize, Deserialize)]
pub struct ExecFrame {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment, base64 of the bytes of each value.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
}

/// One value as a frame, length first.
pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, value)?;
    let len = out.len() - 4;
    if len > MAX_FRAME {
        return Err(too_long(len));
    }
    out[..4].copy_from_slice(&(len as u32).to_be_bytes());
    Ok(out)
}

/// The length that a frame's first four bytes announce, checked against [`MAX_FRAME`].
pub fn frame_len(prefix: [u8; 4]) -> io::Result<usize> {
    match u32::from_be_bytes(prefix) as usize {
        len if len <= MAX_FRAME => Ok(len),
        len => Err(too_long(len)),
    }
}

/// Writes one frame.
pub fn write_frame<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    to.write_all(&encode(value)?)?;
    to.flush()
}

/// Reads one frame and nothing beyond it. `None` where the stream ends between two frames.
pub fn read_frame<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match from.read(&mut prefix)? {
        0 => return Ok(None),
        n => from.read_exact(&mut prefix[n..])?,
    }
    let mut body = Zeroizing::new(vec![0; frame_len(prefix)?]);
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// What a backend does as soon as the bundle runs: sends policy and secrets, and waits for the answer.
pub fn handshake(channel: &mut (impl Read + Write), policy: serde_json::Value, secrets: &Secrets) -> io::Result<First> {
    let secrets = SecretsFrame::encode(secrets)?;
    let written = write_frame(channel, &Start { version: CONTROL_VERSION, policy })
        .and_then(|()| channel.write_all(&secrets))
        .and_then(|()| channel.flush());
    // One that refuses the policy does not wait for the secrets.
    match (read_frame(channel), written) {
        (Ok(Some(first)), _) => Ok(first),
        (_, Err(error)) | (Err(error), Ok(())) => Err(error),
        (Ok(None), Ok(())) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sidecar ended")),
    }
}

fn too_long(len: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("control frame of {len} bytes, {MAX_FRAME} allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_daemon_that_a_bottle_speaks_with_listens_and_at_no_port_of_another() {
        let ports = |daemon| listeners_of(daemon).iter().map(|listener| format!("{listener:?}")).collect::<Vec<_>>();
        for (daemon, expected) in [
            (EGRESS_DAEMON, &["Tcp(9099)"][..]),
            (DNS_DAEMON, &["Udp(53)", "Tcp(53)"]),
            (GIT_GATE_DAEMON, &["Tcp(9418)"]),
            (SUPERVISE_DAEMON, &["Tcp(9100)"]),
            // Behind the proxy, on a loopback that is not the bottle's.
            (PIPELOCK_DAEMON, &[]),
            ("", &[]),
        ] {
            assert_eq!(ports(daemon), expected, "{daemon}");
        }
    }

    #[test]
    fn frames_follow_one_another() {
        let mut wire = encode(&"one").unwrap();
        wire.extend(encode(&2).unwrap());
        let mut from = &wire[..];
        assert_eq!(read_frame::<String>(&mut from).unwrap().as_deref(), Some("one"));
        assert_eq!(read_frame::<u8>(&mut from).unwrap(), Some(2));
        assert_eq!(read_frame::<u8>(&mut from).unwrap(), None);
    }

    #[test]
    fn a_cut_or_endless_frame_is_an_error() {
        let wire = encode(&"cut").unwrap();
        assert!(read_frame::<String>(&mut &wire[..wire.len() - 1]).is_err());
        assert!(read_frame::<String>(&mut &wire[..2]).is_err());
        assert!(read_frame::<String>(&mut &u32::MAX.to_be_bytes()[..]).is_err());
    }

    #[test]
    fn secrets_survive_the_channel_byte_for_byte() {
        let mut secrets = Secrets::default();
        secrets.insert("a", Secret::new(vec![0, 255, b'x']));
        let wire = SecretsFrame::encode(&secrets).unwrap();
        let frame: SecretsFrame = read_frame(&mut &wire[..]).unwrap().unwrap();
        assert_eq!(frame.decode().unwrap().get("a").unwrap().expose(), [0, 255, b'x']);
    }
}
