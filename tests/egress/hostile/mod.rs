//! Slow, broken and hostile clients, all at once: memory stays where it was, nothing is left of them, and honest clients
//! are served meanwhile.

mod floods;
mod slow;

use crate::world::SIDECAR;
use anyhow::{Context, Result, bail, ensure};
use bottle_policy::{Policy, Route};
use bottle_tests::{
    bottle::eventually,
    h2,
    netns::Namespace,
    origin::Origin,
    sidecar::Sidecar,
    wire::{Authority, Hello, ProxyClient, Tls},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const ORIGIN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const HOST: &str = "open.example";
const TARGET: &str = "open.example:443";
/// What an honest request may take while everybody else is out to keep it from its answer.
const HONEST: Duration = Duration::from_secs(20);
/// Memory at the end, in the most of it until everybody had got going.
const GROWTH: f64 = 1.2;
/// When everybody must have got going, which is one whole turn: a slow machine takes longer for it, and memory is as much
/// then as it was earlier on a fast one.
const GOING: Duration = Duration::from_secs(180);
/// More than the sidecar keeps.
const CERTIFICATES: usize = 1200;
/// More descriptors than before are somebody's who is stuck.
const SPARE: usize = 4;
/// When an attacker turns to another connection.
const STUCK: Duration = Duration::from_secs(2);
/// Of which the sidecar takes a tenth at a time.
const CROWD: usize = 10_000;
/// The crowd's own, and everybody else's.
const DESCRIPTORS: u64 = 15_000;

#[test]
fn thirty_seconds_of_hostile_clients() -> Result<()> {
    storm(Duration::from_secs(30))
}

#[test]
#[ignore = "takes 5 minutes; `cargo xtask test --full` runs it"]
fn five_minutes_of_hostile_clients() -> Result<()> {
    storm(Duration::from_secs(300))
}

/// An attacker's: whom to attack, until when, and how often it was done.
pub(crate) struct Storm<'s> {
    client: &'s ProxyClient,
    /// Known once everybody has got going.
    until: &'s OnceLock<Instant>,
    turns: AtomicU64,
}

impl Storm<'_> {
    fn goes_on(&self) -> bool {
        self.until.get().is_none_or(|until| Instant::now() < *until)
    }

    /// One after another until it is over. That an attempt fails is what it is for.
    fn again(&self, mut attempt: impl FnMut() -> Result<()>) {
        while self.goes_on() {
            let _ = attempt();
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits, but not beyond the end.
    fn pause(&self, time: Duration) {
        let left = self.until.get().map(|until| until.saturating_duration_since(Instant::now()));
        thread::sleep(left.map_or(time, |left| left.min(time)));
    }

    fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// A connection that is given up once nothing more is taken from it.
    fn connect(&self) -> Result<TcpStream> {
        let stream = self.client.connect()?;
        stream.set_write_timeout(Some(STUCK))?;
        Ok(stream)
    }

    fn tls(&self) -> Result<Tls> {
        let tls = self.client.tls(TARGET, HOST, Hello::default())?;
        tls.sock.set_write_timeout(Some(STUCK))?;
        Ok(tls)
    }

    /// HTTP/2, its preface said.
    fn http2(&self) -> Result<Tls> {
        let mut tls = self.client.tls(TARGET, HOST, Hello { sni: true, alpn: &["h2"] })?;
        tls.sock.set_write_timeout(Some(STUCK))?;
        tls.write_all(h2::PREFACE)?;
        Ok(tls)
    }
}

type Attack = (&'static str, fn(&Storm<'_>));

const ATTACKS: [Attack; 16] = [
    ("slow heads", slow::heads),
    ("slow bodies", slow::bodies),
    ("slow readers", slow::readers),
    ("slow handshakes", slow::handshakes),
    ("half-closed connections", slow::half_closed),
    ("resets", slow::resets),
    ("truncated TLS", slow::truncated),
    ("ten thousand connections", floods::connections),
    ("a gigabyte of headers", floods::headers),
    ("a gigabyte of headers within TLS", floods::headers_in_tls),
    ("endless chunks", floods::chunks),
    ("many hosts", floods::hosts),
    ("HTTP/2: streams opened and reset", floods::resets),
    ("HTTP/2: heads without end", floods::continuations),
    ("HTTP/2: pings and settings", floods::pings),
    ("WebSocket frames", floods::frames),
];

fn storm(time: Duration) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS);
    ensure!(most >= DESCRIPTORS, "a process may open {most} files; raise the hard limit to {DESCRIPTORS}");
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: limit.maximum })?;
    let net = Namespace::new()?;
    net.run(|| {
        let authority = Authority::new()?;
        let origin = Origin::start(&authority, &[HOST])?;
        let route = Route { address: Some(ORIGIN.into()), ..Route::to(HOST) };
        let upstream_ca_pem = Some(authority.pem.clone());
        let sidecar = Sidecar::start(SIDECAR, &Policy { routes: vec![route], upstream_ca_pem, ..Policy::default() })?;
        let pid = sidecar.egress_pid()?;
        origin.forget();
        honest(&sidecar.client)?;
        // What is kept on purpose, and bounded, is kept before memory is looked at: certificates, and what hosts may send
        // ahead of those who do not read.
        floods::certificates(&sidecar.client, CERTIFICATES);
        let unread = slow::unread(|| sidecar.client.tls(TARGET, HOST, Hello::default()))?;
        thread::sleep(Duration::from_secs(1));
        drop(unread);
        thread::sleep(Duration::from_secs(1));
        let idle = open_files(pid)?;

        let until = OnceLock::new();
        let storms = ATTACKS.map(|_| Storm { client: &sidecar.client, until: &until, turns: AtomicU64::new(0) });
        let (served, memory) = thread::scope(|scope| {
            for ((name, attack), storm) in ATTACKS.into_iter().zip(&storms) {
                thread::Builder::new().name(name.into()).spawn_scoped(scope, move || attack(storm))?;
            }
            let honest = scope.spawn(|| serve_honestly(&storms[0]));
            let memory = watch(pid, &storms, &until, time);
            // On any way out: the others wait for it.
            until.get_or_init(Instant::now);
            let memory = memory?;
            Ok::<_, anyhow::Error>((honest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?, memory))
        })?;
        println!("{} attempts, {served}, {memory}", storms.iter().map(Storm::turns).sum::<u64>());
        ensure!(memory.end <= memory.first * GROWTH, "it grows: {memory}");
        // Nobody is there any more, and nothing is left of anybody.
        let left = eventually("what the storm has opened is closed", || {
            open_files(pid).ok().filter(|open| *open <= idle + SPARE)
        });
        left.with_context(|| format!("{:?} files are open, {idle} were", open_files(pid)))?;
        honest(&sidecar.client)
    })
}

/// One request by somebody who means well, over a connection of its own.
fn honest(client: &ProxyClient) -> Result<()> {
    let answer = client.https(TARGET, HOST, "GET /fine HTTP/1.1\r\nHost: open.example\r\n\r\n")?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// How many they were, and how long the last in the line waited.
struct Served {
    requests: usize,
    worst: Duration,
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} honest requests, the slowest {:.1} s", self.requests, self.worst.as_secs_f64())
    }
}

fn serve_honestly(storm: &Storm<'_>) -> Result<Served> {
    let mut served = Served { requests: 0, worst: Duration::ZERO };
    while storm.goes_on() {
        let began = Instant::now();
        honest(storm.client).with_context(|| format!("an honest request, after {served}, {:?}", began.elapsed()))?;
        let took = began.elapsed();
        ensure!(took <= HONEST, "an honest request took {took:?}");
        served.requests += 1;
        served.worst = served.worst.max(took);
        storm.pause(Duration::from_millis(100));
    }
    ensure!(served.requests >= 10, "{served}");
    Ok(served)
}

/// Megabytes of the process.
struct Memory {
    /// The most until everybody had got going.
    first: f64,
    end: f64,
    going: Duration,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} MB at the end, {:.1} MB when all had got going after {:?}", self.end, self.first, self.going)
    }
}

/// Looks at memory for a fifth of the time and until everybody has got going; then for the rest.
fn watch(pid: u32, storms: &[Storm<'_>], until: &OnceLock<Instant>, time: Duration) -> Result<Memory> {
    let (began, mut memory) = (Instant::now(), Memory { first: 0.0, end: 0.0, going: Duration::ZERO });
    while until.get().is_none_or(|until| Instant::now() < *until) {
        memory.end = megabytes(pid)?;
        if until.get().is_none() {
            memory.first = memory.first.max(memory.end);
            memory.going = began.elapsed();
            let idle = ATTACKS.iter().zip(storms).find(|(_, storm)| storm.turns() == 0);
            match idle {
                None if memory.going >= time / 5 => drop(until.set(Instant::now() + time * 4 / 5)),
                Some(((name, _), _)) if memory.going >= GOING => bail!("{name}: not one turn in {GOING:?}"),
                _ => {}
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(memory)
}

fn megabytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the proxy is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("its memory")?;
    Ok(line.split_whitespace().next().context("a number")?.parse::<f64>()? / 1024.0)
}

fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).context("the proxy is gone")?.count())
}
