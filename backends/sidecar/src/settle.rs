//! Makes a fresh machine a bottle from inside, as its root, before the agent's user has a process in it.
//!
//! The engine outside closes the machine's network for whoever is in it, root included. This is the second lock on the
//! same door, and what makes a machine look from inside like any other bottle: there is a route to the sidecar, as if it
//! stood on the link itself, and none to anybody else; no resolver; no neighbour.

use crate::link::{Kernel, Link};
use anyhow::{Context, Result, ensure};
use bottle_api::{
    AGENT_UID, HOME, WORKSPACE,
    control::{PROXY_PORT, SIDECAR_NAMES},
};
use bottle_policy::probe::{NEIGHBOURS, RESOLVER, ROUTES, RouteV4, routes_v4};
use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    thread,
    time::Duration,
};

/// How long the sidecar may take to answer, and how often it is asked.
const ANSWER_TIME: Duration = Duration::from_secs(5);
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);
/// Devices of the machine that are nobody's business but its root's, and directories of the engine's.
const ROOTS_OWN: [&str; 4] = ["/dev/kmsg", "/dev/fuse", "/dev/net/tun", "/storage"];
/// Settings of the machine's kernel. A kernel without one has nothing to set.
const SETTINGS: [(&str, &str); 5] = [
    ("/proc/sys/kernel/dmesg_restrict", "1"),
    ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024"),
    // No group may send echo requests of its own.
    ("/proc/sys/net/ipv4/ping_group_range", "1 0"),
];

/// `settle ADDRESS`, the sidecar's.
pub(crate) fn run(address: &str) -> Result<()> {
    let sidecar: Ipv4Addr = address.parse().with_context(|| format!("{address} is no address"))?;
    for path in ROOTS_OWN.into_iter().filter(|path| Path::new(path).exists()) {
        let mode = if Path::new(path).is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| format!("close {path}"))?;
    }
    for (path, value) in SETTINGS {
        match fs::write(path, value) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.with_context(|| format!("set {path}"))?,
        }
    }
    for dir in [HOME, WORKSPACE] {
        fs::create_dir_all(dir).with_context(|| format!("make {dir}"))?;
        chown(dir, Some(AGENT_UID), Some(AGENT_UID)).with_context(|| format!("hand over {dir}"))?;
    }
    fs::set_permissions(WORKSPACE, fs::Permissions::from_mode(0o755))?;
    names(sidecar).context("name the sidecar")?;
    close(sidecar).context("close the machine's network")
}

/// No resolver, and the sidecar's names where everybody looks first.
fn names(sidecar: Ipv4Addr) -> Result<()> {
    fs::write(RESOLVER, "# There is no resolver: the proxy resolves.\n")?;
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let local = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t{}\n", own.trim());
    Ok(fs::write("/etc/hosts", format!("{local}{sidecar}\t{}\n", SIDECAR_NAMES.join(" ")))?)
}

fn close(sidecar: Ipv4Addr) -> Result<()> {
    // The way out that the engine made tells link and hardware; whoever is asked on it is a neighbour afterwards.
    reach(sidecar)?;
    let routes = routes()?;
    let (link, default) =
        routes.iter().find(|(_, route)| route.mask.is_unspecified()).context("no way out is there")?;
    let gateway = default.gateway.context("the way out has no gateway")?;
    let hardware = hardware(&fs::read_to_string(NEIGHBOURS)?, gateway).context("the gateway has no address")?;
    let kernel = Kernel::connect()?;
    kernel.add_neighbour(sidecar, hardware, *link)?;
    kernel.add_route(sidecar, *link)?;
    for (link, route) in &routes {
        kernel.remove_route(route.destination, bits(route), *link)?;
    }
    kernel.remove_neighbour(gateway, *link)?;
    reach(sidecar)?;
    let left = self::routes()?;
    ensure!(
        matches!(left[..], [(_, route)] if route.destination == sidecar && bits(&route) == 32),
        "other routes are left: {left:?}"
    );
    Ok(())
}

fn reach(sidecar: Ipv4Addr) -> Result<()> {
    let address = SocketAddr::from((sidecar, PROXY_PORT));
    let mut tries = 1;
    loop {
        match TcpStream::connect_timeout(&address, ANSWER_TIME) {
            Ok(_) => return Ok(()),
            Err(error) if tries == TRIES => {
                return Err(error).with_context(|| format!("reach the sidecar at {address}"));
            }
            Err(_) => thread::sleep(PAUSE),
        }
        tries += 1;
    }
}

fn bits(route: &RouteV4) -> u8 {
    u8::try_from(route.mask.to_bits().count_ones()).unwrap_or(32)
}

/// The kernel's routes, each with its link's number.
fn routes() -> Result<Vec<(Link, RouteV4)>> {
    let table = fs::read_to_string(ROUTES)?;
    let routes = routes_v4(&table).context("the table of routes cannot be read")?;
    let links = table.lines().skip(1).map(|line| {
        let name = line.split_whitespace().next().context("a route has a link")?;
        let number = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
        Ok(number.trim().parse()?)
    });
    Ok(links.collect::<Result<Vec<Link>>>()?.into_iter().zip(routes).collect())
}

/// The hardware's address of a neighbour, in the kernel's list.
fn hardware(table: &str, neighbour: Ipv4Addr) -> Option<[u8; 6]> {
    let neighbour = neighbour.to_string();
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(&neighbour))?;
    let bytes = line.split_whitespace().nth(3)?.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok().filter(|bytes| *bytes != [0; 6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbours_hardware_is_found_once_it_has_answered() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     100.96.0.1       0x1         0x2         02:53:4d:00:00:01     *        eth0\n\
                     100.96.0.11      0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        assert_eq!(hardware(table, [100, 96, 0, 1].into()), Some([2, 0x53, 0x4d, 0, 0, 1]));
        assert_eq!(hardware(table, [100, 96, 0, 11].into()), None);
        assert_eq!(hardware(table, [100, 96, 0, 2].into()), None);
    }
}
