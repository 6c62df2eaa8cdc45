//! Where the engine is: what the host's variables and Docker's own settings say, in the order of the `docker` command.
//!
//! ```text
//! DOCKER_HOST ─▶ DOCKER_CONTEXT ─▶ currentContext of ~/.docker/config.json ─▶ /var/run/docker.sock
//! ```
//!
//! An engine is root on its machine. So only those are taken that not every neighbour can speak to: a socket with an
//! owner, or TLS with certificates on both sides.

use bottle_api::{Error, ErrorKind, Result, error::Context};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::ErrorKind as IoKind,
    path::{Path, PathBuf},
};

/// The host's variables that say where the engine is.
pub const ENGINE_ENV: &[&str] =
    &["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "HOME"];
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const TLS_PORT: u16 = 2376;

/// An engine's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, by its absolute path.
    Socket(PathBuf),
    /// TCP, with TLS on both sides.
    Tls {
        /// Name or IP address, which the engine's certificate is for.
        host: String,
        /// TCP port.
        port: u16,
        /// The directory of `ca.pem`, `cert.pem` and `key.pem`.
        certificates: PathBuf,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Tls { host, port, .. } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tls { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// The host's variables that the backend was given.
type Env = BTreeMap<String, String>;

impl Address {
    /// The engine that the variables name, and what says so, for messages.
    pub fn resolve(env: &Env) -> Result<(Self, String)> {
        if let Some(host) = set(env, "DOCKER_HOST") {
            let source = "DOCKER_HOST".to_owned();
            return Ok((Self::parse(host, &source, Some(env))?, source));
        }
        match context(env)? {
            Some((name, said)) if name != "default" => {
                let source = format!("the Docker context `{name}` ({said})");
                let host = context_host(env, &name, &source)?;
                Ok((Self::parse(&host, &source, None)?, source))
            }
            _ => Ok((Self::Socket(DEFAULT_SOCKET.into()), "the default".into())),
        }
    }

    /// The variables that name this address whatever becomes of contexts.
    pub fn pinned(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("DOCKER_HOST".into(), self.to_string())])
    }

    /// Is it the place where an engine is by default?
    pub fn is_default(&self) -> bool {
        *self == Self::Socket(DEFAULT_SOCKET.into())
    }

    /// `env`: where the settings of TLS are; a context has its own, which are not read.
    fn parse(host: &str, source: &str, env: Option<&Env>) -> Result<Self> {
        let refused = |why: &str, hint: &str| {
            let message = format!("the Docker engine at {host}, which {source} names: {why}");
            Err(Error::new(ErrorKind::UNSUPPORTED, message).hint(hint))
        };
        let (scheme, rest) = host.split_once("://").unwrap_or(("", host));
        match (scheme, env) {
            ("unix", _) if rest.starts_with('/') => Ok(Self::Socket(rest.into())),
            ("unix", _) => {
                refused("the path of its socket is not absolute", "Write DOCKER_HOST=unix:///path/to/docker.sock.")
            }
            ("tcp", Some(env)) if set(env, "DOCKER_TLS_VERIFY").is_some() => {
                let (name, port) = rest.trim_end_matches('/').rsplit_once(':').unwrap_or((rest, ""));
                let name = name.trim_start_matches('[').trim_end_matches(']');
                let port = if port.is_empty() { Ok(TLS_PORT) } else { port.parse() };
                let (Ok(port), false) = (port, name.is_empty()) else {
                    return refused("this is no address", "Write DOCKER_HOST=tcp://HOST:2376.");
                };
                let certificates = set(env, "DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| config_dir(env));
                match certificates {
                    Some(certificates) => Ok(Self::Tls { host: name.into(), port, certificates }),
                    None => refused("nothing says where its certificates are", "Set DOCKER_CERT_PATH=DIRECTORY."),
                }
            }
            ("tcp", Some(_)) => refused(
                "over TCP without TLS anybody in the network could be it, or use it",
                "Set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH=DIRECTORY (ca.pem, cert.pem, key.pem), or bring its socket \
                 here: `ssh -nNT -o ExitOnForwardFailure=yes -L $HOME/docker.sock:/var/run/docker.sock HOST`, then \
                 DOCKER_HOST=unix://$HOME/docker.sock.",
            ),
            ("tcp", None) => refused(
                "bottle reads no certificates out of a context",
                "Name the engine by DOCKER_HOST, DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH=DIRECTORY.",
            ),
            ("ssh", _) => refused(
                "bottle opens no ssh connection",
                &format!(
                    "Bring its socket here: `ssh -nNT -o ExitOnForwardFailure=yes -L $HOME/docker.sock:/var/run/docker.sock \
                     {}`, then DOCKER_HOST=unix://$HOME/docker.sock.",
                    destination(rest)
                ),
            ),
            _ => refused(
                "only unix:// sockets, and tcp:// with TLS, are supported",
                "Write DOCKER_HOST=unix:///path/to/docker.sock.",
            ),
        }
    }
}

/// `user@host:port/path` as arguments of `ssh`.
fn destination(rest: &str) -> String {
    let rest = rest.split('/').next().unwrap_or_default();
    match rest.rsplit_once(':') {
        Some((host, port)) => format!("-p {port} {host}"),
        None => rest.to_owned(),
    }
}

fn set<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
    env.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn config_dir(env: &Env) -> Option<PathBuf> {
    let own = set(env, "DOCKER_CONFIG").map(PathBuf::from);
    own.or_else(|| Some(Path::new(set(env, "HOME")?).join(".docker"))).filter(|dir| dir.is_absolute())
}

/// The context in use, and what says so.
fn context(env: &Env) -> Result<Option<(String, String)>> {
    if let Some(name) = set(env, "DOCKER_CONTEXT") {
        return Ok(Some((name.to_owned(), "DOCKER_CONTEXT".into())));
    }
    let Some(file) = config_dir(env).map(|dir| dir.join("config.json")) else { return Ok(None) };
    let Some(config) = read_json(&file)? else { return Ok(None) };
    let name = config["currentContext"].as_str().filter(|name| !name.is_empty());
    Ok(name.map(|name| (name.to_owned(), file.display().to_string())))
}

/// The address that a context has for its engine.
fn context_host(env: &Env, name: &str, source: &str) -> Result<String> {
    let id = format!("{:x}", Sha256::digest(name));
    let meta = config_dir(env).map(|dir| dir.join("contexts/meta").join(id).join("meta.json"));
    let missing = |what: &str| {
        Error::new(ErrorKind::PREREQUISITE, format!("{source} {what}")).hint(
            "`docker context ls` shows those that are there; `docker context use default` goes back to the usual one.",
        )
    };
    let meta = meta.map(|file| read_json(&file)).transpose()?.flatten().ok_or_else(|| missing("does not exist"))?;
    let host = meta["Endpoints"]["docker"]["Host"].as_str().filter(|host| !host.is_empty());
    host.map(str::to_owned).ok_or_else(|| missing("names no engine"))
}

fn read_json(file: &Path) -> Result<Option<serde_json::Value>> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("read {}", file.display())).map(Some),
        Err(error) if error.kind() == IoKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two contexts, `near` on a socket and `far` over ssh, and `near` the current one.
    fn docker_home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let docker = home.path().join(".docker");
        for (name, host) in [("near", "unix:///run/near.sock"), ("far", "ssh://me@far:2222"), ("net", "tcp://h:2376")] {
            let dir = docker.join("contexts/meta").join(format!("{:x}", Sha256::digest(name)));
            fs::create_dir_all(&dir).unwrap();
            let meta =
                serde_json::json!({"Name": name, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": false}}});
            fs::write(dir.join("meta.json"), meta.to_string()).unwrap();
        }
        fs::write(docker.join("config.json"), r#"{"auths": {}, "currentContext": "near"}"#).unwrap();
        home
    }

    #[test]
    fn the_engine_is_where_the_docker_command_would_look() {
        let home = docker_home();
        let home = ("HOME", home.path().to_str().unwrap());
        let tls = [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/certs")];
        for (env, expected) in [
            (&[][..], Ok("unix:///var/run/docker.sock")),
            (&[home], Ok("unix:///run/near.sock")),
            (&[home, ("DOCKER_CONTEXT", "default")], Ok("unix:///var/run/docker.sock")),
            (&[home, ("DOCKER_CONTEXT", "")], Ok("unix:///run/near.sock")),
            (&[home, ("DOCKER_HOST", "unix:///x/y.sock"), ("DOCKER_CONTEXT", "far")], Ok("unix:///x/y.sock")),
            (&[home, ("DOCKER_CONFIG", "/nowhere")], Ok("unix:///var/run/docker.sock")),
            (&[("DOCKER_HOST", "tcp://far:1234"), tls[0], tls[1]], Ok("tcp://far:1234")),
            (&[("DOCKER_HOST", "tcp://far"), tls[0], tls[1]], Ok("tcp://far:2376")),
            (&[("DOCKER_HOST", "tcp://[::1]:5"), tls[0], tls[1]], Ok("tcp://[::1]:5")),
            (&[("DOCKER_HOST", "tcp://far"), tls[0], home], Ok("tcp://far:2376")),
            (&[("DOCKER_HOST", "tcp://far"), tls[0]], Err("Set DOCKER_CERT_PATH")),
            (&[("DOCKER_HOST", "tcp://far:1234"), tls[1]], Err("Set DOCKER_TLS_VERIFY=1")),
            (&[("DOCKER_HOST", "tcp://far:x"), tls[0], tls[1]], Err("tcp://HOST:2376")),
            (&[("DOCKER_HOST", "ssh://me@far/x")], Err("/var/run/docker.sock me@far`")),
            (&[("DOCKER_HOST", "unix://relative")], Err("unix:///path")),
            (&[("DOCKER_HOST", "/var/run/docker.sock")], Err("unix:///path")),
            (&[("DOCKER_HOST", "npipe:////./pipe/docker_engine")], Err("unix:///path")),
            (&[home, ("DOCKER_CONTEXT", "far")], Err("/var/run/docker.sock -p 2222 me@far`")),
            (&[home, ("DOCKER_CONTEXT", "net"), tls[0], tls[1]], Err("DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH")),
            (&[home, ("DOCKER_CONTEXT", "gone")], Err("docker context ls")),
        ] {
            let env: Env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            match (Address::resolve(&env), expected) {
                (Ok((address, _)), Ok(expected)) => assert_eq!(address.to_string(), expected, "{env:?}"),
                (Err(error), Err(hint)) => {
                    assert!(error.hint.as_ref().is_some_and(|h| h.contains(hint)), "{env:?}: {error:?}");
                }
                (found, _) => panic!("{env:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn settings_that_cannot_be_read_are_no_reason_to_take_another_engine() {
        let home = docker_home();
        fs::write(home.path().join(".docker/config.json"), "{").unwrap();
        let env = Env::from([("HOME".into(), home.path().display().to_string())]);
        assert!(Address::resolve(&env).unwrap_err().message.starts_with("read "));
    }
}
