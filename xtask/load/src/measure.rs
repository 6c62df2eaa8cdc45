//! What is measured, and how often. Rounds of all three alternate, so that a busy moment is everybody's.

use crate::{HOSTS, client::Way, host, origin, process, proxies::Proxy};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    path::Path,
    time::{Duration, Instant},
};

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
/// One after another, of 10 KB.
const ASKED: usize = 2000;
const SIZE: usize = 10 << 10;
const NEW_CONNECTIONS: usize = 100;
const BULK: usize = 64 << 20;
/// What is uploaded: source, as an agent mostly does, and a run of letters, which might be base64 without end.
const SOURCE: &str = concat!(include_str!("measure.rs"), include_str!("client.rs"), include_str!("proxies.rs"));
const LETTERS: &str = "y";
const STARTS: usize = 11;
const SLOW_STARTS: usize = 3;

/// What was found of one of them.
#[derive(Default, Serialize)]
pub(crate) struct Found {
    requests_per_second: f64,
    cpu_micros_per_request: f64,
    p50_ms: f64,
    p99_ms: f64,
    download_mb_per_second: f64,
    upload_mb_per_second: f64,
    letters_mb_per_second: f64,
    new_connection_ms: f64,
    new_connection_p99_ms: f64,
    new_host_ms: f64,
    start_ms: f64,
    rss_idle_mb: f64,
    rss_loaded_mb: f64,
    /// Of all its processes, what they share counted once.
    pss_idle_mb: f64,
}

#[derive(Serialize)]
pub(crate) struct All {
    direct: Found,
    ours: Found,
    mitmproxy: Found,
}

struct Subject {
    way: Way,
    proxy: Option<Proxy>,
    found: Found,
    rounds: Vec<Round>,
}

#[derive(Default)]
struct Round {
    rate: f64,
    cpu: f64,
    p50: f64,
    p99: f64,
    down: f64,
    up: f64,
    letters: f64,
}

/// Measures all of them.
pub(crate) async fn all(sidecar: &Path, mitmdump: &Path) -> Result<All> {
    let ca = origin::start().await?;
    let place = std::env::temp_dir().join(format!("bottle-load-{}", std::process::id()));
    let ours = started(STARTS, || Proxy::ours(sidecar, &ca))?;
    let theirs = started(SLOW_STARTS, || Proxy::mitmproxy(mitmdump, &place, &ca))?;
    let mut subjects = [
        Subject { way: Way::new(None, &ca)?, proxy: None, found: Found::default(), rounds: vec![] },
        subject(ours)?,
        subject(theirs)?,
    ];
    for subject in &mut subjects {
        subject.new_connections().await?;
    }
    for _ in 0..ROUNDS {
        for subject in &mut subjects {
            let round = subject.round().await?;
            subject.rounds.push(round);
        }
    }
    let _ = std::fs::remove_dir_all(place);
    let [direct, ours, mitmproxy] = subjects.map(Subject::found);
    Ok(All { direct: direct?, ours: ours?, mitmproxy: mitmproxy? })
}

/// Starts it so often, and keeps the last one. The first start is not counted.
fn started(times: usize, start: impl Fn() -> Result<Proxy>) -> Result<(Proxy, f64)> {
    let mut took = vec![];
    let mut last = start()?;
    for _ in 1..times {
        drop(last);
        last = start()?;
        took.push(ms(last.start));
    }
    Ok((last, at(&mut took, 0.5)))
}

fn subject((proxy, start_ms): (Proxy, f64)) -> Result<Subject> {
    let mut found =
        Found { start_ms, rss_idle_mb: process::megabytes(proxy.pid, "status", "VmRSS:")?, ..Found::default() };
    for pid in proxy.all()? {
        found.pss_idle_mb += process::megabytes(pid, "smaps_rollup", "Pss:")?;
    }
    Ok(Subject { way: proxy.way.clone(), proxy: Some(proxy), found, rounds: vec![] })
}

impl Subject {
    async fn new_connections(&mut self) -> Result<()> {
        let mut known = vec![];
        self.way.connect(&host(0)).await?.get(1).await?;
        for _ in 0..NEW_CONNECTIONS {
            known.push(timed(async || self.way.connect(&host(0)).await?.get(1).await).await?);
        }
        let mut new = vec![];
        for n in 1..HOSTS.min(NEW_CONNECTIONS) {
            new.push(timed(async || self.way.connect(&host(n)).await?.get(1).await).await?);
        }
        self.found.new_connection_ms = at(&mut known, 0.5);
        self.found.new_connection_p99_ms = at(&mut known, 0.99);
        self.found.new_host_ms = at(&mut new, 0.5);
        Ok(())
    }

    async fn round(&self) -> Result<Round> {
        let mut round = Round::default();
        let before = self.cpu()?;
        let (requests, took) = rate(&self.way).await?;
        round.rate = requests as f64 / took.as_secs_f64();
        round.cpu = (self.cpu()? - before).as_secs_f64() * 1e6 / requests as f64;
        let mut connection = self.way.connect(&host(0)).await?;
        let mut took = vec![];
        for _ in 0..ASKED {
            took.push(timed(async || connection.get(SIZE).await).await?);
        }
        round.p50 = at(&mut took, 0.5);
        round.p99 = at(&mut took, 0.99);
        let megabytes = BULK as f64 / 1e6;
        round.down = megabytes / (timed(async || connection.get(BULK).await).await? / 1e3);
        round.up = megabytes / (timed(async || connection.post(SOURCE, BULK).await).await? / 1e3);
        round.letters = megabytes / (timed(async || connection.post(LETTERS, BULK).await).await? / 1e3);
        Ok(round)
    }

    fn cpu(&self) -> Result<Duration> {
        self.proxy.as_ref().map_or(Ok(Duration::ZERO), |proxy| process::cpu(proxy.pid))
    }

    /// The median of its rounds.
    fn found(self) -> Result<Found> {
        let Self { mut found, rounds, proxy, .. } = self;
        let median = |of: fn(&Round) -> f64| at(&mut rounds.iter().map(of).collect::<Vec<_>>(), 0.5);
        found.requests_per_second = median(|round| round.rate);
        found.cpu_micros_per_request = median(|round| round.cpu);
        found.p50_ms = median(|round| round.p50);
        found.p99_ms = median(|round| round.p99);
        found.download_mb_per_second = median(|round| round.down);
        found.upload_mb_per_second = median(|round| round.up);
        found.letters_mb_per_second = median(|round| round.letters);
        if let Some(proxy) = proxy {
            found.rss_loaded_mb = process::megabytes(proxy.pid, "status", "VmRSS:")?;
        }
        Ok(found)
    }
}

/// As many requests as it takes on connections that are kept.
async fn rate(way: &Way) -> Result<(usize, Duration)> {
    let mut connections = vec![];
    for _ in 0..CONNECTIONS {
        let mut connection = way.connect(&host(0)).await?;
        connection.get(1).await?;
        connections.push(connection);
    }
    let began = Instant::now();
    let tasks = connections.into_iter().map(|mut connection| {
        tokio::spawn(async move {
            let mut asked = 0;
            while began.elapsed() < ROUND {
                connection.get(1).await?;
                asked += 1;
            }
            Ok::<usize, anyhow::Error>(asked)
        })
    });
    let mut asked = 0;
    for task in tasks.collect::<Vec<_>>() {
        asked += task.await.context("a client")??;
    }
    Ok((asked, began.elapsed()))
}

async fn timed(run: impl AsyncFnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    run().await?;
    Ok(ms(began.elapsed()))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which that part of them is.
fn at(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * part) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
