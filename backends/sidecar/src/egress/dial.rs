//! From a host to a connection: resolved once, every address judged, and those very addresses dialled; or, where the
//! operator names a proxy of the house, through it.

use anyhow::{Context, Result, anyhow};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::secret::Secrets;
use bottle_policy::{Denial, Policy, Route, UpstreamProxy, address, host};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request,
    client::conn::http1,
    header::{HOST, HeaderValue, PROXY_AUTHORIZATION},
};
use hyper_util::rt::TokioIo;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// How long a name may take to resolve, its addresses to answer, a handshake to end; each.
pub(super) const STEP_TIME: Duration = Duration::from_secs(15);
/// How long an address has before the next one is tried beside it (RFC 8305, 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 16;
/// What a proxy of the house may say before the tunnel.
const MAX_PROXY_HEAD: usize = 16 << 10;

/// Each lookup holds a thread of the runtime's for as long as it takes.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// A connection, of whatever it consists.
pub(crate) type Stream = Box<dyn Io>;

/// Bytes both ways.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Makes connections.
pub(super) struct Dialler {
    /// The machine's own addresses.
    own: Vec<IpAddr>,
    proxy: Option<UpstreamProxy>,
    /// Towards the proxy.
    tls: TlsConnector,
}

impl Dialler {
    /// Never dials the policy's own addresses.
    pub(super) fn new(policy: &Policy, tls: TlsConnector) -> Self {
        Self { own: policy.own_addresses.clone(), proxy: policy.upstream_proxy.clone(), tls }
    }

    /// A connection to the route's host.
    pub(super) async fn connect(
        &self,
        secrets: &Secrets,
        route: &Route,
        host: &str,
        port: u16,
    ) -> Result<Stream, Denial> {
        match &self.proxy {
            Some(proxy) => {
                let target = self.named(route, host, port)?;
                self.through(proxy, secrets, &target).await
            }
            None => {
                let addresses = self.resolve(route, host, port).await?;
                let stream = dial(addresses).await.map_err(|e| unreachable(host, &e))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// The addresses of a host that may be dialled. One that may not is an error, not a smaller choice: a name that
    /// points at the neighbourhood is not to be trusted at all.
    async fn resolve(&self, route: &Route, host: &str, port: u16) -> Result<Vec<SocketAddr>, Denial> {
        let found = match known(route, host)? {
            Some(address) => vec![(address, port).into()],
            None => lookup(host, port).await.map_err(|e| unreachable(host, &e))?,
        };
        found.iter().try_for_each(|address| self.judge(route, host, address.ip()))?;
        Ok(found)
    }

    fn judge(&self, route: &Route, host: &str, address: IpAddr) -> Result<(), Denial> {
        match address::refusal(address, route.allow_private, &self.own) {
            None => Ok(()),
            Some(what) => {
                let reason =
                    format!("{host} is at {address}, {what}; only `allow_private` of its route opens private ones");
                Err(Denial::forbidden("address", reason))
            }
        }
    }

    /// What the proxy of the house is asked for. A name is resolved there, so of a name only that can be judged which
    /// can be seen of it: weaker than a resolver of our own, and the reason to give such a route an `address`.
    fn named(&self, route: &Route, host: &str, port: u16) -> Result<String, Denial> {
        match known(route, host)? {
            Some(address) => {
                self.judge(route, host, address)?;
                Ok(SocketAddr::from((address, port)).to_string())
            }
            None => match host::local_name(host, route.allow_private) {
                Some(what) => Err(Denial::forbidden("address", format!("{host} is {what}"))),
                None => Ok(format!("{host}:{port}")),
            },
        }
    }

    async fn through(&self, proxy: &UpstreamProxy, secrets: &Secrets, target: &str) -> Result<Stream, Denial> {
        let credential = match &proxy.secret {
            None => None,
            Some(name) => Some(secrets.get(name).and_then(|secret| secret.expose_str()).ok_or_else(|| Denial {
                rule: "credential",
                status: 502,
                reason: format!("the credential {name} of the upstream proxy is missing"),
            })?),
        };
        let asked = async {
            let stream = dial(lookup(&proxy.host, proxy.port).await?).await?;
            if !proxy.tls {
                return ask(Box::new(stream), target, credential).await;
            }
            let name = ServerName::try_from(proxy.host.clone()).context("its name cannot be verified by TLS")?;
            let tls = timeout(STEP_TIME, self.tls.connect(name, stream)).await.context("TLS handshake timed out")??;
            ask(Box::new(tls), target, credential).await
        };
        asked.await.map_err(|e| unreachable("the upstream proxy (CLAUDE_BOTTLE_UPSTREAM_PROXY)", &e))
    }
}

/// The address of a host that needs no resolver.
fn known(route: &Route, host: &str) -> Result<Option<IpAddr>, Denial> {
    match (route.address, host::ambiguity(host)) {
        (None, Some(why)) => Err(Denial::bad_request("host-ambiguous", why)),
        (address, _) => Ok(address.or(host::address(host))),
    }
}

async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let found = timeout(STEP_TIME, async {
        let _turn = LOOKUPS.acquire().await?;
        anyhow::Ok(lookup_host((host.trim_matches(['[', ']']), port)).await?)
    })
    .await
    .context("its name took too long to resolve")??;
    Ok(found.collect())
}

/// The first connection that comes about, IPv6 and IPv4 in turn.
async fn dial(addresses: Vec<SocketAddr>) -> Result<TcpStream> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv6);
    let pairs = v6.len().max(v4.len());
    let turns = (0..pairs).flat_map(|i| [v6.get(i), v4.get(i)]).flatten().copied().take(MAX_ADDRESSES);
    let mut waiting = turns.collect::<Vec<_>>().into_iter();
    let mut last = anyhow!("its name has no address");
    let race = async {
        let mut attempts = JoinSet::new();
        loop {
            if let Some(address) = waiting.next() {
                attempts.spawn(async move { (address, TcpStream::connect(address).await) });
            }
            tokio::select! {
                Some(done) = attempts.join_next() => match done {
                    Ok((_, Ok(stream))) => return Some(stream),
                    Ok((address, Err(error))) => last = anyhow!("connect to {address}: {error}"),
                    Err(error) => last = error.into(),
                },
                () = sleep(STAGGER), if waiting.len() > 0 => {}
                else => return None,
            }
        }
    };
    let stream = timeout(STEP_TIME, race).await.context("its addresses do not answer")?.ok_or(last)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Asks a proxy for a tunnel.
async fn ask(stream: Stream, target: &str, credential: Option<&str>) -> Result<Stream> {
    let mut request = Request::connect(target).header(HOST, target).body(Empty::<Bytes>::new())?;
    if let Some(credential) = credential {
        let value = format!("Basic {}", BASE64_STANDARD.encode(credential.trim()));
        let mut value = HeaderValue::try_from(value).context("its credential cannot be sent in a header")?;
        value.set_sensitive(true);
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
    let answered = async {
        let mut builder = http1::Builder::new();
        let (mut proxy, connection) = builder.max_buf_size(MAX_PROXY_HEAD).handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let response = proxy.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(anyhow!("it answered CONNECT {target} with {status}"));
        }
        Ok(hyper::upgrade::on(response).await?)
    };
    let tunnel = timeout(STEP_TIME, answered).await.context("its answer took too long")??;
    Ok(Box::new(TokioIo::new(tunnel)))
}

/// The host cannot be reached.
pub(super) fn unreachable(host: &str, error: &anyhow::Error) -> Denial {
    Denial { rule: "upstream", status: 502, reason: format!("{host} cannot be reached: {error:#}") }
}
