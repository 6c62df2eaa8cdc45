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

/// What the host of a request stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// A name, for a resolver.
    Name,
    /// An address in its one spelling. IPv6 with or without brackets, never with a zone.
    Address(IpAddr),
}

/// Reads a host. What a resolver would take for an address though it is not written as one (`127.1`, `0x7f000001`,
/// `2130706433`, `0177.0.0.1`) is neither a name nor an address: the error says what it is.
pub fn host(text: &str) -> Result<Host, &'static str> {
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inner.parse::<Ipv6Addr>() {
            Ok(v6) => Ok(Host::Address(v6.into())),
            Err(_) => Err("no address, for all its brackets"),
        };
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Address(address));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    if text.len() > 253 || !text.split('.').all(label) {
        return Err("no name that a resolver can be asked for");
    }
    // No name ends in a number (RFC 1123, 2.1); what does is read as an address by inet_aton and its like.
    let last = text.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let number = last
        .strip_prefix("0x")
        .map_or_else(|| last.bytes().all(|b| b.is_ascii_digit()), |hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if number { Err("another spelling of an address") } else { Ok(Host::Name) }
}

/// Why a name that others resolve may not be asked for, if it may not: it is seen from the name alone that it means the
/// resolver's own machine or its neighbourhood.
pub fn local_name(name: &str, allow_private: bool) -> Option<&'static str> {
    const LOCAL: [&str; 7] = ["local", "internal", "localdomain", "home.arpa", "lan", "intranet", "corp"];
    let name = name.to_ascii_lowercase();
    let below = |zone: &str| name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if below("localhost") || below("localhost.localdomain") || name.starts_with("metadata.") {
        return Some("a name of the machine itself, or of its metadata service");
    }
    let local = !name.contains('.') || LOCAL.iter().any(|zone| below(zone));
    (local && !allow_private).then_some("a name of a private network, which only `allow_private` of its route opens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_in_its_one_spelling() {
        for name in
            ["a.example", "A.example", "xn--hst-sna.example", "a_b.example", "localhost", "0x7g", "1.2.3.x", "127-1"]
        {
            assert_eq!(host(name), Ok(Host::Name), "{name}");
        }
        for (text, address) in
            [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1"), ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1")]
        {
            assert_eq!(host(text), Ok(Host::Address(address.parse().unwrap())), "{text}");
        }
        let long = format!("{}.example", "a".repeat(64));
        for text in [
            "",
            ".",
            "a..example",
            "a.example.",
            ".example",
            "127.1",
            "127.0.0.1.",
            "2130706433",
            "0177.0.0.1",
            "127.0.0.01",
            "0x7f.1",
            "0x7f000001",
            "0x",
            "1.2.3.0X1f",
            "a.1",
            "1.2.3.4.5",
            "[127.0.0.1]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "fe80::1%1",
            "[::1",
            "::1]",
            "[]",
            "a b",
            "a\0.example",
            "a%2e.example",
            "a@b.example",
            "a/b",
            "h\u{f6}st.example",
            "a\u{3002}example",
            "\u{ff11}27.0.0.1",
            &long,
        ] {
            assert!(host(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn local_names_are_not_given_to_others_to_resolve() {
        for name in ["localhost", "a.localhost", "LOCALHOST", "localhost.localdomain", "metadata.google.internal"] {
            assert!(local_name(name, true).is_some() && local_name(name, false).is_some(), "{name}");
        }
        for name in ["printer", "a.local", "git.corp", "x.internal", "x.home.arpa"] {
            assert!(local_name(name, true).is_none() && local_name(name, false).is_some(), "{name}");
        }
        for name in ["a.example", "local.example", "internal.example", "notlocalhost.example", "xlocal.example"] {
            assert!(local_name(name, false).is_none(), "{name}");
        }
    }

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
