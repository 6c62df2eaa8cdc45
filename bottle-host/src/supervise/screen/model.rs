//! What the screen shows, and what each event does to it. Nothing here reads, writes or draws.

use super::{
    dialog::{Deciding, Line, Verdict},
    draw, edit,
};
use crate::supervise::{desk::Decision, queue::Entry};
use bottle_policy::Proposal;
use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::Size,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};
use time::OffsetDateTime;

/// Lines of the egress log that are remembered: `bottle logs` has them all.
pub(super) const MAX_LINES: usize = 5000;
/// Rows that a page of a proposal or of the log is turned by.
const PAGE: usize = 5;

/// A proposal that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Whose.
    pub(super) identity: String,
    /// What, and since when.
    pub(super) entry: Entry,
}

/// A bottle that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bottle {
    pub(super) identity: String,
    pub(super) agent: String,
    pub(super) backend: String,
    pub(super) started: Option<OffsetDateTime>,
    /// Requests that were refused, as far back as its log goes.
    pub(super) denied: u64,
}

/// A line of an egress log, printable and no longer than anybody reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogRow {
    /// As in the log, which it is sorted by.
    pub(super) time: String,
    pub(super) identity: String,
    pub(super) denied: bool,
    pub(super) text: String,
}

/// What has changed on disk.
#[derive(Debug, Default)]
pub(super) struct News {
    /// All that wait, the oldest first.
    pub(super) waiting: Vec<Arc<Waiting>>,
    /// Files of the queues that cannot be read.
    pub(super) unreadable: usize,
    /// All that run.
    pub(super) bottles: Vec<Bottle>,
    /// Lines of their logs since the last news.
    pub(super) lines: Vec<LogRow>,
}

/// What happens to the screen.
#[derive(Debug)]
pub(super) enum Event {
    Key(KeyEvent),
    /// Text that was pasted: no key of it decides anything.
    Paste(String),
    News(News),
    /// What became of a decision on a proposal.
    Decided {
        id: String,
        result: Result<(), String>,
    },
    /// What the operator's editor left of a proposal.
    Edited {
        id: String,
        result: Result<String, String>,
    },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Decide { identity: String, id: String, decision: Decision },
    Edit { id: String, text: String },
}

/// What the arrow keys move through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Focus {
    #[default]
    Proposals,
    Log,
}

/// What lies over the rest, or below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Dialog {
    #[default]
    None,
    Help,
    /// What was looked for before, should it be given up.
    Filter(String),
    Deciding(Deciding),
}

/// All of it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) now: OffsetDateTime,
    pub(super) size: Size,
    pub(super) waiting: Vec<Arc<Waiting>>,
    pub(super) unreadable: usize,
    pub(super) bottles: Vec<Bottle>,
    pub(super) log: VecDeque<LogRow>,
    /// The id of the proposal that is shown in full.
    pub(super) selected: Option<String>,
    /// Rows of it that have been scrolled away.
    pub(super) scroll: usize,
    /// Lines of the log that are below the last one shown.
    pub(super) back: usize,
    /// The log's lines that have this in them.
    pub(super) filter: Line,
    pub(super) focus: Focus,
    pub(super) dialog: Dialog,
    /// What the last key led to.
    pub(super) said: Option<String>,
    /// Proposals whose owners have been told, and have not answered.
    pub(super) deciding: BTreeSet<String>,
    /// What an editor left that could not be taken, by proposal.
    drafts: HashMap<String, String>,
    /// Every proposal that was ever news; none before the first news, which are how things stand.
    known: Option<HashSet<String>>,
    /// One of them has come since the bell was last rung.
    bell: bool,
}

impl Model {
    pub(super) fn new(now: OffsetDateTime, size: Size) -> Self {
        Self {
            now,
            size,
            waiting: vec![],
            unreadable: 0,
            bottles: vec![],
            log: VecDeque::new(),
            selected: None,
            scroll: 0,
            back: 0,
            filter: Line::default(),
            focus: Focus::default(),
            dialog: Dialog::None,
            said: None,
            deciding: BTreeSet::new(),
            drafts: HashMap::new(),
            known: None,
            bell: false,
        }
    }

    /// Something has happened. What is to be done, if anything is.
    pub(super) fn take(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Key(key) if key.kind == KeyEventKind::Release => {}
            Event::Key(key) => return self.key(key),
            Event::Paste(text) => match &mut self.dialog {
                Dialog::Filter(_) => self.filter.paste(&text),
                Dialog::Deciding(deciding) => deciding.line.paste(&text),
                Dialog::None | Dialog::Help => {}
            },
            Event::News(news) => self.news(news),
            Event::Decided { id, result } => {
                self.deciding.remove(&id);
                self.said = Some(match result {
                    Ok(()) => format!("{id}: it is decided, and the agent is told"),
                    Err(why) => format!("{id}: {why}"),
                });
            }
            Event::Edited { id, result } => self.edited(id, result),
        }
        None
    }

    /// Does it say how things stand yet?
    pub(super) fn is_read(&self) -> bool {
        self.known.is_some()
    }

    /// Has something come that was not there before? Asked once, it has been said.
    pub(super) fn take_bell(&mut self) -> bool {
        std::mem::take(&mut self.bell)
    }

    /// The proposal that is shown in full.
    pub(super) fn shown(&self) -> Option<&Arc<Waiting>> {
        self.waiting.iter().find(|waiting| Some(&waiting.entry.id) == self.selected.as_ref())
    }

    /// Where it stands among those that wait.
    pub(super) fn position(&self) -> Option<usize> {
        self.waiting.iter().position(|waiting| Some(&waiting.entry.id) == self.selected.as_ref())
    }

    /// Does the owner of that bottle take decisions?
    pub(super) fn is_running(&self, identity: &str) -> bool {
        self.bottles.iter().any(|bottle| bottle.identity == identity)
    }

    /// The log's lines that are looked for, the newest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = &LogRow> {
        let wanted = self.filter.0.to_lowercase();
        self.log.iter().rev().filter(move |row| row.matches(&wanted))
    }

    fn news(&mut self, news: News) {
        let position = self.position();
        self.waiting = news.waiting;
        self.unreadable = news.unreadable;
        self.bottles = news.bottles;
        let ids = self.waiting.iter().map(|waiting| waiting.entry.id.clone());
        match &mut self.known {
            None => self.known = Some(ids.collect()),
            // All of them are remembered: `any` would stop at the first.
            Some(known) => self.bell |= ids.filter(|id| known.insert(id.clone())).count() > 0,
        }
        if self.shown().is_none() {
            let next = position.unwrap_or(0).min(self.waiting.len().saturating_sub(1));
            self.select(next);
        }
        if let Dialog::Deciding(deciding) = &self.dialog
            && !self.waiting.iter().any(|waiting| waiting.entry.id == deciding.id)
        {
            self.said =
                Some(format!("{} waits no more: somebody else has decided, or its bottle is gone", deciding.id));
            self.dialog = Dialog::None;
        }
        if self.back > 0 {
            // Who reads an earlier line goes on reading it.
            let wanted = self.filter.0.to_lowercase();
            self.back += news.lines.iter().filter(|row| row.matches(&wanted)).count();
        }
        if !news.lines.is_empty() {
            self.log.extend(news.lines);
            self.log.make_contiguous().sort_by(|a, b| a.time.cmp(&b.time));
            self.log.drain(..self.log.len().saturating_sub(MAX_LINES));
        }
    }

    fn select(&mut self, position: usize) {
        let id = self.waiting.get(position).map(|waiting| waiting.entry.id.clone());
        if id != self.selected {
            self.scroll = 0;
        }
        self.selected = id;
    }

    fn key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Action::Quit);
        }
        match std::mem::take(&mut self.dialog) {
            Dialog::Help => None,
            Dialog::Filter(before) => {
                self.filter_key(key, before);
                None
            }
            Dialog::Deciding(deciding) => self.deciding_key(key, deciding),
            Dialog::None => self.plain_key(key),
        }
    }

    fn filter_key(&mut self, key: KeyEvent, before: String) {
        match key.code {
            KeyCode::Enter => {}
            KeyCode::Esc => self.filter.0 = before,
            _ => {
                self.filter.key(key);
                self.back = 0;
                self.dialog = Dialog::Filter(before);
            }
        }
    }

    fn deciding_key(&mut self, key: KeyEvent, mut deciding: Deciding) -> Option<Action> {
        match key.code {
            KeyCode::Esc => return None,
            KeyCode::Enter => {
                self.deciding.insert(deciding.id.clone());
                self.said = None;
                let decision = deciding.decision();
                return Some(Action::Decide { identity: deciding.identity, id: deciding.id, decision });
            }
            KeyCode::Tab => deciding.toggle(),
            _ => drop(deciding.line.key(key)),
        }
        self.dialog = Dialog::Deciding(deciding);
        None
    }

    fn plain_key(&mut self, key: KeyEvent) -> Option<Action> {
        self.said = None;
        // A key with Control or Alt is no letter.
        let plain = key.modifiers.difference(KeyModifiers::SHIFT).is_empty();
        match key.code {
            KeyCode::Char(_) if !plain => {}
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('?') => self.dialog = Dialog::Help,
            KeyCode::Char('/') => self.dialog = Dialog::Filter(self.filter.0.clone()),
            KeyCode::Char('a') => self.ask(Verdict::Approve, None),
            KeyCode::Char('o') => self.ask(Verdict::Once, None),
            KeyCode::Char('r') => self.ask(Verdict::Reject, None),
            KeyCode::Char('m') => return self.edit(),
            KeyCode::Tab => {
                self.focus = if self.focus == Focus::Log { Focus::Proposals } else { Focus::Log };
            }
            KeyCode::Esc => (self.filter, self.back) = (Line::default(), 0),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.page(true),
            KeyCode::PageUp | KeyCode::Char('b') => self.page(false),
            KeyCode::Home | KeyCode::Char('g') => self.edge(false),
            KeyCode::End | KeyCode::Char('G') => self.edge(true),
            _ => {}
        }
        None
    }

    fn step(&mut self, by: isize) {
        match self.focus {
            Focus::Log => self.scroll_log(-by),
            Focus::Proposals => {
                let to = self.position().unwrap_or(0).saturating_add_signed(by);
                self.select(to.min(self.waiting.len().saturating_sub(1)));
            }
        }
    }

    fn page(&mut self, on: bool) {
        match (self.focus, on) {
            (Focus::Log, true) => self.scroll_log(-(PAGE as isize)),
            (Focus::Log, false) => self.scroll_log(PAGE as isize),
            (Focus::Proposals, false) => self.scroll = self.scroll.saturating_sub(PAGE),
            // Not beyond its last row.
            (Focus::Proposals, true) if draw::has_row(self, self.scroll + PAGE) => self.scroll += PAGE,
            (Focus::Proposals, true) => {}
        }
    }

    fn edge(&mut self, last: bool) {
        match (self.focus, last) {
            (Focus::Log, true) => self.back = 0,
            (Focus::Log, false) => self.scroll_log(MAX_LINES as isize),
            (Focus::Proposals, true) => self.select(self.waiting.len().saturating_sub(1)),
            (Focus::Proposals, false) => self.select(0),
        }
    }

    fn scroll_log(&mut self, by: isize) {
        let last = self.lines().count().saturating_sub(1);
        self.back = self.back.saturating_add_signed(by).min(last);
    }

    /// Asks for the last word on the proposal that is shown, or on what was made of it.
    fn ask(&mut self, verdict: Verdict, changed: Option<Proposal>) {
        let Some(waiting) = self.decidable() else { return };
        let (identity, id) = (waiting.identity.clone(), waiting.entry.id.clone());
        self.dialog = Dialog::Deciding(Deciding { identity, id, verdict, changed, line: Line::default() });
    }

    fn edit(&mut self) -> Option<Action> {
        let waiting = self.decidable()?;
        let id = waiting.entry.id.clone();
        let fresh = || edit::text_of(&waiting.identity, &waiting.entry.proposal);
        match self.drafts.get(&id).cloned().map_or_else(fresh, Ok) {
            Ok(text) => Some(Action::Edit { id, text }),
            Err(why) => {
                self.said = Some(why);
                None
            }
        }
    }

    fn edited(&mut self, id: String, result: Result<String, String>) {
        self.drafts.remove(&id);
        let Some(waiting) = self.waiting.iter().find(|waiting| waiting.entry.id == id).cloned() else {
            self.said = Some(format!("{id} waits no more"));
            return;
        };
        let taken = result.and_then(|text| {
            edit::proposal_of(&waiting.entry.proposal, &text).map_err(|why| {
                self.drafts.insert(id.clone(), text);
                format!("not taken: {why} (m edits it again)")
            })
        });
        match taken {
            Err(why) => self.said = Some(why),
            Ok(None) => self.said = Some("nothing was changed".into()),
            Ok(Some(proposal)) => {
                self.selected = Some(id);
                self.scroll = 0;
                self.ask(Verdict::Approve, Some(proposal));
            }
        }
    }

    /// The proposal that is shown, if it can be decided; else says why not.
    fn decidable(&mut self) -> Option<Arc<Waiting>> {
        let waiting = self.shown().cloned();
        self.said = match &waiting {
            None => Some("no proposal waits".into()),
            Some(waiting) if self.deciding.contains(&waiting.entry.id) => Some("its owner has not answered yet".into()),
            Some(waiting) if !self.is_running(&waiting.identity) => {
                let identity = &waiting.identity;
                Some(format!("{identity} does not run; to decide, resume it: bottle resume {identity}"))
            }
            Some(_) => return waiting,
        };
        None
    }
}

impl LogRow {
    /// `wanted` is in lower case.
    fn matches(&self, wanted: &str) -> bool {
        let has = |text: &str| text.to_lowercase().contains(wanted);
        wanted.is_empty() || has(&self.text) || has(&self.identity)
    }
}
