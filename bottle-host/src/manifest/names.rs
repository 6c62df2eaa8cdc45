//! Names in a manifest: of things, of variables, of hosts.

use super::read::{Checked, quoted, wrong};
use std::net::IpAddr;

/// Of skills, bottles and git entries.
pub(super) const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";
/// Of variables.
pub(super) const VARIABLE: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// What tokens of the forges begin with: whoever writes one where a variable's name belongs has pasted a secret.
const TOKENS: [&str; 8] = ["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat_", "npm_"];

/// [`NAME`]
pub(super) fn plain_name(name: &str) -> Checked<String> {
    let plain = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if plain {
        return Ok(name.into());
    }
    let shown = if name.is_empty() { "an empty text".into() } else { quoted(name) };
    wrong(
        format!("{shown} is no name"),
        "A name is letters, digits, dots, dashes and underscores, and begins with a letter or digit.",
    )
}

/// [`VARIABLE`]
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The name of the host's variable that holds a token. What is no such name may be the token: it is not repeated.
pub(super) fn token_variable(name: &str) -> Checked<String> {
    let bare = name.trim_start_matches('$').trim_start_matches('{').trim_end_matches('}');
    if is_variable(bare) && bare != name {
        return wrong("the name of a variable stands here without `$` and braces", format!("Write {bare}."));
    }
    if !is_variable(name) || TOKENS.iter().any(|token| name.starts_with(token)) {
        return wrong(
            "what stands here is not the name of a variable",
            "The token itself never stands in a manifest: export it on the host, and write the variable's name, \
             GITHUB_TOKEN say.",
        );
    }
    if super::env::MODEL_CREDENTIALS.contains(&name) {
        return wrong(
            format!("{name} is the model's own credential, and would go to another host"),
            "It is put in where the model is asked, and nowhere else; name another variable.",
        );
    }
    Ok(name.into())
}

/// A DNS name in lower case, or an address. No wildcard, scheme, port or path.
pub(super) fn host_name(text: &str) -> Checked<String> {
    let host = text.to_ascii_lowercase();
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let shown = quoted(text);
    let no = |hint: String| wrong(format!("{shown} is no host name"), hint);
    if let Some((_, rest)) = host.split_once("://") {
        let bare = rest.split(['/', ':', '?', '#']).next().unwrap_or_default();
        return no(format!("Write the host alone, {}: ports go to `ports`, paths to `path_allowlist`.", quoted(bare)));
    }
    if host.contains('*') {
        return no("There are no wildcards: write one entry for each host.".into());
    }
    if !host.is_ascii() {
        return no("Write an international name in its ASCII form, which begins with `xn--`.".into());
    }
    if let Some((bare, _)) = host.split_once('/') {
        return no(format!("Write the host alone, {}, and the path in `path_allowlist`.", quoted(bare)));
    }
    if host.starts_with('[') {
        return no("Write an IPv6 address without brackets.".into());
    }
    if let Some((bare, port)) = host.split_once(':') {
        let port = if port.parse::<u16>().is_ok() { port } else { "443" };
        return no(format!("Write the host alone, {}, and the port in `ports: [{port}]`.", quoted(bare)));
    }
    if let Some(bare) = host.strip_suffix('.') {
        return no(format!("Write it without the dot at its end: {}.", quoted(bare)));
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return no("A host is a DNS name, api.example.com say: letters, digits, dashes and dots.".into());
    }
    // 127.1, 0x7f.1, 2130706433: some resolvers take them for addresses.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
        return no("It looks like an address; write one with four numbers, 192.0.2.7 say.".into());
    }
    Ok(host)
}

/// An address that a host is dialled at.
pub(super) fn ip_address(text: &str) -> Checked<IpAddr> {
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => {
            wrong(format!("{} is no address", quoted(text)), "Write an IP address, 192.0.2.7 or 2001:db8::7 say.")
        }
    }
}

/// A host as [`host_name`] has it; or `*.` and a name, for that name and everything below it.
pub(super) fn listed_host(text: &str) -> Checked<String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if name.contains('*') {
        let hint = "A name may begin with `*.`, for itself and everything below it; there is no other wildcard.";
        return wrong(format!("{} is no host name", quoted(text)), hint);
    }
    if name == text {
        return host_name(text);
    }
    match host_name(name)? {
        name if name.parse::<IpAddr>().is_ok() => {
            wrong(format!("nothing is below the address {name}"), format!("Write it without `*.`: {name}."))
        }
        name => Ok(format!("*.{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_exact() {
        for (text, host) in [
            ("API.Example.com", "api.example.com"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.a.example", "_dmarc.a.example"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8:0::1", "2001:db8::1"),
        ] {
            assert_eq!(host_name(text).as_deref(), Ok(host));
        }
        for text in ["", ".", "a..b", "-a.b", "a.b-", "a b", "127.1", "1.2.3.4.5", "0x7f000001", "a.b:443", "[::1]"] {
            assert!(host_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listed_hosts_may_begin_with_a_wildcard_and_nothing_else() {
        for (text, host) in
            [("Bad.example", "bad.example"), ("*.Bad.example", "*.bad.example"), ("2001:DB8::1", "2001:db8::1")]
        {
            assert_eq!(listed_host(text).as_deref(), Ok(host));
        }
        for text in ["*", "*.", "*.*.example", "a.*.example", "*bad.example", "*.192.0.2.7", "https://bad.example"] {
            assert!(listed_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_may_be_a_token_is_never_repeated() {
        for text in ["ghp_0123456789", "sk-ant-0123456789", "a token"] {
            let message = token_variable(text).unwrap_err();
            assert!(!message.contains(text), "{message}");
        }
        assert!(token_variable("${FORGE_TOKEN}").unwrap_err().ends_with("Write FORGE_TOKEN."));
        assert_eq!(token_variable("FORGE_TOKEN").as_deref(), Ok("FORGE_TOKEN"));
    }
}
