//! Into a bottle, as another user of this machine: its sidecar, its processes, its files, its owner.

use crate::table::{End, Row, check, row, script};
use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, eventually},
    lab::{Lab, Listeners},
    running::{self, Running},
    standin::Standin,
    target::Target,
    wire::Authority,
};
use serde_json::Value;
use std::process::Command;

/// Somebody who owns nothing here.
const STRANGER: [&str; 4] = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];

#[test]
fn another_user_of_the_machine_gets_nothing() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    let (bottle, listeners) = (Running::start(lab, &home)?, Listeners::new()?);
    let mut rows: Vec<Row> = vec![];
    // The machine has a leg on the sidecar's own network. To the other it has no way: a packet goes to wherever the
    // machine sends strangers' packets, and whoever answers there is not the sidecar, whose log tells.
    // In namespaces nobody outside of the bottle has a way to where its sidecar listens.
    let networks = [("internal", End::Unheard), ("egress", End::Fails)];
    let networks = networks.into_iter().filter(|_| home.target() == Target::Docker);
    for (network, end) in networks {
        let ip = bottle.address("sidecar", network)?;
        for port in [9099, 53, 9418, 9100] {
            let command = format!("echo hello > /dev/tcp/{ip}/{port}");
            rows.push(row(format!("the sidecar at {ip}:{port}"), command, end.clone()));
        }
        let proxied = format!("curl -sS -m 3 -o /dev/null -x http://bottle:guess@{ip}:9099 http://stranger.example/");
        rows.push(row(format!("the proxy at {ip}"), proxied, end.clone()));
        let ask = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto=>\"udp\",PeerAddr=>\"IP:53\") or exit 9; \
                   print $s pack(\"nnnnnn\",7,256,1,0,0,0).pack(\"C/a*C\",\"stranger\",0).pack(\"nn\",1,1) or exit 8; \
                   $SIG{ALRM} = sub { exit 7 }; alarm 2; defined(sysread($s, my $r, 512)) or exit 6;";
        rows.push(row(
            format!("the resolver at {ip}"),
            format!("perl -e '{}'", ask.replace("IP", &ip.to_string())),
            end,
        ));
    }
    for role in ["agent", "sidecar"] {
        for pid in bottle.processes(role)? {
            for file in ["environ", "mem", "maps", "root/", "cwd/", "fd/"] {
                let command = format!("ls /proc/{pid}/{file} && head -c 1 /proc/{pid}/{file}");
                rows.push(row(format!("/proc/{pid}/{file} of the {role}"), command, End::Fails));
            }
            rows.push(row(format!("a signal to {pid} of the {role}"), format!("kill -9 {pid}"), End::Fails));
        }
    }
    let state = home.state().join(&bottle.identity);
    for file in ["", "egress.jsonl", "metadata.json", "ledger.jsonl", "lock"] {
        let command = format!("cat {0} || ls {0}", state.join(file).display());
        rows.push(row(format!("the state {file}"), command, End::Fails));
    }
    let socket = state.join("control.sock").display().to_string();
    rows.push(row("the owner's socket", format!("curl -sS --unix-socket {socket} http://owner/"), End::Fails));

    let mut stranger = Command::new("setpriv");
    stranger.args(STRANGER).args(["bash"]).current_dir("/");
    // The allowed one: this user does reach what is there for everybody.
    let beside = format!("echo > /dev/tcp/127.0.0.1/{} && head -c 1 /proc/self/environ >/dev/null", listeners.port);
    check(&rows, &running::run(&mut stranger, &script(&rows, &beside, 4, 32))?)?;
    assert!(listeners.heard().len() >= rows.len(), "an allowed connection did not arrive");
    // The sidecar writes down whoever comes without its password, and every name that is asked for.
    let heard =
        |log: &[Value]| log.iter().any(|line| line["host"].as_str().is_some_and(|host| host.contains("stranger")));
    assert!(!heard(&home.egress_log()), "{:?}", home.egress_log());
    bottle.sh("curl -s -x http://bottle:guess@egress:9099 http://stranger.example/")?;
    eventually("the log tells of a stranger", || heard(&home.egress_log()).then_some(()))?;
    println!("{} attempts", rows.len());
    bottle.end().map(drop).context("the bottle")
}
