//! What is said about a mistake in a manifest: each in `mistakes.md`, with its exact message, through the same way that
//! `start` takes. `BLESS=1` writes the messages anew; read every one of them then, as a stranger would.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a test, helpers too

use bottle_host::{
    manifest::{Kind, Manifest, schema},
    paths::Paths,
    plan::{self, credential::ModelCredential},
    ui,
};
use std::{fmt::Write, fs, path::Path};

const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mistakes.md");
/// Ends the heading of what only the parser can know.
const BEYOND: &str = " (beyond the schema)";

/// One section of the list.
struct Mistake {
    title: String,
    beyond_schema: bool,
    /// Info string and text of each block but the error's.
    files: Vec<(String, String)>,
    error: String,
}

/// The list's preamble and its sections.
fn list() -> (String, Vec<Mistake>) {
    let text = fs::read_to_string(LIST).unwrap();
    let mut sections = text.split("\n## ");
    let preamble = sections.next().unwrap().to_owned();
    let mistakes = sections.map(|section| {
        let (title, rest) = section.split_once('\n').unwrap();
        let mut mistake = Mistake {
            title: title.trim_end_matches(BEYOND).to_owned(),
            beyond_schema: title.ends_with(BEYOND),
            files: vec![],
            error: String::new(),
        };
        let mut lines = rest.lines();
        while let Some(line) = lines.next() {
            let Some(info) = line.strip_prefix("```") else { continue };
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match info {
                "error" => mistake.error = text.join("\n"),
                info => mistake.files.push((info.to_owned(), text.join("\n"))),
            }
        }
        mistake
    });
    (preamble, mistakes.collect())
}

/// A home with these files.
fn write_home(home: &Path, files: &[(String, String)]) {
    let put = |path: &str, text: &str| {
        let path = home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put(".claude-bottle/bottles/b.md", "---\n---\n");
    put(".claude-bottle/agents/a.md", "---\nbottle: b\n---\n");
    for (info, text) in files {
        let frontmatter = format!("---\n{text}\n---\n");
        match info.split_once(' ').unwrap_or((info, "")) {
            ("agent", _) => put(".claude-bottle/agents/a.md", &frontmatter),
            ("bottle", "") => put(".claude-bottle/bottles/b.md", &frontmatter),
            ("bottle", name) => put(&format!(".claude-bottle/bottles/{name}.md"), &frontmatter),
            ("file", path) => put(path, text),
            ("link", path) => {
                put(path, "");
                fs::remove_file(home.join(path)).unwrap();
                std::os::unix::fs::symlink(text, home.join(path)).unwrap();
            }
            _ => panic!("no such block: {info}"),
        }
    }
}

/// What `start a` says, with the home's path taken out.
fn said(files: &[(String, String)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    write_home(dir.path(), files);
    let paths = Paths { home: dir.path().into(), cwd: dir.path().join("work") };
    let resolved = Manifest::load(&paths).and_then(|manifest| {
        let (agent, bottle, _) = manifest.resolve(&paths, "a")?;
        plan::resolve(&paths, agent, &bottle, ModelCredential::ApiKey, "a-00000", "a").map(drop)
    });
    let Err(error) = resolved else { return "no error".into() };
    let hint = ui::hint_of(&error).map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{error:#}{hint}").replace(&dir.path().display().to_string(), "HOME")
}

/// Does the schema refuse one of the files? What is no YAML at all is refused before any schema.
fn schema_refuses(files: &[(String, String)]) -> bool {
    files.iter().any(|(info, text)| {
        let kind = match info.split(' ').next() {
            Some("agent") => Kind::Agent,
            Some("bottle") => Kind::Bottle,
            _ => return false,
        };
        let value: Result<serde_yaml::Value, _> = serde_yaml::from_str(text);
        let Some(value) = value.ok().and_then(|value| serde_json::to_value(value).ok()) else { return true };
        !jsonschema::is_valid(&serde_json::to_value(schema(kind)).unwrap(), &value)
    })
}

#[test]
fn each_mistake_is_told_as_the_list_says() {
    let (preamble, mistakes) = list();
    let mut blessed = preamble;
    let mut wrong = vec![];
    for mistake in &mistakes {
        let (error, beyond) = (said(&mistake.files), !schema_refuses(&mistake.files));
        if (error != mistake.error) || (beyond != mistake.beyond_schema) {
            wrong.push(format!("## {}\nbeyond the schema: {beyond}\n{error}", mistake.title));
        }
        write!(blessed, "\n## {}{}\n", mistake.title, if beyond { BEYOND } else { "" }).unwrap();
        for (info, text) in &mistake.files {
            write!(blessed, "\n```{info}\n{text}\n```\n").unwrap();
        }
        write!(blessed, "\n```error\n{error}\n```\n").unwrap();
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(LIST, blessed).unwrap();
    } else {
        assert!(wrong.is_empty(), "not as the list says (BLESS=1 writes it anew):\n\n{}", wrong.join("\n\n"));
    }
    let mut titles: Vec<&str> = mistakes.iter().map(|m| m.title.as_str()).collect();
    titles.sort_unstable();
    titles.dedup();
    assert_eq!(titles.len(), mistakes.len(), "two mistakes of one name");
    assert!(mistakes.len() >= 60);
    assert!(mistakes.iter().all(|m| m.error != "no error"));
    // `println!` would be kept for failures.
    let _ = std::io::Write::write_fmt(
        &mut std::io::stdout(),
        format_args!("{} mistakes, each with its message\n", mistakes.len()),
    );
}
