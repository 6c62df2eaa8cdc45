//! The origin: TLS, HTTP/1.1, as many bytes as its path says, and whatever is sent to it thrown away.

use crate::{HOSTS, host};
use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// Where it is: an address for documentation, which no policy refuses.
pub(crate) const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), 443);
/// Bytes that a download is made of.
const MOST: usize = 64 << 20;

/// Serves for ever. Returns its authority's certificate, PEM.
pub(crate) async fn start() -> Result<String> {
    let (ca_key, mut ca) = (KeyPair::generate()?, CertificateParams::default());
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "bench");
    let pem = ca.self_signed(&ca_key)?.pem();
    let key = KeyPair::generate()?;
    let names = CertificateParams::new((0..HOSTS).map(host).collect::<Vec<_>>())?;
    let cert = names.signed_by(&key, &Issuer::new(ca, ca_key))?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow!(e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind(ADDRESS).await?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                if let Ok(tls) = acceptor.accept(stream).await {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service_fn(answer)).await;
                }
            });
        }
    });
    Ok(pem)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    static BYTES: OnceLock<Bytes> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| vec![b'z'; MOST].into());
    let length: usize = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(Response::new(Full::new(bytes.slice(..length.min(MOST)))))
}
