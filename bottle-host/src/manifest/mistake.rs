//! What a mistake in a manifest is told: the nearest key that exists, or what a key of the past has become.

/// Keys of earlier programs and what they are now.
const PAST: [(&str, &str); 7] = [
    ("runtime", "Where a bottle runs is the host's choice: --backend, or CLAUDE_BOTTLE_BACKEND."),
    ("ssh", "Hosts for git are entries of `git` now; bottle does not read them yet."),
    ("tokens", "A credential is the `auth` of an egress route now: {scheme: Bearer, token_ref: VARIABLE}."),
    ("cred_proxy", "A credential is the `auth` of an egress route now: {scheme: Bearer, token_ref: VARIABLE}."),
    ("egress_proxy", "It is `egress` now."),
    ("allowlist", "Hosts are `egress.routes` now, one entry each: `- host: NAME`."),
    ("dlp_action", "There is no such choice any more: take it out."),
];

/// Keys that this manifest will have.
const FUTURE: [&str; 8] =
    ["git", "git_user", "supervise", "mode", "presets", "tls_passthrough", "responses", "allow_refs"];

/// Advice for serde's message about an unknown field, if it is one and there is some.
pub(super) fn advice(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    if let Some((_, now)) = PAST.iter().find(|(past, _)| *past == key) {
        return Some((*now).to_owned());
    }
    if FUTURE.contains(&key) {
        return Some(format!("`{key}` is not built yet: take it out, for a bottle must not run without what it says."));
    }
    let known = rest.split('`').skip(1).step_by(2);
    let near = known.map(|k| (distance(key, k), k)).filter(|(d, k)| *d <= 1 + k.len() / 4).min()?;
    Some(format!("Do you mean `{}`?", near.1))
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_or_what_became_of_it() {
        let message =
            |key: &str| format!("unknown field `{key}`, expected one of `env`, `egress`, `limits`, `extends`");
        for (key, word) in [
            ("egres", "Do you mean `egress`?"),
            ("limtis", "Do you mean `limits`?"),
            ("evn", "Do you mean `env`?"),
            ("runtime", "--backend"),
            ("egress_proxy", "It is `egress` now."),
            ("supervise", "not built yet"),
        ] {
            assert!(advice(&message(key)).is_some_and(|a| a.contains(word)), "{key}: {:?}", advice(&message(key)));
        }
        assert_eq!(advice(&message("quite_another")), None);
        assert_eq!(advice("invalid type: string"), None);
    }
}
