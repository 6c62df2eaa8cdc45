//! Towards the host: a connection, TLS verified always, and the protocol that both sides speak.

use super::{
    body::Body,
    dial::{Dialler, STEP_TIME, Stream, unreachable},
    pool::Target,
};
use anyhow::{Context, Result};
use bottle_api::secret::Secrets;
use bottle_policy::{Denial, Policy, Route, Scheme};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use tokio::time::timeout;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// What a host may say before a body.
const MAX_HEAD: usize = 64 << 10;
/// Unread bytes of a response that a host may send ahead over HTTP/2, and of all that come over one connection.
const WINDOW: u32 = 1 << 20;
/// Unsent bytes of a request that are kept for a host.
const SEND_BUFFER: usize = 64 << 10;

/// A connection that is ready for a request.
pub(super) enum Upstream {
    /// Serves one at a time.
    Http1(http1::SendRequest<Body>),
    /// Serves many.
    Http2(http2::SendRequest<Body>),
}

/// Makes connections.
pub(crate) struct Connector {
    dialler: Dialler,
    /// Offers HTTP/2 and HTTP/1.1.
    both: TlsConnector,
    /// Offers HTTP/1.1 alone.
    http1: TlsConnector,
}

impl Connector {
    /// Trusts the built-in roots and, beside them, the policy's own; never dials the policy's own addresses.
    pub(crate) fn new(policy: &Policy) -> Result<Self> {
        let extra_pem = policy.upstream_ca_pem.as_deref();
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        for cert in CertificateDer::pem_slice_iter(extra_pem.unwrap_or_default().as_bytes()) {
            roots.add(cert.context("CLAUDE_BOTTLE_UPSTREAM_CA")?).context("CLAUDE_BOTTLE_UPSTREAM_CA")?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let offering = |protocols: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        let http1 = offering(&["http/1.1"]);
        Ok(Self { dialler: Dialler::new(policy, http1.clone()), both: offering(&["h2", "http/1.1"]), http1 })
    }

    /// A connection in whichever protocol the host prefers.
    pub(super) async fn connect(&self, secrets: &Secrets, route: &Route, target: &Target) -> Result<Upstream, Denial> {
        let spoken = match target.scheme {
            Scheme::Http => speak_http1(self.raw(secrets, route, target).await?).await,
            Scheme::Https => {
                let tls = self.tls(&self.both, secrets, route, target).await?;
                if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                    speak_http2(Box::new(tls)).await
                } else {
                    speak_http1(Box::new(tls)).await
                }
            }
        };
        spoken.map_err(|e| unreachable(&target.host, &e))
    }

    /// A connection in HTTP/1.1 that may be upgraded, for one request alone.
    pub(super) async fn connect_for_upgrade(
        &self,
        secrets: &Secrets,
        route: &Route,
        target: &Target,
    ) -> Result<http1::SendRequest<Body>, Denial> {
        let stream: Stream = match target.scheme {
            Scheme::Http => self.raw(secrets, route, target).await?,
            Scheme::Https => self.tls_http1(secrets, route, target).await?,
        };
        let (upstream, connection) =
            http1_builder().handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&target.host, &e.into()))?;
        tokio::spawn(connection.with_upgrades());
        Ok(upstream)
    }

    /// A connection, and nothing said on it.
    pub(crate) async fn raw(&self, secrets: &Secrets, route: &Route, target: &Target) -> Result<Stream, Denial> {
        self.dialler.connect(secrets, route, &target.host, target.port).await
    }

    /// A connection with TLS on which HTTP/1.1 is spoken, and nothing said on it.
    pub(crate) async fn tls_http1(&self, secrets: &Secrets, route: &Route, target: &Target) -> Result<Stream, Denial> {
        Ok(Box::new(self.tls(&self.http1, secrets, route, target).await?))
    }

    async fn tls(
        &self,
        connector: &TlsConnector,
        secrets: &Secrets,
        route: &Route,
        target: &Target,
    ) -> Result<tokio_rustls::client::TlsStream<Stream>, Denial> {
        let name = ServerName::try_from(target.host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| Denial::bad_request("target", "the host's name cannot be verified by TLS"))?;
        let stream = self.raw(secrets, route, target).await?;
        let tls = timeout(STEP_TIME, connector.connect(name, stream)).await.context("TLS handshake timed out");
        tls.and_then(|r| Ok(r?)).map_err(|e| unreachable(&target.host, &e))
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD);
    builder
}

async fn speak_http1(stream: Stream) -> Result<Upstream> {
    let (upstream, connection) = http1_builder().handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Upstream::Http1(upstream))
}

async fn speak_http2(stream: Stream) -> Result<Upstream> {
    let (upstream, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buf_size(SEND_BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(Upstream::Http2(upstream))
}
