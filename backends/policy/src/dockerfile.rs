//! The Dockerfile that an agent may propose: a few instructions, each of which means here what a person who reads it takes it
//! for; whatever else stands there is refused, with its line. No engine ever reads the text: what comes of it is a list of
//! programs to run, one after the other.
//!
//! ```text
//! text ─▶ lines joined where they go on ─▶ instructions ─▶ steps, each with its user, directory and variables
//! ```
//!
//! `docs/DOCKERFILE.md` says it for whoever writes one.

use crate::is_seen;
use std::collections::BTreeMap;

/// Instructions of one Dockerfile.
pub const MAX_INSTRUCTIONS: usize = 64;
/// The longest value of a variable, once what it refers to is put in.
const MAX_VALUE: usize = 16 << 10;
/// All values together.
const MAX_VALUES: usize = 64 << 10;
/// Blanks in a row, and blank lines: with more, a screen would look like the end of the text.
const MAX_GAP: usize = 40;
const MAX_BLANKS: usize = 3;
/// Where steps begin: the agent's workspace is not there.
const START: &str = "/";
/// What `FROM` may name.
const BOTTLE: &str = "bottle";

/// What a Dockerfile comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What is run, in this order.
    pub steps: Vec<Step>,
    /// The variables that it leaves to the agent.
    pub env: BTreeMap<String, String>,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line that its instruction begins in, counted from 1.
    pub line: usize,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Whom it runs as.
    pub user: User,
    /// Where it runs.
    pub cwd: String,
    /// The variables that the lines before it have set.
    pub env: BTreeMap<String, String>,
}

/// Whom a step runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Who may install things.
    Root,
    /// Who runs the client.
    Agent,
}

/// What is said of what nobody may write, and why.
const REFUSED: [(&str, &str); 12] = [
    ("COPY", "nothing comes along: have a RUN fetch or write it"),
    ("ADD", "nothing comes along: have a RUN fetch or write it"),
    ("ARG", "write the value where it is needed, or use ENV"),
    ("VOLUME", "nothing is mounted"),
    ("ONBUILD", "nobody builds on it"),
    ("ENTRYPOINT", "what a bottle begins with stays as it is"),
    ("CMD", "what a bottle begins with stays as it is"),
    ("EXPOSE", "nothing in a bottle is reached from outside"),
    ("HEALTHCHECK", "nobody looks"),
    ("STOPSIGNAL", "how a bottle ends stays as it is"),
    ("LABEL", "the labels are bottle's own"),
    ("MAINTAINER", "the labels are bottle's own"),
];

impl Recipe {
    /// Reads a Dockerfile. `path` is what `$PATH` stands for in it. An error says what is wrong, and in which line.
    pub fn parse(text: &str, path: &str) -> Result<Self, String> {
        let instructions = joined(text)?;
        if instructions.len() > MAX_INSTRUCTIONS {
            return Err(format!("it has {} instructions, {MAX_INSTRUCTIONS} at most", instructions.len()));
        }
        let mut reader = Reader::new(path);
        for (at, (line, text)) in instructions.iter().enumerate() {
            reader.take(*line, text, at == 0).map_err(|why| format!("line {line}: {why}"))?;
        }
        let recipe = Self { steps: reader.steps, env: reader.env };
        match recipe.steps.is_empty() && recipe.env.is_empty() {
            true => Err("there is no RUN and no ENV in it: it changes nothing".into()),
            false => Ok(recipe),
        }
    }
}

/// Instructions, each with its line, without comments. Nothing in them is hidden from a reader.
fn joined(text: &str) -> Result<Vec<(usize, String)>, String> {
    let mut found: Vec<(usize, String)> = vec![];
    let mut open: Option<(usize, String)> = None;
    let mut blanks = 0;
    for (line, content) in (1..).zip(text.split('\n')) {
        let content = content.strip_suffix('\r').unwrap_or(content);
        check_seen(content).map_err(|why| format!("line {line}: {why}"))?;
        let bare = content.trim();
        blanks = if bare.is_empty() { blanks + 1 } else { 0 };
        if blanks > MAX_BLANKS {
            return Err(format!("line {line}: so many blank lines hide what follows; {MAX_BLANKS} at most"));
        }
        if let Some(comment) = bare.strip_prefix('#') {
            // An engine takes the first ones for orders, whatever they are.
            if found.is_empty() && open.is_none() && is_directive(comment) {
                return Err(format!("line {line}: `#{comment}` is an order to a builder, and none reads this"));
            }
            continue;
        }
        if bare.is_empty() {
            match open {
                Some(_) => return Err(format!("line {line}: it is blank, and the line before it goes on here")),
                None => continue,
            }
        }
        let (begun, mut whole) = open.take().unwrap_or((line, String::new()));
        match content.trim_end_matches([' ', '\t']).strip_suffix('\\') {
            Some(part) => open = Some((begun, whole + part)),
            None => {
                whole.push_str(content);
                found.push((begun, whole.trim().to_owned()));
            }
        }
    }
    match open {
        Some((line, _)) => Err(format!("line {line}: it goes on, and nothing follows")),
        None => Ok(found),
    }
}

/// Nothing in a line is hidden: no character that nobody sees, and no more of nothing than a row of a screen has.
fn check_seen(line: &str) -> Result<(), String> {
    if let Some(unseen) = line.chars().find(|c| *c != '\t' && !is_seen(*c)) {
        return Err(format!("it holds `{}`, which nobody would see", unseen.escape_unicode()));
    }
    let mut gap = 0;
    for c in line.chars() {
        gap = if c.is_whitespace() { gap + 1 } else { 0 };
        if gap > MAX_GAP {
            return Err(format!("so many blanks hide what follows; {MAX_GAP} at most in a row"));
        }
    }
    Ok(())
}

/// Is a comment of the form `name=value`, as `syntax=…` and `escape=…` are?
fn is_directive(comment: &str) -> bool {
    let name = comment.split_once('=').map(|(name, _)| name.trim());
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Reads one instruction after the other.
struct Reader<'a> {
    path: &'a str,
    shell: Vec<String>,
    user: User,
    cwd: String,
    env: BTreeMap<String, String>,
    steps: Vec<Step>,
}

impl<'a> Reader<'a> {
    fn new(path: &'a str) -> Self {
        let shell = ["/bin/sh", "-c"].map(str::to_owned).into();
        Self { path, shell, user: User::Root, cwd: START.into(), env: BTreeMap::new(), steps: vec![] }
    }

    fn take(&mut self, line: usize, text: &str, is_first: bool) -> Result<(), String> {
        let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let (name, rest) = (word.to_ascii_uppercase(), rest.trim());
        match name.as_str() {
            "FROM" if !is_first => Err("FROM stands first, or nowhere".into()),
            "FROM" if rest == BOTTLE => Ok(()),
            "FROM" => Err(format!("it can only go on from the image that you run in: `FROM {BOTTLE}`, or no FROM")),
            "RUN" => self.run(line, rest),
            "ENV" => self.set(rest),
            "USER" => self.become_user(rest),
            "WORKDIR" => self.go(line, rest),
            "SHELL" => {
                self.shell = list(rest)?.ok_or("SHELL takes a list of texts: [\"/bin/bash\", \"-c\"]")?;
                Ok(())
            }
            other => Err(match REFUSED.iter().find(|(name, _)| *name == other) {
                Some((name, why)) => format!("{name} is not to be had: {why}"),
                None => format!(
                    "`{}` is no instruction; these are: FROM, RUN, ENV, USER, WORKDIR, SHELL",
                    word.chars().take(40).collect::<String>().escape_debug()
                ),
            }),
        }
    }

    fn run(&mut self, line: usize, text: &str) -> Result<(), String> {
        if text.is_empty() {
            return Err("RUN what?".into());
        }
        if text.starts_with("--") {
            let option = text.split(['=', ' ', '\t']).next().unwrap_or_default();
            let why = "no mounts, and no other network or rights than the step's own";
            return Err(format!("RUN takes no options here ({option}): there are {why}"));
        }
        if let Some(word) = text.split([' ', '\t']).find(|word| is_heredoc(word)) {
            return Err(format!("`{word}`: a document in the text is read by no shell here; use printf"));
        }
        let argv = match list(text)? {
            Some(argv) => argv,
            // `[ -f x ] && …` is a shell's.
            None if text.starts_with("[\"") => {
                return Err("a list of texts is not closed, or not in double quotes".into());
            }
            None => self.shell.iter().cloned().chain([text.to_owned()]).collect(),
        };
        self.step(line, argv, self.user);
        Ok(())
    }

    fn step(&mut self, line: usize, argv: Vec<String>, user: User) {
        let (cwd, env) = (self.cwd.clone(), self.env.clone());
        self.steps.push(Step { line, argv, user, cwd, env });
    }

    fn become_user(&mut self, who: &str) -> Result<(), String> {
        self.user = match who {
            "root" | "0" | "root:root" | "0:0" => User::Root,
            "agent" | "1000" | "agent:agent" | "1000:1000" => User::Agent,
            _ => return Err("USER is `root` or `agent` here: nobody else is known".into()),
        };
        Ok(())
    }

    fn go(&mut self, line: usize, to: &str) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
        if to.is_empty() || !to.chars().all(plain) {
            return Err("WORKDIR takes a path of letters, digits and `/._-+@`".into());
        }
        let cwd = if to.starts_with('/') { to.to_owned() } else { format!("{}/{to}", self.cwd.trim_end_matches('/')) };
        let made = ["mkdir", "-p", "--", &cwd].map(str::to_owned).into();
        self.step(line, made, User::Root);
        self.cwd = cwd;
        Ok(())
    }

    fn set(&mut self, text: &str) -> Result<(), String> {
        let mut pairs = Pairs { rest: text.chars().peekable(), path: self.path, env: &self.env };
        let mut found = vec![];
        while let Some(pair) = pairs.next()? {
            found.push(pair);
        }
        if found.is_empty() {
            return Err("ENV takes NAME=VALUE".into());
        }
        self.env.extend(found);
        let bytes: usize = self.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        match bytes > MAX_VALUES {
            true => Err(format!("the variables are too long together: {bytes} bytes, {MAX_VALUES} at most")),
            false => Ok(()),
        }
    }
}

/// A list of texts, at least one, the first not empty; none, where it is something else. An escape hides nothing either.
fn list(text: &str) -> Result<Option<Vec<String>>, String> {
    let Ok(list) = serde_json::from_str::<Vec<String>>(text) else { return Ok(None) };
    list.iter().try_for_each(|text| check_seen(text))?;
    Ok(Some(list).filter(|list| list.first().is_some_and(|first| !first.is_empty())))
}

/// `<<EOF`, `<<-'EOF'`, `3<<EOF`. `<<<` is a shell's own.
fn is_heredoc(word: &str) -> bool {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<");
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('<'))
}

/// `NAME=VALUE NAME="VALUE"`, quoted as a Dockerfile has it.
struct Pairs<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    path: &'a str,
    env: &'a BTreeMap<String, String>,
}

impl Pairs<'_> {
    fn next(&mut self) -> Result<Option<(String, String)>, String> {
        while self.rest.next_if(|c| is_blank(*c)).is_some() {}
        if self.rest.peek().is_none() {
            return Ok(None);
        }
        let name = self.name();
        if name.is_empty() || self.rest.next() != Some('=') {
            return Err("ENV takes NAME=VALUE, with letters, digits and underscores in the name".into());
        }
        let value = self.value()?;
        match value.len() > MAX_VALUE {
            true => Err(format!("the value of {name} is too long: {} bytes, {MAX_VALUE} at most", value.len())),
            false => Ok(Some((name, value))),
        }
    }

    /// As much of a variable's name as stands here.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) =
            self.rest.next_if(|c| c.is_ascii_alphabetic() || *c == '_' || (c.is_ascii_digit() && !name.is_empty()))
        {
            name.push(c);
        }
        name
    }

    fn value(&mut self) -> Result<String, String> {
        let (mut value, mut quote) = (String::new(), None);
        while let Some(c) = self.rest.peek().copied() {
            if quote.is_none() && is_blank(c) {
                break;
            }
            self.rest.next();
            match (quote, c) {
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                (Some('\''), c) => value.push(c),
                (_, '$') => value += &self.referred()?,
                (None, '\\') => value.push(self.rest.next().ok_or("a backslash stands last")?),
                (_, '\\') => {
                    value.push(self.rest.next_if(|next| "\"$\\".contains(*next)).unwrap_or('\\'));
                }
                (_, c) => value.push(c),
            }
            // What refers to itself grows fast.
            if value.len() > 2 * MAX_VALUE {
                break;
            }
        }
        match quote {
            Some(open) if value.len() <= MAX_VALUE => Err(format!("a {open} is not closed")),
            _ => Ok(value),
        }
    }

    /// What stands behind a `$`.
    fn referred(&mut self) -> Result<String, String> {
        let braced = self.rest.next_if_eq(&'{').is_some();
        let name = self.name();
        if name.is_empty() || (braced && self.rest.next() != Some('}')) {
            return Err("`$` begins $NAME or ${NAME}, and nothing else; write `\\$` for the character".into());
        }
        match self.env.get(&name) {
            Some(value) => Ok(value.clone()),
            None if name == "PATH" => Ok(self.path.to_owned()),
            None => Err(format!("${name} is set by no ENV before it")),
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

#[cfg(test)]
mod tests;
