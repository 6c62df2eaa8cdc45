//! What is kept of bottles that have ended: listed, and removed when somebody says so.

use super::{Metadata, PRESERVE, WORK, find, metadata, remove_dir, survey};
use crate::{
    paths::Paths,
    ui::{self, hinted},
};
use anyhow::Result;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One bottle's, as `state ls` shows it.
#[derive(Debug, Serialize)]
pub struct Kept {
    /// The bottle.
    pub identity: String,
    /// Its agent.
    pub agent: String,
    /// The backend it ran on.
    pub backend: String,
    /// When it was started, RFC 3339.
    pub started: String,
    /// The directory that it was started in.
    pub directory: String,
    /// What is there: `log`, `conversation`, `work`.
    pub holds: Vec<&'static str>,
    /// Bytes on disk.
    pub bytes: u64,
    /// `kept`; `running`; `abandoned`: for `bottle cleanup`; `foreign`: another machine's or user's.
    pub state: &'static str,
}

/// All that is there, by identity.
pub fn list(paths: &Paths) -> Result<Vec<Kept>> {
    let found = survey(paths, false)?;
    let abandoned = found.abandoned.iter().map(|bottle| {
        let is_done = bottle.ledger.is_none();
        (&bottle.identity, if is_done { "kept" } else { "abandoned" })
    });
    let all = abandoned
        .chain(found.kept.iter().map(|identity| (identity, "kept")))
        .chain(found.live.iter().map(|identity| (identity, "running")))
        .chain(found.foreign.iter().map(|identity| (identity, "foreign")));
    let mut all: Vec<Kept> = all.filter_map(|(identity, state)| look(paths, identity, state)).collect();
    all.sort_by(|a, b| a.identity.cmp(&b.identity));
    Ok(all)
}

fn look(paths: &Paths, identity: &str, state: &'static str) -> Option<Kept> {
    let dir = find(paths, identity)?;
    // What cannot be read is shown without it.
    let Metadata { agent, backend, started, directory, .. } = metadata(paths, identity).unwrap_or_default();
    let holds = [("egress.jsonl", "log"), ("transcript", "conversation"), (WORK, "work")];
    Some(Kept {
        identity: identity.to_owned(),
        agent,
        backend,
        started,
        directory: paths.short(&directory),
        holds: holds.into_iter().filter(|(name, _)| dir.join(name).exists()).map(|(_, what)| what).collect(),
        bytes: size_of(&dir),
        state,
    })
}

/// All files of ours below a directory.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Kept states whose locks are held: what is in them can go.
pub struct Removable(Vec<super::Abandoned>);

impl Removable {
    /// These, or all that are kept. An error names the first that cannot go.
    pub fn choose(paths: &Paths, identities: &[String]) -> Result<Self> {
        let found = super::survey::all(paths)?;
        for identity in identities {
            let why = match identity {
                _ if find(paths, identity).is_none() => return Err(unknown(paths, identity)),
                _ if found.live.contains(identity) => "it runs, or somebody uses it just now",
                _ if found.foreign.contains(identity) => "it is another machine's or user's",
                _ => continue,
            };
            return Err(hinted(
                format!("the state of {identity} stays: {why}"),
                "`bottle state ls` shows what is kept.",
            ));
        }
        let is_chosen = |identity: &String| identities.is_empty() || identities.contains(identity);
        let mut chosen: Vec<_> = found.abandoned.into_iter().filter(|bottle| is_chosen(&bottle.identity)).collect();
        if identities.is_empty() {
            chosen.retain(|bottle| bottle.ledger.is_none());
        }
        if let Some(left) = chosen.iter().find(|bottle| !bottle.entries().is_empty()) {
            return Err(hinted(
                format!("the state of {} stays: things of its bottle are left", left.identity),
                "Save its work and take them away: `bottle cleanup`.",
            ));
        }
        Ok(Self(chosen))
    }

    /// Their identities, and whether work or a conversation goes with them.
    pub fn rows(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().map(|bottle| (bottle.identity.as_str(), bottle.is_preserved()))
    }

    /// Does one of them go on from an image of its own?
    pub fn has_image(&self) -> bool {
        self.0.iter().any(|bottle| bottle.metadata.image.is_some())
    }

    /// Removes them with all that is in them.
    pub fn remove(self) -> Result<()> {
        self.0.iter().try_for_each(|bottle| remove_dir(&bottle.dir))
    }
}

/// One that is kept, held: nobody resumes or removes it meanwhile.
pub fn hold(paths: &Paths, identity: &str) -> Result<super::Abandoned> {
    let chosen = Removable::choose(paths, &[identity.to_owned()])?;
    chosen.0.into_iter().next().ok_or_else(|| unknown(paths, identity))
}

/// There is no state of that bottle: where was looked, and what is there.
pub fn unknown(paths: &Paths, identity: &str) -> anyhow::Error {
    let entries = fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_kept = |name: &String| find(paths, name).is_some_and(|dir: PathBuf| dir.join(PRESERVE).exists());
    let mut known: Vec<String> = names.filter(is_kept).collect();
    known.sort();
    let hint = match known.is_empty() {
        true => "Nothing is kept there: a session that ends well and leaves no work leaves nothing.".to_owned(),
        false => format!("These are kept: {}.", known.join(", ")),
    };
    let (identity, place) = (ui::printable(identity), paths.short(&paths.state()));
    hinted(format!("there is no state of a bottle `{identity}` in {place}"), hint)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Holder, State, files},
        *,
    };

    fn place() -> (tempfile::TempDir, Paths) {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        (home, paths)
    }

    /// A state whose owner is gone; `kept`: it holds work.
    fn make(paths: &Paths, identity: &str, kept: bool) {
        let holder = Holder { started: 0, ..Holder::own() };
        let metadata = Metadata { identity: identity.into(), agent: "a".into(), holder, ..Metadata::default() };
        let state = State::create(paths, &metadata).unwrap();
        fs::write(state.egress_log(), "x").unwrap();
        if kept {
            fs::create_dir(state.dir().join(WORK)).unwrap();
            fs::write(state.dir().join(WORK).join("changes.tar"), [0; 1000]).unwrap();
            files::write_atomically(&state.dir().join(PRESERVE), b"").unwrap();
        }
        state.keep().unwrap();
    }

    #[test]
    fn what_is_kept_is_listed_taken_up_by_one_at_a_time_and_removed_by_name() {
        let (_home, paths) = place();
        make(&paths, "a-11111", true);
        make(&paths, "a-22222", false);
        let found = list(&paths).unwrap();
        assert_eq!(
            found.iter().map(|kept| kept.holds.as_slice()).collect::<Vec<_>>(),
            [&["log", "work"][..], &["log"]]
        );
        assert!(found[0].bytes > 1000 && found[0].state == "kept" && found[1].state == "kept", "{found:?}");

        let reopen = |identity: &str| {
            let holder = Holder { started: 0, ..Holder::own() };
            let now = Metadata { identity: identity.into(), holder, ..Metadata::default() };
            State::reopen(&paths, &now)
        };
        let said = |identity: &str| format!("{:#}", reopen(identity).map(drop).unwrap_err());
        assert!(said("a-22222").contains("nothing to resume"));
        assert!(said("a-33333").contains("no state of a bottle `a-33333` in ~/.claude-bottle/state"));
        let state = reopen("a-11111").unwrap();
        assert!(said("a-11111").contains("is in use"));
        assert!(Removable::choose(&paths, &["a-11111".into()]).is_err());
        assert_eq!(list(&paths).unwrap()[0].state, "running");
        // Nothing of a resume that comes to nothing stays behind, and the work does.
        state.keep().unwrap();
        let left = || fs::read_dir(paths.state().join("a-11111")).unwrap().count();
        assert_eq!(left(), 5, "lock, metadata.json, .preserve, work, log");

        assert!(Removable::choose(&paths, &["a-1".into()]).is_err());
        let chosen = Removable::choose(&paths, &["a-11111".into()]).unwrap();
        assert_eq!(chosen.rows().collect::<Vec<_>>(), [("a-11111", true)]);
        chosen.remove().unwrap();
        let all = Removable::choose(&paths, &[]).unwrap();
        assert_eq!(all.rows().collect::<Vec<_>>(), [("a-22222", false)]);
        all.remove().unwrap();
        assert!(list(&paths).unwrap().is_empty());
    }

    #[test]
    fn a_state_with_things_of_its_bottle_left_is_for_cleanup_first() {
        let (_home, paths) = place();
        let holder = Holder { started: 0, ..Holder::own() };
        let metadata = Metadata { identity: "a-11111".into(), holder, ..Metadata::default() };
        let state = State::create(&paths, &metadata).unwrap();
        state.ledger.intent(bottle_api::LedgerEntry::default()).unwrap();
        drop(state);
        for error in [
            State::reopen(&paths, &metadata).map(drop).unwrap_err(),
            Removable::choose(&paths, &["a-11111".into()]).map(drop).unwrap_err(),
        ] {
            assert!(ui::hint_of(&error).unwrap().contains("bottle cleanup"), "{error:#}");
        }
        // Of all, it is not one.
        assert_eq!(Removable::choose(&paths, &[]).unwrap().rows().count(), 0);
    }
}
