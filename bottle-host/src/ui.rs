//! What a person reads: everything on standard error, prefixed `bottle: `; data alone on standard output.

pub mod layout;

use crate::{fault, session::terminal::Terminal, signals::Cancellation};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::termios::tcgetwinsize;
use std::{
    fmt,
    io::{self, BufRead, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use zeroize::Zeroizing;

/// Columns that are left of eighty beside `bottle: `.
pub const WIDTH: usize = 72;

/// A mistake in how bottle was called: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// What to type next, attached to an error as its outermost context.
#[derive(Debug)]
pub struct Hinted {
    message: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// An error that says what to type next.
pub fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Hinted { message: message.into(), hint: hint.into() }.into()
}

/// The exit code of an error that is about usage.
pub fn usage_code(error: &anyhow::Error) -> Option<u8> {
    error.downcast_ref::<UsageError>().map(|_| 2)
}

/// Has the reader of our data gone away?
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Says something. Lines after the first are marked, so that none can pass for one of ours.
pub fn say(text: impl fmt::Display) {
    clear_progress();
    let text = text.to_string();
    let mut lines = text.trim_end_matches('\n').split('\n');
    let mut out = format!("bottle: {}\n", printable(lines.next().unwrap_or_default()));
    lines.for_each(|line| out += &format!("bottle: | {}\n", printable(line)));
    let _ = io::stderr().write_all(out.as_bytes());
}

static LAST: Mutex<Vec<String>> = Mutex::new(vec![]);

/// Keeps a line for the end, after everything else and errors too: what to type next.
pub fn say_at_last(line: String) {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

/// Says, once it goes, what was kept for the end. `main` has one: a panic goes through it, too.
pub struct LastWords;

impl Drop for LastWords {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut *LAST.lock().unwrap_or_else(PoisonError::into_inner));
        lines.iter().for_each(say);
    }
}

/// Says a line that must not be overlooked: bold on a terminal, unless `NO_COLOR` is set (no-color.org).
pub fn stand_out(line: impl fmt::Display) {
    let plain = printable(&line.to_string());
    if !io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return say(plain);
    }
    clear_progress();
    let _ = writeln!(io::stderr(), "bottle: \x1b[1m{plain}\x1b[0m");
}

/// Something is not as it should be, and goes on.
pub fn warn(text: impl fmt::Display) {
    say(format!("warning: {text}"));
}

/// Something failed, and the rest goes on.
pub fn warn_of(what: impl fmt::Display, error: &anyhow::Error) {
    warn(format!("{what}: {error:#}"));
    say_hint(error);
}

/// An error, its causes, and what to type next.
pub fn error(error: &anyhow::Error) {
    say(format!("error: {error:#}"));
    say_hint(error);
}

fn say_hint(error: &anyhow::Error) {
    if let Some(hint) = hint_of(error) {
        say(format!("hint: {hint}"));
    }
}

/// What to type next, where an error says it.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(|cause| {
        let own = cause.downcast_ref::<Hinted>().map(|h| h.hint.as_str());
        own.or_else(|| cause.downcast_ref::<bottle_api::error::StdError>()?.0.hint.as_deref())
    })
}

/// Text from outside (a guest, a repository, an engine) as a person can see it: without what a terminal would obey, or
/// show in another order than it stands in, or not at all.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c != '\t' && !is_seen(c) { '\u{fffd}' } else { c }).collect()
}

pub use bottle_policy::is_seen;

/// `1 bottle`, `2 bottles`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Is there somebody to ask?
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question; only y, Y, yes and YES mean yes.
pub fn confirm(question: &str, cancel: &Cancellation) -> Result<bool> {
    if !can_ask() {
        return Err(UsageError("there is no terminal to ask on; say --yes".into()).into());
    }
    Ok(matches!(answer(&format!("{question} [y/N]"), cancel)?.as_str(), "y" | "Y" | "yes" | "YES"))
}

fn answer(question: &str, cancel: &Cancellation) -> Result<String> {
    clear_progress();
    write!(io::stderr(), "bottle: {} ", printable(question))?;
    io::stderr().flush()?;
    let mut answer = String::new();
    cancel.wait_readable(io::stdin())?;
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// What becomes of several things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All are taken.
    All,
    /// Each is asked for.
    Each,
    /// None is taken.
    None,
}

/// Asks about several things: only y, Y, yes and YES mean all of them, `e` and `each` one by one.
pub fn choose(question: &str, cancel: &Cancellation) -> Result<Choice> {
    Ok(match answer(&format!("{question} [y/N/each]"), cancel)?.as_str() {
        "y" | "Y" | "yes" | "YES" => Choice::All,
        "e" | "E" | "each" | "EACH" => Choice::Each,
        _ => Choice::None,
    })
}

/// Asks for a secret on the terminal, without echo.
pub fn ask_secret(question: &str, cancel: &Cancellation) -> Result<Zeroizing<String>> {
    if !can_ask() {
        let message = format!("there is no terminal to ask on for {question}; start bottle from one");
        return Err(UsageError(message).into());
    }
    clear_progress();
    write!(io::stderr(), "bottle: {}: ", printable(question))?;
    let silent = Terminal::silent()?;
    cancel.wait_readable(io::stdin())?;
    let mut answer = Zeroizing::new(String::new());
    io::stdin().lock().read_line(&mut answer)?;
    drop(silent);
    writeln!(io::stderr())?;
    Ok(Zeroizing::new(answer.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Bytes, for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

static PROGRESS: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A step has begun: a moving line on a terminal, a plain one elsewhere.
pub fn progress(step: &str, detail: &str) {
    let _ = fault::point("progress"); // it has no error to return
    if !io::stderr().is_terminal() {
        if detail.is_empty() {
            say(step);
        }
        return;
    }
    let mut slot = PROGRESS.lock().unwrap_or_else(PoisonError::into_inner);
    let bar = slot.get_or_insert_with(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("bottle: {spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    });
    let text = if detail.is_empty() { step.to_owned() } else { format!("{step}: {detail}") };
    // Short of the last columns: a ^C that the terminal echoes there must not break the line.
    let columns = tcgetwinsize(io::stderr()).map_or(80, |size| usize::from(size.ws_col));
    bar.set_message(printable(&text).chars().take(columns.saturating_sub(14)).collect::<String>());
}

/// Takes the moving line away.
pub fn clear_progress() {
    if let Some(bar) = PROGRESS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        bar.finish_and_clear();
    }
}

/// Prints a table of data on standard output, its columns as wide as need be.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = io::stdout().lock();
    let mut line = |cells: Vec<String>| -> io::Result<()> {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())
    };
    line(header.iter().map(|h| (*h).to_owned()).collect())?;
    for row in rows {
        line(row.iter().map(|c| printable(c)).collect())?;
    }
    Ok(())
}

/// Prints data as JSON on standard output.
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", escaped_json(&serde_json::to_string_pretty(value)?))?)
}

/// JSON leaves most of what a terminal obeys as it is; escaped, it says the same to a program.
pub fn escaped_json(json: &str) -> String {
    let mut text = String::new();
    for c in json.chars() {
        match c {
            c if c != '\n' && !is_seen(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|u| text += &format!("\\u{u:04x}"))
            }
            c => text.push(c),
        }
    }
    text
}
