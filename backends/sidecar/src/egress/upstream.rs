//! Towards the host: resolved once, the address judged, that very address dialled, TLS verified always.

use super::Body;
use anyhow::{Context, Result};
use bottle_policy::{Denial, Policy, Route, Scheme, address};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// How long a name may take to resolve, an address to answer, a handshake to end; each.
const STEP_TIME: Duration = Duration::from_secs(15);

/// A connection to a host, kept for the client's next request in the same tunnel.
pub(super) type Upstream = SendRequest<Body>;

/// Makes connections.
pub(super) struct Connector {
    tls: TlsConnector,
    /// The machine's own addresses.
    own: Vec<IpAddr>,
}

impl Connector {
    /// Trusts the built-in roots and, beside them, the policy's own; never dials the policy's own addresses.
    pub(super) fn new(policy: &Policy) -> Result<Self> {
        let extra_pem = policy.upstream_ca_pem.as_deref();
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        for cert in CertificateDer::pem_slice_iter(extra_pem.unwrap_or_default().as_bytes()) {
            roots.add(cert.context("CLAUDE_BOTTLE_UPSTREAM_CA")?).context("CLAUDE_BOTTLE_UPSTREAM_CA")?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), own: policy.own_addresses.clone() })
    }

    /// Sends a request over the kept connection, or over a new one.
    pub(super) async fn send(
        &self,
        kept: &mut Option<Upstream>,
        route: &Route,
        scheme: Scheme,
        host: &str,
        port: u16,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Denial> {
        if let Some(mut upstream) = kept.take_if(|u| !u.is_closed())
            && upstream.ready().await.is_ok()
        {
            match upstream.try_send_request(request).await {
                Ok(response) => {
                    *kept = Some(upstream);
                    return Ok(response);
                }
                // The host closed the idle connection before a byte of the request went out: once more.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(host, &error.into_error())),
                },
            }
        }
        let mut upstream = self.connect(route, scheme, host, port).await?;
        let response = upstream.send_request(request).await.map_err(|e| broken(host, &e))?;
        *kept = Some(upstream);
        Ok(response)
    }

    async fn connect(&self, route: &Route, scheme: Scheme, host: &str, port: u16) -> Result<Upstream, Denial> {
        let addresses = resolve(route, host, port, &self.own).await?;
        let stream = dial(&addresses).await.map_err(|e| unreachable(host, &e))?;
        let _ = stream.set_nodelay(true);
        match scheme {
            Scheme::Http => speak(stream).await,
            Scheme::Https => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(|_| Denial::bad_request("target", "the host's name cannot be verified by TLS"))?;
                let tls = timeout(STEP_TIME, self.tls.connect(name, stream)).await.context("TLS handshake timed out");
                speak(tls.and_then(|r| Ok(r?)).map_err(|e| unreachable(host, &e))?).await
            }
        }
        .map_err(|e| unreachable(host, &e))
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Upstream> {
    let (upstream, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(upstream)
}

/// The addresses of a host that may be dialled. One that may not is an error, not a smaller choice: a name that
/// points at the neighbourhood is not to be trusted at all.
async fn resolve(route: &Route, host: &str, port: u16, own: &[IpAddr]) -> Result<Vec<SocketAddr>, Denial> {
    let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let found: Vec<SocketAddr> = match route.address.or(literal) {
        Some(address) => vec![(address, port).into()],
        None => timeout(STEP_TIME, lookup_host((host, port)))
            .await
            .map_err(|_| unreachable(host, &anyhow::anyhow!("its name took too long to resolve")))?
            .map_err(|e| unreachable(host, &e.into()))?
            .collect(),
    };
    for address in &found {
        if let Some(what) = address::refusal(address.ip(), route.allow_private, own) {
            let reason =
                format!("{host} is at {}, {what}; only `allow_private` of its route opens private ones", address.ip());
            return Err(Denial::forbidden("address", reason));
        }
    }
    Ok(found)
}

async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream> {
    let mut last = anyhow::anyhow!("its name has no address");
    for address in addresses {
        match timeout(STEP_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = anyhow::Error::new(error).context(format!("connect to {address}")),
            Err(_) => last = anyhow::anyhow!("connect to {address}: timed out"),
        }
    }
    Err(last)
}

fn unreachable(host: &str, error: &anyhow::Error) -> Denial {
    Denial { rule: "upstream", status: 502, reason: format!("{host} cannot be reached: {error:#}") }
}

fn broken(host: &str, error: &hyper::Error) -> Denial {
    Denial { rule: "upstream", status: 502, reason: format!("{host} broke the connection: {error}") }
}
