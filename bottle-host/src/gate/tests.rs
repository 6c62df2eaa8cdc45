//! Tricks that must not pass without a question, and changes that must.

use super::{
    Kind::{Agent, Build, Ci, Container, Editor, Git, Link, Name, Program, Shell},
    *,
};

fn file(name: &str) -> Made {
    Made { name: name.into(), what: What::File { mode: 0o644, binary: false } }
}

fn script(name: &str) -> Made {
    Made { name: name.into(), what: What::File { mode: 0o755, binary: false } }
}

fn link(name: &str, target: &str) -> Made {
    Made { name: name.into(), what: What::Link(target.into()) }
}

fn other(name: &str, what: What) -> Made {
    Made { name: name.into(), what }
}

fn of(made: Made) -> Verdict {
    judge(&[made], []).remove(0)
}

#[test]
fn what_would_run_on_the_host_is_asked_for_with_its_reason() {
    let tricks: Vec<(Kind, Made)> = vec![
        // Git: what a status, a diff or a checkout would run.
        (Git, file(".gitattributes")),
        (Git, file("sub/.gitattributes")),
        (Git, file(".gitmodules")),
        (Git, file("vendored/.git/config")), // core.fsmonitor, core.sshCommand, include.path
        (Git, script("vendored/.git/hooks/post-checkout")),
        (Git, file("vendored/.GIT/config")),
        (Git, file("vendored/git~1/config")),
        (Git, file("vendored/.g\u{200c}it/config")),
        (Git, file("worktree/.git")), // gitdir: elsewhere
        (Git, other("dependency", What::Submodule)),
        (Git, script(".husky/pre-commit")),
        (Git, file(".pre-commit-config.yaml")),
        // Other version control: a status of it runs what its own directory says.
        (Git, file("vendored/.hg/hgrc")),
        (Git, file("sub/.jj/repo/config.toml")),
        (Git, file("lefthook-local.yml")),
        // What a shell reads on the way in.
        (Shell, file(".envrc")),
        (Shell, file("deep/in/.envrc")),
        (Shell, file(".env")),
        (Shell, file(".mise.toml")),
        (Shell, file(".bashrc")),
        (Shell, file(".ssh/config")),
        (Shell, file(".rvmrc")),
        (Shell, file("mise.local.toml")),
        (Shell, file("Documents/WindowsPowerShell/Microsoft.PowerShell_profile.ps1")),
        (Shell, file("Library/LaunchAgents/x.plist")),
        // Editors.
        (Editor, file(".vscode/tasks.json")),
        (Editor, file("sub/.vscode/settings.json")),
        (Editor, file(".VSCode/settings.json")),
        (Editor, file(".idea/workspace.xml")),
        (Editor, file(".exrc")),
        (Editor, file(".nvim.lua")),
        (Editor, file(".dir-locals.el")),
        (Editor, file("x.code-workspace")),
        (Editor, file(".ycm_extra_conf.py")),
        (Editor, file("App.xcodeproj/project.pbxproj")),
        // Agents.
        (Agent, file(".claude/settings.json")),
        (Agent, file("sub/.claude/settings.local.json")),
        (Agent, link(".claude", "elsewhere")),
        (Agent, file("CLAUDE.md")),
        (Agent, file(".mcp.json")),
        (Agent, file(".cursor/rules/x.mdc")),
        (Agent, file(".claude-bottle/agents/dev.md")),
        (Agent, file(".agents/skills/x/SKILL.md")),
        (Agent, file("docs/style.instructions.md")),
        // Continuous integration.
        (Ci, file(".github/workflows/ci.yml")),
        (Ci, file(".github/actions/x/action.yml")),
        (Ci, file(".gitlab-ci.yml")),
        (Ci, file("Jenkinsfile")),
        (Ci, file(".circleci/config.yml")),
        (Ci, file(".github/scripts/release.py")),
        (Ci, file(".goreleaser.yaml")),
        // Builds, packages, tests.
        (Build, file("package.json")),
        (Build, file("app/package.json")),
        (Build, file(".npmrc")),
        (Build, file("package-lock.json")),
        (Build, file("vite.config.ts")),
        (Build, file("node_modules/left-pad/index.js")),
        (Build, file("build.rs")),
        (Build, file("crates/a/Cargo.toml")),
        (Build, file(".cargo/config.toml")),
        (Build, file("rust-toolchain.toml")),
        (Build, file("Makefile")),
        (Build, file("GNUmakefile")),
        (Build, file("makefile ")),
        (Build, file("Ｍakefile")),
        (Build, file("CMakeLists.txt")),
        (Build, file("conftest.py")),
        (Build, file("tests/conftest.py")),
        (Build, file("setup.py")),
        (Build, file("pyproject.toml")),
        (Build, file("lib/evil.pth")),
        (Build, file("sitecustomize.py")),
        (Build, file("build.gradle.kts")),
        (Build, file("pom.xml")),
        (Build, file("Gemfile")),
        (Build, file("flake.nix")),
        (Build, file(".gdbinit")),
        (Build, file("target/app-gdb.py")),
        (Build, file(".pdbrc")),
        (Build, file("docs/conf.py")),
        (Build, file(".flake8")),
        (Build, file("lib/__pycache__/json.cpython-312.pyc")),
        (Build, file(".iex.exs")),
        (Build, file(".ocamlinit")),
        (Build, file(".RData")),
        (Build, file("analysis_options.yaml")),
        (Build, file("x.tt")),
        (Build, file("Kbuild")),
        (Build, file(".unheardofrc")),
        (Build, file("sub/.unheardofrc.yaml")),
        (Container, file("Dockerfile")),
        (Container, file("docker-compose.override.yml")),
        (Container, file(".devcontainer/devcontainer.json")),
        (Container, file("ansible.cfg")),
        (Container, file("cdk.json")),
        // Programs.
        (Program, script("ls")),
        (Program, script("scripts/git")),
        (Program, script("bin/anything")),
        (Program, other("notes", What::File { mode: 0o755, binary: true })),
        (Program, other("notes.txt", What::File { mode: 0o4644, binary: false })),
        (Program, other("notes.txt", What::File { mode: 0o2755, binary: false })),
        (Program, script("terraform")),
        (Program, file("lib/json.so")),
        (Program, file("lib/libssl.so.3")),
        (Program, file("gradle-plugin.jar")),
        // Links.
        (Link, link("data", "/etc/passwd")),
        (Link, link("data", "../outside")),
        (Link, link("a/b/data", "../../../outside")),
        (Link, link("a/data", "x/../../../outside")),
        (Link, link("data", "sub/../../outside")),
        (Link, link("config", ".git/config")),
        (Link, link("config", ".GIT/config")),
        // Names.
        (Name, file("read\u{202e}txt.exe")),
        (Name, file("m\u{430}in.rs")), // a Cyrillic letter
        (Name, file("main.rs ")),
        (Name, file("main.rs.")),
        (Name, file("main.rs::$DATA")),
        (Name, file("a\nb")),
        (Name, other("x", What::Gone)),
    ];
    // The last is none: a table that finds everything would find that, too.
    let (honest, tricks) = tricks.split_last().unwrap();
    assert_eq!(of(honest.1.clone()), Verdict::Passes);
    for (kind, made) in tricks {
        match of(made.clone()) {
            Verdict::Asks(found, why) => assert!(found == *kind && !why.is_empty(), "{made:?}: {found} {why}"),
            found => panic!("{made:?}: {found:?}"),
        }
    }
    assert!(tricks.len() >= 80, "{}", tricks.len());
}

#[test]
fn what_leads_elsewhere_is_refused_whatever_is_accepted() {
    for made in [
        file(".git/config"),
        file(".git/hooks/post-checkout"),
        file(".GIT/config"),
        file(".git "),
        file(".git./config"),
        file(".git::$INDEX_ALLOCATION/config"),
        file("git~1/config"),
        file(".g\u{200d}it/config"),
        file("．git/config"),
        link(".git", "elsewhere"),
        other(".git/config", What::Gone),
        file("../up"),
        file("a/../../up"),
        file("a/./b"),
        file("a//b"),
        file("/etc/passwd"),
        file("a\\..\\..\\up"),
        file(""),
        file("a\0b"),
        file(&"x/".repeat(3000)),
        other("null", What::Other),
    ] {
        let found = of(made.clone());
        assert!(matches!(found, Verdict::Refused(why) if !why.is_empty()), "{made:?}: {found:?}");
    }
}

#[test]
fn honest_changes_pass_without_a_question() {
    let honest = [
        file("README.md"),
        file("LICENSE"),
        file("CHANGELOG.md"),
        file("docs/guide/intro.md"),
        file("src/main.rs"),
        file("src/build/mod.rs"),
        file("src/config.rs"),
        file("src/git.rs"),
        file("app/models/user.rb"),
        file("lib/index.js"),
        file("web/styles.css"),
        file("index.html"),
        file("cmd/server/main.go"),
        file("tests/test_main.py"),
        file("tests/data/case-1.json"),
        file("migrations/0001_init.sql"),
        file(".gitignore"),
        file(".editorconfig"),
        file("src/node/rc.ts"),
        file("docs/claude/notes.md"),
        file("src/solver.sol"),
        file("tests/fixtures/so.txt"),
        file("Cargo.lock"),
        file("go.sum"),
        file("assets/名前.txt"),
        file("docs/überblick.md"),
        file("docs/привет.md"),
        file("a file with spaces.txt"),
        script("scripts/release.sh"),
        script("tools/check"),
        other("assets/logo.png", What::File { mode: 0o644, binary: true }),
        link("docs/latest", "v2"),
        link("a/b/c", "../d/e"),
        link("latest", "./releases/v2/"),
        other("Makefile", What::Gone),
        other("old/module.py", What::Gone),
    ];
    for made in &honest {
        assert_eq!(of(made.clone()), Verdict::Passes, "{made:?}");
    }
    assert!(honest.len() >= 20);
    // All together, too, and beside what is there.
    let all = judge(&honest, [&b"src/lib.rs"[..], b"Makefile", b"README.md"]);
    assert!(all.iter().all(|verdict| *verdict == Verdict::Passes), "{all:?}");
}

#[test]
fn twins_are_found_among_themselves_and_beside_what_is_there() {
    let asks = |made: &[Made], there: &[&[u8]]| {
        judge(made, there.iter().copied()).iter().filter(|v| matches!(v, Verdict::Asks(Kind::Name, _))).count()
    };
    assert_eq!(asks(&[file("notes"), file("Notes")], &[]), 2);
    assert_eq!(asks(&[file("Notes")], &[b"notes"]), 1);
    assert_eq!(asks(&[file("caf\u{e9}")], &["cafe\u{301}".as_bytes()]), 1);
    assert_eq!(asks(&[file("Docs/a")], &[b"docs/b"]), 1, "a directory has a twin, too");
    assert_eq!(asks(&[file("stra\u{df}e"), file("notes")], &[b"notes", b"other"]), 0);
    // One that goes is none.
    assert_eq!(asks(&[file("Notes"), other("notes", What::Gone)], &[b"notes"]), 0);
}

#[test]
fn every_kind_has_the_name_that_accept_takes() {
    for kind in Kind::value_variants() {
        assert_eq!(Kind::from_str(&kind.to_string(), false).as_ref(), Ok(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
    }
}
