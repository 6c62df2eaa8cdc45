//! The client: HTTP/1.1 as bytes, so that it costs next to nothing.

use crate::origin::ADDRESS;
use anyhow::{Context, Result, bail, ensure};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// What is sent of a text at a time.
const CHUNK: usize = 256 << 10;

/// How the origin is reached.
#[derive(Clone)]
pub(crate) struct Way {
    /// The proxy, and its credentials, encoded.
    pub(crate) proxy: Option<(SocketAddr, String)>,
    tls: TlsConnector,
}

impl Way {
    /// Trusts that authority alone. Sessions are not resumed: each handshake is a whole one.
    pub(crate) fn new(proxy: Option<(SocketAddr, String)>, ca_pem: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(cert?)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { proxy, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// A new connection to a host.
    pub(crate) async fn connect(&self, host: &str) -> Result<Connection> {
        let mut stream = TcpStream::connect(self.proxy.as_ref().map_or(ADDRESS, |(at, _)| *at)).await?;
        stream.set_nodelay(true)?;
        if let Some((_, credentials)) = &self.proxy {
            let ask = format!(
                "CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\nProxy-Authorization: Basic {credentials}\r\n\r\n"
            );
            stream.write_all(ask.as_bytes()).await?;
            let head = read_head(&mut stream, &mut vec![]).await?;
            ensure!(head.split(' ').nth(1) == Some("200"), "the proxy says {head:?}");
        }
        let tls = self.tls.connect(ServerName::try_from(host.to_owned())?, stream).await.context("TLS")?;
        Ok(Connection { tls, host: host.to_owned(), left: vec![], buffer: vec![0; 256 << 10] })
    }
}

/// A connection that is kept.
pub(crate) struct Connection {
    tls: TlsStream<TcpStream>,
    host: String,
    left: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Asks for so many bytes, and reads them.
    pub(crate) async fn get(&mut self, bytes: usize) -> Result<()> {
        let request = format!("GET /{bytes} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.tls.write_all(request.as_bytes()).await?;
        self.tls.flush().await?;
        self.answered(bytes).await
    }

    /// Sends so many bytes: of a text, again and again.
    pub(crate) async fn post(&mut self, text: &str, bytes: usize) -> Result<()> {
        let request = format!("POST /0 HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\n\r\n", self.host);
        self.tls.write_all(request.as_bytes()).await?;
        let chunk = text.bytes().cycle().take(CHUNK).collect::<Vec<u8>>();
        for at in (0..bytes).step_by(chunk.len()) {
            self.tls.write_all(&chunk[..chunk.len().min(bytes - at)]).await?;
        }
        self.tls.flush().await?;
        self.answered(0).await
    }

    async fn answered(&mut self, expected: usize) -> Result<()> {
        let head = read_head(&mut self.tls, &mut self.left).await?;
        ensure!(head.split(' ').nth(1) == Some("200"), "{head:?}");
        ensure!(head.to_ascii_lowercase().contains(&format!("content-length: {expected}")), "{head:?}");
        let mut got = self.left.len();
        self.left.clear();
        while got < expected {
            match self.tls.read(&mut self.buffer).await? {
                0 => bail!("closed after {got} of {expected} bytes"),
                read => got += read,
            }
        }
        ensure!(got == expected, "{got} bytes instead of {expected}");
        Ok(())
    }
}

/// Reads a head; what is read beyond it is left.
async fn read_head(from: &mut (impl AsyncRead + Unpin), left: &mut Vec<u8>) -> Result<String> {
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(end) = left.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&left[..end]).into_owned();
            left.drain(..end + 4);
            return Ok(head);
        }
        match from.read(&mut buffer).await? {
            0 => bail!("closed after {:?}", String::from_utf8_lossy(left)),
            read => left.extend_from_slice(&buffer[..read]),
        }
    }
}
