//! The kernel's routes and neighbours, over netlink: as much of it as closes a machine's network.

use anyhow::{Context, Result, bail};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto, socket_with,
};
use std::{net::Ipv4Addr, os::fd::OwnedFd};

// linux/netlink.h, linux/rtnetlink.h, linux/neighbour.h
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const REQUEST_ACKNOWLEDGED: u16 = 0x1 | 0x4;
const CREATE_OR_REPLACE: u16 = 0x400 | 0x100;
const ERROR: u16 = 2;
const INET: u8 = 2;
const MAIN_TABLE: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_LINK: u8 = 253;
const SCOPE_ANY: u8 = 255;
const UNICAST: u8 = 1;
const PERMANENT: u16 = 0x80;
/// Attributes of a route, then of a neighbour.
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_LINK: u16 = 4;
const NEIGHBOUR_DESTINATION: u16 = 1;
const NEIGHBOUR_ADDRESS: u16 = 2;

const HEADER: usize = 16;

/// A link's number.
pub(crate) type Link = u32;

/// The kernel's end of it.
pub(crate) struct Kernel(OwnedFd);

impl Kernel {
    pub(crate) fn connect() -> Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None);
        Ok(Self(socket.context("talk to the kernel's routing")?))
    }

    /// An address is on the link itself.
    pub(crate) fn add_route(&self, address: Ipv4Addr, link: Link) -> Result<()> {
        let body = route(address, 32, SCOPE_LINK, PROTOCOL_STATIC, UNICAST, link);
        self.ask(NEW_ROUTE, CREATE_OR_REPLACE, &body).with_context(|| format!("add a route to {address}"))
    }

    /// Whatever leads to a network over a link leads there no more.
    pub(crate) fn remove_route(&self, network: Ipv4Addr, bits: u8, link: Link) -> Result<()> {
        let body = route(network, bits, SCOPE_ANY, 0, 0, link);
        self.ask(DELETE_ROUTE, 0, &body).with_context(|| format!("remove the route to {network}/{bits}"))
    }

    /// An address on a link belongs to that hardware, for good.
    pub(crate) fn add_neighbour(&self, address: Ipv4Addr, hardware: [u8; 6], link: Link) -> Result<()> {
        let body = [neighbour(link, PERMANENT), attribute(NEIGHBOUR_DESTINATION, &address.octets())].concat();
        let body = [body, attribute(NEIGHBOUR_ADDRESS, &hardware)].concat();
        self.ask(NEW_NEIGHBOUR, CREATE_OR_REPLACE, &body).with_context(|| format!("name the neighbour {address}"))
    }

    /// An address is forgotten.
    pub(crate) fn remove_neighbour(&self, address: Ipv4Addr, link: Link) -> Result<()> {
        let body = [neighbour(link, 0), attribute(NEIGHBOUR_DESTINATION, &address.octets())].concat();
        self.ask(DELETE_NEIGHBOUR, 0, &body).with_context(|| format!("forget the neighbour {address}"))
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend([kind.to_ne_bytes(), (REQUEST_ACKNOWLEDGED | flags).to_ne_bytes()].concat());
        message.extend([1_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat());
        message.extend(body);
        sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answer = [0_u8; 1024];
        let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        match *answer.get(..length).unwrap_or_default() {
            [_, _, _, _, a, b, _, _, _, _, _, _, _, _, _, _, c, d, e, f, ..] if u16::from_ne_bytes([a, b]) == ERROR => {
                match i32::from_ne_bytes([c, d, e, f]) {
                    0 => Ok(()),
                    code => Err(std::io::Error::from_raw_os_error(-code).into()),
                }
            }
            _ => bail!("the kernel's answer cannot be read"),
        }
    }
}

fn route(to: Ipv4Addr, bits: u8, scope: u8, protocol: u8, kind: u8, link: Link) -> Vec<u8> {
    let head = [INET, bits, 0, 0, MAIN_TABLE, protocol, scope, kind, 0, 0, 0, 0];
    [&head[..], &attribute(ROUTE_DESTINATION, &to.octets()), &attribute(ROUTE_LINK, &link.to_ne_bytes())].concat()
}

fn neighbour(link: Link, state: u16) -> Vec<u8> {
    [&[INET, 0, 0, 0][..], &link.to_ne_bytes(), &state.to_ne_bytes(), &[0, 0]].concat()
}

/// Padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = [((4 + value.len()) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}
