//! What changes on disk, as news: proposals, bottles, their logs. It waits in the kernel, and reads only what has changed.

use super::{
    model::{Bottle, LogRow, MAX_LINES, News, Waiting},
    text,
};
use crate::{
    fault,
    paths::Paths,
    session::{egress_log::place, owner, sidecar::ENDED, summary::Summary, tail::Tail},
    state::{self, Metadata, private_dirs},
    supervise::queue::{self, Queue, Standing},
};
use anyhow::{Context, Result};
use bottle_policy::message::LogLine;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fs,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

/// Changes that come within this time are read at once: a bottle that asks without end costs no more than that.
const GATHER: Duration = Duration::from_millis(50);
/// The longest line of a log that anybody reads on a screen.
const MAX_ROW: usize = 400;

/// What a watched directory is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    /// A directory per identity, of proposals.
    Queues,
    /// A directory per identity, of state.
    States,
    Queue(String),
    State(String),
}

/// What is to be read again.
#[derive(Debug, Default)]
struct Changed {
    /// Directories may have come or gone.
    lists: bool,
    queues: BTreeSet<String>,
    /// Bottles that may have begun or ended.
    bottles: BTreeSet<String>,
    logs: BTreeSet<String>,
}

impl Changed {
    fn any(&self) -> bool {
        self.lists || !(self.queues.is_empty() && self.bottles.is_empty() && self.logs.is_empty())
    }
}

/// A bottle that runs, and how far its log is read.
struct Running {
    bottle: Bottle,
    /// Readable once the owner has ended, also without a word.
    owner: Option<OwnedFd>,
    tail: Tail,
    summary: Summary,
}

/// What is known of the disk.
pub(super) struct Watch {
    paths: Paths,
    changes: OwnedFd,
    places: HashMap<i32, Place>,
    /// What waits in each queue, and how many of its files cannot be read.
    queues: BTreeMap<String, (Vec<Arc<Waiting>>, usize)>,
    running: BTreeMap<String, Running>,
}

impl Watch {
    /// Begins to watch. The first news are how everything stands.
    pub(super) fn begin(paths: &Paths) -> Result<Self> {
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let (queues, running) = Default::default();
        let mut watch = Self { paths: paths.clone(), changes, places: HashMap::new(), queues, running };
        for (dir, place) in [(paths.queue(), Place::Queues), (paths.state(), Place::States)] {
            private_dirs(&dir)?;
            watch.add(&dir, place)?;
        }
        Ok(watch)
    }

    /// Hands over news whenever there are any, for as long as somebody takes them.
    pub(super) fn follow(mut self, mut tell: impl FnMut(News) -> bool) -> Result<()> {
        let mut changed = Changed { lists: true, ..Changed::default() };
        loop {
            fault::point("screen-read").map_err(bottle_api::Error::into_std)?;
            if changed.any() && !tell(self.read(changed)?) {
                return Ok(());
            }
            thread::sleep(GATHER);
            changed = self.wait()?;
        }
    }

    /// Reads again what has changed.
    fn read(&mut self, mut changed: Changed) -> Result<News> {
        if changed.lists {
            self.look_around(&mut changed)?;
        }
        for identity in &changed.queues {
            let (entries, unreadable) = Queue::of(&self.paths, identity).entries()?;
            let waits = entries.into_iter().filter(|entry| entry.standing == Standing::Pending);
            let waits = waits.map(|entry| Arc::new(Waiting { identity: identity.clone(), entry }));
            self.queues.insert(identity.clone(), (waits.collect(), unreadable));
        }
        for identity in &changed.bottles {
            self.look_at(identity, &mut changed.logs)?;
        }
        let mut lines = VecDeque::new();
        for identity in &changed.logs {
            if let Some(running) = self.running.get_mut(identity) {
                running.read(&mut lines)?;
            }
        }
        // What has ended has said its last.
        for identity in &changed.bottles {
            if !owner::is_running(&self.paths, identity) {
                self.running.remove(identity);
            }
        }
        let mut waiting: Vec<_> = self.queues.values().flat_map(|(waiting, _)| waiting.iter().cloned()).collect();
        waiting.sort_by(|a, b| (&a.entry.asked, &a.entry.id).cmp(&(&b.entry.asked, &b.entry.id)));
        Ok(News {
            waiting,
            unreadable: self.queues.values().map(|(_, unreadable)| unreadable).sum(),
            bottles: self.running.values().map(|running| running.bottle.clone()).collect(),
            lines: lines.into(),
        })
    }

    /// Which identities are there? What is new is watched, and then read.
    fn look_around(&mut self, changed: &mut Changed) -> Result<()> {
        let queues = queue::identities(&self.paths);
        self.queues.retain(|identity, _| queues.contains(identity));
        for identity in queues {
            if self.add(&self.paths.queue().join(&identity), Place::Queue(identity.clone()))? {
                changed.queues.insert(identity);
            }
        }
        let names =
            fs::read_dir(self.paths.state())?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        for identity in names.filter(|name| state::find(&self.paths, name).is_some()).collect::<Vec<_>>() {
            if self.add(&self.paths.state().join(&identity), Place::State(identity.clone()))? {
                changed.bottles.insert(identity);
            }
        }
        changed.bottles.extend(self.running.keys().cloned());
        Ok(())
    }

    /// Watches a directory, if it is there still; is it a new one?
    fn add(&mut self, dir: &Path, place: Place) -> Result<bool> {
        // A socket is there before anybody listens at it; its mode is set after.
        let flags = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::CREATE | WatchFlags::MOVE;
        let flags = flags | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.changes, dir, flags) {
            Ok(watch) => Ok(self.places.insert(watch, place.clone()) != Some(place)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("watch {}", self.paths.short(dir))),
        }
    }

    /// Has a bottle begun?
    fn look_at(&mut self, identity: &str, logs: &mut BTreeSet<String>) -> Result<()> {
        if self.running.contains_key(identity) {
            logs.insert(identity.to_owned());
        } else if owner::is_running(&self.paths, identity)
            && let Ok(metadata) = state::metadata(&self.paths, identity)
        {
            let log = state::egress_log(&self.paths.state().join(identity));
            self.running.insert(identity.to_owned(), Running::begin(identity, metadata, &log)?);
            logs.insert(identity.to_owned());
        }
        Ok(())
    }

    /// Waits for a change.
    fn wait(&mut self) -> Result<Changed> {
        let mut changed = Changed::default();
        let owners: Vec<_> =
            self.running.iter().filter_map(|(identity, r)| Some((identity, r.owner.as_ref()?))).collect();
        let owned = owners.iter().map(|(_, owner)| PollFd::new(*owner, PollFlags::IN));
        let mut fds: Vec<_> = owned.chain([PollFd::new(&self.changes, PollFlags::IN)]).collect();
        while let Err(error) = poll(&mut fds, None) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
        let ended = owners.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        changed.bottles.extend(ended.map(|((identity, _), _)| (*identity).clone()));
        drop(fds);
        // A process is waited for once: what it leaves of its bottle is told by its directory.
        for identity in &changed.bottles {
            self.running.entry(identity.clone()).and_modify(|running| running.owner = None);
        }
        self.take_changes(&mut changed)?;
        Ok(changed)
    }

    fn take_changes(&mut self, changed: &mut Changed) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.changes, &mut buffer);
        loop {
            let event = match reader.next() {
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                event => event?,
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                // Too much at once: all of it is read again.
                changed.lists = true;
                changed.queues.extend(self.queues.keys().cloned());
                continue;
            }
            if event.events().contains(ReadFlags::IGNORED) {
                self.places.remove(&event.wd());
                changed.lists = true;
                continue;
            }
            let name = event.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            match self.places.get(&event.wd()) {
                Some(Place::Queues | Place::States) => changed.lists = true,
                // A draft is nobody's proposal yet.
                Some(Place::Queue(_)) if !name.ends_with(".json") => {}
                Some(Place::Queue(identity)) => drop(changed.queues.insert(identity.clone())),
                Some(Place::State(identity)) if name.starts_with("egress.jsonl") => {
                    changed.logs.insert(identity.clone());
                }
                Some(Place::State(identity)) if name == state::SOCKET => drop(changed.bottles.insert(identity.clone())),
                Some(Place::State(_)) | None => {}
            }
        }
    }
}

impl Running {
    fn begin(identity: &str, metadata: Metadata, log: &Path) -> Result<Self> {
        let pid = i32::try_from(metadata.holder.pid).ok().and_then(Pid::from_raw);
        let owner = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let bottle = Bottle {
            identity: identity.to_owned(),
            agent: metadata.agent,
            backend: metadata.backend,
            started: text::time(&metadata.started),
            denied: 0,
        };
        // Looked at last: it is the process that the descriptor stands for.
        let owner = owner.filter(|_| metadata.holder.is_alive());
        Ok(Self { bottle, owner, tail: Tail::open(log)?, summary: Summary::default() })
    }

    /// Reads what was logged since the last time. Of very much the newest is kept.
    fn read(&mut self, rows: &mut VecDeque<LogRow>) -> Result<()> {
        let (summary, identity) = (&mut self.summary, &self.bottle.identity);
        self.tail.read(|line| {
            // What a newer bottle has written has more in it, and a crash may have cut a line.
            if let Ok(line) = serde_json::from_str::<LogLine>(line) {
                summary.count(&line);
                if rows.len() == MAX_LINES {
                    rows.pop_front();
                }
                rows.push_back(row(identity, line));
            }
            Ok(())
        })?;
        self.bottle.denied = self.summary.denied();
        Ok(())
    }
}

fn row(identity: &str, line: LogLine) -> LogRow {
    let status = if line.status == 0 { String::new() } else { line.status.to_string() };
    let text = format!("{:<5} {status:>3} {:<4} {}", line.decision, line.method, place(&line));
    let denied = !line.is_allowed() && line.decision != ENDED;
    LogRow { time: line.time, identity: identity.to_owned(), denied, text: text::fitted(&text, MAX_ROW) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        session::owner::{Served, Surroundings},
        state::Holder,
        supervise::queue::Entry,
    };
    use bottle_policy::Proposal;
    use std::{
        fs::File,
        io::Write,
        os::unix::net::UnixListener,
        process::{Child, Command},
        sync::mpsc::{Receiver, channel},
    };

    struct Place {
        _home: tempfile::TempDir,
        paths: Paths,
    }

    impl Place {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let paths = Paths { home: home.path().into(), cwd: "/".into() };
            Self { _home: home, paths }
        }

        fn put(&self, identity: &str, n: usize, standing: Standing) {
            let proposal = Proposal::PipelockBlock { url: "https://a.example/".into(), justification: "x".into() };
            let (id, asked) = (format!("{n:016x}"), format!("2026-11-21T08:00:{n:02}Z"));
            let entry = Entry { id, asked, proposal, known: vec![], standing, error: None };
            Queue::of(&self.paths, identity).put(&entry).unwrap();
        }

        /// A bottle's state, without its socket.
        fn state(&self, identity: &str, holder: &Holder) -> std::path::PathBuf {
            let dir = self.paths.state().join(identity);
            fs::create_dir_all(&dir).unwrap();
            let metadata = Metadata { identity: identity.into(), holder: holder.clone(), ..Metadata::default() };
            fs::write(dir.join("metadata.json"), serde_json::to_vec(&metadata).unwrap()).unwrap();
            dir
        }

        fn log(&self, identity: &str, hosts: &[&str]) {
            let log = state::egress_log(&self.paths.state().join(identity));
            let mut log = File::options().append(true).create(true).open(log).unwrap();
            for host in hosts {
                let line = LogLine { decision: "deny".into(), host: (*host).into(), ..LogLine::default() };
                writeln!(log, "{}", serde_json::to_string(&line).unwrap()).unwrap();
            }
        }

        fn follow(&self) -> Receiver<News> {
            let (tell, told) = channel();
            let watch = Watch::begin(&self.paths).unwrap();
            thread::spawn(move || watch.follow(|news| tell.send(news).is_ok()).unwrap());
            told
        }
    }

    /// Waits for news that are so; the lines that came with all of them.
    fn until(told: &Receiver<News>, is_so: impl Fn(&News) -> bool) -> Vec<String> {
        let mut lines = vec![];
        loop {
            let news = told.recv_timeout(Duration::from_secs(60)).expect("there are such news");
            lines.extend(news.lines.iter().map(|row| row.text.clone()));
            if is_so(&news) {
                return lines;
            }
        }
    }

    fn ids(news: &News) -> Vec<(&str, &str)> {
        news.waiting.iter().map(|waiting| (waiting.identity.as_str(), &waiting.entry.id[14..])).collect()
    }

    #[test]
    fn proposals_come_and_go_and_what_is_none_is_counted() {
        let place = Place::new();
        place.put("dev-12345", 2, Standing::Pending);
        let told = place.follow();
        until(&told, |news| ids(news) == [("dev-12345", "02")]);
        place.put("dev-67890", 1, Standing::Pending);
        until(&told, |news| ids(news) == [("dev-67890", "01"), ("dev-12345", "02")]);
        let rejected = Standing::Rejected { at: String::new(), reason: String::new() };
        place.put("dev-12345", 2, rejected);
        until(&told, |news| ids(news) == [("dev-67890", "01")]);
        let queue = place.paths.queue().join("dev-67890");
        fs::write(queue.join("0000000000000003.json"), "{").unwrap();
        until(&told, |news| news.unreadable == 1 && news.waiting.len() == 1);
        fs::remove_dir_all(queue).unwrap();
        until(&told, |news| news.unreadable == 0 && news.waiting.is_empty());
        // An identity that comes back is watched again.
        place.put("dev-67890", 4, Standing::Pending);
        until(&told, |news| ids(news) == [("dev-67890", "04")]);
    }

    #[test]
    fn a_bottle_is_seen_from_its_first_answer_to_its_last_line() {
        let place = Place::new();
        let told = place.follow();
        let dir = place.state("dev-12345", &Holder::own());
        place.log("dev-12345", &["early.example"]);
        let surroundings = Surroundings { env: Default::default(), cwd: "/".into() };
        let served = Served::begin(&dir, surroundings, None).unwrap();
        let lines = until(&told, |news| news.bottles.first().is_some_and(|bottle| bottle.denied == 1));
        assert!(lines.len() == 1 && lines[0].contains("early.example"), "{lines:?}");
        let many: Vec<String> = (0..MAX_LINES + 10).map(|n| format!("host-{n}.example")).collect();
        place.log("dev-12345", &many.iter().map(String::as_str).collect::<Vec<_>>());
        let denied = MAX_LINES as u64 + 11;
        let lines = until(&told, |news| news.bottles[0].denied == denied);
        assert!(lines.last().unwrap().contains(many.last().unwrap()), "{:?}", lines.last());
        place.log("dev-12345", &["last.example"]);
        drop(served);
        let lines = until(&told, |news| news.bottles.is_empty());
        assert!(lines.last().unwrap().contains("last.example"), "{lines:?}");
    }

    /// A process that ends without a word.
    struct Owner(Child);

    impl Drop for Owner {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_bottle_whose_owner_is_killed_runs_no_more() {
        let place = Place::new();
        let owner = Owner(Command::new("sleep").arg("1000").spawn().unwrap());
        let holder = Holder::of(owner.0.id());
        let dir = place.state("dev-12345", &holder);
        let listener = UnixListener::bind(dir.join(state::SOCKET)).unwrap();
        let told = place.follow();
        until(&told, |news| news.bottles.len() == 1);
        // Its socket stays, and nobody answers there.
        drop(listener);
        drop(owner);
        until(&told, |news| news.bottles.is_empty());
    }
}
