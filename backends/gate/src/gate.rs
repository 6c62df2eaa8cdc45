//! One `git` entry: its mirror, what a push to it may do, and what its hooks are answered.

use crate::{
    change,
    git::left,
    greeting::Service,
    hook::{Asked, PRE_RECEIVE, PROC_RECEIVE},
    leak::{is_leak, shown},
    mirror::Mirror,
    packet,
    scan::{Limits, PushScan, scan},
    update::Update,
};
use bottle_policy::{
    Denial,
    push::{Change, PushRules, judge_push},
};
use bottle_scan::{Context, Scanner, Session};
use std::{
    fmt::Display,
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Of the names of a push's refs in its line in the log, in bytes.
const NAMED: usize = 4096;
/// Stands for a line of upstream's that holds a secret.
const WITHHELD: &str = "(a line is withheld: there is a secret in it)";
/// Judged pushes that wait to be forwarded: git asks for that at once, or has died.
const WAITING: usize = 64;

/// What was decided, for the bottle's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Did it go on?
    pub allowed: bool,
    /// What refused it: a rule of the policy, `git-leak`, `git-scan` where nobody could judge, `git-upstream`,
    /// `git-capability`, `git-remote`. Of what went on `git-fetch`, `git-push`, and before it `git-clean`: a push was judged.
    pub rule: &'static str,
    /// What was asked for, as far as it was understood.
    pub service: Option<Service>,
    /// The `git` entry's name, where there is one.
    pub remote: String,
    /// The refs of a push, without any name in which something was found.
    pub refs: String,
    /// What the pusher is told, and nobody else: it may hold names as he gave them.
    pub told: Vec<String>,
}

/// A gate.
pub struct Gate {
    /// What the agent calls it.
    pub name: String,
    /// The repository that it pushes to.
    pub mirror: Mirror,
    /// Upstream's host.
    pub host: String,
    /// What a push may do.
    pub rules: PushRules,
    /// Rules and secrets.
    pub scanner: Arc<Scanner>,
    /// What a scan may take.
    pub limits: Limits,
    /// What has gone in pieces.
    session: Mutex<Session>,
    /// What was judged and may be forwarded.
    judged: Mutex<Vec<Vec<(Update, Change)>>>,
}

impl Gate {
    /// One to which nothing was pushed yet.
    pub fn new(name: &str, mirror: Mirror, host: &str, rules: PushRules, scanner: Arc<Scanner>) -> Self {
        let session = Mutex::new(scanner.session());
        let (name, host, limits) = (name.into(), host.into(), Limits::default());
        Self { name, mirror, host, rules, scanner, limits, session, judged: Mutex::default() }
    }

    /// Answers one hook, and says what was decided; of a push of which upstream took a part that is two decisions. A hook
    /// that does not get its answer refuses the push, unless it was forwarded.
    pub fn answer(&self, hook: &mut (impl Read + Write)) -> Vec<Decision> {
        let (decisions, answers) = match Asked::read(hook) {
            Ok(asked) => self.asked(&asked),
            Err(error) => (vec![self.unknown(&error)], vec![]),
        };
        let told = decisions.iter().flat_map(|decision| &decision.told);
        // Whoever does not hear it has gone; what was decided stays.
        let _ = packet::write_list(hook, told).and_then(|()| packet::write_list(hook, answers));
        decisions
    }

    fn asked(&self, asked: &Asked) -> (Vec<Decision>, Vec<String>) {
        let parsed: Result<Vec<Update>, _> = asked.updates.iter().map(|line| Update::parse(line)).collect();
        match (parsed, asked.name.as_str()) {
            (Err(error), _) => (vec![self.refusal("git-ref", &[], vec![error.to_string()])], vec![]),
            (Ok(updates), PRE_RECEIVE) => {
                let (decision, answer) = self.pre_receive(asked, updates);
                (vec![decision], vec![answer.into()])
            }
            (Ok(updates), PROC_RECEIVE) => self.proc_receive(&updates),
            (Ok(_), _) => (vec![self.unknown(&"no hook of ours asks")], vec![]),
        }
    }

    fn unknown(&self, why: &dyn Display) -> Decision {
        self.refusal("git-scan", &[], vec![format!("refused, for nobody can say what it holds: {why}")])
    }

    /// Before anything is kept: the policy, then every new object.
    fn pre_receive(&self, asked: &Asked, updates: Vec<Update>) -> (Decision, &'static str) {
        let until = Instant::now() + self.limits.time;
        let no = |decision| (decision, "no");
        let forbidden =
            |denial: Denial| no(self.refusal(denial.rule, &updates, vec![format!("refused: {}", denial.reason)]));
        // Names and their number, before git is asked anything about them: no rule minds a new ref.
        let names = updates.iter().map(|update| update.name.as_str());
        if let Err(denial) = judge_push(&self.rules, names.clone().map(|name| (name, Change::Create))) {
            return forbidden(denial);
        }
        let mirror = self.mirror.repository().clone();
        // Only what brings nothing has no quarantine.
        let brings = updates.iter().any(|update| update.new.is_some());
        let repository = match if brings { mirror.with_quarantine(|name| asked.variable(name)) } else { Ok(mirror) } {
            Ok(repository) => repository,
            Err(error) => return no(self.unknown(&error)),
        };
        let kinds = updates.iter().map(|update| change::of(&repository, update, left(until)));
        let kinds = match kinds.collect::<io::Result<Vec<Change>>>() {
            Ok(kinds) => kinds,
            Err(error) => return no(self.unknown(&error)),
        };
        if let Err(denial) = judge_push(&self.rules, names.zip(kinds.iter().copied())) {
            return forbidden(denial);
        }
        let mut sent = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        // What is refused has not gone: a push that was mended is judged without it.
        let mut session = sent.clone();
        let push = PushScan {
            repository: &repository,
            host: &self.host,
            scanner: &self.scanner,
            session: &mut session,
            limits: &self.limits,
            until,
        };
        match scan(push, &updates) {
            Err(error) => no(self.unknown(&error)),
            Ok(leaks) if leaks.is_empty() => {
                *sent = session;
                drop(sent);
                let decision = self.decision(true, "git-clean", &updates, vec![]);
                let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
                if judged.len() >= WAITING {
                    judged.remove(0);
                }
                judged.push(updates.into_iter().zip(kinds).collect());
                (decision, "ok")
            }
            Ok(leaks) => {
                let mut told = vec!["refused before upstream was asked: it would give secrets away".to_owned()];
                told.extend(leaks.iter().map(|leak| format!("  {leak}")));
                told.push("Take them out of the history (git rebase, git commit --amend), and push again.".into());
                no(self.refusal("git-leak", &updates, told))
            }
        }
    }

    /// Forwards what was judged, and nothing else; the answer is upstream's.
    fn proc_receive(&self, updates: &[Update]) -> (Vec<Decision>, Vec<String>) {
        let no = |rule, why: String| {
            let why = self.without_secrets(why);
            let answers = updates.iter().map(|update| format!("ng {} {why}", update.name)).collect();
            (vec![self.refusal(rule, updates, vec![])], answers)
        };
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |push: &Vec<(Update, Change)>| push.iter().map(|(update, _)| update).eq(updates);
        let Some(push) = judged.iter().position(is_it).map(|at| judged.remove(at)) else {
            return no("git-scan", "this push was not judged".into());
        };
        drop(judged);
        match self.mirror.forward(&push) {
            Err(error) => no("git-upstream", error.to_string()),
            Ok((answers, told)) => {
                let (taken, refused): (Vec<_>, Vec<_>) =
                    updates.iter().cloned().zip(&answers).partition(|(_, answer)| answer.refused.is_none());
                let parts = [(true, "git-push", taken), (false, "git-upstream", refused)];
                let mut decisions = vec![];
                for (allowed, rule, part) in parts.into_iter().filter(|(.., part)| !part.is_empty()) {
                    let part: Vec<Update> = part.into_iter().map(|(update, _)| update).collect();
                    decisions.push(self.decision(allowed, rule, &part, vec![]));
                }
                if let Some(first) = decisions.first_mut() {
                    first.told = told.into_iter().map(|line| self.without_secrets(line)).collect();
                }
                // Without `fall-through`: the mirror learns of it from upstream, when it is next asked for.
                let words = answers.into_iter().map(|answer| match answer.refused {
                    None => format!("ok {}", answer.name),
                    Some(why) => format!("ng {} {}", answer.name, self.without_secrets(why)),
                });
                (decisions, words.collect())
            }
        }
    }

    fn refusal(&self, rule: &'static str, updates: &[Update], told: Vec<String>) -> Decision {
        self.decision(false, rule, updates, told)
    }

    fn decision(&self, allowed: bool, rule: &'static str, updates: &[Update], told: Vec<String>) -> Decision {
        let (service, remote, refs) = (Some(Service::ReceivePack), self.name.clone(), self.names(updates));
        Decision { allowed, rule, service, remote, refs, told }
    }

    /// The refs of a push, for the log.
    fn names(&self, updates: &[Update]) -> String {
        let context = Context::outgoing(&self.host, "");
        let mut names = String::new();
        for (number, update) in updates.iter().enumerate() {
            let name = shown(&self.scanner, &context, update.name.as_bytes());
            if names.len() + name.len() > NAMED {
                return format!("{names} and {} more", updates.len() - number);
            }
            let gap = if names.is_empty() { "" } else { " " };
            names += &format!("{gap}{name}");
        }
        names
    }

    /// What upstream says reaches the pusher; its own credential, which it might repeat, does not.
    fn without_secrets(&self, line: String) -> String {
        let found = self.scanner.judge_body(&Context::outgoing(&self.host, ""), "", line.as_bytes());
        if found.iter().any(is_leak) { WITHHELD.into() } else { line }
    }
}
