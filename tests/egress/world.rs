//! One row's world: a network of its own with a sidecar, names, and an origin that is everywhere; and what must hold of
//! it afterwards, whatever the row did.
//!
//! What must not get through carries the word `evil`, what must get through the word `fine`. So every row is held to
//! the same: nobody heard `evil`, nobody was dialled but the hosts that may be, no request went out that could be read
//! in two ways, the injected token went to its own host alone; and `fine` arrived.

use crate::names::{Answers, Names, RESOLVER};
use anyhow::{Context, Result, anyhow, bail, ensure};
use bottle_policy::{Auth, AuthScheme, Policy, Route};
use bottle_tests::{
    netns::Namespace,
    origin::{Connection, Origin},
    sidecar::{Sidecar, TOKEN},
    wire::{Answer, Authority, Hello, ProxyClient, Tls, read_answer, read_head, status_of},
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// The sidecar's leg.
pub(crate) const SIDECAR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// An address of the machine that the bottle runs on.
pub(crate) const MACHINE: &str = "198.51.100.1";
const EVIL: &[u8] = b"evil";
/// Hosts that may be reached, and where they are.
const HOSTS: [(&str, &str); 9] = [
    ("open.example", "203.0.113.10"),
    ("api.example", "203.0.113.11"),
    ("other.example", "203.0.113.12"),
    ("get.example", "203.0.113.13"),
    ("rebind.example", "203.0.113.14"),
    ("xn--bcher-kva.example", "203.0.113.15"),
    ("under_score.example", "203.0.113.16"),
    ("basic.example", "203.0.113.17"),
    ("sealed.example", "203.0.113.19"),
];
/// Hosts that have a route, and are where nobody may go.
const NEIGHBOURHOOD: [(&str, &[&str]); 9] = [
    ("private.example", &["10.1.2.3"]),
    ("loopback.example", &["127.0.0.1"]),
    ("metadata.example", &["169.254.169.254"]),
    ("machine.example", &[MACHINE]),
    ("mixed.example", &["203.0.113.18", "10.1.2.3"]),
    ("mapped.example", &["::ffff:127.0.0.1"]),
    ("translated.example", &["64:ff9b::a9fe:a9fe"]),
    ("six.example", &["fe80::1"]),
    ("sidecar.example", &["198.51.100.2"]),
];
/// Spellings of addresses that have a route, which does not open them.
pub(crate) const SPELLINGS: [&str; 14] = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.01",
    "0",
    "169.254.169.254",
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
];

/// A row's world.
pub(crate) struct World {
    pub(crate) origin: Origin,
    pub(crate) sidecar: Sidecar,
    /// The certificate of the origin's authority, PEM.
    pub(crate) origin_ca: String,
    names: Names,
    attacks: Cell<u32>,
    refusals: Cell<usize>,
    neighbours: Cell<u32>,
}

/// Makes a world, plays a row in it, and looks at what became of it.
pub(crate) fn hold(row: impl FnOnce(&World) -> Result<()> + Send) -> Result<()> {
    let net = Namespace::new()?;
    net.run(|| {
        let world = World::new()?;
        row(&world)?;
        world.check(&net)
    })
}

impl World {
    fn new() -> Result<Self> {
        let authority = Authority::new()?;
        let hosts: Vec<&str> = HOSTS.iter().map(|(host, _)| *host).collect();
        let resolver = tempfile::NamedTempFile::new()?;
        std::fs::write(&resolver, format!("nameserver {RESOLVER}\noptions timeout:2 attempts:1\n"))?;
        Ok(Self {
            names: Names::start(known()?)?,
            origin: Origin::start(&authority, &hosts)?,
            sidecar: Sidecar::start_with(SIDECAR, &policy(authority.pem.clone())?, Some(resolver.path()))?,
            origin_ca: authority.pem.clone(),
            attacks: Cell::new(0),
            refusals: Cell::new(0),
            neighbours: Cell::new(0),
        })
    }

    pub(crate) fn client(&self) -> &ProxyClient {
        &self.sidecar.client
    }

    /// Sends bytes inside TLS for a host, in a tunnel to its port 443.
    pub(crate) fn tls(&self, host: &str, request: impl AsRef<[u8]>) -> Outcome<'_> {
        self.tls_to(&format!("{host}:443"), host, request)
    }

    /// The same in a tunnel to another target.
    pub(crate) fn tls_to(&self, target: &str, host: &str, request: impl AsRef<[u8]>) -> Outcome<'_> {
        let open = || self.client().tls(target, host, Hello::default());
        self.outcome(format!("{target} {host}"), request.as_ref(), || asked(open()?, request.as_ref()))
    }

    /// Sends bytes in a tunnel, as they are. What comes back until it is closed is the body.
    pub(crate) fn tunnel(&self, target: &str, bytes: impl AsRef<[u8]>) -> Outcome<'_> {
        self.outcome(target.into(), bytes.as_ref(), || {
            let mut stream = self.client().tunnel(target)?;
            stream.write_all(bytes.as_ref())?;
            let mut rest = vec![];
            let _ = stream.read_to_end(&mut rest);
            ensure!(!rest.is_empty(), "closed");
            Ok(Answer { status: 0, head: String::new(), body: String::from_utf8_lossy(&rest).into_owned() })
        })
    }

    /// Sends bytes to the proxy itself, `{auth}` standing for the right password.
    pub(crate) fn plain(&self, request: impl AsRef<[u8]>) -> Outcome<'_> {
        let (before, after) = split(request.as_ref(), b"{auth}");
        let request = [before, self.client().password().as_bytes(), after].concat();
        self.outcome("the proxy".into(), &request, || {
            let mut stream = self.client().connect()?;
            stream.write_all(&request)?;
            if request.starts_with(b"CONNECT ") {
                let head = read_head(&mut stream)?;
                return Ok(Answer { status: status_of(&head)?, head, body: String::new() });
            }
            read_answer(&mut stream)
        })
    }

    /// What came of something that a test did itself.
    pub(crate) fn outcome(&self, what: String, sent: &[u8], run: impl FnOnce() -> Result<Answer>) -> Outcome<'_> {
        let what = format!("{what} {:?}", String::from_utf8_lossy(sent));
        Outcome { world: self, what, fine: find(sent, b"fine"), before: self.fine(), answer: run() }
    }

    /// How often `fine` has arrived.
    fn fine(&self) -> usize {
        self.origin.requests().iter().filter(|seen| format!("{seen:?}").contains("fine")).count()
    }

    fn check(self, net: &Namespace) -> Result<()> {
        let log = self.sidecar.log();
        let denied = log.iter().filter(|line| line.decision == "deny").count();
        drop(self.sidecar); // whatever it was still about to do
        ensure!(self.attacks.get() > 0 && self.neighbours.get() > 0, "a row is an attack and its legitimate neighbour");
        ensure!(denied >= self.refusals.get(), "{} refusals, in the log {denied}: {log:#?}", self.refusals.get());
        let mut may = vec![SocketAddr::new(SIDECAR, 9099), SocketAddr::new(SIDECAR, 53), SocketAddr::new(RESOLVER, 53)];
        for (_, address) in HOSTS {
            may.extend([443, 80].map(|port| SocketAddr::new(address.parse().unwrap_or(SIDECAR), port)));
        }
        for sent in net.sent()?.iter().filter(|sent| sent.protocol != "other") {
            // A resolver's library asks no port for which address it would speak from.
            ensure!(may.contains(&sent.to) || sent.to.port() == 0, "somebody spoke to {sent:?}");
        }
        for name in self.names.asked() {
            ensure!(!find(name.as_bytes(), EVIL), "{name} was looked up");
        }
        for request in self.origin.requests() {
            ensure!(!find(format!("{request:?}").as_bytes(), EVIL), "it arrived: {request:?}");
        }
        for connection in self.origin.connections() {
            let said = String::from_utf8_lossy(&connection.bytes);
            ensure!(!find(&connection.bytes, EVIL), "it arrived: {said:?}");
            let own = ["api.example", "basic.example"].map(Some).contains(&connection.sni.as_deref());
            ensure!(own || !said.contains(TOKEN), "the token went to {:?} at {}", connection.sni, connection.at);
            ensure!(connection.h2 || !ambiguous(&connection), "it can be read in two ways: {said:?}");
        }
        Ok(())
    }
}

/// What came of an attempt. Each must be told what it should be.
#[must_use]
pub(crate) struct Outcome<'w> {
    world: &'w World,
    what: String,
    fine: bool,
    before: usize,
    answer: Result<Answer>,
}

impl Outcome<'_> {
    /// The sidecar refused it, with this status and by this rule.
    pub(crate) fn refused(self, status: u16, rule: &str) -> Result<()> {
        let answer = self.attacked()?.with_context(|| format!("{}: no answer", self.what))?;
        let named = answer.body.contains(&format!("\"rule\":\"{rule}\""));
        ensure!(answer.status == status && named, "{}: expected {status} {rule}, got {answer:?}", self.what);
        self.world.refusals.set(self.world.refusals.get() + 1);
        Ok(())
    }

    /// The connection was cut, or the request is none: 400 without a reason.
    pub(crate) fn cut(self) -> Result<()> {
        match self.attacked()? {
            Some(answer) if answer.status != 400 => bail!("{}: expected none, got {answer:?}", self.what),
            _ => Ok(()),
        }
    }

    /// Any refusal will do, or none at all; it did not pass.
    pub(crate) fn stopped(self) -> Result<()> {
        match self.attacked()? {
            Some(answer) if answer.status < 400 => bail!("{}: expected a refusal, got {answer:?}", self.what),
            _ => Ok(()),
        }
    }

    /// It may have been passed on, without what was bad of it. What must not arrive is looked for in the end.
    pub(crate) fn defused(self) -> Result<Option<Answer>> {
        self.attacked()
    }

    /// It passed and arrived.
    pub(crate) fn passes(self) -> Result<Answer> {
        self.world.neighbours.set(self.world.neighbours.get() + 1);
        let answer = self.answer.with_context(|| format!("{} must pass", self.what))?;
        ensure!(answer.status == 200 || answer.status == 0, "{} must pass, got {answer:?}", self.what);
        ensure!(self.fine && self.world.fine() > self.before, "{} did not arrive", self.what);
        Ok(answer)
    }

    fn attacked(&self) -> Result<Option<Answer>> {
        self.world.attacks.set(self.world.attacks.get() + 1);
        let Ok(answer) = &self.answer else { return Ok(None) };
        ensure!(!answer.body.contains(TOKEN) && !answer.head.contains(TOKEN), "{}: the token came back", self.what);
        Ok(Some(answer.clone()))
    }
}

/// A request without a body.
pub(crate) fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A request in absolute form, to the proxy.
pub(crate) fn absolute(host: &str, path: &str) -> String {
    format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {{auth}}\r\n\r\n")
}

fn asked(mut tls: Tls, request: &[u8]) -> Result<Answer> {
    tls.write_all(request)?;
    if request.starts_with(b"HEAD ") {
        let head = read_head(&mut tls)?;
        return Ok(Answer { status: status_of(&head)?, head, body: String::new() });
    }
    read_answer(&mut tls)
}

fn split<'a>(text: &'a [u8], at: &[u8]) -> (&'a [u8], &'a [u8]) {
    match text.windows(at.len()).position(|window| window == at) {
        Some(position) => (&text[..position], &text[position + at.len()..]),
        None => (text, &[]),
    }
}

/// In any case.
fn find(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// Could two servers disagree on where a request of this connection ends, or on whom it is for?
fn ambiguous(connection: &Connection) -> bool {
    let text = String::from_utf8_lossy(&connection.bytes);
    let heads = text.split("\r\n\r\n").filter(|head| head.contains(" HTTP/1.1\r\n"));
    heads.into_iter().any(|head| {
        let lines: Vec<String> = head.split("\r\n").skip(1).map(str::to_ascii_lowercase).collect();
        let count = |name: &str| lines.iter().filter(|line| line.split(':').next() == Some(name)).count();
        let odd = |line: &String| {
            let name = line.split(':').next().unwrap_or_default();
            line.contains(['\n', '\r', '\0']) || name.contains([' ', '\t']) || !line.contains(':')
        };
        let coding = |line: &String| line.starts_with("transfer-encoding") && line != "transfer-encoding: chunked";
        count("host") != 1
            || count("content-length") + count("transfer-encoding") > 1
            || lines.iter().any(|line| odd(line) || coding(line))
    })
}

fn known() -> Result<BTreeMap<&'static str, Answers>> {
    let parsed = |text: &&str| text.parse::<IpAddr>().map_err(|error| anyhow!("{text}: {error}"));
    let mut known = BTreeMap::new();
    for (host, address) in HOSTS {
        known.insert(host, vec![vec![parsed(&address)?]]);
    }
    for (host, addresses) in NEIGHBOURHOOD {
        known.insert(host, vec![addresses.iter().map(parsed).collect::<Result<Vec<_>>>()?]);
    }
    // Good when it is judged, and loopback when it is asked for once more.
    known.insert("rebind.example", vec![vec!["203.0.113.14".parse()?], vec![[127, 0, 0, 1].into()]]);
    Ok(known)
}

fn policy(upstream_ca_pem: String) -> Result<Policy> {
    let auth = |scheme| Some(Auth { scheme, secret: "token".into() });
    let hosts = HOSTS.iter().map(|(host, _)| *host).chain(NEIGHBOURHOOD.iter().map(|(host, _)| *host));
    let mut routes: Vec<Route> = hosts.chain(SPELLINGS).map(Route::to).collect();
    for route in &mut routes {
        match route.host.as_str() {
            "api.example" => {
                route.ports = vec![443];
                route.paths = vec!["/v1".into()];
                route.auth = auth(AuthScheme::Bearer);
            }
            "basic.example" => {
                route.ports = vec![443];
                route.auth = auth(AuthScheme::Basic);
            }
            "sealed.example" => route.tls_passthrough = true,
            "get.example" => route.methods = vec!["GET".into()],
            _ => {}
        }
    }
    let policy = Policy {
        routes,
        own_addresses: vec![MACHINE.parse()?, SIDECAR],
        upstream_ca_pem: Some(upstream_ca_pem),
        ..Policy::default()
    };
    policy.check().map_err(|why| anyhow!(why))?;
    Ok(policy)
}
