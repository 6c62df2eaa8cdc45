//! Address blocks for bottles' networks, out of pools of our own: an engine's default pools end at about thirty networks,
//! which is fifteen bottles.

use bottle_api::{Error, ErrorKind, Result};
use std::{fmt, net::Ipv4Addr};

/// The host's variable that names the pool.
pub const POOL_ENV: &str = "CLAUDE_BOTTLE_SUBNET_POOL";
/// Where none is named. In the middle of a range that home networks and engines rarely take from.
pub const DEFAULT_POOL: &str = "10.231.0.0/16";
/// Sixteen addresses: the engine's gateway, the sidecar, the agent, and room.
pub const SMALL: u8 = 28;
/// The pool of the networks whose agents are in machines of their own, where none is named.
pub const BRIDGE_POOL: &str = "10.232.0.0/16";
/// One such network's.
pub const BRIDGE: u8 = 24;

/// One network's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    base: u32,
    bits: u8,
}

impl Block {
    /// The `n`th address.
    pub fn address(self, n: u8) -> Ipv4Addr {
        Ipv4Addr::from(self.base + u32::from(n))
    }

    fn overlaps(self, (base, bits): (u32, u8)) -> bool {
        let mask = mask(bits.min(self.bits));
        self.base & mask == base & mask
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(0), self.bits)
    }
}

/// Every block of that size of a pool once, from a place that `seed` decides, without those that a route of this machine
/// covers.
pub fn blocks(pool: &str, size: u8, seed: &str, taken: &[(u32, u8)]) -> Result<Vec<Block>> {
    let (base, bits) = parse(pool).filter(|(_, bits)| (8..=size).contains(bits)).ok_or_else(|| {
        Error::new(ErrorKind::INVALID_SPEC, format!("{POOL_ENV}={pool} is no IPv4 network of /8 to /{size}"))
            .hint(format!("Write it like {DEFAULT_POOL}."))
    })?;
    let count = 1_u32 << (size - bits);
    let first = seed.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let addresses = 1 << (32 - size);
    Ok((0..count)
        .map(|n| Block { base: base + (first.wrapping_add(n) % count) * addresses, bits: size })
        .filter(|block| !taken.iter().any(|route| block.overlaps(*route)))
        .collect())
}

/// The destinations of this machine's routes, but for the default one. A new network must not hide any of them.
pub fn routes() -> Vec<(u32, u8)> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    parse_routes(&table)
}

/// Linux's `/proc/net/route`: columns 2 and 8 are address and mask, hexadecimal, in the machine's own byte order.
fn parse_routes(table: &str) -> Vec<(u32, u8)> {
    let field = |word: Option<&&str>| {
        word.and_then(|w| u32::from_str_radix(w, 16).ok()).map(|n| u32::from_be(n.to_be()).swap_bytes())
    };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some((field(words.get(1))?, u8::try_from(field(words.get(7))?.count_ones()).ok()?))
        })
        .filter(|(_, bits)| *bits > 0)
        .collect()
}

fn parse(network: &str) -> Option<(u32, u8)> {
    let (address, bits) = network.split_once('/')?;
    let (address, bits) = (u32::from(address.parse::<Ipv4Addr>().ok()?), bits.parse::<u8>().ok()?);
    (bits <= 32 && address & !mask(bits) == 0).then_some((address, bits))
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_pool_gives_each_block_once_and_never_over_a_route() {
        let all = blocks("10.231.0.0/16", SMALL, "x", &[]).unwrap();
        let distinct: HashSet<_> = all.iter().map(Block::to_string).collect();
        assert_eq!((all.len(), distinct.len()), (4096, 4096));
        let taken = [parse("10.231.128.0/17").unwrap(), parse("10.231.0.5/32").unwrap()];
        let some = blocks("10.231.0.0/16", SMALL, "x", &taken).unwrap();
        assert_eq!(some.len(), 2047);
        assert!(blocks("10.231.0.0/16", SMALL, "x", &[parse("10.0.0.0/8").unwrap()]).unwrap().is_empty());
    }

    #[test]
    fn a_bridges_blocks_are_256_addresses_and_avoid_every_smaller_route() {
        let taken = [parse("10.232.7.16/28").unwrap(), parse("10.232.9.1/32").unwrap()];
        let some = blocks(BRIDGE_POOL, BRIDGE, "demo", &taken).unwrap();
        assert_eq!(some.len(), 254);
        assert!(some.iter().all(|block| block.to_string().ends_with(".0/24") && block.address(0).octets()[2] != 7));
        assert_eq!(some, blocks(BRIDGE_POOL, BRIDGE, "demo", &taken).unwrap());
        assert_ne!(some[0], blocks(BRIDGE_POOL, BRIDGE, "other", &taken).unwrap()[0]);
    }

    #[test]
    fn pools_are_read_strictly() {
        for bad in ["", "10.231.0.0", "10.231.0.1/16", "10.231.0.0/29", "10.0.0.0/7", "fd00::/8", "10.231.0.0/x"] {
            assert!(blocks(bad, SMALL, "x", &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn routes_are_read_from_the_kernels_table() {
        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask\n\
                     eth0 00000000 0100000A 0003 0 0 0 00000000\n\
                     eth0 0000E70A 00000000 0001 0 0 0 0000FFFF\n";
        assert_eq!(parse_routes(table), [parse("10.231.0.0/16").unwrap()]);
    }
}
