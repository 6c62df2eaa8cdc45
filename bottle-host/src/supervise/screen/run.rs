//! The screen on its terminal: the same gate, modes and ends as a guest's session has, so that whatever happens the
//! terminal is put back.

use super::{
    draw, edit,
    model::{Action, Event, Model},
    watch::Watch,
};
use crate::{
    fault,
    paths::Paths,
    session::{owner, screen, terminal::Terminal},
    signals::Cancellation,
    supervise::desk::Decision,
    ui::{self, UsageError},
};
use anyhow::{Context, Result, anyhow, bail};
use ratatui::{
    backend::CrosstermBackend,
    crossterm::{
        event::{self, EnableBracketedPaste},
        execute,
        terminal::EnterAlternateScreen,
    },
    layout::{Position, Size},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    stdio::{stdin, stdout},
};
use signal_hook::{
    consts::{SIGCONT, SIGHUP, SIGWINCH},
    iterator::Signals,
};
use std::{
    io::{self, BufWriter, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};
use time::OffsetDateTime;

/// How often ages are looked at, when nothing else happens.
const TICK: Duration = Duration::from_secs(1);
/// What an application is titled, is kept by the terminal while it has another (xterm's stack of titles).
const KEEP_TITLE: &[u8] = b"\x1b[22;2t";
const OLD_TITLE: &[u8] = b"\x1b[23;2t";

/// What a thread tells the screen.
enum Told {
    Event(Event),
    /// The terminal has another size, or shows something else: all of it is drawn anew.
    Redraw,
    /// There will be no more news.
    Failed(anyhow::Error),
}

/// The way of other threads to the screen.
#[derive(Clone)]
struct Voice {
    say: Sender<Told>,
    wake: Arc<OwnedFd>,
}

impl Voice {
    /// Is there somebody still who hears it?
    fn tell(&self, told: Told) -> bool {
        self.say.send(told).is_ok() && rustix::io::write(&*self.wake, &[0]).is_ok()
    }
}

/// Shows the screen until the operator has seen enough. Its exit code.
pub fn run(paths: &Paths) -> Result<u8> {
    if !Terminal::is_there() {
        let message = "there is no terminal for the screen; say --once, --once --json, approve ID or reject ID";
        return Err(UsageError(message.into()).into());
    }
    let cancel = Cancellation::install()?;
    let (woken, wake) = pipe_with(PipeFlags::CLOEXEC)?;
    let (say, heard) = channel();
    let voice = Voice { say, wake: Arc::new(wake) };
    watch(paths, &voice)?;
    follow_size(&voice)?;
    let shown = Supervise { paths, cancel: &cancel, voice, heard, woken }.serve();
    if shown.is_err() && is_gone() {
        cancel.cancel(SIGHUP); // it may be ignored, or on its way
    }
    match cancel.signal() {
        Some(signal) => Ok(u8::try_from(128 + signal).unwrap_or(1)),
        None => shown.map(|()| 0),
    }
}

fn watch(paths: &Paths, voice: &Voice) -> Result<()> {
    let (watch, voice) = (Watch::begin(paths)?, voice.clone());
    thread::Builder::new().name("watch".into()).spawn(move || {
        if let Err(error) = watch.follow(|news| voice.tell(Told::Event(Event::News(news)))) {
            voice.tell(Told::Failed(error));
        }
    })?;
    Ok(())
}

fn follow_size(voice: &Voice) -> Result<()> {
    let (mut signals, voice) = (Signals::new([SIGWINCH, SIGCONT])?, voice.clone());
    thread::Builder::new().name("size".into()).spawn(move || {
        for _ in &mut signals {
            voice.tell(Told::Redraw);
        }
    })?;
    Ok(())
}

struct Supervise<'a> {
    paths: &'a Paths,
    cancel: &'a Cancellation,
    voice: Voice,
    heard: Receiver<Told>,
    /// Readable when there is something to hear.
    woken: OwnedFd,
}

impl Supervise<'_> {
    fn serve(&self) -> Result<()> {
        let mut shown = Shown::enter()?;
        let mut model = Model::new(OffsetDateTime::now_utc(), size()?);
        loop {
            shown.draw(&mut model)?;
            self.cancel.wait_any_readable_within([stdin(), self.woken.as_fd()].into_iter(), TICK)?;
            for event in self.events(&mut shown)? {
                match model.take(event) {
                    None => {}
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::Decide { identity, id, decision }) => self.decide(identity, id, decision)?,
                    Some(Action::Edit { id, text }) => {
                        // The terminal is the editor's meanwhile.
                        drop(shown);
                        let result = edit::run(&text, self.cancel);
                        if self.cancel.signal().is_some() {
                            bail!("cancelled");
                        }
                        shown = Shown::enter()?;
                        model.take(Event::Edited { id, result: result.map_err(|error| format!("{error:#}")) });
                    }
                }
            }
        }
    }

    /// Tells the bottle's owner, and does not wait for it here: the sidecar may have to do something first.
    fn decide(&self, identity: String, id: String, decision: Decision) -> Result<()> {
        let (paths, voice) = (self.paths.clone(), self.voice.clone());
        thread::Builder::new().name("decide".into()).spawn(move || {
            let result = owner::decided(&paths, &identity, &id, &decision).map_err(|error| {
                let hint = ui::hint_of(&error).map(|hint| format!(" ({hint})")).unwrap_or_default();
                format!("{error:#}{hint}")
            });
            voice.tell(Told::Event(Event::Decided { id, result }));
        })?;
        Ok(())
    }

    /// What has happened meanwhile, at the terminal and elsewhere.
    fn events(&self, shown: &mut Shown) -> Result<Vec<Event>> {
        let mut events = vec![];
        // At one that is gone crossterm would read for ever.
        while !is_gone() && event::poll(Duration::ZERO).context("read the terminal")? {
            match event::read().context("read the terminal")? {
                event::Event::Key(key) => events.push(Event::Key(key)),
                event::Event::Paste(text) => events.push(Event::Paste(text)),
                _ => {}
            }
        }
        if is_gone() {
            bail!("the terminal is gone");
        }
        for told in self.heard.try_iter() {
            // A byte each; there is one, or there will be at once.
            rustix::io::read(&self.woken, &mut [0; 1])?;
            match told {
                Told::Event(event) => events.push(event),
                Told::Redraw => shown.forget()?,
                Told::Failed(error) => return Err(error.context("watch what waits")),
            }
        }
        Ok(events)
    }
}

/// The screen, on a terminal that is put back when this goes.
struct Shown {
    terminal: ratatui::Terminal<CrosstermBackend<BufWriter<Gate>>>,
    title: String,
    _raw: Terminal,
}

impl Shown {
    fn enter() -> Result<Self> {
        let raw = Terminal::raw()?;
        screen::open(stdout().try_clone_to_owned()?, false);
        let mut gate = BufWriter::new(Gate { closed: false });
        gate.write_all(KEEP_TITLE)?;
        execute!(gate, EnterAlternateScreen, EnableBracketedPaste)?;
        let terminal = ratatui::Terminal::new(CrosstermBackend::new(gate))?;
        Ok(Self { terminal, title: String::new(), _raw: raw })
    }

    /// All of it is drawn the next time. (`clear` would ask the terminal where its cursor is.)
    fn forget(&mut self) -> Result<()> {
        self.terminal.resize((Position::ORIGIN, size()?).into()).map_err(undrawn)
    }

    fn draw(&mut self, model: &mut Model) -> Result<()> {
        model.now = OffsetDateTime::now_utc();
        size()?;
        let drawn = self.terminal.draw(|frame| {
            model.size = frame.area().as_size();
            draw::draw(frame, model);
        });
        drawn.map_err(undrawn)?;
        let title = match model.waiting.len() {
            0 => "bottle: nothing waits".to_owned(),
            1 => "bottle: 1 proposal waits".to_owned(),
            n => format!("bottle: {n} proposals wait"),
        };
        let bell = if model.take_bell() { "\x07" } else { "" };
        if model.is_read() && (title != self.title || !bell.is_empty()) {
            let gate = self.terminal.backend_mut();
            write!(gate, "{bell}\x1b]2;{title}\x1b\\").and_then(|()| gate.flush()).map_err(undrawn)?;
            self.title = title;
        }
        Ok(fault::point("screen-drawn").map_err(bottle_api::Error::into_std)?)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let gate = self.terminal.backend_mut();
        let _ = gate.write_all(OLD_TITLE).and_then(|()| gate.flush());
    }
}

/// Has the terminal hung up?
fn is_gone() -> bool {
    let mut fds = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let polled = poll(&mut fds, Some(&Timespec::default()));
    polled.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

/// It is an error here when nobody reads: the screen is all there is.
fn undrawn(error: io::Error) -> anyhow::Error {
    anyhow!("draw on the terminal: {error}")
}

/// An error where the terminal is gone.
fn size() -> Result<Size> {
    Ok(Terminal::size().context("ask for the terminal's size")?.into())
}

/// The gate that all drawing passes, also a guest's.
struct Gate {
    /// The terminal is not ours any more, and that was said.
    closed: bool,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.closed {
            self.closed = true;
            screen::draw(stdout(), bytes)?;
            self.closed = false;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
