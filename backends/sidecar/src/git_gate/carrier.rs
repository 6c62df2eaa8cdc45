//! The way to upstream: the addresses of a remote are judged and dialled here, as the proxy does it, and what comes from
//! there is counted.

use crate::egress::{Connector, Stream, Target};
use anyhow::Result;
use bottle_api::secret::Secrets;
use bottle_gate::Trouble;
use bottle_policy::{Denial, GitRemote, Policy, Route, Scheme};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::UnixStream,
    time::sleep,
};

/// How long a host may go on after ssh has ended.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Makes connections to remotes.
pub(super) struct Carrier {
    connector: Mutex<Arc<Connector>>,
    pub(super) secrets: Secrets,
}

impl Carrier {
    pub(super) fn new(policy: &Policy, secrets: Secrets) -> Result<Self> {
        Ok(Self { connector: Mutex::new(Arc::new(Connector::new(policy)?)), secrets })
    }

    /// From now on by this policy.
    pub(super) fn replace(&self, policy: &Policy) -> Result<()> {
        let connector = Arc::new(Connector::new(policy)?);
        *self.connector.lock().unwrap_or_else(PoisonError::into_inner) = connector;
        Ok(())
    }

    /// A connection to a remote's host; of https with TLS, verified.
    pub(super) async fn connect(&self, entry: &GitRemote, scheme: Scheme) -> Result<Stream, Denial> {
        let connector = self.connector.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let upstream = &entry.upstream;
        let route = Route { address: entry.address, allow_private: entry.allow_private, ..Route::to(upstream.host()) };
        let host = match upstream.host() {
            six if six.contains(':') => format!("[{six}]"),
            name => name.to_owned(),
        };
        let target = Target::new(scheme, host, upstream.port())
            .ok_or_else(|| Denial::bad_request("target", "the remote's host cannot be named"))?;
        match scheme {
            Scheme::Https => connector.tls_http1(&self.secrets, &route, &target).await,
            // Whatever is spoken on it is encrypted and verified by who speaks it.
            Scheme::Http => connector.raw(&self.secrets, &route, &target).await,
        }
    }

    /// Connects ssh, on the other side of `near`, with its remote.
    pub(super) async fn carry(&self, entry: &GitRemote, trouble: &Trouble, near: UnixStream) {
        let far = match self.connect(entry, Scheme::Http).await {
            Ok(far) => far,
            Err(denial) => return trouble.tell(denial.reason),
        };
        let ((mut from_ssh, mut to_ssh), (from_host, mut to_host)) = (near.into_split(), split(far));
        let up = async {
            let _ = copy(&mut from_ssh, &mut to_host).await;
            let _ = to_host.shutdown().await;
        };
        let down = async {
            let most = entry.limits.fetch_bytes;
            let (mut from_host, mut counted) = (from_host.take(most), 0);
            if let Ok(bytes) = copy(&mut from_host, &mut to_ssh).await {
                counted = bytes;
            }
            if counted >= most {
                trouble.tell(too_much(most));
            }
            let _ = to_ssh.shutdown().await;
        };
        // With the host gone there is nobody to speak to. With ssh gone the host should go, too.
        tokio::select! {
            () = down => {}
            () = async { up.await; sleep(LAST_WORD).await } => {}
        }
    }
}

pub(super) fn too_much(most: u64) -> String {
    format!("upstream sent more than the {most} bytes that a fetch may bring")
}
