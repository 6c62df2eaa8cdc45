//! One file of the manifest: frontmatter between two `---` lines, then the body.

use super::mistake::advice;
use crate::{
    paths::Paths,
    ui::{self, hinted},
};
use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use std::{
    fs::File,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const FENCE: &str = "---";
const MAX_BYTES: u64 = 1 << 20;

/// A file and the name that its stem gives.
#[derive(Debug, Clone)]
pub struct Source {
    /// The name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// A file's text, split.
pub struct Text {
    pub(super) path: PathBuf,
    pub(super) yaml: String,
    /// Line of the file that the YAML's first line is.
    pub(super) first_line: usize,
    /// What follows the frontmatter.
    pub body: String,
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
            Some(name) => found.push(Source { name: name.to_owned(), path }),
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
    /// Reads and splits the file.
    pub fn read(&self) -> Result<Text> {
        let shown = self.path.display();
        // It may come with a cloned repository: neither wait for a FIFO nor read a device for ever.
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = File::options().read(true).custom_flags(nonblock).open(&self.path);
        let file = file.with_context(|| format!("read {shown}"))?;
        if !file.metadata()?.is_file() {
            bail!("{shown}: not a regular file");
        }
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(|| format!("read {shown}"))?;
        if text.len() as u64 > MAX_BYTES {
            bail!("{shown}: more than the {MAX_BYTES} bytes that a manifest file may have");
        }
        split(&self.path, &text)
    }

    /// The path as a person would write it.
    pub fn shown(&self, paths: &Paths) -> String {
        paths.short(&self.path)
    }
}

fn split(path: &Path, text: &str) -> Result<Text> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n');
    if lines.next().is_none_or(|line| line.trim_end() != FENCE) {
        bail!(
            "{}:1:1: the file begins with a line `{FENCE}`, its YAML frontmatter, and another `{FENCE}`",
            path.display()
        );
    }
    let mut yaml = String::new();
    for line in lines.by_ref() {
        if line.trim_end() == FENCE {
            return Ok(Text { path: path.into(), yaml, first_line: 2, body: lines.collect() });
        }
        yaml.push_str(line);
    }
    bail!("{}:{}:1: the frontmatter has no closing line `{FENCE}`", path.display(), text.lines().count())
}

impl Text {
    /// The frontmatter as a `T`. An error names file, line and column.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        // An empty frontmatter is an empty mapping.
        let empty = self.yaml.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let yaml = if empty { "{}" } else { &self.yaml };
        serde_yaml::from_str(yaml).map_err(|error| {
            let place =
                error.location().map_or((self.first_line, 1), |at| (at.line() + self.first_line - 1, at.column()));
            let text = error.to_string();
            let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
            let place = format!("{}:{}:{}", self.path.display(), place.0, place.1);
            // To YAML a lone `?` begins a key; to a person it is the shortest secret of `env`.
            let lone = self.yaml.lines().any(|line| line.trim_end().ends_with(": ?"));
            match advice(message).or_else(|| lone.then(|| "Put a lone `?` in quotes: NAME: \"?\"".into())) {
                Some(advice) => hinted(format!("{place}: {message}"), advice),
                None => anyhow!("{place}: {message}"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_yaml::Value;

    #[test]
    fn frontmatter_and_body_come_apart() {
        let text = split(Path::new("x.md"), "---\na: 1\n---\nbody\n---\nmore\n").unwrap();
        assert_eq!((text.yaml.as_str(), text.body.as_str()), ("a: 1\n", "body\n---\nmore\n"));
        let bare = split(Path::new("x.md"), "---\n---").unwrap();
        assert!(bare.parse::<Value>().unwrap().as_mapping().unwrap().is_empty());
        assert!(split(Path::new("x.md"), "no frontmatter").is_err());
        assert!(split(Path::new("x.md"), "---\na: 1\n").is_err());
    }

    #[test]
    fn a_device_or_a_pipe_is_no_manifest() {
        for path in ["/dev/zero", "/dev/tty", "/"] {
            let source = Source { name: "x".into(), path: path.into() };
            assert!(source.read().is_err(), "{path}");
        }
    }

    #[test]
    fn errors_name_the_files_own_line() {
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)]
        struct T {
            a: u8,
        }
        let text = split(Path::new("x.md"), "---\n\na: many\n---\n").unwrap();
        let error = text.parse::<T>().unwrap_err().to_string();
        assert!(error.starts_with("x.md:3:4: "), "{error}");
    }
}
