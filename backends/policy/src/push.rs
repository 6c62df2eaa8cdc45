//! The verdict over a push: which refs it may change, and how. What its objects hold is the scanner's to say.

use crate::Denial;
use serde::{Deserialize, Serialize};

/// Refs that one push may change. Whoever has more pushes twice.
pub const MOST_REFS: usize = 256;
/// The longest name of a ref.
const LONGEST_NAME: usize = 512;
/// What no pattern grants: refs that change what other refs and objects mean, and those that forges make themselves.
const NEVER: [&str; 5] = ["refs/replace/", "refs/pull/", "refs/merge-requests/", "refs/remotes/", "refs/bottle/"];

/// What a push to one remote may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushRules {
    /// Whole names of refs; `*` stands for anything, slashes too. None: no push.
    pub allow_refs: Vec<String>,
    /// Refs may be deleted.
    pub allow_delete: bool,
    /// Branches may lose commits, and tags may be moved.
    pub allow_force: bool,
}

/// What becomes of a ref. Its caller asks git; this is its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Create,
    /// It goes.
    Delete,
    /// What it had is in the history of what it gets.
    FastForward,
    /// It loses something, or nobody can say that it does not.
    Rewrite,
}

/// Judges all changes of a push together: one that is refused refuses the push.
pub fn judge_push<'a>(rules: &PushRules, changes: impl IntoIterator<Item = (&'a str, Change)>) -> Result<(), Denial> {
    for (number, (name, change)) in changes.into_iter().enumerate() {
        if number >= MOST_REFS {
            return Err(Denial::forbidden("git-refs", format!("a push may change {MOST_REFS} refs at most")));
        }
        judge(rules, name, change)?;
    }
    Ok(())
}

fn judge(rules: &PushRules, name: &str, change: Change) -> Result<(), Denial> {
    let shown = name.escape_debug().take(LONGEST_NAME).collect::<String>();
    // To git, `refs/heads/main` is also whatever ends in it: nobody could push to main any more.
    if !is_plain(name) || name.contains("/refs/") {
        return Err(Denial::forbidden("git-ref", format!("{shown} is no plain name of a ref")));
    }
    if NEVER.iter().any(|never| name.starts_with(never)) || !rules.allow_refs.iter().any(|pattern| fits(pattern, name))
    {
        let allowed = if rules.allow_refs.is_empty() { "none".into() } else { rules.allow_refs.join(", ") };
        return Err(Denial::forbidden("git-ref", format!("{shown} may not be pushed to; allowed: {allowed}")));
    }
    let is_tag = name.starts_with("refs/tags/");
    match change {
        Change::Create => Ok(()),
        // A tag says what something was: it is moved by force, wherever to.
        Change::FastForward if !is_tag => Ok(()),
        Change::FastForward | Change::Rewrite if rules.allow_force => Ok(()),
        Change::Delete if rules.allow_delete => Ok(()),
        Change::Delete => Err(Denial::forbidden("git-delete", format!("{shown} may not be deleted"))),
        Change::FastForward | Change::Rewrite if is_tag => {
            Err(Denial::forbidden("git-force", format!("{shown} is there already, and a tag is not moved")))
        }
        Change::FastForward | Change::Rewrite => {
            Err(Denial::forbidden("git-force", format!("{shown} would lose commits; merge or rebase, and push again")))
        }
    }
}

/// What git itself takes for a name of a ref, and a little less. Git has judged it before; nothing here rests on that.
fn is_plain(name: &str) -> bool {
    let strange = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let part = |part: &str| {
        !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.') && !part.ends_with(".lock")
    };
    name.len() <= LONGEST_NAME
        && name.strip_prefix("refs/").is_some_and(|rest| rest.contains('/') && rest.split('/').all(part))
        && !name.contains(strange)
        && !name.contains("..")
        && !name.contains("@{")
}

/// Does a name fit a pattern? In time that is at most their lengths multiplied.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut of) = (0, 0);
    // The last star, and how much of the name it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while of < name.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, of));
                at += 1;
            }
            (Some(byte), _) if *byte == name[of] => (at, of) = (at + 1, of + 1),
            (_, Some((place, taken))) => {
                star = Some((place, taken + 1));
                (at, of) = (place + 1, taken + 1);
            }
            _ => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str]) -> PushRules {
        let allow_refs = allow.iter().map(|pattern| (*pattern).to_owned()).collect();
        PushRules { allow_refs, allow_delete: false, allow_force: false }
    }

    fn verdict(rules: &PushRules, changes: &[(&str, Change)]) -> &'static str {
        judge_push(rules, changes.iter().copied()).map_or_else(|denial| denial.rule, |()| "allow")
    }

    #[test]
    fn every_change_of_every_kind_of_ref() {
        use Change::{Create, Delete, FastForward, Rewrite};
        let usual = rules(&["refs/heads/*", "refs/tags/*"]);
        let force = PushRules { allow_force: true, ..usual.clone() };
        let delete = PushRules { allow_delete: true, ..usual.clone() };
        let agent = rules(&["refs/heads/agent/*"]);
        let notes = rules(&["refs/notes/*"]);
        let all = PushRules { allow_refs: vec!["*".into()], allow_delete: true, allow_force: true };
        for (rules, name, change, expected) in [
            (&usual, "refs/heads/main", Create, "allow"),
            (&usual, "refs/heads/main", FastForward, "allow"),
            (&usual, "refs/heads/a/b/c", FastForward, "allow"),
            (&usual, "refs/heads/main", Rewrite, "git-force"),
            (&usual, "refs/heads/main", Delete, "git-delete"),
            (&usual, "refs/tags/v1", Create, "allow"),
            (&usual, "refs/tags/v1", FastForward, "git-force"),
            (&usual, "refs/tags/v1", Rewrite, "git-force"),
            (&usual, "refs/tags/v1", Delete, "git-delete"),
            (&usual, "refs/notes/commits", Create, "git-ref"),
            (&usual, "refs/stash", Create, "git-ref"),
            (&usual, "HEAD", FastForward, "git-ref"),
            (&usual, "main", Create, "git-ref"),
            (&usual, "refs/headsx/main", Create, "git-ref"),
            (&usual, "refs/heads/", Create, "git-ref"),
            (&usual, "refs/heads/refs/heads/main", Create, "git-ref"),
            (&usual, "refs/heads/a/refs/tags/v1", Delete, "git-ref"),
            (&usual, "refs/heads/refs", Create, "allow"),
            (&usual, "refs/heads/a..b", Create, "git-ref"),
            (&usual, "refs/heads/../tags/a", Create, "git-ref"),
            (&usual, "refs/heads/a//b", Create, "git-ref"),
            (&usual, "refs/heads/.a", Create, "git-ref"),
            (&usual, "refs/heads/-a", Create, "git-ref"),
            (&usual, "refs/heads/a.lock", Create, "git-ref"),
            (&usual, "refs/heads/a.lock/b", Create, "git-ref"),
            (&usual, "refs/heads/a.", Create, "git-ref"),
            (&usual, "refs/heads/a@{1}", Create, "git-ref"),
            (&usual, "refs/heads/a b", Create, "git-ref"),
            (&usual, "refs/heads/a\u{1b}[2J", Create, "git-ref"),
            (&usual, "refs/heads/a\n", Create, "git-ref"),
            (&usual, "refs/heads/*", Create, "git-ref"),
            (&usual, "refs/heads/a:b", Create, "git-ref"),
            (&usual, "refs/heads/ключ", Create, "allow"),
            (&force, "refs/heads/main", Rewrite, "allow"),
            (&force, "refs/tags/v1", Rewrite, "allow"),
            (&force, "refs/tags/v1", FastForward, "allow"),
            (&force, "refs/heads/main", Delete, "git-delete"),
            (&delete, "refs/heads/main", Delete, "allow"),
            (&delete, "refs/tags/v1", Delete, "allow"),
            (&delete, "refs/heads/main", Rewrite, "git-force"),
            (&delete, "refs/notes/commits", Delete, "git-ref"),
            (&agent, "refs/heads/agent/x", Create, "allow"),
            (&agent, "refs/heads/agent", Create, "git-ref"),
            (&agent, "refs/heads/main", FastForward, "git-ref"),
            (&agent, "refs/tags/v1", Create, "git-ref"),
            (&notes, "refs/notes/commits", Create, "allow"),
            (&rules(&[]), "refs/heads/main", Create, "git-ref"),
            (&all, "refs/heads/main", Rewrite, "allow"),
            (&all, "refs/replace/0123", Create, "git-ref"),
            (&all, "refs/pull/1/head", Create, "git-ref"),
            (&all, "refs/remotes/origin/main", Delete, "git-ref"),
            (&all, "HEAD", Rewrite, "git-ref"),
        ] {
            assert_eq!(verdict(rules, &[(name, change)]), expected, "{name:?} {change:?} {:?}", rules.allow_refs);
            // One refusal refuses all that comes with it.
            let both = [("refs/heads/agent/1", Create), (name, change)];
            assert!(expected == "allow" || verdict(rules, &both) != "allow", "{name:?} beside another");
        }
        let long = format!("refs/heads/{}", "a".repeat(LONGEST_NAME));
        assert_eq!(verdict(&usual, &[(&long, Create)]), "git-ref");
    }

    #[test]
    fn a_push_of_too_many_refs_is_refused() {
        let names: Vec<String> = (0..=MOST_REFS).map(|n| format!("refs/heads/{n}")).collect();
        let changes: Vec<_> = names.iter().map(|name| (name.as_str(), Change::Create)).collect();
        assert_eq!(verdict(&rules(&["refs/heads/*"]), &changes), "git-refs");
        assert_eq!(verdict(&rules(&["refs/heads/*"]), &changes[1..]), "allow");
        assert_eq!(verdict(&rules(&["refs/heads/*"]), &[]), "allow");
    }

    #[test]
    fn a_star_stands_for_anything_and_takes_no_long_time() {
        for (pattern, name, expected) in [
            ("refs/heads/*", "refs/heads/a/b", true),
            ("refs/heads/*/x", "refs/heads/a/b/x", true),
            ("refs/heads/*/x", "refs/heads/a/b/y", false),
            ("refs/heads/a*b*c", "refs/heads/abxbc", true),
            ("refs/heads/a*b*c", "refs/heads/abxbcd", false),
            ("refs/heads/a", "refs/heads/a", true),
            ("refs/heads/a", "refs/heads/ab", false),
            ("refs/heads/ab", "refs/heads/a", false),
            ("refs/heads/a**", "refs/heads/a", true),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!fits(&format!("{}b", "*a".repeat(200)), &"a".repeat(LONGEST_NAME)));
    }
}
