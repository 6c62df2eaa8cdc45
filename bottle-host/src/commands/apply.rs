//! `apply`: what an agent left is brought home through the exit gate.

use crate::{
    apply::{Offer, files},
    cli::Apply,
    gate::{Kind, Verdict},
    paths::Paths,
    signals::Cancellation,
    state::{Abandoned, kept},
    ui::{self, UsageError, hinted},
    work::Left,
};
use anyhow::Result;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Names of one kind that are said; the rest is counted.
const FEW: usize = 10;

/// Runs `apply`.
pub(super) fn run(args: &Apply) -> Result<u8> {
    let cancel = Cancellation::install()?;
    cancel.conclude(apply(args, &cancel))
}

fn apply(args: &Apply, cancel: &Cancellation) -> Result<u8> {
    let paths = Paths::from_env()?;
    let kept = kept::hold(&paths, &args.identity)?;
    let to = destination(&paths, &kept, args.into.as_deref())?;
    let scratch = tempfile::tempdir()?;
    let offer = Offer::read(&kept, &to, scratch.path(), cancel)?;
    if offer.is_empty() {
        ui::say(format!("the agent of {} left no work", args.identity));
        return Ok(0);
    }
    say_offer(&offer, &paths.short(&to))?;
    let passed = Passed::ask(&offer, args, cancel)?;
    let commits = offer.commits.as_ref().filter(|_| passed.commits);
    let chosen: Vec<_> =
        offer.changes.iter().zip(&passed.changes).filter(|(_, taken)| **taken).map(|(c, _)| c).collect();
    if commits.is_none() && chosen.is_empty() {
        ui::say("nothing of it is taken");
        return Ok(0);
    }
    let left = Left::find(kept.dir())?;
    let blocked = files::in_the_way(&to, &left, &chosen)?;
    if !blocked.is_empty() {
        return Err(hinted(
            format!("{} would be written over, and is not what the agent was given", listed(&blocked)),
            "Commit it and take it away, or look at the agent's in an empty directory: --into DIR. Nothing was changed.",
        ));
    }
    let files = ui::count(chosen.len(), "change");
    if !args.yes && !ui::confirm(&format!("take {files} into {}?", paths.short(&to)), cancel)? {
        ui::say("aborted by user");
        return Ok(0);
    }
    if let Some(commits) = commits {
        for name in commits.take()? {
            ui::say(format!("fetched {name}"));
        }
    }
    let written = files::write(&to, &left, &chosen)?;
    ui::say(format!("{} in {}; nothing is checked out", ui::count(written, "file"), paths.short(&to)));
    ui::say(format!("hint: the state is still kept; remove it with: bottle state rm {}", args.identity));
    Ok(0)
}

/// Where it goes: where somebody says, or where the bottle was started.
pub(super) fn destination(paths: &Paths, kept: &Abandoned, into: Option<&Path>) -> Result<PathBuf> {
    let to = into.map_or_else(|| kept.metadata.directory.clone(), |into| paths.cwd.join(into));
    if !to.is_dir() || to.as_os_str().is_empty() {
        return Err(hinted(
            format!("{} is no directory that work could go to", paths.short(&to)),
            "Name one: --into DIR",
        ));
    }
    Ok(to)
}

fn say_offer(offer: &Offer<'_>, to: &str) -> Result<()> {
    if let Some(commits) = &offer.commits {
        let log = commits.log()?;
        ui::say(format!("{}, for refs of their own in {to}", ui::count(log.len(), "commit")));
        log.iter().take(FEW).for_each(|line| ui::say(format!("  {line}")));
    }
    if !offer.changes.is_empty() {
        ui::say(format!("{} that are in no commit, for {to}", ui::count(offer.changes.len(), "change")));
        for change in offer.changes.iter().take(FEW) {
            ui::say(format!("  {} {}", change.letter(), String::from_utf8_lossy(&change.name)));
        }
    }
    say_findings(offer);
    Ok(())
}

/// What the gate found, by kind.
pub(super) fn say_findings(offer: &Offer<'_>) {
    let names = offer.changes.iter().map(|change| &change.name).zip(&offer.of_changes);
    let of_commits = offer.of_commits.iter().map(|(made, verdict)| (&made.name, verdict));
    let mut asked: BTreeMap<(Kind, &str), BTreeSet<&[u8]>> = BTreeMap::new();
    for (name, verdict) in names.chain(of_commits) {
        match verdict {
            Verdict::Passes => {}
            Verdict::Asks(kind, why) => drop(asked.entry((*kind, why)).or_default().insert(name)),
            Verdict::Refused(why) => ui::warn(format!("never taken, {why}: {}", String::from_utf8_lossy(name))),
        }
    }
    for ((kind, why), names) in asked {
        let names: Vec<Vec<u8>> = names.into_iter().map(<[u8]>::to_vec).collect();
        ui::stand_out(format!("GATE {kind}: {why}: {}", listed(&names)));
    }
}

fn listed(names: &[Vec<u8>]) -> String {
    let shown: Vec<String> = names.iter().take(FEW).map(|name| ui::printable(&String::from_utf8_lossy(name))).collect();
    let rest = names.len().saturating_sub(FEW);
    if rest > 0 { format!("{} and {rest} more", shown.join(", ")) } else { shown.join(", ") }
}

/// What has passed the gate.
struct Passed {
    /// All commits, or none: they hang together.
    commits: bool,
    /// Of each change.
    changes: Vec<bool>,
}

impl Passed {
    /// Asks kind by kind, or one by one. `--yes` is no answer to any of it.
    fn ask(offer: &Offer<'_>, args: &Apply, cancel: &Cancellation) -> Result<Self> {
        let asked = offer.of_commits.iter().map(|(_, verdict)| verdict).chain(&offer.of_changes);
        let kinds: BTreeSet<Kind> = asked.filter_map(kind_of).filter(|kind| !args.accept.contains(kind)).collect();
        if !kinds.is_empty() && !ui::can_ask() {
            let needed: Vec<String> = kinds.iter().map(|kind| format!("--accept {kind}")).collect();
            let what = "there is no terminal to ask on for what a host would obey; --yes does not answer for it";
            return Err(UsageError(format!("{what}. Look at it, then say {}", needed.join(" "))).into());
        }
        let mut answers: BTreeMap<Kind, ui::Choice> = BTreeMap::new();
        for kind in kinds {
            let of_kind = |verdict: &&Verdict| kind_of(verdict) == Some(kind);
            let inside = offer.of_commits.iter().filter(|(_, verdict)| of_kind(&verdict)).count();
            let outside = offer.of_changes.iter().filter(of_kind).count();
            let what = format!("take {} of kind {kind}?", ui::count(inside + outside, "file"));
            answers.insert(kind, ui::choose(&what, cancel)?);
        }
        let mut passed = Self { commits: offer.commits.is_some(), changes: vec![] };
        for (made, verdict) in &offer.of_commits {
            passed.commits &= judge(&made.name, verdict, (&args.accept, &answers), cancel)?;
        }
        if offer.commits.is_some() && !passed.commits {
            ui::say("the commits are not taken: they hang together, and something in them did not pass");
        }
        for (change, verdict) in offer.changes.iter().zip(&offer.of_changes) {
            passed.changes.push(judge(&change.name, verdict, (&args.accept, &answers), cancel)?);
        }
        Ok(passed)
    }
}

fn kind_of(verdict: &Verdict) -> Option<Kind> {
    if let Verdict::Asks(kind, _) = verdict { Some(*kind) } else { None }
}

fn judge(
    name: &[u8],
    verdict: &Verdict,
    (accepted, answers): (&[Kind], &BTreeMap<Kind, ui::Choice>),
    cancel: &Cancellation,
) -> Result<bool> {
    match verdict {
        Verdict::Passes => Ok(true),
        Verdict::Asks(kind, _) if accepted.contains(kind) => Ok(true),
        Verdict::Asks(kind, why) => match answers.get(kind) {
            Some(ui::Choice::All) => Ok(true),
            Some(ui::Choice::Each) => ui::confirm(&format!("take {} ({why})?", listed(&[name.to_vec()])), cancel),
            Some(ui::Choice::None) | None => Ok(false),
        },
        Verdict::Refused(_) => Ok(false),
    }
}
