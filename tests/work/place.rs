//! A home beside a repository, an agent that works in a copy of it, and what is kept of that.

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, Run, identity_in},
    lab::{Lab, output},
    standin::Standin,
    wire::Authority,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A home beside a repository, `~/repo`.
pub(crate) struct Place {
    pub(crate) lab: &'static Lab,
    pub(crate) home: Home,
    pub(crate) standin: Standin,
}

impl Place {
    pub(crate) fn new() -> Result<Self> {
        let (lab, authority) = (Lab::get(), Authority::new()?);
        let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
        let place = Self { lab, home: Home::new(lab, &authority, &standin)?, standin };
        place.home.write("repo/tracked", "one\n")?;
        place.home.write("repo/going", "soon gone\n")?;
        place.git("repo", &["init", "-q", "-b", "main"])?;
        place.git("repo", &["add", "."])?;
        place.git("repo", &["commit", "-qm", "first"])?;
        // Dirty from the beginning: that is nothing that an agent has made.
        place.home.write("repo/mine", "untracked before\n")?;
        Ok(place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn git(&self, dir: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        // The home may be another user's than the test's.
        command.args(["-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "safe.directory=*"]);
        command.args(args).current_dir(self.path(dir));
        Ok(output(command.env("HOME", self.home.path()))?.trim().to_owned())
    }

    /// `start` with `--cwd` in the repository, the agent playing these lines.
    pub(crate) fn command(&self, cwd: bool, lines: &[&str]) -> Command {
        let mut command = self.home.command(&["start", "dev", "--yes", "--prompt", &prompt(lines)]);
        if cwd {
            command.arg("--cwd").current_dir(self.path("repo"));
        }
        command
    }

    /// What is there of a bottle outside of its state directory.
    pub(crate) fn left(&self, identity: &str) -> Result<Vec<String>> {
        self.home.target().left(self.lab, identity)
    }

    pub(crate) fn play(&self, cwd: bool, lines: &[&str]) -> Result<(Run, Kept)> {
        let run: Run = self.command(cwd, lines).output()?.into();
        let identity = identity_in(&run.stderr).with_context(|| format!("{run:?}"))?;
        let kept = Kept { dir: self.home.state().join(identity) };
        Ok((run, kept))
    }
}

/// Commands of the agent's shell, and what else the stand-in plays.
pub(crate) fn prompt(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| if line.starts_with("@@") { format!("{line}\n") } else { format!("@@bash {line}\n") })
        .collect()
}

/// What is left of a bottle.
pub(crate) struct Kept {
    pub(crate) dir: PathBuf,
}

impl Kept {
    pub(crate) fn identity(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join("work").join(name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut found = vec![];
        for dir in ["work", "transcript"] {
            let entries = fs::read_dir(self.dir.join(dir)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        found.sort();
        found
    }

    /// Everything is the user's alone.
    pub(crate) fn check_modes(&self) -> Result<()> {
        for (path, mode) in [("work", 0o700), ("transcript", 0o700)] {
            let dir = self.dir.join(path);
            ensure!(fs::metadata(&dir)?.permissions().mode() & 0o777 == mode, "{}", dir.display());
            for file in fs::read_dir(&dir)? {
                let file = file?;
                ensure!(file.metadata()?.permissions().mode() & 0o777 == 0o600, "{}", file.path().display());
            }
        }
        ensure!(self.dir.join(".preserve").exists(), "no .preserve");
        Ok(())
    }

    /// The entries of an archive, by plain tar.
    pub(crate) fn listed(&self, archive: &str) -> Result<String> {
        output(Command::new("tar").arg("-tf").arg(self.file(archive)))
    }
}

/// Commits on two branches, changes, and what git does not track.
pub(crate) const MAKE: &str = "git config user.name A; git config user.email a@example.com; echo two > tracked; git commit -qam second; \
    git checkout -qb side; echo three > tracked; git rm -q going; echo new > 'a file'; ln -s /etc/passwd link; chmod +x tracked; mkdir -p d/e; echo x > d/e/f";

/// Brings all of it home, whatever the gate says, and returns where the changes went.
pub(crate) fn bring_home(place: &Place, identity: &str, repo: &str) -> Result<PathBuf> {
    let there = place.path(&format!("{repo}-{identity}"));
    output(Command::new("cp").arg("-a").arg(place.path(repo)).arg(&there))?;
    let accept = ["link", "git", "name", "program"].map(|kind| ["--accept", kind]).concat();
    let into = there.display().to_string();
    let run = place.home.run(&[&["apply", identity, "--yes", "--into", &into][..], &accept].concat())?;
    ensure!(run.code == Some(0), "{run:?}");
    Ok(there)
}

/// All that [`MAKE`] makes can be brought home.
pub(crate) fn check_made(place: &Place, identity: &str) -> Result<()> {
    let diff = place.home.run(&["diff", identity])?;
    ensure!(
        diff.code == Some(0)
            && ["second", "+three", "A a file", "D going"].iter().all(|what| diff.stdout.contains(what)),
        "{diff:?}"
    );
    let there = bring_home(place, identity, "repo")?;
    let bottle = format!("refs/bottle/{identity}");
    let dir = there.file_name().unwrap_or_default().to_string_lossy().into_owned();
    assert_eq!(place.git(&dir, &["log", "--format=%s", &format!("{bottle}/heads/main")])?, "second\nfirst");
    assert_eq!(place.git(&dir, &["show", &format!("{bottle}/heads/main:tracked")])?, "two");
    let read = |name: &str| fs::read_to_string(there.join(name)).with_context(|| name.to_owned());
    assert_eq!((read("tracked")?, read("a file")?, read("d/e/f")?), ("three\n".into(), "new\n".into(), "x\n".into()));
    assert_eq!(fs::read_link(there.join("link"))?, Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(there.join("tracked"))?.permissions().mode() & 0o111, 0o111);
    assert!(!there.join("going").exists() && there.join("mine").exists());
    assert_eq!(place.git(&dir, &["symbolic-ref", "HEAD"])?, "refs/heads/main", "nothing is checked out");
    assert_eq!(place.git(&dir, &["log", "--format=%s", "main"])?, "first");
    Ok(())
}
