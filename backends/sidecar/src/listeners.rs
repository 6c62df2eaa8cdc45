//! Where daemons listen: at addresses that they bind, or at sockets that the bundle was given, in a network that it is not
//! in itself ([`LISTENERS_ENV`]).
//!
//! The sockets keep their numbers through every program that the bundle starts. A daemon takes its own by asking the
//! kernel for a descriptor of its own process's: a number alone would be nobody's.

use anyhow::{Context, Result};
use bottle_api::control::{LISTENERS_ENV, PROXY_PORT};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::{env, net::IpAddr, os::fd::OwnedFd, process::Command};
use tokio::net::{TcpListener, UdpSocket};

/// Their order behind the first.
const PROXY: i32 = 0;
const RESOLVER_UDP: i32 = 1;
const RESOLVER_TCP: i32 = 2;

/// Passes on, in an environment that is cleared, where they are.
pub(crate) fn pass_on(command: &mut Command) {
    command.envs(env::var_os(LISTENERS_ENV).map(|first| (LISTENERS_ENV, first)));
}

/// The proxy's.
pub(crate) async fn proxy(bind: IpAddr) -> Result<TcpListener> {
    match given(PROXY)? {
        Some(socket) => tcp(socket),
        None => TcpListener::bind((bind, PROXY_PORT)).await.context("listen for the proxy"),
    }
}

/// The resolver's two.
pub(crate) async fn resolver(bind: IpAddr) -> Result<(UdpSocket, TcpListener)> {
    if let (Some(udp), Some(tcp_socket)) = (given(RESOLVER_UDP)?, given(RESOLVER_TCP)?) {
        let udp = std::net::UdpSocket::from(udp);
        udp.set_nonblocking(true)?;
        return Ok((UdpSocket::from_std(udp)?, tcp(tcp_socket)?));
    }
    let udp = UdpSocket::bind((bind, 53)).await.context("listen for DNS over UDP")?;
    Ok((udp, TcpListener::bind((bind, 53)).await.context("listen for DNS over TCP")?))
}

fn tcp(socket: OwnedFd) -> Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

fn given(place: i32) -> Result<Option<OwnedFd>> {
    let Some(first) = env::var_os(LISTENERS_ENV) else { return Ok(None) };
    let first: i32 = first.to_str().and_then(|text| text.parse().ok()).context("the number of the listeners")?;
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket = pidfd_getfd(own, first + place, PidfdGetfdFlags::empty()).context("take a listener")?;
    Ok(Some(socket))
}
