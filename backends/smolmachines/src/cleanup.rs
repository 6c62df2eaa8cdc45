//! What earlier bottles left behind: machines first, with whatever process is behind them; then what they stood on in
//! the engine.

use crate::{
    cli::Smolvm,
    machine::{self, KIND, Machine},
    vmm,
};
use bottle_api::{CleanupItem, CleanupOutcome, CleanupRequest, Error, ErrorKind, Host, LedgerEntry, Result};
use bottle_kit::{
    engine::Engine,
    names::{Family, PREFIX},
    sweep::{self, Removals, Sweep},
};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How often, and how far apart, a cleanup looks for a machine that is not there yet.
const LATE_LOOKS: u32 = 8;
const LATE_PAUSE: Duration = Duration::from_millis(250);

/// Things to remove.
pub(crate) struct Cleanup {
    /// `None`: not installed, and nothing of its is known.
    smolvm: Option<Smolvm>,
    machines: Vec<CleanupItem>,
    /// `None`: there is no engine, and nothing of its is known.
    engine: Option<(Engine, Sweep)>,
    /// Who was making them was killed, maybe just now.
    killed: bool,
}

impl Cleanup {
    /// Works out what a cleanup removes. What is not installed has left nothing, unless a ledger says so.
    pub(crate) async fn plan(req: &CleanupRequest) -> Result<Self> {
        let (entries, others): (Vec<LedgerEntry>, _) =
            req.entries.iter().cloned().partition(|entry| entry.kind == KIND);
        let smolvm = match Smolvm::find(&req.env).await? {
            None if !entries.is_empty() => Some(Smolvm::require(&req.env).await?),
            found => found,
        };
        let listed = match &smolvm {
            Some(smolvm) => machine::list(smolvm).await?,
            None => vec![],
        };
        let machines = choose(&listed, &entries, req);
        let needed = !others.is_empty();
        let in_engine = CleanupRequest { entries: others, ..req.clone() };
        let swept = async {
            let engine = Engine::connect(&req.env)?;
            let sweep = sweep::plan(&engine, Family::Machines, &in_engine).await?;
            Ok((engine, sweep))
        };
        let engine = match swept.await {
            Ok(found) => Some(found),
            // Without an engine no bottle of this backend has begun; one that does not answer now is another's complaint.
            Err(_) if !needed && machines.is_empty() => None,
            Err(error) => return Err(error),
        };
        Ok(Self { smolvm, machines, engine, killed: req.sweep })
    }

    /// Nothing of any other bottle.
    pub(crate) fn keep_only(&mut self, identity: &str) {
        self.machines.retain(|item| item.identity == identity);
        if let Some((_, sweep)) = &mut self.engine {
            sweep.items.retain(|item| item.identity == identity);
        }
    }

    /// All of them.
    pub(crate) fn items(&self) -> Vec<CleanupItem> {
        let swept = self.engine.iter().flat_map(|(_, sweep)| sweep.items.clone());
        self.machines.iter().cloned().chain(swept).collect()
    }

    /// Removes it.
    pub(crate) async fn execute(self, host: &Host, deadline: Duration) -> Result<CleanupOutcome> {
        let until = Instant::now() + deadline;
        let mut removals = Removals::new();
        for item in self.machines {
            let (smolvm, killed) = (self.smolvm.clone(), self.killed);
            removals.spawn(async move {
                let removed = timeout_at(until, remove(smolvm.as_ref(), &item, killed)).await;
                let late = || Err(Error::new(ErrorKind::RUNTIME, "the deadline passed before it was gone"));
                (item, removed.unwrap_or_else(|_| late()))
            });
        }
        let machines = sweep::settle(host, removals).await;
        let mut swept = CleanupOutcome::default();
        if let Some((engine, sweep)) = self.engine {
            let left = until.saturating_duration_since(Instant::now());
            swept = sweep::execute(&engine, host, sweep, left).await?;
        }
        let mut outcome = machines?;
        outcome.removed.extend(swept.removed);
        outcome.left.extend(swept.left);
        Ok(outcome)
    }
}

/// The machines that a request is about. An entry that has nothing behind it any more is kept, with an empty id, so that
/// the ledger hears of it.
fn choose(listed: &[Machine], entries: &[LedgerEntry], req: &CleanupRequest) -> Vec<CleanupItem> {
    if req.unlabelled {
        let named = listed.iter().filter(|machine| machine.owner().is_none() && machine.name.starts_with(PREFIX));
        return named.map(|machine| CleanupItem { unlabelled: true, foreign: true, ..item(machine, req) }).collect();
    }
    let owned = |machine: &&Machine| match machine.owner() {
        Some(owner) => owner == req.owner || req.foreign,
        None => false,
    };
    let mut found: Vec<CleanupItem> = listed.iter().filter(owned).map(|machine| item(machine, req)).collect();
    let mut items = vec![];
    for entry in entries {
        match found.iter().position(|item| item.uuid == entry.uuid) {
            Some(at) => items.push(found.swap_remove(at)),
            None => items.push(CleanupItem { id: String::new(), ..entry.into() }),
        }
    }
    if req.sweep {
        items.extend(found.into_iter().filter(|item| !req.live.contains(&item.identity)));
    }
    items
}

fn item(machine: &Machine, req: &CleanupRequest) -> CleanupItem {
    CleanupItem {
        kind: KIND.into(),
        name: machine.name.clone(),
        id: machine.name.clone(),
        identity: machine.identity().to_owned(),
        uuid: machine.entry().to_owned(),
        foreign: machine.owner().is_none_or(|owner| owner != req.owner),
        unlabelled: false,
    }
}

/// Whoever boots it first, then the machine, then a process of it that smolvm has forgotten.
async fn remove(smolvm: Option<&Smolvm>, item: &CleanupItem, killed: bool) -> Result<()> {
    let Some(smolvm) = smolvm else { return Ok(()) };
    // What has no label may be anybody's: only its record goes.
    if item.unlabelled {
        return machine::delete(smolvm, &item.id).await;
    }
    let name = item.name.clone();
    let mut clients = tokio::task::spawn_blocking(move || vmm::end_clients(&name)).await?;
    clients.dedup();
    for client in clients {
        machine::remove_seed(smolvm, client).await?;
    }
    if !item.id.is_empty() || (killed && late(smolvm, item).await?) {
        // smolvm gives up on a machine that does not stop in time: it is stopped for it, then.
        if machine::delete(smolvm, &item.name).await.is_err() {
            end_machine(item).await?;
            machine::delete(smolvm, &item.name).await?;
        }
    }
    end_machine(item).await
}

async fn end_machine(item: &CleanupItem) -> Result<()> {
    let name = item.name.clone();
    match tokio::task::spawn_blocking(move || vmm::end_machine(&name)).await? {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::RUNTIME, "a process of the machine does not end, not even by SIGKILL")),
    }
}

/// Has an entry come to have a machine since? Its maker's last request may still have been carried out.
async fn late(smolvm: &Smolvm, item: &CleanupItem) -> Result<bool> {
    for _ in 0..LATE_LOOKS {
        if machine::list(smolvm).await?.iter().any(|machine| machine.entry() == item.uuid) {
            return Ok(true);
        }
        sleep(LATE_PAUSE).await;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_labels_say_is_ours_is_chosen() {
        let listed = machine::parse(
            r#"[{"name":"claude-bottle-a-1","labels":{"claude-bottle.owner":"me","claude-bottle.identity":"a-1","claude-bottle.entry":"e1"}},
                {"name":"claude-bottle-b-1","labels":{"claude-bottle.owner":"me","claude-bottle.identity":"b-1","claude-bottle.entry":"e2"}},
                {"name":"claude-bottle-c-1","labels":{"claude-bottle.owner":"you","claude-bottle.identity":"c-1","claude-bottle.entry":"e3"}},
                {"name":"claude-bottle-old","labels":{}}, {"name":"dev","labels":{"x":"y"}}]"#,
        )
        .unwrap();
        let entry =
            |uuid: &str| LedgerEntry { uuid: uuid.into(), kind: KIND.into(), name: "n".into(), ..Default::default() };
        let base = CleanupRequest { owner: "me".into(), ..CleanupRequest::default() };
        let sweep = |live: &[&str], foreign| CleanupRequest {
            sweep: true,
            foreign,
            live: live.iter().map(|name| (*name).to_owned()).collect(),
            ..base.clone()
        };
        for (entries, req, expected) in [
            (vec![], base.clone(), &[][..]),
            (vec![entry("e1")], base.clone(), &["claude-bottle-a-1"]),
            (vec![entry("gone")], base.clone(), &["n"]),
            // An entry's name alone is nothing, nor is another's label.
            (vec![entry("e3")], base.clone(), &["n"]),
            (vec![], sweep(&[], false), &["claude-bottle-a-1", "claude-bottle-b-1"]),
            (vec![], sweep(&["a-1"], false), &["claude-bottle-b-1"]),
            (vec![], sweep(&["a-1", "b-1"], true), &["claude-bottle-c-1"]),
            (vec![], CleanupRequest { unlabelled: true, ..base.clone() }, &["claude-bottle-old"]),
        ] {
            let found = choose(&listed, &entries, &req);
            let mut names: Vec<&str> = found.iter().map(|item| item.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{req:?}");
            assert!(found.iter().all(|item| item.id.is_empty() == (item.name == "n")), "{found:?}");
        }
    }
}
