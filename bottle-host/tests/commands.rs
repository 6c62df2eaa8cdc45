//! What `info`, `list` and `start` say about a manifest, through the program itself and in `commands.txt`, word for word.
//! `BLESS=1` writes it anew.

#![allow(clippy::unwrap_used)] // a test, helpers too

use std::{fs, path::Path, process::Command};

const SAID: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/commands.txt");
const HELP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
const WHOLE: &str = include_str!("../../tests/fuzz/corpus/bottle/whole.md");

/// A bottle's log: what was put aside, and what followed. The last line was cut by a crash.
const EARLIER: &str = r#"{"time":"2026-11-21T06:32:30.001Z","daemon":"dns","decision":"deny","rule":"dns","host":"evil.example","method":"TYPE(A)","path":"","status":0,"sent":0,"received":0,"ms":0}
"#;
const LOG: &str = r#"{"time":"2026-11-21T06:32:33.123Z","daemon":"egress","decision":"allow","rule":"api.anthropic.com","host":"api.anthropic.com:443","method":"POST","path":"/v1/messages","status":200,"sent":48213,"received":1204,"ms":2817,"lost":3}
{"time":"2026-11-21T06:32:34.500Z","daemon":"egress","decision":"deny","rule":"host","host":"evil.example:443","method":"GET","path":"/\u001b[2J","status":403,"sent":0,"received":0,"ms":0,"repeated":41}
{"time":"2026-11-21T06:32:35.000Z","daemon":"egress","decision":"audit","rule":"path","host":"pypi.org:443","method":"GET","path":"/pypi","status":200,"sent":0,"received":99,"ms":12}
{"time":"2026-11-21T06:32:36.000Z","daemon":"egress","decision":"ended","rule":"signal: 9 (SIGKILL)","host":"","method":"","path":"","status":0,"sent":0,"received":0,"ms":0}
{"time":"2026-11-21T06:3"#;

/// A home with agents of every kind; `proj` comes with the working directory.
fn set_up(home: &Path) {
    for (path, text) in [
        (
            ".claude-bottle/bottles/base.md",
            "---\nenv: {PLAIN: under, BASE: x}\ngit_user: {email: base@example.com}\n---\n",
        ),
        (".claude-bottle/bottles/net.md", "---\nextends: base\negress: {routes: [{host: pypi.org}]}\n---\n"),
        (".claude-bottle/bottles/dev.md", WHOLE),
        (
            ".claude-bottle/bottles/ok.md",
            "---\nextends: net\negress: {presets: [claude-full], routes: [{host: pypi.org, methods: [GET], \
             path_allowlist: [/simple, /packages]}]}\n---\n",
        ),
        (".claude-bottle/agents/reviewer.md", include_str!("../../tests/fuzz/corpus/agent/whole.md")),
        (".claude-bottle/agents/lost.md", "---\nbottle: gone\n---\n"),
        (".claude-bottle/agents/broken.md", "---\nbottle: [\n---\n"),
        (".claude-bottle/agents/both.md", "---\nbottle: ok\n---\n"),
        ("work/.claude-bottle/agents/both.md", "---\nbottle: ok\ngit_user: {name: Bob}\n---\nYou are\x1b[31m red.\n"),
        (".claude-bottle/state/dev-x7k2q/egress.jsonl.1", EARLIER),
        (".claude-bottle/state/dev-x7k2q/egress.jsonl", LOG),
        (".claude/skills/review/SKILL.md", ""),
        (".claude/skills/write-tests/SKILL.md", ""),
    ] {
        let path = home.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn commands_say_what_they_say() {
    let home = tempfile::tempdir().unwrap();
    set_up(home.path());
    let mut said = String::new();
    for line in [
        "list",
        "list --json",
        "info reviewer",
        "info reviewer --json",
        "info both",
        "info lost",
        "info nobody",
        "start both --yes",
        "start reviewer --yes",
        "schema bottle",
        "schema agent",
        "logs dev-x7k2q",
        "logs dev-x7k2q --denied",
        "logs dev-x7k2q --json",
        "logs dev-00000",
        "logs ../state",
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle"));
        command.args(line.split(' ')).env_clear().env("HOME", home.path()).env("HOST_SECRET", "the-value-itself");
        command.env("API_TOKEN", "the-value-itself").env("ANTHROPIC_API_KEY", "the-value-itself");
        let out = command.current_dir(home.path().join("work")).output().unwrap();
        let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        if !line.contains("json") && !line.starts_with("schema") && !line.starts_with("logs") {
            let is_message = |line: &str| line.starts_with("bottle: ");
            for line in text.lines().filter(|line| !is_message(line)) {
                assert!(line.chars().count() <= 80, "more than 80 columns: {line}");
            }
        }
        said += &format!("$ bottle {line}\n{text}[{}]\n\n", out.status.code().unwrap());
    }
    let said = said.replace(&home.path().display().to_string(), "HOME");
    // Of `env` a name is shown and never a value, a literal's neither.
    for value in ["the-value-itself", "lines", "\x1b"] {
        assert!(!said.contains(value), "{value}");
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(SAID, &said).unwrap();
    }
    assert_eq!(said, fs::read_to_string(SAID).unwrap_or_default(), "BLESS=1 writes commands.txt anew");
}

#[test]
fn every_command_helps() {
    let mut said = String::new();
    let mut commands: Vec<String> =
        bottle_host::cli::command().get_subcommands().map(|c| c.get_name().into()).collect();
    commands.insert(0, String::new());
    for command in commands.iter().filter(|name| !name.starts_with("__")) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_bottle"));
        let out = program.args(command.split_terminator(' ')).arg("--help").env_clear().output().unwrap();
        let line = format!("bottle {command} --help").replace("  ", " ");
        said += &format!("$ {line}\n{}\n", String::from_utf8(out.stdout).unwrap());
        assert_eq!(out.status.code(), Some(0));
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(HELP, &said).unwrap();
    }
    assert_eq!(said, fs::read_to_string(HELP).unwrap_or_default(), "BLESS=1 writes help.txt anew");
}
