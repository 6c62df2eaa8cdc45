//! Certificates of the tests' own, and a client that speaks to a proxy byte by byte.

use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// A certificate authority of a test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "bottle test authority");
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A server's side of TLS for these hosts.
    pub fn server_config(&self, hosts: &[&str]) -> Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let cert = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow!(e))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        Ok(Arc::new(config))
    }

    /// A server's side of TLS for one host that takes only clients with a certificate of this authority.
    pub fn mutual_config(&self, host: &str) -> Result<Arc<ServerConfig>> {
        let (cert, key) = self.certificate(&[host], ExtendedKeyUsagePurpose::ServerAuth)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes())?)?;
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key.as_bytes())?,
            )?;
        Ok(Arc::new(config))
    }

    /// A client's certificate and key, PEM.
    pub fn client(&self) -> Result<(String, String)> {
        self.certificate(&["client"], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn certificate(&self, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.extended_key_usages.push(purpose);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

/// How long a step of a client may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of a proxy.
pub struct ProxyClient {
    /// Where the proxy is.
    pub proxy: SocketAddr,
    /// Its password.
    pub capability: String,
    /// The certificate authority that it signs with.
    pub ca_pem: String,
}

/// What a client says first in TLS.
#[derive(Debug, Clone, Copy)]
pub struct Hello<'a> {
    /// The host's name, too?
    pub sni: bool,
    /// The protocols that it offers.
    pub alpn: &'a [&'a str],
}

impl Default for Hello<'_> {
    fn default() -> Self {
        Self { sni: true, alpn: &[] }
    }
}

/// TLS inside a tunnel.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A response, as far as a test looks at it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Everything after the head.
    pub body: String,
}

impl ProxyClient {
    /// Connects, and says nothing.
    pub fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.proxy, PATIENCE).context("connect to the proxy")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The credentials that it wants, encoded.
    pub fn password(&self) -> String {
        BASE64_STANDARD.encode(format!("bottle:{}", self.capability))
    }

    /// Opens a tunnel; the bytes in it are the caller's.
    pub fn tunnel(&self, target: &str) -> Result<TcpStream> {
        let mut stream = self.connect()?;
        let password = self.password();
        write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {password}\r\n\r\n")?;
        let head = read_head(&mut stream)?;
        if status_of(&head)? != 200 {
            bail!("{head}");
        }
        Ok(stream)
    }

    /// Opens TLS for a host, whose certificate must be the sidecar's, inside a tunnel to `target`.
    pub fn tls(&self, target: &str, host: &str, hello: Hello<'_>) -> Result<Tls> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(cert?)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_sni = hello.sni;
        config.alpn_protocols = hello.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(host.to_owned())?;
        let mut tls = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, self.tunnel(target)?);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(tls)
    }

    /// Sends bytes inside a tunnel with TLS for `sni`.
    pub fn https(&self, target: &str, sni: &str, request: &str) -> Result<Answer> {
        let mut tls = self.tls(target, sni, Hello::default())?;
        tls.write_all(request.as_bytes())?;
        read_answer(&mut tls)
    }

    /// Sends bytes to the proxy itself, `{auth}` standing for the right password.
    pub fn plain(&self, request: &str) -> Result<Answer> {
        let mut stream = self.connect()?;
        stream.write_all(request.replace("{auth}", &self.password()).as_bytes())?;
        read_answer(&mut stream)
    }
}

/// Reads one response.
pub fn read_answer(from: &mut impl Read) -> Result<Answer> {
    let head = read_head(from)?;
    let status = status_of(&head)?;
    let lower = head.to_ascii_lowercase();
    let field = |name: &str| lower.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let mut body = vec![];
    match field("content-length:").and_then(|v| v.parse().ok()) {
        Some(length) => from.take(length).read_to_end(&mut body).map(drop)?,
        None if field("transfer-encoding:").is_some() => {
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(read_byte(from)?.context("the body is cut off")?);
            }
        }
        None => drop(from.read_to_end(&mut body)),
    }
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}

fn read_byte(from: &mut impl Read) -> Result<Option<u8>> {
    let mut byte = [0];
    Ok((from.read(&mut byte)? == 1).then_some(byte[0]))
}

/// Reads the head of a response, and no further.
pub fn read_head(from: &mut impl Read) -> Result<String> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        match read_byte(from)? {
            Some(byte) => head.push(byte),
            None => bail!("closed after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    Ok(String::from_utf8(head)?)
}

/// The status in the head of a response.
pub fn status_of(head: &str) -> Result<u16> {
    Ok(head.split(' ').nth(1).context("a status line")?.parse()?)
}
