//! An engine over TCP, with TLS on both sides: the certificates are those of the `docker` command.
//!
//! bollard has a TLS of its own, which trusts every authority of the machine beside the engine's, and brings a client
//! with a pool. This one trusts `ca.pem` alone, and opens a connection per request, as for a socket.

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error as Failure};
use bottle_api::{Error, ErrorKind, Result, error::Context};
use hyper::{Response, body::Incoming, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use std::{io, path::Path, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// A client of the engine there; `certificates` is the directory of `ca.pem`, `cert.pem` and `key.pem`.
pub(crate) fn client(host: &str, port: u16, certificates: &Path, answer_seconds: u64) -> Result<Docker> {
    let config = config(certificates).map_err(|error| {
        error
            .context(format!("read the certificates of the Docker engine tcp://{host}:{port}"))
            .kind(ErrorKind::PREREQUISITE)
            .hint("DOCKER_CERT_PATH names a directory with ca.pem, cert.pem and key.pem.")
    })?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(host.to_owned()).context("use the engine's name")?;
    let to = (host.to_owned(), port);
    let transport = move |request| {
        let (connector, name, to) = (connector.clone(), name.clone(), to.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            ask(request, connector.connect(name, stream).await?).await
        })
    };
    Ok(Docker::connect_with_custom_transport(
        transport,
        Some(format!("https://{host}")),
        answer_seconds,
        API_DEFAULT_VERSION,
    )?)
}

/// One request, whose connection becomes a stream where the engine upgrades it.
async fn ask(
    mut request: BollardRequest,
    stream: tokio_rustls::client::TlsStream<TcpStream>,
) -> Result<Response<Incoming>, Failure> {
    let uri = request.uri().clone();
    if let (Some(host), Some(path)) = (uri.host(), uri.path_and_query()) {
        let host = host.parse().map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = path.as_str().parse().map_err(io::Error::other)?;
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender.send_request(request).await?)
}

fn config(dir: &Path) -> Result<ClientConfig> {
    let file = |name: &str| dir.join(name);
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>> {
        let found = CertificateDer::pem_file_iter(file(name)).and_then(Iterator::collect);
        found.with_context(|| format!("{}", file(name).display()))
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates("ca.pem")? {
        roots.add(authority).with_context(|| format!("{}", file("ca.pem").display()))?;
    }
    if roots.is_empty() {
        return Err(Error::new(ErrorKind::PREREQUISITE, format!("{} has no certificate", file("ca.pem").display())));
    }
    let key =
        PrivateKeyDer::from_pem_file(file("key.pem")).with_context(|| format!("{}", file("key.pem").display()))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("cert.pem")?, key)?)
}
