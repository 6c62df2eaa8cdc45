//! What comes along of directories that mean no good, and of those that do.

use super::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{fs::PermissionsExt, fs::symlink, net::UnixListener},
    path::PathBuf,
    process::Command,
};

/// A directory, a place outside it, and what comes along of it.
struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { temp: tempfile::tempdir().unwrap() };
        for dir in ["repo", "outside", "stage", "bottle"] {
            fs::create_dir(place.path(dir)).unwrap();
        }
        place
    }

    fn repository() -> Self {
        let place = Self::new();
        place.write("repo/.gitignore", "ignored\n");
        place.write("repo/tracked", "one\n");
        place.write("repo/sub/run.sh", "#!/bin/sh\n");
        fs::set_permissions(place.path("repo/sub/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        place.git("repo", &["init", "-q", "-b", "main"]);
        place.git("repo", &["add", "."]);
        place.git("repo", &["commit", "-qm", "first"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// Git as a user runs it; what it says.
    fn git(&self, dir: &str, args: &[&str]) -> String {
        let mut command = Command::new("git");
        let config = ["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always"];
        command.args(config).args(args).current_dir(self.path(dir)).env("HOME", self.temp.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Collects `dir`, and unpacks it as an engine would, below `bottle`.
    fn collect(&self, dir: &str, which: Which<'_>) -> Result<Collected> {
        let cancel = Cancellation::install()?;
        let paths = Paths { home: self.path("home"), cwd: self.path(dir) };
        let mut spec = BottleSpec::default();
        let collected = collect(&paths, which, &self.path("stage"), &mut spec, &cancel)?;
        assert_eq!(
            (spec.workspace.as_deref(), &spec.requires[..]),
            (Some(ARCHIVE), &[WORKSPACE_FEATURE.to_owned()][..])
        );
        let left: Vec<_> = fs::read_dir(self.path("stage")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [ARCHIVE], "only the archive stays in the stage directory");
        tar::Archive::new(File::open(self.path("stage").join(ARCHIVE))?).unpack(self.path("bottle"))?;
        Ok(collected)
    }

    /// The files of the unpacked workspace but for git's, with their content or, for links, their target.
    fn unpacked(&self) -> BTreeMap<String, String> {
        let root = self.path("bottle/workspace");
        let (mut found, mut dirs) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                if kind.is_dir() && name != ".git" {
                    dirs.push(path);
                } else if kind.is_symlink() {
                    found.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
                } else if kind.is_file() {
                    found.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        found
    }

    /// A program that says that it ran.
    fn trap(&self) -> String {
        let trap = self.path("trap.sh");
        fs::write(&trap, format!("#!/bin/sh\ntouch {}\ncat\n", self.path("ran").display())).unwrap();
        fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
        trap.display().to_string()
    }
}

#[test]
fn history_tracked_and_untracked_files_come_along_as_they_are() {
    let place = Place::repository();
    place.write("repo/tracked", "two\n");
    place.write("repo/new", "untracked\n");
    place.write("repo/ignored", "a secret\n");
    fs::remove_file(place.path("repo/.gitignore")).unwrap();
    place.write("repo/.git/info/exclude", "ignored\n");
    symlink("/etc/passwd", place.path("repo/absolute")).unwrap();
    symlink("../../outside", place.path("repo/leads-out")).unwrap();
    place.git("repo", &["tag", "v1"]);
    place.git("repo", &["remote", "add", "origin", "https://me:TOKEN@example.com/x.git"]);
    let collected = place.collect("repo", Which::Unignored).unwrap();
    let expected = BTreeMap::from(
        [
            ("tracked", "two\n"),
            ("new", "untracked\n"),
            ("sub/run.sh", "#!/bin/sh\n"),
            ("absolute", "-> /etc/passwd"),
            ("leads-out", "-> ../../outside"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned())),
    );
    assert_eq!(place.unpacked(), expected);
    let mode = fs::metadata(place.path("bottle/workspace/sub/run.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let shown = &collected.shown;
    assert_eq!((shown.files, shown.changed, shown.untracked), (5, 2, 3), "{shown:?}");
    assert_eq!(shown.branch.as_deref(), Some("main"));
    let inside = |args: &[&str]| place.git("bottle/workspace", args);
    assert_eq!(inside(&["log", "--format=%s", "v1"]), "first");
    let mut status: Vec<_> = inside(&["status", "--porcelain"]).lines().map(str::to_owned).collect();
    status.sort();
    assert_eq!(status, [" M tracked", "?? absolute", "?? leads-out", "?? new", "D .gitignore"], "trimmed");
    assert_eq!(inside(&["remote", "get-url", "origin"]), "https://example.com/x.git");
    inside(&["fsck", "--strict"]);
    assert_eq!(collected.came.bases, [place.git("repo", &["rev-parse", "HEAD"])]);
    assert!(collected.came.missing.contains(&b".gitignore"[..]) && collected.came.prints.len() == 5);
}

#[test]
fn what_the_user_ignores_everywhere_stays_behind() {
    let place = Place::repository();
    place.write("home/.gitconfig", "[core]\n\texcludesFile = ~/everywhere\n\tfsmonitor = /nowhere\n");
    place.write("home/everywhere", ".env\n");
    for name in [".env", "new", "sub/.env"] {
        place.write(&format!("repo/{name}"), "x");
    }
    place.collect("repo", Which::Unignored).unwrap();
    let names: Vec<_> = place.unpacked().into_keys().collect();
    assert_eq!(names, [".gitignore", "new", "sub/run.sh", "tracked"]);
    // In a file that it includes; and nowhere.
    place.write("home/more", "[core]\n\texcludesFile = ~/other\n");
    place.write("home/other", "new\n");
    for (config, stays) in [("[include]\n\tpath = ~/more\n", Some("new")), ("[core]\n\texcludesFile =\n", None)] {
        fs::remove_dir_all(place.path("bottle/workspace")).unwrap();
        place.write("home/.gitconfig", config);
        place.collect("repo", Which::Unignored).unwrap();
        let names = place.unpacked();
        for name in [".env", "new"] {
            assert_eq!(names.contains_key(name), stays != Some(name), "{config}: {name}");
        }
    }
}

#[test]
fn a_link_keeps_what_it_says() {
    let place = Place::new();
    let long = format!("{}//end", "a/./".repeat(40));
    for (name, target) in [("link", "a//b/./c"), ("long", &long)] {
        symlink(target, place.path("repo").join(name)).unwrap();
    }
    place.collect("repo", Which::All).unwrap();
    assert_eq!(place.unpacked(), [("link".into(), "-> a//b/./c".into()), ("long".into(), format!("-> {long}"))].into());
}

#[test]
fn what_nothing_reaches_stays_behind() {
    let place = Place::repository();
    place.write("repo/tracked", "a secret, taken back\n");
    place.git("repo", &["commit", "-qam", "oops"]);
    let oops = place.git("repo", &["rev-parse", "HEAD"]);
    place.git("repo", &["reset", "-q", "--hard", "HEAD^"]);
    place.write("repo/tracked", "stashed\n");
    place.git("repo", &["stash", "-q"]);
    place.write("repo/staged", "in the index alone\n");
    place.git("repo", &["add", "staged"]);
    place.git("repo", &["pack-refs", "--all"]);
    place.collect("repo", Which::Unignored).unwrap();
    let has = |what: &str| {
        let mut command = Command::new("git");
        command
            .args(["cat-file", "-e", what])
            .current_dir(place.path("bottle/workspace"))
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(has("HEAD") && has(":staged") && !has(&oops) && !has("refs/stash"));
}

#[test]
fn nothing_that_a_repository_names_is_run() {
    let place = Place::repository();
    let trap = place.trap();
    for name in [
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "core.editor",
        "diff.external",
        "filter.x.clean",
        "filter.x.smudge",
        "filter.x.process",
        "diff.x.textconv",
        "diff.x.command",
        "uploadpack.packObjectsHook",
        "alias.status",
        "alias.ls-files",
        "credential.helper",
    ] {
        place.git("repo", &["config", name, &trap]);
    }
    place.git("repo", &["config", "filter.x.required", "true"]);
    place.git("repo", &["config", "core.hooksPath", place.path("repo").to_str().unwrap()]);
    for hook in ["post-index-change", "fsmonitor-watchman", "reference-transaction", "pre-auto-gc"] {
        fs::copy(place.path("trap.sh"), place.path(&format!("repo/{hook}"))).unwrap();
        fs::copy(place.path("trap.sh"), place.path(&format!("repo/.git/hooks/{hook}"))).unwrap();
    }
    fs::copy(place.path("trap.sh"), place.path("repo/git")).unwrap();
    place.write("repo/.gitattributes", "* filter=x diff=x\n");
    place.write("repo/tracked", "changed\n");
    place.write("included", &format!("[core]\n\tfsmonitor = {trap}\n"));
    place.git("repo", &["config", "include.path", place.path("included").to_str().unwrap()]);
    // Something of it does run where git believes the repository.
    let _ = Command::new("git").arg("status").current_dir(place.path("repo")).output();
    assert!(place.path("ran").exists(), "the trap is none");
    fs::remove_file(place.path("ran")).unwrap();
    place.collect("repo", Which::Unignored).unwrap();
    assert!(!place.path("ran").exists());
    assert!(!place.path("bottle/workspace/.git/hooks").exists());
    let config = fs::read_to_string(place.path("bottle/workspace/.git/config")).unwrap();
    assert!(!config.contains("trap") && !config.contains("include"), "{config}");
}

#[test]
fn a_repository_that_is_elsewhere_too_is_refused() {
    type Spoil = fn(&Place);
    let cases: [(&str, &str, Spoil); 7] = [
        ("alternates", "objects/info/alternates", |p| {
            p.write("repo/.git/objects/info/alternates", p.path("outside/objects").to_str().unwrap());
        }),
        ("commondir", "commondir", |p| p.write("repo/.git/commondir", "../../outside")),
        ("a .git file", "leads out", |p| {
            fs::rename(p.path("repo/.git"), p.path("outside/git")).unwrap();
            p.write("repo/.git", "gitdir: ../outside/git\n");
        }),
        ("a .git link", "leads out", |p| {
            fs::rename(p.path("repo/.git"), p.path("outside/git")).unwrap();
            symlink("../outside/git", p.path("repo/.git")).unwrap();
        }),
        ("a part of another", "a part of the repository", |p| {
            fs::rename(p.path("repo/.git"), p.path(".git")).unwrap();
        }),
        ("an extension", "partialclone", |p| drop(p.git("repo", &["config", "extensions.partialClone", "x"]))),
        ("a broken history", "git fsck", |p| {
            let blob = p.git("repo", &["rev-parse", "HEAD:tracked"]);
            fs::remove_file(p.path(&format!("repo/.git/objects/{}/{}", &blob[..2], &blob[2..]))).unwrap();
        }),
    ];
    for (name, said, spoil) in cases {
        let place = Place::repository();
        spoil(&place);
        let error = place.collect("repo", Which::Unignored).err().unwrap_or_else(|| panic!("{name} is taken"));
        let error = format!("{error:#} {:?}", ui::hint_of(&error));
        assert!(error.contains(said), "{name}: {error}");
    }
}

#[test]
fn nothing_outside_is_read_through_links() {
    let place = Place::repository();
    place.write("outside/secret", "OUTSIDE");
    place.write("outside/objects/aa/bb", "OUTSIDE");
    // A tracked directory, and parts of .git, become links while git is not looking.
    fs::remove_dir_all(place.path("repo/sub")).unwrap();
    place.write("outside/run.sh", "OUTSIDE");
    symlink("../outside", place.path("repo/sub")).unwrap();
    symlink("../../../outside", place.path("repo/.git/refs/notes")).unwrap();
    fs::remove_file(place.path("repo/.git/info/exclude")).ok();
    symlink("../../../outside/secret", place.path("repo/.git/info/exclude")).unwrap();
    symlink("../../../outside/objects/aa", place.path("repo/.git/objects/aa")).ok();
    let collected = place.collect("repo", Which::Unignored).unwrap();
    let archive = fs::read(place.path("stage").join(ARCHIVE)).unwrap();
    assert!(!archive.windows(7).any(|window| window == b"OUTSIDE"));
    assert_eq!(place.unpacked()["sub"], "-> ../outside");
    assert_eq!(collected.shown.skipped["through a link or out of the directory"], ["sub/run.sh"]);
}

#[test]
fn names_that_git_would_not_check_out_stay_behind() {
    let place = Place::repository();
    place.write("outside/secret", "OUTSIDE");
    place.write("repo/xgit/config", "x");
    place.write("repo/xx/outside/secret", "x");
    place.git("repo", &["add", "."]);
    let mut index = fs::read(place.path("repo/.git/index")).unwrap();
    for (name, evil) in [(&b"xgit/config"[..], &b".git/config"[..]), (b"xx/outside/secret", b"../outside/secret")] {
        let at = index.windows(name.len()).position(|window| window == name).unwrap();
        index[at..at + name.len()].copy_from_slice(evil);
    }
    fs::write(place.path("repo/.git/index"), index).unwrap();
    let collected = place.collect("repo", Which::Unignored).unwrap();
    let skipped = &collected.shown.skipped["a name that git would not check out"];
    assert_eq!(skipped, &[".git/config", "../outside/secret"]);
    let archive = fs::read(place.path("stage").join(ARCHIVE)).unwrap();
    assert!(!archive.windows(7).any(|window| window == b"OUTSIDE"));
}

#[test]
fn submodules_and_other_repositories_stay_behind_and_so_do_pipes_and_sockets() {
    let place = Place::repository();
    place.git("outside", &["clone", "-q", "../repo", "."]);
    place.git("repo", &["submodule", "--quiet", "add", "../outside", "module"]);
    place.git("repo", &["clone", "-q", ".", "nested"]);
    fs::remove_file(place.path("repo/tracked")).unwrap();
    mknodat(CWD, place.path("repo/tracked"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(place.path("repo/socket")).unwrap();
    let collected = place.collect("repo", Which::Unignored).unwrap();
    let skipped = &collected.shown.skipped;
    assert_eq!(skipped["a submodule"], ["module"]);
    assert_eq!(skipped["a repository of its own"], ["nested"]);
    assert_eq!(skipped["a pipe, socket or device"], ["tracked"]);
    assert_eq!(place.unpacked().into_keys().collect::<Vec<_>>(), [".gitignore", ".gitmodules", "sub/run.sh"]);
}

#[test]
fn a_directory_without_a_repository_comes_whole_and_so_does_one_with_all_its_files() {
    let place = Place::repository();
    place.write("repo/ignored", "wanted\n");
    place.git("repo", &["clone", "-q", ".", "nested"]);
    fs::create_dir(place.path("repo/empty")).unwrap();
    let collected = place.collect("repo", Which::All).unwrap();
    let mine = place.unpacked();
    assert!(mine["ignored"] == "wanted\n" && mine.contains_key("nested/tracked"), "{mine:?}");
    assert!(place.path("bottle/workspace/empty").is_dir() && !place.path("bottle/workspace/nested/.git").exists());
    assert_eq!(collected.shown.skipped["a repository of its own: its history"], ["nested"]);
    assert_eq!(place.git("bottle/workspace", &["log", "--format=%s"]), "first");

    let plain = Place::new();
    plain.write("repo/a b/c\nd", "x");
    let collected = plain.collect("repo", Which::Unignored).unwrap();
    assert_eq!(plain.unpacked().into_keys().collect::<Vec<_>>(), ["a b/c\nd"]);
    assert_eq!((collected.shown.branch, collected.came.bases.len()), (None, 0));
    // Nothing at all is something, too.
    assert_eq!(Place::new().collect("repo", Which::Unignored).unwrap().shown.files, 0);
    let unborn = Place::new();
    unborn.git("repo", &["init", "-q", "-b", "main"]);
    assert_eq!(unborn.collect("repo", Which::Unignored).unwrap().shown.branch.as_deref(), Some("main"));
}

#[test]
fn too_much_is_an_error_that_names_it_before_it_is_read() {
    let place = Place::repository();
    File::create(place.path("repo/huge")).unwrap().set_len(10 << 30).unwrap();
    let error = place.collect("repo", Which::Unignored).err().unwrap();
    let (said, hint) = (format!("{error:#}"), ui::hint_of(&error).unwrap_or_default());
    assert!(
        said.contains("more than 2048 MiB; huge alone has 10240 MiB") && hint.contains(".gitignore"),
        "{said} {hint}"
    );
    place.write("repo/.gitignore", "huge\n");
    place.collect("repo", Which::Unignored).unwrap();
}

#[test]
fn a_worktree_is_the_last_commit_on_a_branch_of_its_own() {
    let place = Place::repository();
    place.write("repo/tracked", "changed, and not committed\n");
    place.write("repo/new", "untracked\n");
    place.git("repo", &["branch", "there"]);
    let head = place.git("repo", &["rev-parse", "HEAD"]);
    let collected = place.collect("repo", Which::Worktree("bottle/dev-12345")).unwrap();
    let expected = [(".gitignore", "ignored\n"), ("sub/run.sh", "#!/bin/sh\n"), ("tracked", "one\n")];
    assert_eq!(place.unpacked(), expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    let inside = |args: &[&str]| place.git("bottle/workspace", args);
    assert_eq!(
        (inside(&["symbolic-ref", "--short", "HEAD"]), inside(&["rev-parse", "HEAD"])),
        ("bottle/dev-12345".into(), head)
    );
    assert_eq!(inside(&["status", "--porcelain"]), "");
    assert_eq!((collected.shown.changed, collected.shown.untracked), (0, 0));
    assert_eq!(collected.shown.branch.as_deref(), Some("bottle/dev-12345"));
    // The host's has no such branch, and is as it was.
    assert_eq!(place.git("repo", &["for-each-ref", "--format=%(refname:short)"]), "main\nthere");
    // One that is there is gone on with.
    place.write("repo/tracked", "two\n");
    place.git("repo", &["commit", "-qam", "second"]);
    fs::remove_dir_all(place.path("bottle/workspace")).unwrap();
    place.collect("repo", Which::Worktree("there")).unwrap();
    assert_eq!((place.unpacked()["tracked"].as_str(), inside(&["log", "--format=%s"])), ("one\n", "first".into()));

    for (what, branch, said) in [
        ("repo", "a..b", "no name"),
        ("repo", "-x", "no name"),
        ("repo", "@{-1}", "no name"),
        ("outside", "x", "no git"),
    ] {
        let error = format!("{:#}", place.collect(what, Which::Worktree(branch)).err().unwrap());
        assert!(error.contains(said), "{what} {branch}: {error}");
    }
    let empty = Place::new();
    empty.git("repo", &["init", "-q"]);
    assert!(format!("{:#}", empty.collect("repo", Which::Worktree("x")).err().unwrap()).contains("no commit"));
}

#[test]
fn a_worktree_runs_no_filter_and_follows_no_link() {
    let place = Place::repository();
    let trap = place.trap();
    place.write("repo/.gitattributes", "* filter=x\n");
    symlink("../outside", place.path("repo/way")).unwrap();
    place.git("repo", &["add", "."]);
    place.git("repo", &["commit", "-qm", "second"]);
    place.git("repo", &["config", "filter.x.smudge", &trap]);
    fs::copy(place.path("trap.sh"), place.path("repo/.git/hooks/post-checkout")).unwrap();
    place.collect("repo", Which::Worktree("x")).unwrap();
    assert!(!place.path("ran").exists());
    assert_eq!(place.unpacked()["way"], "-> ../outside");
}

#[test]
fn what_looks_like_a_credential_is_named_before_it_goes_in() {
    let place = Place::repository();
    // In two pieces: this file has none.
    let token = ["ghp_", "Zk2Wd9Bx4nLr8Tc1Yf5Hm3Vj6Gp0Ss1qRtUv"].concat();
    place.write("repo/settings.py", &format!("TOKEN = '{token}'\n"));
    place.write("repo/image.bin", &format!("\0{token}"));
    let shown = place.collect("repo", Which::Unignored).unwrap().shown;
    let files: Vec<_> = shown.found.values().flatten().cloned().collect();
    assert_eq!((files, shown.unseen), (vec!["settings.py".to_owned()], 0), "{:?}", shown.found);
    let said = shown.warnings().join(" ");
    assert!(said.contains("goes into the bottle: settings.py") && !said.contains(&token), "{said}");
    assert_eq!(place.unpacked()["settings.py"], format!("TOKEN = '{token}'\n"), "it comes whole");
}
