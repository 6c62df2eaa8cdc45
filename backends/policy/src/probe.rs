//! The launch probe: what the host asks the helper in a bottle before its agent runs, and what the helper answers.
//!
//! ```text
//! host ── Question ──▶ bottle-helper probe (the agent's user) ── Report ──▶ host
//! ```
//!
//! The helper looks and does not judge; a report that says less than all of this is none.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// A name that no resolver of a bottle may know anything of. It stands for every outside name, and exists nowhere
/// (RFC 2606): whoever asks further is told so, and passes that on.
pub const OUTSIDE_NAME: &str = "launch-probe.bottle.example";
/// The log's rule for a query for [`OUTSIDE_NAME`]: it is our own.
pub const PROBE_RULE: &str = "probe";

/// The agent's own standing: uid, capabilities, seccomp.
pub const STATUS: &str = "/proc/self/status";
/// Routes of IPv4.
pub const ROUTES: &str = "/proc/net/route";
/// Routes of IPv6; not there where the kernel has none.
pub const ROUTES_V6: &str = "/proc/net/ipv6_route";
/// Who has answered on the bottle's own links.
pub const NEIGHBOURS: &str = "/proc/net/arp";
/// The resolver's configuration.
pub const RESOLVER: &str = "/etc/resolv.conf";
/// All files that a report holds.
pub const FILES: [&str; 5] = [STATUS, ROUTES, ROUTES_V6, NEIGHBOURS, RESOLVER];

/// What to find out. It travels over the helper's standard input: it holds the capability.
#[derive(Serialize, Deserialize)]
pub struct Question {
    /// The sidecar's address or name, as the bottle sees it.
    pub sidecar: String,
    /// The `Proxy-Authorization` header that opens the proxy.
    pub authorization: String,
    /// Addresses at which nobody may answer; the helper adds the gateways that it finds.
    pub targets: Vec<IpAddr>,
    /// The ports to try at each of them.
    pub ports: Vec<u16>,
    /// Paths at which no socket may be.
    pub sockets: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// [`FILES`], read after everything else was tried; `None` where there is no such file.
    pub files: BTreeMap<String, Option<String>>,
    /// The sidecar's address.
    pub sidecar: IpAddr,
    /// The status that the proxy answers with the capability.
    pub with_capability: u16,
    /// The same without it.
    pub without_capability: u16,
    /// Who answered at the targets and gateways, be it with a refusal: the packets got there.
    pub answered: Vec<SocketAddr>,
    /// What each configured resolver said of [`OUTSIDE_NAME`].
    pub lookups: Vec<Lookup>,
    /// A raw socket could be opened.
    pub raw_socket: bool,
    /// The sockets of [`Question::sockets`] that are there.
    pub sockets: Vec<String>,
}

/// One query for [`OUTSIDE_NAME`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lookup {
    /// The resolver.
    pub resolver: IpAddr,
    /// Over TCP; else over UDP.
    pub tcp: bool,
    /// What came of it.
    pub answer: Answer,
}

/// How a resolver answers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nobody listens there.
    Nobody,
    /// REFUSED or SERVFAIL: it knows nothing, and could ask nobody.
    Refused,
    /// Anything else: it knows, or has asked.
    Answered,
    /// Nothing in time.
    Silent,
}

/// A route of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteV4 {
    /// The network.
    pub destination: Ipv4Addr,
    /// Its mask.
    pub mask: Ipv4Addr,
    /// Who passes packets on; none where the network is on the link itself.
    pub gateway: Option<Ipv4Addr>,
}

impl RouteV4 {
    /// Is this address in the network?
    pub fn contains(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        address & self.mask == self.destination
    }
}

/// The routes in a text of [`ROUTES`]; `None` where it cannot be read.
pub fn routes_v4(table: &str) -> Option<Vec<RouteV4>> {
    // The kernel prints an address's four bytes as one number of the machine's own order.
    let address = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes()));
    let mut lines = table.lines();
    lines.next().filter(|head| head.starts_with("Iface"))?;
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let gateway = address(words.get(2)?)?;
            Some(RouteV4 {
                destination: address(words.get(1)?)?,
                mask: address(words.get(7)?)?,
                gateway: Some(gateway).filter(|gateway| !gateway.is_unspecified()),
            })
        })
        .collect()
}

/// The resolvers in a text of [`RESOLVER`].
pub fn resolvers(text: &str) -> Vec<IpAddr> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next());
    values.filter_map(|address| address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t014DC90A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t004DC90A\t00000000\t0001\t0\t0\t0\tF0FFFFFF\t0\t0\t0\n";
        let routes = routes_v4(table).unwrap();
        assert_eq!(routes[0].gateway, Some(Ipv4Addr::new(10, 201, 77, 1)));
        assert_eq!((routes[1].gateway, routes[1].contains([10, 201, 77, 2].into())), (None, true));
        assert!(!routes[1].contains([10, 201, 77, 17].into()) && routes[0].contains([1, 1, 1, 1].into()));
        for bad in ["", "nonsense\n", "Iface\neth0 x y\n"] {
            assert_eq!(routes_v4(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn resolvers_are_found_among_other_lines() {
        let text = "# nameserver 1.1.1.1\nsearch .\nnameserver 127.0.0.11\nnameserver  ::1 \noptions ndots:0\n";
        assert_eq!(resolvers(text), [IpAddr::from([127, 0, 0, 11]), "::1".parse().unwrap()]);
    }
}
