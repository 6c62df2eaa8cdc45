//! The built-in packs: every rule finds its examples and nothing in its near misses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

use bottle_scan::{Context, ExactSet, Kind, Options, Pack, Rules, Scanner};
use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

fn packs() -> Vec<(String, Pack)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let pack = Pack::parse(&name, &fs::read_to_string(path).unwrap()).unwrap();
        (name, pack)
    };
    files.iter().map(read).collect()
}

fn scanner() -> Arc<Scanner> {
    Arc::new(Scanner::new(Arc::new(Rules::builtin().unwrap()), ExactSet::default(), Options::default()))
}

fn found(scanner: &Arc<Scanner>, text: &str) -> BTreeSet<String> {
    let context = Context::outgoing("upload.example", "text/plain");
    let findings = scanner.judge_body(&context, "", text.as_bytes());
    findings.into_iter().filter(|f| f.kind == Kind::Pattern).map(|f| f.rule.into_owned()).collect()
}

#[test]
fn there_are_enough_kinds_and_each_says_where_it_is_from() {
    let packs = packs();
    let rules: Vec<_> = packs.iter().flat_map(|(_, pack)| &pack.rules).collect();
    assert!(rules.len() >= 250, "{}", rules.len());
    assert_eq!(rules.len(), Rules::builtin().unwrap().len());
    let ids: BTreeSet<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids.len(), rules.len(), "an id stands in two packs");
    for rule in rules {
        assert!(rule.from.starts_with("https://"), "{}: from {}", rule.id, rule.from);
        assert!(!rule.examples.is_empty() && !rule.misses.is_empty(), "{}: no examples or misses", rule.id);
    }
}

#[test]
fn every_rule_finds_its_examples_and_not_its_misses() {
    let scanner = scanner();
    let mut wrong = vec![];
    for (file, pack) in packs() {
        for rule in pack.rules {
            for example in rule.examples.iter().filter(|example| !found(&scanner, example).contains(&rule.id)) {
                wrong.push(format!("{file}: {}: missed {example}", rule.id));
            }
            for miss in rule.misses.iter().filter(|miss| found(&scanner, miss).contains(&rule.id)) {
                wrong.push(format!("{file}: {}: found in {miss}", rule.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_pack_of_a_user_is_read_or_refused_with_its_line() {
    let good = "rules:\n  - id: own-token\n    vendor: Own\n    from: https://own.example\n    severity: high\n    \
                keywords: [own_]\n    token: 'own_[a-z]{20}'\n";
    let rules = Rules::with_packs(&[Pack::parse("own.yaml", good).unwrap()]).unwrap();
    let scanner = Arc::new(Scanner::new(Arc::new(rules), ExactSet::default(), Options::default()));
    assert!(found(&scanner, "x own_abcdefghijklmnopqrst y").contains("own-token"));
    for (from, to, says) in [
        ("severity: high", "severity: bad", "own.yaml:2:"),
        ("[own_]", "[OWN_]", "own.yaml:2: rule own-token: keyword \"OWN_\""),
        ("[own_]", "[]", "own.yaml:2: rule own-token: needs `keywords`"),
        ("own_[a-z]{20}", "own_[a-z", "own.yaml:2: rule own-token: `token`"),
        ("vendor: Own", "vendro: Own", "own.yaml:3:"),
    ] {
        let error = Pack::parse("own.yaml", &good.replace(from, to)).unwrap_err();
        assert!(error.starts_with(says) || error.contains("own.yaml:"), "{error}");
    }
}
