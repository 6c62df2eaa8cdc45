//! Where daemons listen: at addresses that they bind, or at sockets that the bundle was given, in a network that it is not
//! in itself ([`LISTENERS_ENV`]).
//!
//! The bundle has them from one message, and lends each daemon its own for each of its lives. No other process has them:
//! what stays open in all under the number of [`LISTENERS_ENV`] is a socket with nothing in it and nobody behind it. A
//! daemon takes its own by asking the kernel for a descriptor of its own process's: a number alone would be nobody's.

use crate::rights;
use anyhow::{Context, Result, bail, ensure};
use bottle_api::control::{GIT_GATE_PORT, LISTENERS_ENV, PROXY_PORT, SUPERVISE_PORT, listeners_of};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::{env, io, net::IpAddr, os::fd::OwnedFd};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

/// Clients that wait to be accepted. Where there is no room for one more the kernel forgets whom it has greeted (SYN cookies),
/// and resets some of them later.
const BACKLOG: u32 = 4096;

/// Of each of these daemons, in their order; none, where they bind their own.
pub(crate) fn given(daemons: &[&str]) -> Result<Vec<Vec<OwnedFd>>> {
    let Some(number) = env::var_os(LISTENERS_ENV) else { return Ok(daemons.iter().map(|_| vec![]).collect()) };
    let socket = take(number.to_str().context(LISTENERS_ENV)?)?;
    let (_, listeners) = rights::receive(&socket)?.context("no listeners came")?;
    let expected: usize = daemons.iter().map(|name| listeners_of(name).len()).sum();
    ensure!(listeners.len() == expected, "{} listeners came, {expected} are needed", listeners.len());
    let mut listeners = listeners.into_iter();
    Ok(daemons.iter().map(|name| listeners.by_ref().take(listeners_of(name).len()).collect()).collect())
}

/// The proxy's. `lent`: the numbers of a daemon's own.
pub(crate) async fn proxy(bind: IpAddr, lent: &[&str]) -> Result<TcpListener> {
    one(bind, PROXY_PORT, lent).await.context("listen for the proxy")
}

/// Git's.
pub(crate) async fn repositories(bind: IpAddr, lent: &[&str]) -> Result<TcpListener> {
    one(bind, GIT_GATE_PORT, lent).await.context("listen for git")
}

/// That of the agent's questions.
pub(crate) async fn supervise(bind: IpAddr, lent: &[&str]) -> Result<TcpListener> {
    one(bind, SUPERVISE_PORT, lent).await.context("listen for the agent's questions")
}

async fn one(bind: IpAddr, port: u16, lent: &[&str]) -> Result<TcpListener> {
    match lent {
        [] => Ok(bound(bind, port)?),
        [socket] => tcp(take(socket)?),
        _ => bail!("{} listeners, where one is needed", lent.len()),
    }
}

/// The resolver's two.
pub(crate) async fn resolver(bind: IpAddr, lent: &[&str]) -> Result<(UdpSocket, TcpListener)> {
    match lent {
        [] => {
            let udp = UdpSocket::bind((bind, 53)).await.context("listen for DNS over UDP")?;
            Ok((udp, bound(bind, 53).context("listen for DNS over TCP")?))
        }
        [udp, stream] => {
            let udp = std::net::UdpSocket::from(take(udp)?);
            udp.set_nonblocking(true)?;
            Ok((UdpSocket::from_std(udp)?, tcp(take(stream)?)?))
        }
        _ => bail!("{} listeners for the resolver", lent.len()),
    }
}

fn bound(bind: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = if bind.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind((bind, port).into())?;
    socket.listen(BACKLOG)
}

fn tcp(socket: OwnedFd) -> Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// What this process has under that number.
fn take(number: &str) -> Result<OwnedFd> {
    let number: i32 = number.parse().with_context(|| format!("{number} is no descriptor's number"))?;
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own, number, PidfdGetfdFlags::empty()).with_context(|| format!("take descriptor {number}"))
}
