//! The rules that a scanner works with: keywords in one set, expressions compiled when a keyword was first seen.

use crate::{
    keywords::Keywords,
    rule::{Check, Pack, Severity, Shape},
    words,
};
use regex::bytes::{Regex, RegexBuilder};
use std::{borrow::Cow, collections::HashMap, sync::OnceLock};

/// A rule of the built-in packs, as the build script writes it.
pub(crate) struct Static {
    id: &'static str,
    severity: Severity,
    keywords: &'static [&'static str],
    beside: &'static [&'static str],
    run: Option<(u8, u8)>,
    pattern: &'static str,
    check: Check,
    entropy: f32,
    begins: &'static [&'static str],
    assigned: bool,
    back: u16,
    ahead: u16,
    least: u16,
    letters: [u64; 4],
}

include!(concat!(env!("OUT_DIR"), "/rules.rs"));

/// One rule at work.
pub(crate) struct Entry {
    pub(crate) id: Cow<'static, str>,
    pub(crate) severity: Severity,
    pub(crate) run: Option<(u8, u8)>,
    pub(crate) check: Check,
    pub(crate) entropy: f32,
    begins: Vec<Cow<'static, str>>,
    beside: Vec<Cow<'static, str>>,
    assigned: bool,
    pub(crate) back: usize,
    pub(crate) ahead: usize,
    least: usize,
    letters: [u64; 4],
    pattern: Cow<'static, str>,
    regex: OnceLock<Option<Regex>>,
}

impl Entry {
    /// Whether a match may begin at a keyword, as far as a few bytes say.
    #[inline]
    pub(crate) fn may_begin(&self, bytes: &[u8], at: usize) -> bool {
        if self.assigned {
            // Something is assigned to the name, soon.
            let soon = &bytes[at..(at + 80).min(bytes.len())];
            return memchr::memchr3(b'=', b':', b'>', soon).or(memchr::memchr2(b'|', b',', soon)).is_some();
        }
        if self.begins.is_empty() {
            return true;
        }
        let before = |n: usize| at.checked_sub(n).and_then(|at| bytes.get(at)).copied();
        let escaped = before(2) == Some(b'\\') && before(1).is_some_and(|b| b"nrtbf".contains(&b));
        let alone = escaped || !before(1).is_some_and(|b| b.is_ascii_alphanumeric());
        alone && self.begins.iter().any(|text| bytes[at..].starts_with(text.as_bytes()))
    }

    /// Whether a stretch has all that is in every match: so many bytes in a row that may be in the token, and the words.
    pub(crate) fn may_match(&self, stretch: &[u8]) -> bool {
        self.may_hold_token(stretch) && self.has_words(stretch)
    }

    fn may_hold_token(&self, stretch: &[u8]) -> bool {
        let is_none = |b: &u8| self.letters[usize::from(b >> 6)] >> (b & 63) & 1 == 0;
        let mut start = 0;
        while let Some(row) = stretch.get(start..start + self.least) {
            match row.iter().rposition(is_none) {
                Some(last) => start += last + 1,
                None => return true,
            }
        }
        false
    }

    fn has_words(&self, stretch: &[u8]) -> bool {
        self.beside.iter().all(|word| {
            let word = word.as_bytes();
            let [small, large] = [word[0].to_ascii_lowercase(), word[0].to_ascii_uppercase()];
            memchr::memchr2_iter(small, large, stretch)
                .any(|at| stretch.get(at..at + word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word)))
        })
    }

    /// Whether it is the beginning of a string whose length stands before it, and is a letter by chance, as in protobuf,
    /// MessagePack and CBOR.
    pub(crate) fn is_prefixed(&self, bytes: &[u8], at: usize) -> bool {
        let Some(length) = at.checked_sub(1).map(|before| usize::from(bytes[before])) else { return false };
        let [string, end] = [bytes.get(at..at + length), bytes.get(at + length..)].map(Option::unwrap_or_default);
        let marked = at < 2 || !bytes[at - 2].is_ascii_graphic() || b"\"*2:BJRZbjrzx".contains(&bytes[at - 2]);
        (length as u8).is_ascii_alphanumeric()
            && marked
            && !string.is_empty()
            && string.iter().all(|b| matches!(b, b' '..=b'~'))
            && !end.first().is_some_and(u8::is_ascii_lowercase)
            && self.begins.iter().any(|text| bytes[at..].starts_with(text.as_bytes()))
    }

    /// The expression. `None` would be a pattern too large to compile, which [`Rules::with_packs`] has refused.
    pub(crate) fn regex(&self) -> Option<&Regex> {
        self.regex.get_or_init(|| compile(&self.pattern).ok()).as_ref()
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    // Small on purpose: what is kept per expression and thread is what the process weighs.
    RegexBuilder::new(pattern).unicode(false).size_limit(4 << 20).dfa_size_limit(256 << 10).build()
}

/// All rules of a scanner.
pub struct Rules {
    pub(crate) entries: Vec<Entry>,
    /// The first of them are [`words::ANNOUNCING`].
    pub(crate) keywords: Keywords,
    /// Which rules a keyword calls.
    pub(crate) calls: Vec<Vec<u16>>,
    /// Rules that runs call, and the lengths that any of them wants: bit n is length n.
    pub(crate) runs: Vec<u16>,
    pub(crate) run_lengths: u64,
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A pack cannot be read. The text begins with `file:line`.
    #[error("{0}")]
    Pack(String),
    /// A rule's number has no more than sixteen bits.
    #[error("{rules} rules are more than 65535; remove some packs")]
    TooMany {
        /// How many rules there are.
        rules: usize,
    },
}

impl Rules {
    /// The built-in packs.
    pub fn builtin() -> Result<Self, RulesError> {
        Self::with_packs(&[])
    }

    /// The built-in packs and those of users, which replace built-in rules of the same id.
    pub fn with_packs(packs: &[Pack]) -> Result<Self, RulesError> {
        let own = packs.iter().flat_map(|pack| &pack.rules);
        let replaced = |id: &str| own.clone().any(|rule| rule.id == id);
        let mut entries = Vec::with_capacity(BUILTIN.len());
        let mut words: Vec<(Cow<'static, str>, Vec<u16>)> =
            words::ANNOUNCING.iter().map(|word| (Cow::Borrowed(*word), vec![])).collect();
        let mut index: HashMap<_, _> = words.iter().enumerate().map(|(at, (word, _))| (word.clone(), at)).collect();
        let mut call = |word: Cow<'static, str>, rule: usize| {
            let at = *index.entry(word.clone()).or_insert_with(|| {
                words.push((word, vec![]));
                words.len() - 1
            });
            words[at].1.push(rule as u16);
        };
        for rule in BUILTIN.iter().filter(|rule| !replaced(rule.id)) {
            rule.keywords.iter().for_each(|word| call(Cow::Borrowed(word), entries.len()));
            entries.push(Entry {
                id: Cow::Borrowed(rule.id),
                severity: rule.severity,
                run: rule.run,
                check: rule.check,
                entropy: rule.entropy,
                begins: rule.begins.iter().map(|text| Cow::Borrowed(*text)).collect(),
                beside: rule.beside.iter().map(|text| Cow::Borrowed(*text)).collect(),
                assigned: rule.assigned,
                back: rule.back.into(),
                ahead: rule.ahead.into(),
                least: rule.least.into(),
                letters: rule.letters,
                pattern: Cow::Borrowed(rule.pattern),
                regex: OnceLock::new(),
            });
        }
        for rule in own.clone() {
            let refuse = |error: String| RulesError::Pack(format!("rule {}: {error}", rule.id));
            let shape = Shape::of(rule).map_err(refuse)?;
            let pattern = rule.pattern();
            let regex = compile(&pattern).map_err(|error| refuse(error.to_string()))?;
            rule.keywords.iter().for_each(|word| call(Cow::Owned(word.clone()), entries.len()));
            entries.push(Entry {
                id: Cow::Owned(rule.id.clone()),
                severity: rule.severity,
                run: rule.run,
                check: rule.check,
                entropy: rule.entropy,
                begins: shape.begins.into_iter().map(Cow::Owned).collect(),
                beside: rule.beside.iter().cloned().map(Cow::Owned).collect(),
                assigned: shape.assigned,
                back: shape.back.into(),
                ahead: shape.ahead.into(),
                least: shape.least.into(),
                letters: shape.letters,
                pattern: Cow::Owned(pattern),
                regex: OnceLock::from(Some(regex)),
            });
        }
        if entries.len() > usize::from(u16::MAX) {
            return Err(RulesError::TooMany { rules: entries.len() });
        }
        let runs: Vec<u16> = (0..).zip(&entries).filter(|(_, e)| e.run.is_some()).map(|(n, _)| n).collect();
        let lengths = entries.iter().filter_map(|e| e.run);
        let run_lengths = lengths.flat_map(|(from, to)| from..=to).fold(0, |all, n| all | 1 << n.min(63));
        let (words, calls) = words.into_iter().unzip();
        Ok(Self { entries, keywords: Keywords::new(words), calls, runs, run_lengths })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Their names.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.id.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWN: &str = include_str!("../rules/own.yaml");

    fn rules() -> &'static (Vec<(String, String)>, Rules) {
        static RULES: OnceLock<(Vec<(String, String)>, Rules)> = OnceLock::new();
        RULES.get_or_init(|| {
            let pack = Pack::parse("own.yaml", OWN).unwrap();
            let of = |rule: &crate::rule::Rule| {
                let id = rule.id.clone();
                rule.examples.iter().map(move |text| (id.clone(), text.clone())).collect::<Vec<_>>()
            };
            (pack.rules.iter().flat_map(of).collect(), Rules::builtin().unwrap())
        })
    }

    proptest! {
        #[test]
        fn what_matches_may_match(example in any::<prop::sample::Index>(), changed in prop::collection::vec((any::<prop::sample::Index>(), "[ -~]"), 0..3)) {
            let (examples, rules) = rules();
            let (id, text) = &examples[example.index(examples.len())];
            let mut text = text.clone().into_bytes();
            for (at, byte) in changed {
                let at = at.index(text.len());
                text[at] = byte.as_bytes()[0];
            }
            let entry = rules.entries.iter().find(|entry| entry.id == id.as_str()).unwrap();
            prop_assert!(entry.may_match(&text) || !entry.regex().unwrap().is_match(&text), "{id}");
        }
    }

    #[test]
    fn most_of_what_cannot_match_is_not_searched() {
        let (examples, rules) = rules();
        let cut = examples.iter().filter(|(id, text)| {
            let entry = rules.entries.iter().find(|entry| entry.id == id.as_str()).unwrap();
            entry.may_match(text.replace(|c: char| c.is_ascii_digit(), " ").as_bytes())
        });
        assert!(cut.count() * 4 < examples.len());
    }
}
