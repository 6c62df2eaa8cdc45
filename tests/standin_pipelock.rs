//! A stand-in for pipelock: it speaks the real one's command line, refuses configuration that the real one would, and
//! like it answers once per connection. It blocks what holds the words SCAN-ME.

#![allow(clippy::print_stdout)] // a program of the tests

use anyhow::{Context, Result, anyhow, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    thread,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

/// The keys that the real one knows, of those that are in use.
const KNOWN: [&str; 13] = [
    "version",
    "mode",
    "enforce",
    "api_allowlist",
    "trusted_domains",
    "ssrf",
    "internal",
    "fetch_proxy",
    "forward_proxy",
    "tls_interception",
    "request_body_scanning",
    "logging",
    "sentry",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["tls", "init", "--force", "--out", dir] => init(Path::new(dir)),
        ["run", "-c", file] => run(&serde_json::from_str(&fs::read_to_string(file)?)?),
        _ => bail!("unknown command {words:?}"),
    }
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "pipelock");
    params
}

fn init(dir: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    fs::create_dir_all(dir)?;
    for (name, text) in [("ca.pem", authority().self_signed(&key)?.pem()), ("ca-key.pem", key.serialize_pem())] {
        fs::write(dir.join(name), text)?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

struct Proxy {
    config: Value,
    issuer: Issuer<'static, KeyPair>,
    roots: RootCertStore,
}

fn run(config: &Value) -> Result<()> {
    for key in config.as_object().context("an object")?.keys() {
        ensure!(KNOWN.contains(&key.as_str()), "unknown key {key}");
    }
    ensure!(config["version"] == 1 && config["forward_proxy"]["enabled"] == true, "not a forward proxy");
    ensure!(config["sentry"]["enabled"] == false, "crash reports would leave");
    ensure!(std::env::var_os("PIPELOCK_HOME").is_some(), "no home");
    let tls = &config["tls_interception"];
    let key = fs::read_to_string(tls["ca_key"].as_str().context("ca_key")?)?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(std::env::var("SSL_CERT_FILE")?)? {
        roots.add(root?)?;
    }
    ensure!(roots.len() > 100, "the world's authorities are missing");
    let proxy =
        Arc::new(Proxy { config: config.clone(), issuer: Issuer::new(authority(), KeyPair::from_pem(&key)?), roots });
    let listener = TcpListener::bind(config["fetch_proxy"]["listen"].as_str().context("listen")?)?;
    for stream in listener.incoming() {
        let (stream, proxy) = (stream?, proxy.clone());
        thread::spawn(move || proxy.serve(stream));
    }
    Ok(())
}

impl Proxy {
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let head = read_head(&mut stream)?;
        let words: Vec<&str> = head.split(' ').collect();
        let (host, port) = match words[..] {
            ["GET", "/health", ..] => return Ok(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")?),
            ["CONNECT", target, ..] => target.rsplit_once(':').context("a port")?,
            _ => bail!("no request that it knows"),
        };
        let allowed = self.config["api_allowlist"].as_array().into_iter().flatten().any(|name| name == host);
        if self.config["mode"] == "strict" && !allowed {
            return Ok(stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")?);
        }
        stream.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")?;
        let mut client = StreamOwned::new(ServerConnection::new(self.server(host)?)?, stream);
        let head = read_head(&mut client)?;
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0");
        let mut body = vec![0; length.trim().parse()?];
        client.read_exact(&mut body)?;
        if head.contains("SCAN-ME") || String::from_utf8_lossy(&body).contains("SCAN-ME") {
            let said = "blocked by pipelock";
            write!(
                client,
                "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{said}",
                said.len()
            )?;
            client.conn.send_close_notify();
            return Ok(client.flush()?);
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())?;
        let mut upstream = StreamOwned::new(
            ClientConnection::new(Arc::new(config), name)?,
            TcpStream::connect((host, port.parse::<u16>()?))?,
        );
        let head = head.replacen("\r\n", "\r\nX-Through: pipelock\r\nConnection: close\r\n", 1);
        upstream.write_all(&[head.as_bytes(), &body].concat())?;
        let mut answer = vec![];
        upstream.read_to_end(&mut answer)?;
        client.write_all(&answer)?;
        client.conn.send_close_notify();
        Ok(client.flush()?)
    }

    fn server(&self, host: &str) -> Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let cert = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow!(error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        Ok(Arc::new(config))
    }
}

fn read_head(from: &mut impl Read) -> Result<String> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}
