//! Which addresses may be dialled: not the host's own neighbourhood, in any spelling.
//!
//! Ranges: the special-purpose registries of RFC 6890. Documentation ranges (RFC 5737, RFC 3849) are not refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address may not be dialled, if it may not; `own` are the host's own addresses, refused always.
///
/// `allow_private` lifts the refusal of private ranges (RFC 1918, 6598, 4193), and of these only: loopback,
/// link-local (where clouds keep their metadata), multicast and unspecified addresses are refused always.
pub fn refusal(address: IpAddr, allow_private: bool, own: &[IpAddr]) -> Option<&'static str> {
    let address = plain(address);
    if own.iter().any(|own| plain(*own) == address) {
        return Some("an address of the machine that the bottle runs on");
    }
    match address {
        IpAddr::V4(v4) => refusal_v4(v4, allow_private),
        IpAddr::V6(v6) => refusal_v6(v6, allow_private),
    }
}

/// The IPv4 address that an IPv6 one carries, if it does; else the address itself.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => embedded_v4(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn refusal_v4(a: Ipv4Addr, allow_private: bool) -> Option<&'static str> {
    let o = a.octets();
    Some(match o {
        [0, ..] => "the unspecified network 0.0.0.0/8",
        [127, ..] => "a loopback address",
        [169, 254, ..] => "a link-local address",
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => "a metadata service",
        [224..=255, ..] => "a multicast, reserved or broadcast address",
        [192, 0, 0, _] => "a protocol assignment (192.0.0.0/24)",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18..=19, ..] => {
            return (!allow_private).then_some("a private address");
        }
        _ => return None,
    })
}

fn refusal_v6(a: Ipv6Addr, allow_private: bool) -> Option<&'static str> {
    let s = a.segments();
    Some(match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => "the unspecified address",
        [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback address",
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => "a metadata service",
        _ if s[0] & 0xffc0 == 0xfe80 || s[0] & 0xffc0 == 0xfec0 => "a link-local or site-local address",
        _ if s[0] & 0xff00 == 0xff00 => "a multicast address",
        _ if s[0] & 0xfe00 == 0xfc00 => return (!allow_private).then_some("a private address"),
        [0x2001, 0xdb8, ..] => return None,
        // Everything that is not global unicast (2000::/3), and Teredo, whose embedded address is scrambled.
        _ if s[0] & 0xe000 != 0x2000 || s[0] == 0x2001 && s[1] == 0 => "a special-purpose address",
        _ => return None,
    })
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, NAT64, 6to4.
fn embedded_v4(a: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = a.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, h, l] | [0, 0, 0, 0, 0xffff, 0, h, l] => Some(v4(h, l)),
        [0x64, 0xff9b, .., h, l] => Some(v4(h, l)),
        [0, 0, 0, 0, 0, 0, h, l] if h != 0 => Some(v4(h, l)),
        [0x2002, h, l, ..] => Some(v4(h, l)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, allow_private: bool) -> bool {
        let own = ["198.51.100.77".parse().unwrap()];
        refusal(text.parse().unwrap(), allow_private, &own).is_some()
    }

    #[test]
    fn the_neighbourhood_is_refused_in_every_spelling() {
        for a in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::ffff:169.254.169.254",
            "2001::1",
            "100::1",
        ] {
            assert!(refused(a, false) && refused(a, true), "{a}");
        }
        for a in ["198.51.100.77", "::ffff:198.51.100.77", "fd00:ec2::254"] {
            assert!(refused(a, false) && refused(a, true), "{a}");
        }
        for a in ["10.1.2.3", "172.31.0.1", "192.168.0.1", "100.64.0.1", "fc00::1", "fd12::1", "::ffff:10.0.0.1"] {
            assert!(refused(a, false) && !refused(a, true), "{a}");
        }
        for a in ["1.1.1.1", "203.0.113.9", "192.0.2.1", "198.51.100.1", "2606:4700::1", "2001:db8::1", "172.32.0.1"] {
            assert!(!refused(a, false), "{a}");
        }
    }
}
