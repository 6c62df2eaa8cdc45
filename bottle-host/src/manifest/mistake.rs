//! What a mistake in a manifest is told: serde's and libyaml's words put into a person's, the nearest key that exists,
//! and what a key of the past has become.

use super::read::quoted;

/// Keys of earlier programs and what they are now.
const PAST: [(&str, &str); 7] = [
    ("runtime", "Where a bottle runs is the host's choice: --backend, or CLAUDE_BOTTLE_BACKEND."),
    ("ssh", "Remotes for git are entries of `git` now: Name, Upstream, IdentityFile, KnownHostKey."),
    ("tokens", "A credential is the `auth` of an egress route now: {scheme: Bearer, token_ref: VARIABLE}."),
    ("cred_proxy", "A credential is the `auth` of an egress route now: {scheme: Bearer, token_ref: VARIABLE}."),
    ("egress_proxy", "It is `egress` now."),
    ("allowlist", "Hosts are `egress.routes` now, one entry each: `- host: NAME`."),
    ("dlp_action", "What a finding in a response does is the `responses` of each route now: `warn` or `block`."),
];

/// Where a key belongs that is none where it was found.
const PLACES: [(&str, &str); 21] = [
    ("mode", "below `egress`"),
    ("presets", "below `egress`"),
    ("routes", "below `egress`"),
    ("host", "in an entry of `egress.routes`"),
    ("path_allowlist", "in an entry of `egress.routes`"),
    ("methods", "in an entry of `egress.routes`"),
    ("ports", "in an entry of `egress.routes`"),
    ("auth", "in an entry of `egress.routes`"),
    ("token_ref", "below `auth` of a route"),
    ("allow_refs", "in an entry of `git`"),
    ("memory", "below `limits`"),
    ("cpus", "below `limits`"),
    ("pids", "below `limits`"),
    ("skills", "in an agent's file"),
    ("bottle", "in an agent's file"),
    ("env", "in a bottle's file"),
    ("egress", "in a bottle's file"),
    ("git", "in a bottle's file"),
    ("limits", "in a bottle's file"),
    ("isolation", "in a bottle's file"),
    ("extends", "in a bottle's file"),
];

/// libyaml's words, and what mostly is behind them.
const SYNTAX: [(&str, &str, &str); 11] = [
    (
        "alphabetic or numeric character",
        "`*` and `&` begin the name of an anchor, and this is none",
        "Put text that begins with `*` or `&` in quotes.",
    ),
    ("mapping keys are not allowed", "a `?` stands alone, and to YAML begins a key", "Put it in quotes: \"?\"."),
    (
        "mapping values are not allowed",
        "a `:` stands where no key can be",
        "Indent keys of one mapping alike, and put text that has `: ` in it in quotes.",
    ),
    (
        "did not find expected key",
        "this line fits into no mapping or list around it",
        "Indent keys of one mapping alike; close quotes, `[` and `{`.",
    ),
    (
        "did not find expected '-' indicator",
        "this line fits into no mapping or list around it",
        "Begin each entry of a list with `- `, all indented alike.",
    ),
    ("could not find expected ':'", "a key has no `:` after it", "Write `key: value`, with a space after the colon."),
    ("did not find expected ',' or ']'", "a list that begins with `[` is not closed", "Close it with `]`."),
    ("did not find expected ',' or '}'", "a mapping that begins with `{` is not closed", "Close it with `}`."),
    (
        "did not find expected node content",
        "a value is missing",
        "Write it; `[]`, `{}` and `\"\"` are empty ones, and between braces text that begins with `?` goes in quotes.",
    ),
    ("found unexpected end of stream", "quotes are not closed", "Close them where the text ends."),
    ("unknown anchor", "`*` names an anchor that there is not", "Put text that begins with `*` in quotes."),
];

/// A mistake: where it is, what it is, what to type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Mistake {
    /// `yaml` is the text that it was found in.
    pub(super) fn of(error: &serde_yaml::Error, yaml: &str) -> Self {
        let text = error.to_string();
        // This one comes without a place.
        let end = || 1 + yaml.lines().position(|line| line.starts_with("...")).unwrap_or_default();
        let (line, column) = error.location().map_or_else(|| (end(), 1), |at| (at.line(), at.column()));
        let at = format!(" at line {line} column {column}");
        let text = text.split_once(&at).map_or(text.as_str(), |(message, _)| message);
        let (message, hint) = if text.contains("cannot start any token") {
            bad_character(yaml.lines().nth(line - 1).and_then(|l| l.chars().nth(column - 1)))
        } else {
            reword(text)
        };
        Self { line, column, message, hint }
    }
}

/// What follows serde's words, as message and hint.
type Reword = fn(&str) -> (String, Option<String>);

/// serde's message as a person would say it, and a hint. A path of keys before it stays.
fn reword(text: &str) -> (String, Option<String>) {
    if let Some((_, message, hint)) = SYNTAX.iter().find(|(words, ..)| text.contains(words)) {
        return ((*message).into(), Some((*hint).into()));
    }
    let wordings: [(&str, Reword); 5] = [
        ("unknown field `", unknown_key),
        ("unknown variant `", unknown_word),
        ("missing field `", missing_key),
        ("duplicate field `", |rest| {
            let key = rest.trim_end_matches('`');
            (format!("the key `{key}` stands twice, in two spellings"), Some("Take one of them out.".into()))
        }),
        ("invalid type: ", wrong_type),
    ];
    for (words, reword) in wordings {
        if let Some((path, rest)) = text.split_once(words) {
            let (message, hint) = reword(rest);
            return (format!("{path}{message}"), hint);
        }
    }
    if text.contains("more than one document") {
        return ("the frontmatter is more than one YAML document".into(), Some("Take `...` out.".into()));
    }
    if text.contains("recursion limit exceeded") {
        return ("mappings and lists are nested too deeply".into(), None);
    }
    match text.split_once('\n') {
        Some((message, hint)) => (message.into(), Some(hint.into())),
        None => (text.into(), None),
    }
}

/// What no text can begin with.
fn bad_character(c: Option<char>) -> (String, Option<String>) {
    match c {
        Some('\t') => {
            ("a tab stands where only spaces may".into(), Some("YAML indents with spaces: replace the tab.".into()))
        }
        Some(c) => {
            (format!("text cannot begin with {}", quoted(&c.to_string())), Some("Put the text in quotes.".into()))
        }
        None => ("text cannot begin here".into(), None),
    }
}

/// After ``unknown field ` ``: ``egres`, expected one of `env`, `egress` ``.
fn unknown_key(rest: &str) -> (String, Option<String>) {
    let (key, known) = rest.split_once("`, ").unwrap_or((rest, ""));
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let past = PAST.iter().find(|(past, _)| *past == key);
    let place = PLACES.iter().find(|(name, _)| *name == key);
    let hint = match (past, place, nearest(key, &known)) {
        (Some((_, now)), ..) => (*now).into(),
        (_, Some((_, place)), _) => format!("It belongs {place}."),
        (_, _, Some(near)) => format!("Do you mean `{near}`?"),
        _ => format!("The keys here are {}.", known.join(", ")),
    };
    let message = if past.is_some() { "is a key of the past" } else { "is no key here" };
    (format!("{} {message}", quoted(key)), Some(hint))
}

/// After ``unknown variant ` ``: ``strong`, expected one of `process`, `vm` ``.
fn unknown_word(rest: &str) -> (String, Option<String>) {
    let (word, known) = rest.split_once("`, ").unwrap_or((rest, ""));
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let hint = match (nearest(word, &known), known.as_slice()) {
        (Some(near), _) => format!("Do you mean `{near}`?"),
        (None, [one]) => format!("The only choice is {one}."),
        (None, known) => format!("The choices are {}.", known.join(", ")),
    };
    // What is longer than any choice may be a value that belongs elsewhere, a token say.
    let shown = if word.len() > 20 { "this text".into() } else { quoted(word) };
    (format!("{shown} is no choice here"), Some(hint))
}

/// After ``missing field ` ``: ``host` ``.
fn missing_key(rest: &str) -> (String, Option<String>) {
    let key = rest.trim_end_matches('`');
    let hint = match key {
        "bottle" => "Name the bottle that the agent lives in: `bottle: NAME`.",
        "host" => "Name the host: `host: api.example.com`.",
        "scheme" => "Say how the token is sent: `scheme: Bearer`, `token`, `Basic` or `x-api-key`.",
        "token_ref" => "Name the host's variable that holds the token: `token_ref: VARIABLE`.",
        "Name" => "Name the remote: `Name: NAME`.",
        "Upstream" => "Say where it is: `Upstream: ssh://git@host/path` or `https://host/path`.",
        "secret" => "Write `secret: \"?question\"` or `secret: ${NAME}`.",
        _ => "Add it.",
    };
    (format!("`{key}` is missing"), Some(hint.into()))
}

/// After `invalid type: `: `sequence, expected a string`. What the value says is not repeated: it may be a secret.
fn wrong_type(rest: &str) -> (String, Option<String>) {
    let (found, expected) = rest.split_once(", expected ").unwrap_or((rest, "something else"));
    let found = match found.split(' ').next().unwrap_or_default() {
        "sequence" => "a list",
        "map" => "a mapping",
        "boolean" => "true or false",
        "integer" | "floating" => "a number",
        "unit" | "null" => "nothing",
        _ => "text",
    };
    let expected = match expected {
        "a string" | "a borrowed string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        _ if expected.starts_with("a YAML tag") => "text",
        other => other,
    };
    let hint = match (found, expected) {
        ("text" | "a number", "a list") => Some("Write a list: `[…]`, or a line `- …` for each entry."),
        ("a mapping", "a list") => Some("Begin each entry with `- `."),
        ("a mapping", "text") => Some("Put text that begins with `{` in quotes."),
        ("a list", "text") => Some("Write one, without `[` and `]`; put text that begins with `[` in quotes."),
        ("text", expected) if expected.starts_with("a mapping") => {
            Some("Write keys and values, `key: value`, with a space after the colon.")
        }
        ("text", "true or false") => Some("YAML knows `true` and `false`, without quotes."),
        _ => None,
    };
    (format!("this is {found}; expected {expected}"), hint.map(str::to_owned))
}

/// The known word that differs least, if by little.
/// The known word that is meant, if one is near enough.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    let near = known.iter().map(|k| (distance(&lower, &k.to_ascii_lowercase()), *k));
    near.filter(|(d, k)| *d <= 1 + k.len() / 4).min().map(|(_, k)| k)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
