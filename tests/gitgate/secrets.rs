//! Where the key and the token are: in memory, and nowhere that anybody could look. And how much memory a push takes.

use crate::{
    forge::TOKEN,
    work::{Work, noise},
    world::{PASSPHRASE, World, hold, usual},
};
use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::bottle::eventually;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Of a push of 100 MB of noise; what git maps of a pack is counted apart.
const LARGEST_OWN: u64 = 96 << 10;
const LARGEST: u64 = 192 << 10;
const NOISE: usize = 100 << 20;

#[test]
fn key_and_token_are_in_no_file_no_environment_and_on_no_command_line() -> Result<()> {
    hold(usual, |world| {
        let key = world.sshd.key.lines().nth(2).context("a line of the key")?.to_owned();
        let basic = BASE64_STANDARD.encode(format!("x-access-token:{TOKEN}"));
        let secrets = [key, TOKEN.to_owned(), basic, PASSPHRASE.to_owned()];
        let works = ["app", "web"].map(|remote| (remote, Work::clone(world, remote, &format!("work-{remote}"), &[])));
        let daemon = world.sidecar.daemon_pid("git-gate")?;
        let pushing = AtomicBool::new(true);
        let mut looked = 0;
        let seen = thread::scope(|scope| {
            let pushes = scope.spawn(|| {
                // Told when it ends, however it does.
                struct Ends<'a>(&'a AtomicBool);
                impl Drop for Ends<'_> {
                    fn drop(&mut self) {
                        self.0.store(false, Ordering::SeqCst);
                    }
                }
                let _ends = Ends(&pushing);
                for (remote, work) in &works {
                    let work = work.as_ref().unwrap();
                    work.write("noise", &noise(4 << 20));
                    work.commit(remote);
                    work.git(&["push", "-q", "origin", "main"]);
                }
            });
            let mut seen = vec![];
            while pushing.load(Ordering::SeqCst) {
                for pid in descendants(daemon).into_iter().chain([daemon]) {
                    for what in ["environ", "cmdline"] {
                        // It may have ended meanwhile.
                        let Ok(bytes) = fs::read(format!("/proc/{pid}/{what}")) else { continue };
                        looked += 1;
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        seen.extend(
                            secrets.iter().filter(|secret| text.contains(*secret)).map(|_| format!("{what}: {text}")),
                        );
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
            pushes.join().unwrap();
            seen
        });
        ensure!(seen.is_empty(), "{seen:#?}");
        ensure!(looked > 100, "only {looked} looks");
        let mut files = 0;
        each_file(&world.path("mirrors"), &mut |path| {
            files += 1;
            let bytes = fs::read(path)?;
            for secret in &secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                ensure!(!found, "{} holds a secret", path.display());
            }
            Ok(())
        })?;
        ensure!(files > 4, "only {files} files");
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_killed_takes_all_that_it_started_with_it_and_comes_back() -> Result<()> {
    hold(usual, |world| {
        let work = Work::clone(world, "app", "work", &[])?;
        let daemon = world.sidecar.daemon_pid("git-gate")?;
        work.write("noise", &noise(32 << 20));
        work.commit("noise");
        // In the middle of a push, when what git has started has started more.
        let started = thread::scope(|scope| -> Result<_> {
            let push = scope.spawn(|| work.tries(&["push", "origin", "main"]));
            let started = eventually("ssh runs", || {
                let all = descendants(daemon);
                all.iter().any(|pid| name(*pid).as_deref() == Some("ssh")).then_some(all)
            })?;
            kill_process(Pid::from_raw(i32::try_from(daemon)?).context("its number")?, Signal::KILL)?;
            ensure!(!push.join().unwrap().ok, "it was pushed all the same");
            Ok(started)
        })?;
        ensure!(started.len() > 3, "the key's agent, git, a shell, ssh: {started:?}");
        eventually("all of them are gone", || started.iter().all(|pid| !is_alive(*pid)).then_some(()))?;
        let back = || world.sidecar.daemon_pid("git-gate").ok().filter(|pid| *pid != daemon);
        eventually("it is back", back)?;
        eventually("it serves", || work.tries(&["ls-remote", "origin"]).ok.then_some(()))?;
        work.commit("own");
        work.git(&["push", "-q", "origin", "main"]);
        Ok(())
    })
}

fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_hundred_megabytes_are_pushed_within_bounded_memory() -> Result<()> {
    for remote in ["app", "web"] {
        hold(usual, |world| large(world, remote))?;
    }
    Ok(())
}

fn large(world: &World, remote: &str) -> Result<()> {
    let work = Work::clone(world, remote, "work", &[])?;
    work.write("noise", &noise(NOISE));
    let head = work.commit("noise");
    let daemon = world.sidecar.daemon_pid("git-gate")?;
    let pushing = AtomicBool::new(true);
    let peaks = thread::scope(|scope| {
        let push = scope.spawn(|| {
            let said = work.tries(&["push", "-q", "origin", "main"]);
            pushing.store(false, Ordering::SeqCst);
            said
        });
        // By name: what all its memory was at most, and what of it was no mapped file.
        let mut peaks: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        while pushing.load(Ordering::SeqCst) {
            for pid in descendants(daemon).into_iter().chain([daemon]) {
                if let Some((name, whole, own)) = memory(pid) {
                    let peak = peaks.entry(name).or_default();
                    *peak = (peak.0.max(whole), peak.1.max(own));
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
        let said = push.join().unwrap();
        assert!(said.ok, "{}", said.text);
        peaks
    });
    ensure!(world.refs(&format!("{remote}.git")).contains(&head), "it did not arrive");
    println!("a push of 100 MB over {remote}: kB at most, and of these not of mapped files: {peaks:?}");
    for (name, (whole, own)) in peaks {
        ensure!(whole < LARGEST && own < LARGEST_OWN, "{name} had {whole} kB, {own} kB its own");
    }
    Ok(())
}

/// Its name, the most that it ever had, and what it has beside mapped files, in kB.
fn memory(pid: u32) -> Option<(String, u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).map(str::trim);
    let kb = |name: &str| field(name)?.split(' ').next()?.parse().ok();
    Some((field("Name")?.to_owned(), kb("VmHWM")?, kb("RssAnon")?))
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![];
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

fn each_file(dir: &Path, look: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let (kind, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        match kind? {
            kind if kind.is_dir() => each_file(&path, look)?,
            kind if kind.is_file() => look(&path)?,
            _ => {}
        }
    }
    Ok(())
}
