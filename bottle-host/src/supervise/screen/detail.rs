//! A proposal in full, row by row: what saying yes would change, what credential goes there, and why it is asked for.

use super::text;
use bottle_policy::{Proposal, ProposedRoute, proposal::opened};
use ratatui::style::{Color, Modifier, Style};
use std::iter::once;

/// A row, and how it stands out.
pub(super) type Row = (String, Style);

const PLAIN: Style = Style::new();
const LABEL: Style = Style::new().add_modifier(Modifier::BOLD);
const ADDED: Style = Style::new().fg(Color::Green);
const REMOVED: Style = Style::new().fg(Color::Red);

/// What saying yes to a proposal would change, in rows of this width.
pub(super) fn changes<'a>(
    proposal: &'a Proposal,
    known: &[ProposedRoute],
    width: usize,
) -> Box<dyn Iterator<Item = Row> + 'a> {
    if let Proposal::CapabilityBlock { dockerfile, .. } = proposal {
        let lines = dockerfile.lines().flat_map(move |line| folded("+ ", line, ADDED, width));
        return Box::new(once(("an image for its next session, with".into(), LABEL)).chain(lines));
    }
    let routes = proposal.routes().and_then(|routes| Ok(difference(known, &opened(known, &routes)?)));
    match routes {
        Err(why) => Box::new(folded_own("", &why, REMOVED, width).into_iter()),
        Ok(lines) => {
            let changes = lines.iter().any(|(sign, _)| *sign != "  ");
            let says = match (proposal, changes) {
                (Proposal::PipelockBlock { .. }, false) => "no route: the program behind the proxy begins anew",
                (Proposal::PipelockBlock { .. }, true) => "its routes; the program behind the proxy begins anew",
                (_, false) => "nothing: all of it may be reached already",
                (_, true) => "its routes",
            };
            let lines = lines.into_iter().flat_map(move |(sign, line)| {
                let style = match sign {
                    "+ " => ADDED,
                    "- " => REMOVED,
                    _ => PLAIN,
                };
                folded_own(sign, &line, style, width)
            });
            let credential = "credential: none is put in, and what the agent brings is taken out";
            let credential = folded("", credential, PLAIN, width);
            Box::new(once((says.into(), LABEL)).chain(lines).chain(credential))
        }
    }
}

/// All of it.
pub(super) fn rows<'a>(
    proposal: &'a Proposal,
    known: &[ProposedRoute],
    error: Option<&'a str>,
    width: usize,
) -> impl Iterator<Item = Row> + 'a {
    let error = error.into_iter().flat_map(move |error| {
        once(("it could not be applied".into(), LABEL)).chain(folded("", error, REMOVED, width))
    });
    let url = match proposal {
        Proposal::PipelockBlock { url, .. } => Some(url),
        _ => None,
    };
    let url = url.into_iter().flat_map(move |url| folded("refused: ", url, PLAIN, width));
    // Marked, so that no line of it can pass for one of ours.
    let why = text::rows(proposal.justification(), width.saturating_sub(4)).map(|row| (format!("  | {row}"), PLAIN));
    error.chain(url).chain(changes(proposal, known, width)).chain(once(("because".into(), LABEL))).chain(why)
}

/// A line in rows, those after the first further in.
fn folded<'a>(sign: &'static str, line: &'a str, style: Style, width: usize) -> impl Iterator<Item = Row> + 'a {
    let rows = text::rows(line, width.saturating_sub(4 + sign.len()));
    rows.enumerate().map(move |(n, row)| {
        let indent = if n == 0 { sign.to_owned() } else { format!("{:1$}", "", sign.len() + 2) };
        (format!("  {indent}{row}"), style)
    })
}

/// The same of a line that nobody else keeps.
fn folded_own(sign: &'static str, line: &str, style: Style, width: usize) -> Vec<Row> {
    folded(sign, line, style, width).collect()
}

/// Routes before and after, line by line, each with a sign: `+` is new, `-` is gone, what stays has none.
fn difference(before: &[ProposedRoute], after: &[ProposedRoute]) -> Vec<(&'static str, String)> {
    let mut lines = vec![];
    for route in after {
        let before = before.iter().find(|known| known.host == route.host).map(lines_of).unwrap_or_default();
        for (after, before) in lines_of(route).iter().zip(&before) {
            let gone = before.iter().filter(|line| !after.contains(line));
            lines.extend(gone.map(|line| ("- ", line.clone())));
            let sign = |line: &String| if before.contains(line) { "  " } else { "+ " };
            lines.extend(after.iter().map(|line| (sign(line), line.clone())));
        }
    }
    lines
}

/// A route as it is compared: its host, its ports, its methods, its paths.
fn lines_of(route: &ProposedRoute) -> [Vec<String>; 4] {
    let listed = |what: &str, items: &[String]| match items.is_empty() {
        true => vec![format!("  every {what}")],
        false => items.iter().map(|item| format!("  {what} {item}")).collect(),
    };
    let ports = route.ports.iter().map(|port| format!("  port {port}")).collect();
    [vec![format!("host {}", route.host)], ports, listed("method", &route.methods), listed("path", &route.paths)]
}
