//! Which hosts may be judged at all: names and addresses in their one plain spelling.
//!
//! A host that some resolver would read as another one (an address in octal, a name that ends with a dot, a letter that
//! only looks like one of ASCII) is refused instead of normalised: the name judged is the name resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name, and the longest label of one (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Why a host is refused, if it is. An IPv6 address may stand in brackets.
pub fn ambiguity(host: &str) -> Option<&'static str> {
    if let Some(inside) = host.strip_prefix('[') {
        let address = inside.strip_suffix(']').and_then(|inside| inside.parse::<Ipv6Addr>().ok());
        return address.is_none().then_some("what stands in brackets is no IPv6 address, or has a zone");
    }
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    if host.len() > MAX_NAME {
        return Some("the host's name is longer than any");
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Some("the host's name has a character beyond letters, digits, `.`, `-` and `_`");
    }
    if host.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return Some("a part of the host's name is empty or too long, or the name begins or ends with a dot");
    }
    // What ends in a number is an address, says the URL standard (WHATWG, 3.5): resolvers read octal, hexadecimal, and
    // fewer parts than four.
    let last = host.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
        return host.parse::<Ipv4Addr>().is_err().then_some("the host is an address in an unusual spelling");
    }
    None
}

/// Do two hosts in their plain spelling mean the same? Names in any case, addresses however they are shortened.
pub fn same(one: &str, other: &str) -> bool {
    match (address(one), address(other)) {
        (None, None) => one.eq_ignore_ascii_case(other),
        (one, other) => one == other,
    }
}

/// The address that a host is, if it is one.
pub fn address(host: &str) -> Option<IpAddr> {
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.unwrap_or(host).parse().ok()
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
    fn hosts_have_one_spelling() {
        for host in [
            "a.example",
            "A.Example",
            "xn--bcher-kva.example",
            "_srv.a-b.example",
            "localhost",
            "3com.example",
            "1.2.3.4",
            "0xbeef.example",
            "0x7g",
            "127-1",
            "::1",
            "[2001:db8::1]",
            "[::ffff:192.0.2.1]",
        ] {
            assert_eq!(ambiguity(host), None, "{host}");
        }
        let long = format!("{}.example", "a".repeat(64));
        let longer = "a.".repeat(127);
        for host in [
            "",
            ".",
            "a.example.",
            ".a.example",
            "a..example",
            "a b",
            "a\tb",
            "a\0.example",
            "a.example\0",
            "u@a.example",
            "a.example:443",
            "a%2eexample",
            "b\u{fc}cher.example",
            "a.example\u{3002}",
            "\u{ff41}.example",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "0177.0.0.1",
            "127.0.0.01",
            "1.2.3.4.5",
            "1.2.3.256",
            "a.example.0x1",
            "a.1",
            "[::1",
            "[::1]x",
            "[fe80::1%eth0]",
            "fe80::1%25eth0",
            "[127.0.0.1]",
            "[]",
            &long,
            &longer,
        ] {
            assert!(ambiguity(host).is_some(), "{host:?}");
        }
    }

    #[test]
    fn names_differ_by_letters_and_addresses_by_bits() {
        assert!(same("A.example", "a.EXAMPLE") && same("[2001:db8:0::1]", "2001:db8::1") && same("1.2.3.4", "1.2.3.4"));
        assert!(!same("a.example", "b.example") && !same("::ffff:1.2.3.4", "1.2.3.4") && !same("a", "[::1]"));
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
}
