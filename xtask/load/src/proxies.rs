//! The proxies that are measured, each started as it is used.

use crate::{HOSTS, client::Way, host, origin::ADDRESS, process};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::{
    Secret,
    control::{
        BIND_ENV, BUNDLE_ARGUMENT, CAPABILITY, CONTROL_VERSION, DAEMONS_ENV, First, PROXY_PORT, SecretsFrame, Start,
        read_frame, write_frame,
    },
    secret::Secrets,
};
use bottle_policy::{Policy, Route};
use std::{
    fs,
    io::{Read, Write, copy, sink},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const LEG: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const MITM_PORT: u16 = 9098;
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy that serves.
pub(crate) struct Proxy {
    child: Child,
    /// The process that does the work.
    pub(crate) pid: u32,
    pub(crate) way: Way,
    /// From its start until it served.
    pub(crate) start: Duration,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Every process of it.
    pub(crate) fn all(&self) -> Result<Vec<u32>> {
        Ok([vec![self.child.id()], process::children(self.child.id())?].concat())
    }

    /// Our sidecar, a bundle with both its daemons, policy on.
    pub(crate) fn ours(program: &Path, origin_ca: &str) -> Result<Self> {
        let (capability, began) = ("the-capability", Instant::now());
        let mut child = Command::new(program)
            .arg(BUNDLE_ARGUMENT)
            .env_clear()
            .env(BIND_ENV, LEG.to_string())
            .env(DAEMONS_ENV, "egress,dns")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", program.display()))?;
        let mut secrets = Secrets::default();
        secrets.insert(CAPABILITY, Secret::new(capability));
        let route = |n| Route { address: Some(ADDRESS.ip()), ..Route::to(host(n)) };
        let policy = Policy {
            routes: (0..HOSTS).map(route).collect(),
            upstream_ca_pem: Some(origin_ca.to_owned()),
            ..Policy::default()
        };
        let channel = child.stdin.as_mut().context("stdin")?;
        write_frame(channel, &Start { version: CONTROL_VERSION, policy: serde_json::to_value(policy)? })?;
        channel.write_all(&SecretsFrame::encode(&secrets)?)?;
        let mut up = child.stdout.take().context("stdout")?;
        let Some(First::Ready { ca_pem }) = read_frame(&mut up)? else { bail!("the sidecar refuses to serve") };
        let start = began.elapsed();
        thread::spawn(move || copy(&mut up, &mut sink()));
        let child_that_is = |parent, end: &str| {
            let is_it = |pid: &u32| process::words(*pid).is_ok_and(|words| words.ends_with(end));
            process::children(parent)?.into_iter().find(is_it).with_context(|| format!("{parent} has no child `{end}`"))
        };
        let pid = child_that_is(child_that_is(child.id(), "keep egress ")?, "daemon egress ")?;
        let credentials = BASE64_STANDARD.encode(format!("bottle:{capability}"));
        let way = Way::new(Some(((LEG, PROXY_PORT).into(), credentials)), &ca_pem)?;
        Ok(Self { child, pid, way, start })
    }

    /// mitmproxy, as it comes. Its files are kept in `place`, so that its authority is there from the second start on.
    pub(crate) fn mitmproxy(program: &Path, place: &Path, origin_ca: &str) -> Result<Self> {
        fs::create_dir_all(place)?;
        let trusted = place.join("origin.pem");
        fs::write(&trusted, origin_ca)?;
        let began = Instant::now();
        let mut child = Command::new(program)
            .args(["--quiet", "--set", &format!("confdir={}", place.display()), "--set", "flow_detail=0"])
            .args(["--set", &format!("ssl_verify_upstream_trusted_ca={}", trusted.display())])
            .args(["--listen-host", &LEG.to_string(), "--listen-port", &MITM_PORT.to_string()])
            .args(["--proxyauth", "bottle:the-capability"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", program.display()))?;
        let at: SocketAddr = (LEG, MITM_PORT).into();
        let ca = place.join("mitmproxy-ca-cert.pem");
        while TcpStream::connect(at).is_err() || !ca.exists() {
            if let Some(status) = child.try_wait()? {
                let mut said = String::new();
                child.stderr.take().context("stderr")?.read_to_string(&mut said)?;
                bail!("mitmproxy ended: {status}: {said}");
            }
            ensure!(began.elapsed() < PATIENCE, "mitmproxy does not listen");
            thread::sleep(Duration::from_millis(2));
        }
        let start = began.elapsed();
        let credentials = BASE64_STANDARD.encode("bottle:the-capability");
        let way = Way::new(Some((at, credentials)), &fs::read_to_string(ca)?)?;
        Ok(Self { pid: child.id(), child, way, start })
    }
}
