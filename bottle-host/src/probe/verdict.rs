//! What in a probe's report is not as it must be. Pure: it is held by a table.

use bottle_api::AGENT_UID;
use bottle_policy::probe::{Answer, NEIGHBOURS, RESOLVER, ROUTES, ROUTES_V6, Report, STATUS, resolvers, routes_v4};
use std::net::IpAddr;

/// What the kernel shows of a group that a user namespace does not have.
const UNMAPPED: &str = "65534";

/// Everything that is open, or cannot be told, in words. `unmapped_groups`: what the backend says of its bottles.
pub(super) fn open(report: &Report, unmapped_groups: bool) -> Vec<String> {
    let text = |path: &str| report.files.get(path).and_then(Option::as_deref);
    let mut open = vec![];
    match text(STATUS) {
        Some(status) => standing(status, unmapped_groups, &mut open),
        None => open.push(unreadable(STATUS)),
    }
    match text(ROUTES).and_then(routes_v4) {
        // A gateway that nobody is, some engines leave behind. One that is there has answered.
        Some(routes) => {
            open.extend(routes.iter().filter(|route| route.gateway.is_none() && !route.contains(report.sidecar)).map(
                |route| format!("there is a route to {}/{}", route.destination, route.mask.to_bits().count_ones()),
            ))
        }
        None => open.push(unreadable(ROUTES)),
    }
    // No such file where the kernel has no IPv6.
    let routes_v6 = text(ROUTES_V6).unwrap_or_default();
    if routes_v6.lines().any(|line| !line.ends_with(" lo")) {
        open.push("there is a route of IPv6".into());
    }
    match text(NEIGHBOURS) {
        Some(table) => open.extend(neighbours(table).filter(|ip| *ip != Some(report.sidecar)).map(|ip| match ip {
            Some(ip) => format!("{ip} is its neighbour"),
            None => unreadable(NEIGHBOURS),
        })),
        None => open.push(unreadable(NEIGHBOURS)),
    }
    open.extend(report.answered.iter().map(|address| format!("{address} answers")));
    let asked = |resolver, tcp| report.lookups.iter().any(|l| (l.resolver, l.tcp) == (resolver, tcp));
    for resolver in resolvers(text(RESOLVER).unwrap_or_default()) {
        if !(asked(resolver, false) && asked(resolver, true)) {
            open.push(format!("the resolver {resolver} was not asked"));
        }
    }
    for lookup in &report.lookups {
        let (resolver, over) = (lookup.resolver, if lookup.tcp { "TCP" } else { "UDP" });
        match lookup.answer {
            Answer::Refused | Answer::Nobody => {}
            Answer::Answered => open.push(format!("the resolver {resolver} knows of outside names, over {over}")),
            Answer::Silent => open.push(format!("the resolver {resolver} does not say that it refuses, over {over}")),
        }
    }
    if report.raw_socket {
        open.push("it may open raw sockets".into());
    }
    open.extend(report.sockets.iter().map(|path| format!("the socket {path} is in it")));
    if report.with_capability != 200 {
        open.push(format!("its sidecar answers {} to its capability", report.with_capability));
    }
    if report.without_capability != 407 {
        open.push(format!("its sidecar answers {} to whoever has no capability", report.without_capability));
    }
    open
}

/// The agent's user, and nothing more.
fn standing(status: &str, unmapped_groups: bool, open: &mut Vec<String>) {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let words = |name: &str| value(name).map(|value| value.split_whitespace().collect::<Vec<_>>());
    let own = AGENT_UID.to_string();
    for name in ["Uid", "Gid"] {
        if words(name).is_none_or(|ids| ids != [own.as_str(); 4]) {
            open.push(format!("it runs with {name} {}", value(name).unwrap_or("unknown")));
        }
    }
    let is_known = |group: &&str| *group == own || unmapped_groups && *group == UNMAPPED;
    if words("Groups").is_none_or(|groups| !groups.iter().all(is_known)) {
        open.push(format!("it runs with the groups {}", value("Groups").unwrap_or("unknown")));
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if value(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()) != Some(0) {
            open.push(format!("it has capabilities ({name} {})", value(name).unwrap_or("unknown")));
        }
    }
    if value("NoNewPrivs") != Some("1") {
        open.push("it may gain privileges (NoNewPrivs is not 1)".into());
    }
    if value("Seccomp") != Some("2") {
        open.push("no seccomp filter holds it".into());
    }
}

/// Those who have answered on the link; the kernel's entry of one who has not is without flag 2.
fn neighbours(table: &str) -> impl Iterator<Item = Option<IpAddr>> + '_ {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let flags = words.get(2).and_then(|flags| u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok());
        match flags {
            Some(flags) if flags & 2 == 0 => None,
            _ => Some(words.first().and_then(|ip| ip.parse().ok()).filter(|_| flags.is_some())),
        }
    })
}

fn unreadable(path: &str) -> String {
    format!("{path} cannot be read in it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_policy::probe::Lookup;

    const CLOSED: &str = include_str!("closed.json");

    fn closed() -> Report {
        serde_json::from_str(CLOSED).unwrap()
    }

    /// What is open in a bottle of a backend that takes every group away.
    fn open(report: &Report) -> Vec<String> {
        super::open(report, false)
    }

    #[test]
    fn a_group_without_a_number_in_the_bottle_is_let_be_where_the_backend_says_that_there_are_such() {
        let report = with(STATUS, "Groups:\t1000", "Groups:\t1000 65534 65534");
        assert_eq!(super::open(&report, true), Vec::<String>::new());
        assert_eq!(open(&report), ["it runs with the groups 1000 65534 65534"]);
        for other in ["999", "65533", "0", "-1", ""] {
            let report = with(STATUS, "Groups:\t1000", &format!("Groups:\t{other} 65534 {other}"));
            assert_eq!(super::open(&report, true).is_empty(), other.is_empty(), "{other:?}");
        }
    }

    /// A closed bottle's report with one text in one file replaced.
    fn with(path: &str, from: &str, to: &str) -> Report {
        let mut report = closed();
        let file = report.files.get_mut(path).unwrap().as_mut().unwrap();
        assert!(file.contains(from), "{file}");
        *file = file.replace(from, to);
        report
    }

    #[test]
    fn a_closed_bottle_is_closed() {
        assert_eq!(open(&closed()), Vec::<String>::new());
        // A kernel without IPv6, an engine that leaves no gateway.
        let mut report = with(ROUTES, "eth0\t00000000\t014DC90A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", "");
        report.files.insert(ROUTES_V6.into(), None);
        assert_eq!(open(&report), Vec::<String>::new());
    }

    #[test]
    fn every_hole_is_seen_alone() {
        let changed = |change: fn(&mut Report)| {
            let mut report = closed();
            change(&mut report);
            report
        };
        let lookup = |answer| changed(|_| {}).lookups.iter().map(|l| Lookup { answer, ..l.clone() }).take(1).collect();
        let lookups = |answer| Report { lookups: [lookup(answer), closed().lookups].concat(), ..closed() };
        for (report, said) in [
            (with(STATUS, "Uid:\t1000", "Uid:\t0"), "it runs with Uid 0"),
            (with(STATUS, "Groups:\t1000", "Groups:\t1000 999"), "it runs with the groups 1000 999"),
            (with(STATUS, "CapEff:\t0000000000000000", "CapEff:\t0000000000002000"), "it has capabilities (CapEff"),
            (with(STATUS, "CapBnd:\t0000000000000000", ""), "it has capabilities (CapBnd unknown"),
            (with(STATUS, "NoNewPrivs:\t1", "NoNewPrivs:\t0"), "it may gain privileges"),
            (with(STATUS, "Seccomp:\t2", "Seccomp:\t0"), "no seccomp filter"),
            (with(ROUTES, "004DC90A", "000011AC"), "there is a route to 172.17.0.0/28"),
            (with(ROUTES, "Iface", "nonsense"), "/proc/net/route cannot be read"),
            (with(ROUTES_V6, "      lo", "    eth0"), "there is a route of IPv6"),
            (with(NEIGHBOURS, "0x0 ", "0x2 "), "10.201.77.1 is its neighbour"),
            (with(NEIGHBOURS, "0x0 ", "zero "), "/proc/net/arp cannot be read"),
            (with(RESOLVER, "127.0.0.11", "1.1.1.1"), "the resolver 1.1.1.1 was not asked"),
            (changed(|r| drop(r.files.remove(STATUS))), "/proc/self/status cannot be read"),
            (changed(|r| drop(r.files.remove(NEIGHBOURS))), "/proc/net/arp cannot be read"),
            (changed(|r| drop(r.files.remove(ROUTES))), "/proc/net/route cannot be read"),
            (changed(|r| r.answered.push(([172, 17, 0, 1], 22).into())), "172.17.0.1:22 answers"),
            (changed(|r| r.raw_socket = true), "raw sockets"),
            (changed(|r| r.sockets.push("/run/docker.sock".into())), "the socket /run/docker.sock is in it"),
            (changed(|r| r.with_capability = 407), "its sidecar answers 407 to its capability"),
            (changed(|r| r.without_capability = 200), "its sidecar answers 200 to whoever"),
            (lookups(Answer::Answered), "knows of outside names, over UDP"),
            (lookups(Answer::Silent), "does not say that it refuses, over UDP"),
        ] {
            let found = open(&report);
            assert!(found.len() == 1 && found[0].contains(said), "{said:?}: {found:?}");
        }
    }
}
