//! Files that are no plugins, or bad ones. Each is one readable line, runs no code unless asked to, and ends nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{Home, Run, eventually, report},
    forge::{Forge, MAGIC, ROOT_MODULE, at, describe, install, mark, rename, replace},
    lab::stage,
};
use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// Somebody who is neither root nor, as these tests run as root, the user.
const NOBODY: u32 = 65534;

/// What tells that a file is bad.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Its name: no backend can be asked for by it.
    Name,
    /// The file itself: none of its code ever runs.
    File,
    /// Only loading it.
    Loading,
}
use Told::{File, Loading, Name};

type Make = fn(&Forge, &Path) -> Result<()>;
/// The end of a plugin's file name, what tells, the text, and how it is made.
type Kind = (&'static str, Told, &'static str, Make);

const NO_LIBRARY: &str = "it is no shared library";
const CUT: &str = "it is cut short: it should have ";
const ANOTHER_PROCESSOR: &str = "it is built for another processor";
const NO_DESCRIPTOR: &str = "it is no bottle backend: it has no plugin descriptor";
const UNKNOWN_FORMAT: &str = "its plugin descriptor has a format that this bottle does not know";
const NO_NAME: &str = "the name in its plugin descriptor is no backend's name";
const NO_FILE_NAME: &str = "a backend's name is made of a-z, 0-9 and `_`, and its file's name is not";
const BY_EVERYBODY: &str = "may be written by everybody (`chmod o-w` it)";
const STRANGER: &str = "belongs to user 65534, neither root nor you";
const ENDS: &str = "it ends the process that loads it ";

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    ("text", File, NO_LIBRARY, |_, file| install(file, b"not a library")),
    ("empty", File, NO_LIBRARY, |_, file| install(file, b"")),
    ("archive", File, NO_LIBRARY, |_, file| install(file, b"!<arch>\nbottle.o/       0           0     0     644     0         `\n")),
    ("header_only", File, CUT, |f, file| changed(f, file, |b| cut(b, 64))),
    ("half", File, CUT, |f, file| changed(f, file, |b| cut(b, b.len() / 2))),
    ("tail_gone", File, CUT, |f, file| changed(f, file, |b| cut(b, b.len() - 8))),
    ("random_body", File, NO_DESCRIPTOR, |f, file| changed(f, file, |b| noise(b))),
    ("elf32", File, ANOTHER_PROCESSOR, |f, file| changed(f, file, |b| poke(b, 4, 1))),
    ("big_endian", File, ANOTHER_PROCESSOR, |f, file| changed(f, file, |b| poke(b, 5, 2))),
    ("other_cpu", File, ANOTHER_PROCESSOR, |f, file| changed(f, file, |b| poke(b, 18, 0xf3))),
    ("no_descriptor", File, NO_DESCRIPTOR, |f, file| changed(f, file, |b| replace(b, b".bottle_plugin", b".bottle_nothin"))),
    ("unknown_magic", File, UNKNOWN_FORMAT, |f, file| changed(f, file, |b| replace(b, MAGIC, b"BOTLPLG\x09"))),
    ("short_descriptor", File, UNKNOWN_FORMAT, |f, file| changed(f, file, |b| describe(b, at::SIZE, &[9]))),
    ("newer_api", File, "it is built for bottle-api 9.0, this bottle speaks 1.0", |f, file| changed(f, file, |b| describe(b, at::API_MAJOR, &[9]))),
    ("newer_abi_stable", File, "it uses abi_stable 0.12, this bottle 0.11", |f, file| changed(f, file, |b| describe(b, at::ABI_STABLE_MINOR, &[12]))),
    ("other_target", File, "it is built for sparc-", |f, file| changed(f, file, |b| describe(b, at::TARGET, b"sparc-"))),
    ("panic_abort", File, "it is built with panic=abort", |f, file| changed(f, file, |b| describe(b, at::FLAGS, &[0]))),
    ("other_name", File, "it calls itself `else`, its file name says otherwise", |f, file| changed(f, file, |b| rename(b, b"else"))),
    ("control_name", File, NO_NAME, |f, file| changed(f, file, |b| rename(b, b"control\x1b[2J_name"))),
    ("binary_name", File, NO_NAME, |f, file| changed(f, file, |b| rename(b, b"\xff\xfe"))),
    ("World-Wide", Name, NO_FILE_NAME, good),
    ("not_utf8", Name, NO_FILE_NAME, |f, file| good(f, &file.with_file_name(OsStr::from_bytes(b"libbottle_backend_\xff.so")))),
    ("by_everybody", File, BY_EVERYBODY, |f, file| good(f, file).and_then(|()| mode(file, 0o757))),
    ("by_a_group", File, "the file may be written by group 65534 (`chmod g-w` it)", |f, file| { good(f, file)?; chown(file, None, Some(NOBODY))?; mode(file, 0o775) }),
    ("by_a_stranger", File, STRANGER, |f, file| { good(f, file)?; Ok(chown(file, Some(NOBODY), None)?) }),
    ("dir_by_everybody", File, BY_EVERYBODY, |f, file| good(f, file).and_then(|()| mode(dir(file), 0o777))),
    ("dir_by_a_group", File, "may be written by group 65534", |f, file| { good(f, file)?; chown(dir(file), None, Some(NOBODY))?; mode(dir(file), 0o775) }),
    ("dir_by_a_stranger", File, STRANGER, |f, file| { good(f, file)?; Ok(chown(dir(file), Some(NOBODY), None)?) }),
    ("link_to_open_dir", File, BY_EVERYBODY, |f, file| elsewhere(f, file, |_, place| mode(place, 0o777))),
    ("link_in_open_dir", File, BY_EVERYBODY, |f, file| elsewhere(f, file, |from, _| mode(from, 0o777))),
    ("link_to_passwd", File, NO_LIBRARY, |_, file| Ok(symlink("/etc/passwd", file)?)),
    ("dangling_link", File, "No such file or directory", |_, file| Ok(symlink("nowhere", file)?)),
    ("endless_link", File, "Too many levels of symbolic links", |_, file| Ok(symlink(file, file)?)),
    ("fifo", File, "it is not a regular file", |_, file| { ensure!(Command::new("mkfifo").arg(file).status()?.success()); mode(file, 0o755) }),
    ("directory", File, "it is not a regular file", |_, file| Ok(fs::create_dir(file)?)),
    ("device", File, "it is not a regular file", |_, file| Ok(symlink("/dev/zero", file)?)),
    ("oversize", File, "it has more than 512 MiB, which no plugin has", |f, file| { good(f, file)?; Ok(fs::File::options().write(true).open(file)?.set_len(600 << 20)?) }),
    ("unlisted", File, "B3SUMS beside it does not list it", |f, file| { good(f, file)?; Ok(fs::write(file.with_file_name("B3SUMS"), "")?) }),
    ("not_as_listed", File, "it is not the file that B3SUMS beside it was written for", |f, file| { good(f, file)?; Ok(fs::write(file.with_file_name("B3SUMS"), format!("{:064}  {}\n", 0, file.file_name().unwrap().to_str().unwrap()))?) }),
    ("library_by_path", File, "it is linked with the file `./bgcc_s.so.1`", |f, file| changed(f, file, |b| replace(b, b"libgcc_s.so.1", b"./bgcc_s.so.1"))),
    ("own_library_path", File, "it looks for libraries in `.`", |f, file| install(file, &f.astray(file)?)),
    ("exits", Loading, "it ends the process that loads it (exit status: 0)", |f, file| install(file, &f.witness(file, "exit")?)),
    ("crashes", Loading, "(signal: 11 (SIGSEGV))", |f, file| install(file, &f.witness(file, "crash")?)),
    ("aborts", Loading, "(signal: 6 (SIGABRT))", |f, file| install(file, &f.witness(file, "abort")?)),
    ("hangs", Loading, "it was still loading after 10 s", |f, file| install(file, &f.witness(file, "hang")?)),
    ("leaves", Loading, ENDS, |f, file| install(file, &f.witness(file, "leave")?)),
    ("library_gone", Loading, "libgone_.so.1: cannot open shared object file", |f, file| changed(f, file, |b| replace(b, b"libgcc_s.so.1", b"libgone_.so.1"))),
    ("symbol_gone", Loading, "undefined symbol: abqrt", |f, file| changed(f, file, |b| replace(b, b"\0abort\0", b"\0abqrt\0"))),
    ("no_root_module", Loading, "it is no bottle backend: ", |f, file| changed(f, file, |b| replace(b, ROOT_MODULE, b"_2as"))),
    ("other_abi_header", Loading, "built with abi_stable 0.10, this bottle with 0.11", |f, file| changed(f, file, |b| replace(b, b"Rust     \0\0\0\0\x0b", b"Rust     \0\0\0\0\x0a"))),
    ("foreign_header", Loading, "its ABI header is not abi_stable's", |f, file| changed(f, file, |b| replace(b, b"abi stable library", b"any other library "))),
    ("two_names", Loading, "it calls itself `second` once loaded, and `two_names` in its descriptor", |f, file| install(file, &f.renamed(file)?)),
];

#[test]
fn a_bad_plugin_is_one_readable_line_and_neither_runs_unasked_nor_ends_the_host() -> Result<()> {
    let (home, forge) = (Home::bare()?, Forge::new()?);
    let failed: Vec<String> = thread::scope(|scope| {
        let kinds: Vec<_> = KINDS.iter().map(|kind| scope.spawn(|| check(&home, &forge, kind))).collect();
        let results = KINDS.iter().zip(kinds).map(|(kind, thread)| (kind.0, thread.join().expect("no panic")));
        results.filter_map(|(name, result)| Some(format!("{name}: {:#}", result.err()?))).collect()
    });
    ensure!(failed.is_empty(), "{} of {} kinds:\n{}", failed.len(), KINDS.len(), failed.join("\n"));
    let by = |told| KINDS.iter().filter(|kind| kind.1 == told).count();
    let (name, file, loading) = (by(Name), by(File), by(Loading));
    report(format!(
        "{} kinds of bad plugin file: {name} told by name, {file} by file, {loading} by loading",
        KINDS.len()
    ));
    ensure!(KINDS.len() >= 25);
    Ok(())
}

fn check(home: &Home, forge: &Forge, (name, told, text, make): &Kind) -> Result<()> {
    let plugins = home.path().join("bad").join(name);
    fs::create_dir_all(&plugins)?;
    let file = plugins.join(format!("libbottle_backend_{name}.so"));
    make(forge, &file)?;
    let run = |args: &[&str]| -> Result<Run> {
        Ok(home.command(args).env("CLAUDE_BOTTLE_PLUGIN_PATH", &plugins).output()?.into())
    };
    let expect = |run: &Run, code, status: &str| {
        let own = |line: &&str| line.contains(&*plugins.to_string_lossy());
        let lines: Vec<&str> = run.stdout.lines().filter(own).collect();
        ensure!(run.code == Some(code) && run.stderr.is_empty(), "{run:?}");
        let status =
            if status == "ok" { lines.iter().any(|l| l.ends_with("  ok")) } else { run.stdout.contains(status) };
        ensure!(lines.len() == 1 && status && lines[0].contains(text) == (code == 1), "{run:?}");
        ensure!(!lines[0].contains(char::is_control), "{lines:?}");
        Ok(())
    };
    let by_loading = *told == Loading;
    expect(&run(&["backends"])?, i32::from(!by_loading), if by_loading { "ok" } else { "refused: " })?;
    ensure!(!mark(&file).exists(), "its code ran");
    expect(&run(&["backends", "--probe"])?, 1, if by_loading { "broken: " } else { "refused: " })?;
    if *told != Name {
        let start = run(&["start", "dev", "--backend", name, "--yes", "--prompt", "x"])?;
        ensure!(start.code == Some(125) && start.stderr.contains(text) && start.stdout.is_empty(), "{start:?}");
    }
    // A library that the linker refuses has not run either.
    let linked = !["library_gone", "symbol_gone", "two_names"].contains(name);
    ensure!(mark(&file).exists() == (by_loading && linked), "its code ran, or did not");
    if *name == "leaves" {
        let pid = fs::read_to_string(mark(&file))?;
        eventually("what it left to end", || {
            fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty().then_some(())
        })?;
    }
    Ok(())
}

/// A witness that nothing is wrong with until it is loaded.
fn good(forge: &Forge, file: &Path) -> Result<()> {
    install(file, &forge.witness(file, "none")?)
}

fn changed(forge: &Forge, file: &Path, change: fn(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let mut bytes = forge.witness(file, "none")?;
    change(&mut bytes)?;
    install(file, &bytes)
}

/// A link to a good file in a directory of its own.
fn elsewhere(forge: &Forge, file: &Path, spoil: fn(&Path, &Path) -> Result<()>) -> Result<()> {
    let place: PathBuf = dir(file).with_extension("elsewhere");
    fs::create_dir(&place)?;
    let real = place.join(file.file_name().context("a file has a name")?);
    install(&real, &forge.witness(file, "none")?)?;
    symlink(&real, file)?;
    spoil(dir(file), &place)
}

fn dir(file: &Path) -> &Path {
    file.parent().expect("a file has a directory")
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn cut(bytes: &mut Vec<u8>, length: usize) -> Result<()> {
    bytes.truncate(length);
    Ok(())
}

fn poke(bytes: &mut [u8], at: usize, value: u8) -> Result<()> {
    bytes[at] = value;
    Ok(())
}

/// Noise behind the header, the same every time (xorshift).
fn noise(bytes: &mut [u8]) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in &mut bytes[64..] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    Ok(())
}

#[test]
fn a_plugin_that_ends_its_process_does_not_hide_the_others() -> Result<()> {
    let (home, forge, plugins) = (Home::bare()?, Forge::new()?, tempfile::tempdir()?);
    for (name, deed) in [("a", "exit"), ("z", "crash")] {
        let file = plugins.path().join(format!("libbottle_backend_{name}.so"));
        install(&file, &forge.witness(&file, deed)?)?;
    }
    for args in [&["list", "active"][..], &["doctor"]] {
        let run: Run = home
            .command(args)
            .env("CLAUDE_BOTTLE_PLUGIN_PATH", plugins.path())
            .env("DOCKER_HOST", "unix:///nowhere")
            .output()?
            .into();
        let said = run.stdout + &run.stderr;
        for (name, found) in [("a", "(exit status: 0)"), ("z", "(signal: 11 (SIGSEGV))")] {
            let file = format!("libbottle_backend_{name}.so: {ENDS}{found}");
            assert!(said.contains(&file), "{args:?} does not tell of {name}: {said}");
        }
        assert!(said.contains("docker"), "{args:?} does not tell of the others: {said}");
    }
    Ok(())
}

#[test]
fn what_only_the_user_can_write_loads_though_a_group_of_theirs_may_write_it() -> Result<()> {
    let (home, plugins) = (Home::bare()?, tempfile::tempdir()?);
    let file = plugins.path().join("libbottle_backend_second.so");
    install(&file, &fs::read(stage().with_file_name("second/libbottle_backend_second.so"))?)?;
    mode(&file, 0o775)?;
    mode(plugins.path(), 0o775)?;
    let mut command = home.command(&["backends", "--probe", "--json"]);
    let listed: Run = command.env("CLAUDE_BOTTLE_PLUGIN_PATH", plugins.path()).output()?.into();
    let json: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    assert_eq!((listed.code, &json["version"]), (Some(0), &1.into()), "{listed:?}");
    let row = json["backends"].as_array().into_iter().flatten().find(|row| row["backend"] == "second");
    let row = row.context("the second backend")?;
    assert_eq!((&row["status"], &row["ok"]), (&"loads, isolation process".into(), &true.into()), "{row}");
    assert!(row["load_micros"].as_u64().is_some_and(|micros| micros > 0), "{row}");
    Ok(())
}

#[test]
fn a_kernel_that_runs_no_code_from_memory_gets_a_readable_refusal() -> Result<()> {
    let home = Home::bare()?;
    let script =
        format!("echo 2 > /proc/sys/vm/memfd_noexec && exec {} backends", stage().join("bin/bottle").display());
    let mut command = Command::new("unshare");
    let run: Run = command
        .args(["--pid", "--fork", "--mount-proc", "sh", "-c", &script])
        .env("HOME", home.path())
        .output()?
        .into();
    assert!(
        run.code == Some(1) && run.stdout.contains("refused: this system forbids running code from memory"),
        "{run:?}"
    );
    Ok(())
}
