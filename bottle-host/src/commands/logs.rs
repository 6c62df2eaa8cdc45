//! `logs`: what a bottle asked for, and what became of it.

use crate::{
    cli::Logs,
    paths::Paths,
    session::{egress_log::place, sidecar::ENDED, tail::Tail},
    signals::Cancellation,
    state::{self, Metadata},
    ui::{self, hinted},
};
use anyhow::{Context, Result};
use bottle_policy::message::LogLine;
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Runs `logs`.
pub(super) fn run(args: &Logs) -> Result<u8> {
    let paths = Paths::from_env()?;
    let Some(dir) = state::find(&paths, &args.identity) else { return Err(unknown(&paths, &args.identity)) };
    let log = state::egress_log(&dir);
    let mut printer = Printer { args, header: !args.json, lines: 0, unreadable: 0 };
    if args.follow {
        let cancel = Cancellation::install()?;
        // Watched before the first read: nothing that is written in between goes unseen.
        let watched = Watched::begin(&dir, &state::metadata(&paths, &args.identity)?)?;
        let mut tail = Tail::open(&log)?;
        loop {
            let owned = watched.is_owned();
            tail.read(|line| printer.print(line))?;
            if !owned || !dir.exists() {
                ui::say(format!("{} has ended", args.identity));
                break;
            }
            if let Err(error) = watched.wait(&cancel) {
                return cancel.signal().map_or(Err(error), |signal| Ok(u8::try_from(128 + signal).unwrap_or(1)));
            }
        }
    } else {
        Tail::open(&log)?.read(|line| printer.print(line))?;
    }
    if printer.unreadable > 0 {
        ui::warn(format!("{} of {} cannot be read", ui::count(printer.unreadable, "line"), paths.short(&log)));
    }
    if printer.lines == 0 {
        ui::say(format!("{} has asked for nothing", args.identity));
    }
    Ok(0)
}

fn unknown(paths: &Paths, identity: &str) -> anyhow::Error {
    let entries = fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut known: Vec<_> = names
        .filter(|name| state::find(paths, name).is_some_and(|dir| state::egress_log(&dir).exists()))
        .map(|name| ui::printable(&name))
        .collect();
    known.sort();
    let hint = match known.is_empty() {
        true => "`bottle list active` shows the bottles that run. No log of an earlier one is kept.".to_owned(),
        false => format!("These have a log: {}.", known.join(", ")),
    };
    let (identity, place) = (ui::printable(identity), paths.short(&paths.state()));
    hinted(
        format!(
            "no bottle `{identity}` in {place}: a log is kept there while its bottle runs, and after a session that did not end well or left work"
        ),
        hint,
    )
}

/// Wakes a follower: the log has changed, its directory is going away, or its owner has ended.
struct Watched {
    changes: OwnedFd,
    /// The process that owns the bottle, while it lives.
    owner: Option<OwnedFd>,
}

impl Watched {
    fn begin(dir: &Path, metadata: &Metadata) -> Result<Self> {
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        let flags = flags | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&changes, dir, flags).with_context(|| format!("watch {}", dir.display()))?;
        let pid = i32::try_from(metadata.holder.pid).ok().and_then(Pid::from_raw);
        let owner = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at last: it is the process that the descriptor stands for.
        Ok(Self { changes, owner: owner.filter(|_| metadata.holder.is_alive()) })
    }

    fn is_owned(&self) -> bool {
        let Some(owner) = &self.owner else { return false };
        let mut ended = [rustix::event::PollFd::new(owner, rustix::event::PollFlags::IN)];
        matches!(rustix::event::poll(&mut ended, Some(&rustix::event::Timespec::default())), Ok(0) | Err(Errno::INTR))
    }

    fn wait(&self, cancel: &Cancellation) -> Result<()> {
        let owner = self.owner.as_ref().map(AsFd::as_fd);
        cancel.wait_any_readable([self.changes.as_fd()].into_iter().chain(owner))?;
        let mut events = [0; 4096];
        while rustix::io::read(&self.changes, &mut events).is_ok_and(|len| len > 0) {}
        Ok(())
    }
}

struct Printer<'a> {
    args: &'a Logs,
    /// Still to be printed.
    header: bool,
    lines: usize,
    unreadable: usize,
}

impl Printer<'_> {
    fn print(&mut self, text: &str) -> Result<()> {
        // What a newer bottle has written has more in it, and a crash may have cut a line.
        let Ok(line) = serde_json::from_str::<LogLine>(text) else {
            self.unreadable += 1;
            return Ok(());
        };
        self.lines += 1;
        if self.args.denied && (line.is_allowed() || line.decision == ENDED) {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        if self.args.json {
            return Ok(writeln!(out, "{}", ui::escaped_json(text))?);
        }
        if std::mem::take(&mut self.header) {
            writeln!(out, "{}", row(["TIME", "VERDICT", "HTTP", "METHOD", "SENT", "RECV", "MS"], "WHERE"))?;
        }
        if line.lost > 0 {
            let lost = ui::count(usize::try_from(line.lost).unwrap_or(usize::MAX), "request");
            writeln!(
                out,
                "{}",
                row(["", "allow", "", "", "", "", ""], &format!("({lost} without a line of its own)"))
            )?;
        }
        Ok(writeln!(out, "{}", shown(&line))?)
    }
}

fn shown(line: &LogLine) -> String {
    let number = |n: u64| if n == 0 { String::new() } else { size(n) };
    // To the second: `--json` has the rest.
    let time = line.time.split_once('.').map_or(line.time.clone(), |(seconds, _)| format!("{seconds}Z"));
    let status = if line.status == 0 { String::new() } else { line.status.to_string() };
    let [sent, received] = [line.sent, line.received].map(number);
    row([&time, &line.decision, &status, &line.method, &sent, &received, &line.ms.to_string()], &place(line))
}

/// In columns; none of it is seen otherwise than it is.
fn row(cells: [&str; 7], place: &str) -> String {
    let [time, decision, status, method, sent, received, ms] = cells.map(ui::printable);
    let row = format!("{time:<20}  {decision:<7}  {status:>4}  {method:<7}  {sent:>5}  {received:>5}  {ms:>6}");
    format!("{row}  {}", ui::printable(place)).trim_end().to_owned()
}

/// Bytes in five columns.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => bytes.to_string(),
        10_000..10_000_000 => format!("{}k", bytes / 1000),
        10_000_000..10_000_000_000 => format!("{}M", bytes / 1_000_000),
        _ => format!("{}G", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_it_stands_for_and_nothing_of_a_guest_moves_the_terminal() {
        let line = LogLine {
            time: "2026-11-21T06:32:33.123Z".into(),
            daemon: "egress".into(),
            decision: "deny".into(),
            rule: "host".into(),
            host: "evil.example:443".into(),
            method: "GET".into(),
            path: "/\x1b[31m\u{202e}".into(),
            status: 403,
            sent: 12_345,
            repeated: 4,
            ..LogLine::default()
        };
        let shown = shown(&line);
        assert_eq!(
            shown,
            "2026-11-21T06:32:33Z  deny      403  GET        12k              0  \
             evil.example:443/\u{fffd}[31m\u{fffd}  [host]  and 4 more like it"
        );
    }

    #[test]
    fn sizes_take_five_columns() {
        for bytes in [0, 9_999, 10_000, 9_999_999, 10_000_000, 9_999_999_999, 10_000_000_000] {
            assert!(size(bytes).len() <= 5, "{}", size(bytes));
        }
    }
}
