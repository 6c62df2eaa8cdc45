//! The disk fails, or `bottle` dies, while work is saved: that is said, and what was saved before is intact.

use crate::place::{MAKE, Place, check_made, prompt};
use anyhow::{Result, ensure};
use bottle_tests::{
    bottle::{Run, eventually},
    lab::output,
};
use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::Command,
};

/// At how many moments, at least, a save is killed.
const MOMENTS: usize = 6;

/// A file system of its own, mounted for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    fn at(path: PathBuf, size: &str) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let options = format!("size={size},mode=0777");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path))?;
        Ok(Self(path))
    }

    /// Takes all the room that there is.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join(".filler"))?;
        // A page at a time: none is left.
        while let Ok(()) = file.write_all(&[0; 4096]) {}
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join(".filler"))?)
    }

    fn remount(&self, how: &str) -> Result<()> {
        output(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0)).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_or_read_only_disk_is_said_and_what_was_saved_before_is_intact() -> Result<()> {
    let place = Place::new()?;
    let disk = Disk::at(place.path(".claude-bottle/state"), "4m")?;
    let (run, kept) = place.play(true, &[MAKE])?;
    ensure!(run.code == Some(0), "{run:?}");
    let (identity, names) = (kept.identity(), kept.names());

    // Full while the next session is under way.
    let more = "head -c 300000 /dev/urandom > large; touch /tmp/ready; until [ -e /tmp/go ]; do sleep 0.1; done";
    let child = place.home.start(&["resume", &identity, "--yes", "--prompt", &prompt(&[more])], &[])?;
    let inside = |args: &[&str]| {
        let run = place.home.run(&[&["exec", &identity, "--"], args].concat()).ok()?;
        (run.code == Some(0)).then_some(())
    };
    eventually("the agent has made more", || inside(&["test", "-e", "/tmp/ready"]))?;
    disk.fill()?;
    eventually("it is told to end", || inside(&["touch", "/tmp/go"]))?;
    let run = child.finish()?;
    ensure!(run.stderr.contains("warning: ") && run.stderr.contains("could be saved"), "{run:?}");
    ensure!(place.left(&identity)?.is_empty(), "{run:?}");
    assert_eq!(kept.names(), names, "{run:?}");

    // Full from the beginning.
    let run = place.home.run(&["start", "dev", "--yes", "--prompt", "x"])?;
    ensure!(run.code == Some(125) && run.stderr.contains("No space left on device"), "{run:?}");
    disk.clear()?;
    check_made(&place, &identity)?;
    fs::remove_dir_all(place.path(&format!("repo-{identity}")))?;

    // Not to be written to.
    disk.remount("ro")?;
    for args in [&["start", "dev", "--yes", "--prompt", "x"][..], &["resume", &identity, "--yes", "--prompt", "x"]] {
        let run = place.home.run(args)?;
        ensure!(run.code == Some(125) && run.stderr.contains("Read-only file system"), "{args:?}: {run:?}");
    }
    disk.remount("rw")?;
    assert_eq!(kept.names(), names);
    check_made(&place, &identity)
}

#[test]
fn a_save_that_is_killed_at_any_moment_leaves_what_was_saved_before_or_all_that_is_new() -> Result<()> {
    let place = Place::new()?;
    let (run, kept) = place.play(true, &[MAKE])?;
    ensure!(run.code == Some(0), "{run:?}");
    let identity = kept.identity();
    let resume = |fault: &str, lines: &[&str]| -> Result<Run> {
        let mut command = place.home.command(&["resume", &identity, "--yes", "--prompt", &prompt(lines)]);
        Ok(command.env("CLAUDE_BOTTLE_FAULT", fault).output()?.into())
    };
    // Which moments a save has: those of a resumed session between its end and that of its bottle.
    let record = place.path("points");
    let run = resume(&format!("record@{}", record.display()), &["echo 1 > number"])?;
    ensure!(run.code == Some(0), "{run:?}");
    let points = fs::read_to_string(record)?;
    let save = points.lines().skip_while(|point| *point != "save:1").take_while(|point| !point.starts_with("close"));
    let moments: Vec<&str> = save.filter(|point| point.starts_with("write:")).collect();
    ensure!(moments.len() >= MOMENTS, "{points}");
    for moment in moments.iter().step_by(moments.len() / MOMENTS) {
        let run = resume(&format!("kill@{moment}"), &["echo 2 > number"])?;
        ensure!(run.code.is_none() && run.stderr.contains("save the agent's"), "{moment}: {run:?}");
        let cleanup = place.home.run(&["cleanup", "--yes"])?;
        ensure!(cleanup.code == Some(0) && place.left(&identity)?.is_empty(), "{moment}: {cleanup:?}");
        let diff = place.home.run(&["diff", &identity])?;
        let (all, number) = (["second", "+three", "A a file", "D going", "A number"], ["+1", "+2"]);
        ensure!(
            diff.code == Some(0)
                && all.iter().all(|what| diff.stdout.contains(what))
                && number.iter().any(|what| diff.stdout.lines().any(|line| line == *what)),
            "{moment}: {cleanup:?} {diff:?}"
        );
    }
    Ok(())
}
