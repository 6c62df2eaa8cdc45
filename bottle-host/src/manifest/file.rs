//! One file of the manifest: frontmatter between two `---` lines, then the body.

pub use super::yaml::Step;

use super::{
    mistake::Mistake,
    yaml::{self, Frontmatter},
};
use crate::{
    paths::Paths,
    ui::{self, hinted},
};
use anyhow::{Context, Result, anyhow};
use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const FENCE: &str = "---";
/// A prompt is text that somebody wrote.
const MAX_BYTES: u64 = 1 << 20;
/// libyaml's time grows with the square of how deep `[` is nested: this much takes it a second at most.
const MAX_FRONTMATTER: usize = 32 << 10;

/// A file and the name that its stem gives.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its frontmatter, once it was read: lines are numbered as in the file.
    yaml: Arc<str>,
}

/// A file's text.
pub(super) struct Text {
    /// The whole of it.
    pub(super) whole: String,
    /// What follows the frontmatter.
    pub(super) body: String,
    yaml: Arc<str>,
}

/// The Markdown files of a directory whose stems are names; others are skipped with a warning.
pub(super) fn sources(dir: &Path) -> Result<Vec<Source>> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(vec![]);
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        match path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| is_name(stem)) {
            Some(name) => found.push(Source { name: name.to_owned(), path, yaml: "".into() }),
            None => ui::warn(format!(
                "{}: skipped; a name is lower-case letters, digits and dashes, begins with a letter and has 40 \
                 characters at most",
                path.display()
            )),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// `^[a-z][a-z0-9-]{0,39}$`
fn is_name(stem: &str) -> bool {
    stem.starts_with(|c: char| c.is_ascii_lowercase())
        && stem.len() <= 40
        && stem.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl Source {
    /// Reads the file and its frontmatter. An error names file, line and column.
    pub(super) fn read<T: Frontmatter>(&mut self, paths: &Paths) -> Result<(T, Text)> {
        let shown = self.shown(paths);
        let text = split(&shown, self.read_text(&shown)?)?;
        self.yaml = text.yaml.clone();
        Ok((parse(&shown, &text.yaml)?, text))
    }

    fn read_text(&self, shown: &str) -> Result<String> {
        // It may come with a cloned repository: neither wait for a FIFO nor read a device for ever.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = File::options().read(true).custom_flags(nonblock).open(&self.path);
        let file = file.with_context(|| format!("{shown}: cannot be read"))?;
        if !file.metadata()?.is_file() {
            return Err(hinted(format!("{shown}: this is no regular file"), "A manifest is made of Markdown files."));
        }
        let mut text = String::new();
        let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
        if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidData) {
            return Err(hinted(format!("{shown}: this is not UTF-8 text"), "Save it as UTF-8."));
        }
        read.with_context(|| format!("{shown}: cannot be read"))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(hinted(
                format!("{shown}: it has more than {MAX_BYTES} bytes"),
                "A prompt is shorter than that.",
            ));
        }
        Ok(text)
    }

    /// The path as a person would write it.
    pub fn shown(&self, paths: &Paths) -> String {
        paths.short(&self.path)
    }

    /// File, line and column of a value of the frontmatter, where it has that value.
    pub fn place(&self, paths: &Paths, steps: &[Step<'_>]) -> Option<String> {
        let (line, column) = yaml::place(&self.yaml, steps)?;
        Some(format!("{}:{line}:{column}", self.shown(paths)))
    }
}

/// Takes the frontmatter out of a file's text. An empty line stands for the first fence, so that lines keep their
/// numbers.
fn split(shown: &str, whole: String) -> Result<Text> {
    let form = "A file begins with a line `---`, its YAML frontmatter, and another line `---`.";
    let text = whole.strip_prefix('\u{feff}').unwrap_or(&whole);
    let mut lines = text.split_inclusive('\n');
    if lines.next().is_none_or(|line| line.trim_end() != FENCE) {
        return Err(hinted(format!("{shown}:1:1: there is no frontmatter"), form));
    }
    let mut yaml = "\n".to_owned();
    for line in lines.by_ref() {
        if yaml.len() > MAX_FRONTMATTER {
            return Err(hinted(
                format!("{shown}:1:1: the frontmatter has more than {MAX_FRONTMATTER} bytes"),
                "Close it with a line `---`; what follows is the prompt, or notes.",
            ));
        }
        if line.trim_end() == FENCE {
            let body = lines.collect();
            return Ok(Text { yaml: yaml.into(), body, whole });
        }
        yaml.push_str(line);
    }
    let last = text.lines().count();
    Err(hinted(format!("{shown}:{last}:1: the frontmatter is not closed"), form))
}

fn parse<T: Frontmatter>(shown: &str, text: &str) -> Result<T> {
    yaml::read(text).map_err(|error| {
        let Mistake { line, column, message, hint } = Mistake::of(&error, text);
        let message = format!("{shown}:{line}:{column}: {message}");
        match hint {
            Some(hint) => hinted(message, hint),
            None => anyhow!(message),
        }
    })
}

/// Frontmatter from a text, as if `shown` were its file.
#[doc(hidden)]
pub fn parse_text<T: Frontmatter>(shown: &str, text: &str) -> Result<T> {
    parse(shown, &split(shown, text.to_owned())?.yaml)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{AgentFields, BottleFields};

    #[test]
    fn frontmatter_and_body_come_apart() {
        let text = split("x.md", "---\na: 1\n---\nbody\n---\nmore\n".into()).unwrap();
        assert_eq!((&*text.yaml, text.body.as_str()), ("\na: 1\n", "body\n---\nmore\n"));
        for empty in ["---\n---", "\u{feff}---\r\n---\r\n", "---\n# a comment\n\n---\n"] {
            assert_eq!(parse_text::<BottleFields>("x.md", empty).unwrap(), BottleFields::default(), "{empty:?}");
        }
        for bad in ["", "no frontmatter", "---\na: 1\n", "---"] {
            assert!(split("x.md", bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_device_or_a_pipe_is_no_manifest() {
        let paths = Paths { home: "/nowhere".into(), cwd: "/".into() };
        for path in ["/dev/zero", "/dev/tty", "/"] {
            let mut source = Source { name: "x".into(), path: path.into(), yaml: "".into() };
            assert!(source.read::<BottleFields>(&paths).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_nested_or_unfolds_without_end_is_refused_at_once() {
        let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let of = format!("*a{}, ", i - 1).repeat(10);
            aliases += &format!("a{i}: &a{i} [{of}]\n");
        }
        let wide = format!("tools: [{}]\n", "*x, ".repeat(5_000));
        for yaml in [
            format!("description: {}", "[".repeat(30_000)),
            format!("description: {}", "{a: ".repeat(7_500)),
            format!("description:\n{aliases}"),
            format!("bottle: b\nname: &x [{}]\n{wide}", "y, ".repeat(2_500)),
        ] {
            let began = std::time::Instant::now();
            assert!(parse_text::<AgentFields>("x.md", &format!("---\n{yaml}\n---\n")).is_err());
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "{}", &yaml[..30]);
        }
    }
}
