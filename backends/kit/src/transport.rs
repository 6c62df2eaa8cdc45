//! How a request gets to an engine: a connection each, to a socket or over TCP with TLS on both sides.
//!
//! bollard has transports of its own. Its TLS trusts every authority of the machine beside the engine's, while this one
//! trusts `ca.pem` alone; and all of them bring a client with a pool, which an engine's short requests never use and
//! every start of bottle would load.

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error as Failure};
use bottle_api::{Error, ErrorKind, Result, error::Context};
use hyper::{
    Response,
    body::Incoming,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use std::{io, path::Path, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// A client of the engine behind a socket.
pub(crate) fn socket(path: &Path, answer_seconds: u64) -> Result<Docker> {
    let path: Arc<Path> = path.into();
    let transport = move |request| {
        let path = path.clone();
        Box::pin(async move {
            // As the `docker` command does: the name means nothing here.
            ask(request, HeaderValue::from_static("docker"), Box::new(UnixStream::connect(path).await?)).await
        })
    };
    Ok(Docker::connect_with_custom_transport(transport, Some("http://docker"), answer_seconds, API_DEFAULT_VERSION)?)
}

/// A client of the engine there; `certificates` is the directory of `ca.pem`, `cert.pem` and `key.pem`.
pub(crate) fn tls(host: &str, port: u16, certificates: &Path, answer_seconds: u64) -> Result<Docker> {
    let config = config(certificates).map_err(|error| {
        error
            .context(format!("read the certificates of the Docker engine tcp://{host}:{port}"))
            .kind(ErrorKind::PREREQUISITE)
            .hint("DOCKER_CERT_PATH names a directory with ca.pem, cert.pem and key.pem.")
    })?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(host.to_owned()).context("use the engine's name")?;
    let header = HeaderValue::from_str(host).context("use the engine's name")?;
    let to = (host.to_owned(), port);
    let transport = move |request| {
        let (connector, name, header, to) = (connector.clone(), name.clone(), header.clone(), to.clone());
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            ask(request, header, Box::new(connector.connect(name, stream).await?)).await
        })
    };
    let url = format!("https://{host}");
    Ok(Docker::connect_with_custom_transport(transport, Some(url), answer_seconds, API_DEFAULT_VERSION)?)
}

/// What a connection is made of. As an object, so that there is one HTTP client in the plugin for all of them.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One request, whose connection becomes a stream where the engine upgrades it.
async fn ask(
    mut request: BollardRequest,
    host: HeaderValue,
    stream: Box<dyn Stream>,
) -> Result<Response<Incoming>, Failure> {
    if let Some(path) = request.uri().path_and_query() {
        *request.uri_mut() = path.as_str().parse().map_err(io::Error::other)?;
    }
    request.headers_mut().insert(HOST, host);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection.with_upgrades());
    match sender.send_request(request).await {
        // The connection ended before it: that one knows why.
        Err(error) if error.is_canceled() => Err(match connection.await {
            Ok(Err(why)) => why.into(),
            _ => error.into(),
        }),
        answer => Ok(answer?),
    }
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
