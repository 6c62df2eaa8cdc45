//! What bottle says over a backend, word for word: preflight, tables, JSON, errors. `BLESS=1` writes `transcripts.txt`
//! anew; its diff is the review of every text that a person reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::Result;
use bottle_tests::scripted::Scripted;
use std::fs;

const SAID: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts.txt");

const BOTTLE: &str = "---
isolation: process
limits: {memory: 2g, cpus: 1.5, pids: 300}
git_user: {name: Ada, email: ada@example.com}
env:
  EDITOR: vi
  NPM_TOKEN: ${NPM_TOKEN}
  PASSWORD: ?staging database
egress:
  presets: [claude-full]
  blocklist: [tracker.example, '*.paste.example']
  routes:
    - host: docs.example.com
    - {host: api.github.com, methods: [GET], path_allowlist: [/repos/me/a, /repos/me/b], auth: {scheme: Bearer, token_ref: GITHUB_TOKEN}}
    - {host: forge.internal, ports: [8443], address: 10.1.2.3, allow_private: true}
---
";

/// A command, the script of its backend, and further variables.
type Line = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const LINES: &[Line] = &[
    ("start whole --dry-run", "", &[]),
    ("start whole --dry-run --full", "", &[]),
    ("start whole --dry-run --format json", "", &[]),
    ("start whole", "", &[]),
    ("start whole --prompt hello", "", &[]),
    ("start whole --yes --prompt hello", "", &[]),
    ("start nobody", "", &[]),
    ("start dev --yes --prompt hello", "", &[]),
    ("start dev --yes --prompt 7", "", &[]),
    ("start dev --yes --prompt hello", "fail@launch", &[]),
    ("start dev --yes --prompt hello", "panic@launch", &[]),
    ("start dev --yes --prompt hello", "hang@launch", &[]),
    ("start dev --yes --prompt hello", "cancel@launch", &[]),
    ("start dev --yes --prompt hello", "cancel-and-hang@launch", &[]),
    ("start dev --yes --prompt hello", "open@probe", &[]),
    ("start dev --yes --prompt hello", "fail@close", &[]),
    ("start dev --yes --prompt hello", "", &[("CLAUDE_BOTTLE_OAUTH_TOKEN", "")]),
    ("start strict --yes --prompt hello", "", &[]),
    ("start dev --dry-run --backend nowhere", "", &[]),
    ("start dev --dry-run", "", &[("HOME", "relative")]),
    ("start", "", &[]),
    ("start dev --format json", "", &[]),
    ("start dve", "", &[]),
    ("exec nobody-12345 -- true", "", &[]),
    ("exec ../dev -- true", "", &[]),
    ("exec dev-12345", "", &[]),
    ("list active --backend scriptd", "", &[]),
    ("list active", "", &[]),
    ("list active", "fail@list_active", &[]),
    ("list active --json", "fail@list_active", &[]),
    ("list active --json", "", &[]),
    ("doctor", "", &[]),
    ("doctor", "fail@diagnose", &[("CLAUDE_BOTTLE_OAUTH_TOKEN", "")]),
    ("doctor --json", "", &[]),
    ("backends", "", &[]),
    ("backends --json", "", &[]),
    ("cleanup", "", &[]),
    ("cleanup --json", "", &[]),
    // What is left by the first is told by the next, and removed by the last.
    ("start dev --yes --prompt hello", "kill@start", &[]),
    ("start dev --yes --prompt hello", "", &[]),
    ("list active", "", &[]),
    ("cleanup", "", &[]),
    ("cleanup --dry-run", "", &[]),
    ("cleanup --dry-run --json", "", &[]),
    ("cleanup --yes", "fail@execute", &[]),
    ("cleanup --yes", "fail@create", &[]),
    ("cleanup --yes", "", &[]),
];

#[test]
fn bottle_says_what_it_says() -> Result<()> {
    let home = Scripted::new()?;
    home.write(".claude-bottle/bottles/whole.md", BOTTLE)?;
    home.write(".claude-bottle/bottles/strict.md", "---\nisolation: vm\n---\n")?;
    home.write(".claude-bottle/agents/strict.md", "---\nbottle: strict\n---\n")?;
    let prompt = "---\nbottle: whole\nskills: [review]\n---\nYou review.\n\nBe brief, and say why.\n";
    home.write(".claude-bottle/agents/whole.md", prompt)?;
    fs::create_dir_all(home.path().join(".claude/skills/review"))?;
    home.write(".claude/skills/review/SKILL.md", "Look twice.\n")?;
    let mut said = String::new();
    for (line, script, env) in LINES {
        let mut command = home.command(&line.split(' ').collect::<Vec<_>>(), script);
        command.env("NPM_TOKEN", "the-value-itself").env("GITHUB_TOKEN", "the-value-itself");
        let out = command.envs(env.iter().copied()).output()?;
        let text = [out.stderr, out.stdout].map(|bytes| String::from_utf8(bytes).expect("UTF-8")).concat();
        let text = settled(&text.replace(&home.path().display().to_string(), "HOME"));
        for line in text.lines().filter(|line| line.starts_with("bottle:  ")) {
            assert!(line.chars().count() <= 80, "a preflight of more than 80 columns: {line}");
        }
        let mut asides: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        asides.extend((!script.is_empty()).then(|| (*script).to_owned()));
        let asides = if asides.is_empty() { String::new() } else { format!("    # {}", asides.join(" ")) };
        let code = out.status.code().map_or_else(|| "killed".into(), |code| code.to_string());
        said += &format!("$ bottle {line}{asides}\n{text}[{code}]\n\n");
    }
    assert!(!said.contains("the-value-itself"), "{said}");
    if std::env::var_os("BLESS").is_some() {
        fs::write(SAID, &said)?;
    }
    assert_eq!(said, fs::read_to_string(SAID).unwrap_or_default(), "BLESS=1 writes transcripts.txt anew");
    Ok(())
}

/// The text without what is different in every run: an identity's random end, a thing's name, hashes.
fn settled(text: &str) -> String {
    let mut out = String::new();
    for piece in text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
        let (word, end) =
            piece.split_at(piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-').len());
        let agents = ["dev", "whole"];
        let identity = agents.iter().find(|agent| {
            word.strip_prefix(*agent).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| rest.len() == 5)
        });
        match identity {
            Some(agent) => out += &format!("{agent}-xxxxx"),
            // How long it waited, and where in a source.
            None if word.ends_with("ms") && word.starts_with(|c: char| c.is_ascii_digit()) => out += "N ms",
            None if out.ends_with(".rs:") => out += "N",
            None if word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit()) => out += "UUID",
            None => out += word,
        }
        out += end;
    }
    out
}
