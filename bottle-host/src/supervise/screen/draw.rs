//! The model as cells. Only what is visible is laid out, and all of it goes through [`text`].

use super::{
    detail,
    dialog::{Deciding, Verdict},
    model::{Dialog, Focus, Model, Waiting},
    text::{self, age, fitted, fitted_end},
};
use crate::{supervise::words::asked_for, ui};
use bottle_policy::Proposal;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Position, Rect, Size},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Clear, Paragraph},
};

/// From this width on, logs and bottles stand beside the proposals.
const WIDE: u16 = 160;
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const RED: Style = Style::new().fg(Color::Red);
const KEYS: &str = "a approve  o once  m modify  r reject  / filter  Tab log  ? help  q quit";
const HELP: &[&str] = &[
    "a       approve, for good: also when the bottle is resumed",
    "o       approve, for this session only",
    "m       modify in $VISUAL or $EDITOR, and then approve",
    "r       reject",
    "        (each asks once more, and takes a word for the agent)",
    "j k     the next proposal, the one before; g G: the first, the last",
    "Space b a page of it on, and back (PgDn, PgUp)",
    "Tab     the same keys move through the log, and back again",
    "/       show the lines of the log that have this in them; Esc: all",
    "q ^C    quit; whatever waits goes on waiting",
];

/// Where everything stands.
struct Areas {
    head: Rect,
    waiting: Rect,
    detail: Rect,
    bottles: Rect,
    log: Rect,
    foot: Rect,
}

impl Areas {
    fn of(model: &Model) -> Self {
        let all = Rect::from((Position::ORIGIN, model.size));
        let foot = columns(foot(model, all.width).len());
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(foot)]).areas(all);
        // A heading, and what is below it.
        let rows = |count: usize, least: u16, most: u16| columns(count).saturating_add(1).clamp(least, most.max(least));
        if body.width >= WIDE {
            let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2).areas(body);
            let waiting = rows(model.waiting.len(), 5, left.height / 3);
            let bottles = rows(model.bottles.len(), 5, right.height / 3);
            let [waiting, detail] = Layout::vertical([Constraint::Length(waiting), Constraint::Min(0)]).areas(left);
            let [bottles, log] = Layout::vertical([Constraint::Length(bottles), Constraint::Min(0)]).areas(right);
            return Self { head, waiting, detail, bottles, log, foot };
        }
        let lengths = [
            Constraint::Length(rows(model.waiting.len(), 3, body.height / 4)),
            Constraint::Min(0),
            Constraint::Length(rows(model.bottles.len(), 2, body.height / 6)),
            Constraint::Length(body.height / 4),
        ];
        let [waiting, detail, bottles, log] = Layout::vertical(lengths).areas(body);
        Self { head, waiting, detail, bottles, log, foot }
    }
}

/// As the terminal counts columns and rows; it has no more than that.
fn columns(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// Is there such a row of the proposal that is shown?
pub(super) fn has_row(model: &Model, row: usize) -> bool {
    let width = usize::from(Areas::of(model).detail.width);
    model.shown().is_some_and(|waiting| detail_rows(model, waiting, width).nth(row).is_some())
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let areas = Areas::of(model);
    draw_head(frame, model, areas.head);
    draw_waiting(frame, model, areas.waiting);
    draw_detail(frame, model, areas.detail);
    draw_bottles(frame, model, areas.bottles);
    draw_log(frame, model, areas.log);
    let lines: Vec<Line<'_>> = foot(model, areas.foot.width).into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines), areas.foot);
    match &model.dialog {
        Dialog::None => {}
        Dialog::Help => draw_help(frame, model.size),
        Dialog::Filter(_) => draw_filter(frame, model, areas.foot),
        Dialog::Deciding(deciding) => draw_deciding(frame, model, deciding),
    }
}

/// What is said at the bottom.
fn foot(model: &Model, width: u16) -> Vec<String> {
    let deciding = model.deciding.first().map(|id| format!("{id}: its owner is told …"));
    let said = model.said.as_deref().or(deciding.as_deref()).unwrap_or(KEYS);
    text::rows(said, width.saturating_sub(1).into()).take(3).map(|row| format!(" {row}")).collect()
}

fn draw_head(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let (waiting, bottles) = (model.waiting.len(), model.bottles.len());
    let wait = if waiting == 1 { "waits" } else { "wait" };
    let run = if bottles == 1 { "runs" } else { "run" };
    let unreadable = match model.unreadable {
        0 => String::new(),
        n => format!(", {} cannot be read", ui::count(n, "file")),
    };
    let counted =
        format!("{} {wait}, {} {run}{unreadable}", ui::count(waiting, "proposal"), ui::count(bottles, "bottle"));
    let counted = if model.is_read() { counted } else { "looking …".into() };
    let line = Line::from(vec![Span::styled(" bottle supervise", BOLD), Span::raw("  "), Span::raw(counted)]);
    frame.render_widget(line, area);
}

/// A heading over an area; what is left of it.
fn headed(frame: &mut Frame<'_>, area: Rect, title: String, focused: bool) -> Rect {
    let style = if focused { BOLD } else { Style::new() };
    let block = Block::new().borders(Borders::TOP).border_style(DIM).title(Span::styled(format!(" {title} "), style));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

fn draw_lines<'a>(frame: &mut Frame<'_>, area: Rect, lines: impl Iterator<Item = Line<'a>>) {
    let lines: Vec<Line<'a>> = lines.take(area.height.into()).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_waiting(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let focused = model.focus == Focus::Proposals;
    let at = model.position().unwrap_or(0);
    let title = match model.waiting.len() {
        0 => "Proposals".to_owned(),
        all => format!("Proposals {} of {all}", at + 1),
    };
    let area = headed(frame, area, title, focused);
    if model.waiting.is_empty() {
        return frame.render_widget(Line::styled(" none waits", DIM), area);
    }
    // The selected one is in sight.
    let first = (at + 1).saturating_sub(area.height.into());
    let width = usize::from(area.width);
    draw_lines(
        frame,
        area,
        model.waiting.iter().enumerate().skip(first).map(|(n, waiting)| {
            let row = fitted(&summary(model, waiting), width.saturating_sub(2));
            let (mark, style) = if n == at { ("> ", BOLD) } else { ("  ", Style::new()) };
            Line::styled(format!("{mark}{row}"), style)
        }),
    );
}

/// A proposal in a row.
fn summary(model: &Model, waiting: &Waiting) -> String {
    let entry = &waiting.entry;
    let (age, identity) = (age(text::time(&entry.asked), model.now), fitted_end(&waiting.identity, 16));
    let state = match (model.is_running(&waiting.identity), &entry.error) {
        (false, _) => "(not running) ",
        (true, Some(_)) => "(failed) ",
        (true, None) => "",
    };
    format!("{age:>6}  {identity:<16}  {:<16}  {state}{}", entry.proposal.tool(), asked_for(&entry.proposal))
}

fn draw_detail(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let Some(waiting) = model.shown() else {
        headed(frame, area, "Nothing is asked for".into(), false);
        return;
    };
    let entry = &waiting.entry;
    let above = if model.scroll > 0 { format!(", {} above", ui::count(model.scroll, "row")) } else { String::new() };
    let age = age(text::time(&entry.asked), model.now);
    let below =
        if has_row(model, model.scroll + usize::from(area.height).saturating_sub(1)) { ", more below" } else { "" };
    let title = format!("{} {}, asked {age} ago{above}{below}", entry.id, entry.proposal.tool());
    let area = headed(frame, area, fitted(&title, usize::from(area.width).saturating_sub(2)), false);
    let rows = detail_rows(model, waiting, area.width.into()).skip(model.scroll);
    draw_lines(frame, area, rows.map(|(row, style)| Line::styled(row, style)));
}

/// The proposal that is shown, as its operator has changed it.
fn detail_rows<'a>(model: &'a Model, waiting: &'a Waiting, width: usize) -> impl Iterator<Item = detail::Row> + 'a {
    let changed = match &model.dialog {
        Dialog::Deciding(Deciding { id, changed: Some(changed), .. }) if *id == waiting.entry.id => Some(changed),
        _ => None,
    };
    let proposal: &Proposal = changed.unwrap_or(&waiting.entry.proposal);
    let error = waiting.entry.error.as_deref().filter(|_| changed.is_none());
    detail::rows(proposal, &waiting.entry.known, error, width)
}

fn draw_bottles(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let area = headed(frame, area, "Bottles".into(), false);
    if model.bottles.is_empty() {
        return frame.render_widget(Line::styled(" none runs", DIM), area);
    }
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    // The last row says how many there are beside those in sight.
    let more = model.bottles.len().saturating_sub(height);
    let shown = if more > 0 { height.saturating_sub(1) } else { height };
    let rows = model.bottles.iter().take(shown).map(|bottle| {
        let up = age(bottle.started, model.now);
        let (identity, agent) = (fitted_end(&bottle.identity, 20), fitted(&bottle.agent, 16));
        let denied = format!("{} denied", bottle.denied);
        fitted(&format!(" {identity:<20}  {:<12}  up {up:<7} {denied:<12}  {agent}", bottle.backend), width)
    });
    let rest = (more > 0).then(|| format!(" and {} more: bottle list active", model.bottles.len() - shown));
    draw_lines(frame, area, rows.chain(rest).map(Line::from));
}

fn draw_log(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let filter = match model.filter.0.as_str() {
        "" => String::new(),
        wanted => format!(" with `{}`", fitted(wanted, 30)),
    };
    let back = if model.back > 0 { format!(", {} below", ui::count(model.back, "line")) } else { String::new() };
    let area = headed(frame, area, format!("Egress log, UTC{filter}{back}"), model.focus == Focus::Log);
    let width = usize::from(area.width);
    // The newest at the bottom.
    let mut rows: Vec<Line<'_>> = model
        .lines()
        .skip(model.back)
        .take(area.height.into())
        .map(|row| {
            let time = row.time.get(11..19).unwrap_or_default();
            let line = format!(" {time} {} {}", fitted_end(&row.identity, 12), row.text);
            Line::styled(fitted(&line, width), if row.denied { RED } else { Style::new() })
        })
        .collect();
    rows.reverse();
    if rows.is_empty() {
        rows.push(Line::styled(if filter.is_empty() { " nothing was asked for" } else { " no line has it" }, DIM));
    }
    frame.render_widget(Paragraph::new(rows), area);
}

fn draw_filter(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let area = Rect { height: area.height.min(1), ..area };
    frame.render_widget(Clear, area);
    let typed = format!("/{}", model.filter.shown(usize::from(area.width).saturating_sub(2)));
    let cursor = columns(Span::raw(typed.as_str()).width());
    frame.render_widget(Line::raw(&typed), area);
    frame.set_cursor_position((area.x + cursor.min(area.width.saturating_sub(1)), area.y));
}

/// A box over the rest, at the bottom; what is in it.
fn boxed(frame: &mut Frame<'_>, size: Size, (width, height): (u16, u16), title: &str) -> Rect {
    let (width, height) = (width.min(size.width), height.min(size.height));
    let (x, y) = ((size.width - width) / 2, size.height - height);
    let area = Rect { x, y, width, height };
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(Span::styled(format!(" {title} "), BOLD));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

fn draw_help(frame: &mut Frame<'_>, size: Size) {
    let area = boxed(frame, size, (76, columns(HELP.len()) + 2), "Keys; any key goes back");
    draw_lines(frame, area, HELP.iter().map(|line| Line::raw(format!(" {line}"))));
}

fn draw_deciding(frame: &mut Frame<'_>, model: &Model, deciding: &Deciding) {
    let area = boxed(frame, model.size, (100, 7), deciding.title());
    let width = usize::from(area.width).saturating_sub(2);
    let own = model.waiting.iter().find(|waiting| waiting.entry.id == deciding.id);
    let proposal = deciding.changed.as_ref().or(own.map(|waiting| &waiting.entry.proposal));
    let asked = format!("{} {}: {}", deciding.id, deciding.identity, proposal.map(asked_for).unwrap_or_default());
    let (label, keys) = match deciding.verdict {
        Verdict::Reject => ("why (the agent reads it): ", "Enter rejects, Esc goes back"),
        Verdict::Approve => ("a word to the agent: ", "Enter approves, Esc goes back, Tab: for this session only"),
        Verdict::Once => ("a word to the agent: ", "Enter approves, Esc goes back, Tab: for good"),
    };
    let typed = format!("{label}{}", deciding.line.shown(width.saturating_sub(label.len() + 1)));
    let cursor = columns(Span::raw(typed.as_str()).width());
    let asked = text::rows(&asked, width).take(2).map(|row| Line::raw(format!(" {row}"))).collect::<Vec<_>>();
    let typed_at = area.y + columns(asked.len());
    let lines =
        asked.into_iter().chain([Line::raw(format!(" {typed}")), Line::raw(""), Line::styled(format!(" {keys}"), DIM)]);
    draw_lines(frame, area, lines);
    if typed_at < area.bottom() {
        frame.set_cursor_position((area.x + (1 + cursor).min(area.width.saturating_sub(1)), typed_at));
    }
}
