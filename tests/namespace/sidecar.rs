//! The sidecar as the bottle has it: no way to this machine, nobody's place to take, and whoever floods it floods his own.

use anyhow::{Context, Result};
use bottle_policy::{Policy, Route};
use bottle_tests::{
    bare::{Bare, PASSWORD, Who},
    lab::Listeners,
    standin::Standin,
    wire::Authority,
};
use std::thread;

/// This machine, and what only it can reach, in the spellings that a client leaves as they are.
const INSIDE: [&str; 9] = [
    "127.0.0.1",
    "127.0.0.2",
    "0.0.0.0",
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "169.254.169.254",
    MACHINE,
];
/// This machine's own address, towards the lab.
const MACHINE: &str = "198.51.100.1";
/// More than the proxy takes at once, each with a request that never ends; and then a header of a gigabyte.
const FLOOD: &str = r#"perl -MIO::Socket::INET -e 'my @s; for (1..1500) { my $s = IO::Socket::INET->new(PeerAddr=>"127.0.0.1",PeerPort=>9099,Timeout=>2) or next;
print $s "GET http://x.example/ HTTP/1.1\r\nX: "; $s->flush; push @s, $s } print scalar(@s) > 1000 ? "flooded " : "only ".@s; $| = 1; sleep 4;';
(printf 'GET http://x.example/ HTTP/1.1\r\nX: ' && head -c 1G /dev/zero | tr '\0' a) 2>/dev/null > /dev/tcp/127.0.0.1/9099 && echo -n swallowed || echo -n cut"#;
/// Binds the proxy's port once more, in every way that shares one.
const BIND: &str = r#"perl -MSocket=:all -e 'for (pack_sockaddr_in(9099, INADDR_LOOPBACK), pack_sockaddr_in(9099, INADDR_ANY), pack_sockaddr_in6(9099, IN6ADDR_ANY)) {
socket(S, sockaddr_family($_), SOCK_STREAM, 0) or die; setsockopt(S, SOL_SOCKET, $_, 1) for SO_REUSEADDR, SO_REUSEPORT; print bind(S, $_) && listen(S, 5) ? "bound " : "E".($!+0)." " }'"#;

/// Asks for something by the proxy; its status.
fn ask(url: &str) -> String {
    format!("curl -sk -g -m 20 -o /dev/null -w '%{{http_code}} ' -x http://bottle:{PASSWORD}@127.0.0.1:9099 {url}; ")
}

#[test]
fn it_is_no_way_to_this_machine_though_there_are_routes() -> Result<()> {
    let (authority, listeners) = (Authority::new()?, Listeners::new()?);
    let standin = Standin::start(&authority, &["allowed.example"], "")?;
    let port = listeners.port;
    let inside = INSIDE.map(|host| Route { ports: vec![port], ..Route::to(host) });
    let allowed = Route { address: Some(standin.address.into()), ..Route::to("allowed.example") };
    let policy = Policy {
        routes: inside.into_iter().chain([allowed]).collect(),
        own_addresses: vec![MACHINE.parse()?],
        upstream_ca_pem: Some(authority.pem),
        ..Policy::default()
    };
    policy.check().map_err(anyhow::Error::msg)?;
    for who in Who::ALL {
        let bottle = Bare::start_beside_sidecar(who, &policy)?;
        let urls = INSIDE.iter().flat_map(|host| ["http", "https"].map(|scheme| format!("{scheme}://{host}:{port}/")));
        let script: String = urls.map(|url| ask(&url)).collect();
        let said = bottle.sh(&format!("{script}{}", ask("https://allowed.example/beside")))?;
        assert_eq!(said.stdout, format!("{}404 ", "403 ".repeat(2 * INSIDE.len())), "{who:?}");
    }
    assert_eq!(listeners.heard(), Vec::<String>::new());
    assert_eq!(standin.seen().iter().filter(|seen| seen.path == "/beside").count(), Who::ALL.len());
    Ok(())
}

#[test]
fn nobody_takes_its_place() -> Result<()> {
    for who in Who::ALL {
        let beside = Bare::start_beside_sidecar(who, &Policy::default())?;
        assert_eq!(beside.sh(BIND)?.stdout, "E98 E98 E98 ", "{who:?}");
        // Without one there is nobody whose place it would be.
        assert!(Bare::start(who, &[])?.sh(BIND)?.stdout.starts_with("bound "), "{who:?}");
    }
    Ok(())
}

#[test]
fn whoever_floods_it_floods_his_own() -> Result<()> {
    for who in Who::ALL {
        let (flooding, other) = (
            Bare::start_beside_sidecar(who, &Policy::default())?,
            Bare::start_beside_sidecar(who, &Policy::default())?,
        );
        let allowlist = ask("http://_egress.local/allowlist");
        thread::scope(|scope| -> Result<()> {
            let flood = scope.spawn(|| flooding.sh(FLOOD));
            let mut asked = 0;
            while !flood.is_finished() || asked == 0 {
                assert_eq!(other.sh(&allowlist)?.stdout, "200 ", "{who:?}: a neighbour of the flood, after {asked}");
                asked += 1;
            }
            let said = flood.join().ok().context("the flood panicked")??;
            assert_eq!(said.stdout, "flooded cut", "{who:?}: {said:?}");
            Ok(())
        })?;
        assert_eq!(flooding.sh(&allowlist)?.stdout, "200 ", "{who:?}: after the flood");
    }
    Ok(())
}
