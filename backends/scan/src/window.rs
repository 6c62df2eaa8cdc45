//! Judging one stretch of bytes: keywords and expressions, runs, exact secrets, and all that can be decoded from it,
//! again and again down to a bounded depth and with a bounded amount of work.

use crate::{
    Context, Scanner,
    block::Window,
    checks,
    decode::{Derived, Map, Odd, archive, escape, fold, inflate, inflate::Open, is_text, lines, pairs, runs, spaced},
    finding::{Finding, Kind},
    forms::Squeezed,
    numbers,
    rule::Severity,
    span, words,
};
use std::borrow::Cow;

/// How often something decoded is decoded again.
pub(crate) const DEPTH: usize = 5;
/// Bytes that may be made of a window, beside eight times its own.
const WORK: usize = 2 << 20;
/// How far before the place that gives it away something may begin: no rule and no decoder looks farther back.
const BACK: usize = 700;
/// Texts up to this size are read word by word for seed phrases; in longer ones something must announce them.
const SMALL: usize = 64 << 10;
/// Bytes behind what announces a phrase, in which it is looked for.
const PHRASE: usize = 400;

/// What is kept from one window to the next, so that nothing is allocated for each.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) squeezed: Squeezed,
    /// For each rule the stretch that waits to be searched.
    pending: Vec<(u32, u32)>,
    touched: Vec<u16>,
}

impl Scratch {
    /// Takes the texts out of it, before it waits for the next judgement.
    pub(crate) fn wipe(&mut self) {
        self.squeezed.wipe();
    }
}

/// What one judgement collects.
pub(crate) struct Collector<'a> {
    scanner: &'a Scanner,
    context: &'a Context,
    place: Cow<'static, str>,
    base: u64,
    limit: usize,
    pub(crate) findings: Vec<Finding>,
    scratch: &'a mut Scratch,
    maps: Vec<(&'static str, Map)>,
    work: usize,
    /// What goes on behind the window.
    pub(crate) open: Vec<Open>,
    /// Whether nothing does.
    ends: bool,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(
        scanner: &'a Scanner,
        context: &'a Context,
        place: Cow<'static, str>,
        window: Window<'_>,
        scratch: &'a mut Scratch,
    ) -> Self {
        let Window { base, limit, .. } = window;
        let ends = limit == usize::MAX && window.block == window.bytes.len();
        let (findings, maps) = (vec![], vec![]);
        Self { scanner, context, place, base, limit, findings, scratch, maps, work: WORK, open: vec![], ends }
    }

    /// Judges the window.
    pub(crate) fn window(&mut self, Window { bytes, phase, .. }: Window<'_>) {
        self.work = WORK + bytes.len() * 8;
        self.examine(bytes, phase, self.limit);
        if self.work == 0 && self.context.patterns {
            // Fail closed: what is made to be decoded without end hides something.
            self.report("too-much-to-decode".into(), Kind::Opaque, Severity::High, 0, bytes.len());
        }
    }

    pub(crate) fn report(&mut self, rule: Cow<'static, str>, kind: Kind, severity: Severity, start: usize, end: usize) {
        let (mut start, mut end) = (start, end);
        for (_, map) in self.maps.iter().rev() {
            (start, end) = map.back(start, end);
        }
        if start >= self.limit {
            return;
        }
        let names: Vec<&str> = self.maps.iter().map(|(name, _)| *name).collect();
        let finding = Finding {
            rule,
            kind,
            severity,
            place: self.place.clone(),
            start: self.base + start as u64,
            end: self.base + end as u64,
            decoders: names.join(" > "),
        };
        if !self.findings.contains(&finding) && self.findings.len() < 1000 {
            self.findings.push(finding);
        }
    }

    /// Judges a text, and all that is made of it. What begins at or behind `limit` is the next window's.
    fn examine(&mut self, bytes: &[u8], phase: usize, limit: usize) {
        let until = limit.saturating_add(BACK).min(bytes.len());
        self.exact(bytes, until);
        let odd = Odd::of(bytes);
        if self.context.patterns {
            self.patterns(bytes, until, odd);
        }
        let depth = self.maps.len();
        let mut made: Vec<Derived> = vec![];
        let patterns = self.context.patterns;
        let room = self.work;
        let mut total = 0;
        let mut archives = archive::Found::default();
        {
            let mut give = |derived: Derived| {
                total += derived.bytes.len();
                if depth < DEPTH && total <= room {
                    made.push(derived);
                }
            };
            runs::joined(bytes, until, |pieces| {
                if patterns {
                    pieces.iter().for_each(|(start, end)| self.run(bytes, *start, *end));
                }
                let own = if pieces.first().is_some_and(|(start, _)| *start == 0) { phase } else { 0 };
                runs::decode(bytes, pieces, own, &mut give);
                if depth == 0 && patterns {
                    reversed(bytes, pieces, &mut give);
                }
            });
            pairs::decode(bytes, until, &mut give);
            escape::decode(bytes, until, &mut give);
            lines::decode(bytes, until, &mut give);
            if patterns {
                spaced::decode(bytes, until, &mut give);
            }
            // In what is no text there are marks by chance, everywhere.
            if odd.high && (depth == 0 || !fold::is_binary(bytes)) {
                fold::decode(bytes, until, &mut give);
            }
            if odd.control {
                fold::wide(bytes, &mut give);
            }
            if depth == 0 || bytes.len() > 256 || !is_text(bytes) {
                let open = inflate::embedded(bytes, until, room.min(WORK), odd, &mut give);
                archives = archive::embedded(bytes, until, room.min(WORK), odd, &mut give);
                if depth == 0 {
                    self.open = open;
                } else if bytes.len() <= SMALL && !is_text(bytes) {
                    inflate::bare(bytes, WORK).into_iter().for_each(&mut give);
                }
            }
        }
        self.work = self.work.saturating_sub(total);
        self.archives(bytes, archives);
        for derived in made {
            if self.redundant(&derived) {
                continue;
            }
            self.maps.push((derived.name, derived.map));
            self.examine(&derived.bytes, 0, usize::MAX);
            self.maps.pop();
        }
    }

    /// What of the archives in a text goes on behind it, and those that cannot be looked into. Of xz nothing can be
    /// before a part of it has come whole: what never does is one of those.
    fn archives(&mut self, bytes: &[u8], mut found: archive::Found) {
        if self.ends || !self.maps.is_empty() {
            found.sealed.extend(found.open.extract_if(.., |open| open.name == "xz").map(|open| open.at));
        }
        if self.maps.is_empty() {
            self.open.append(&mut found.open);
        }
        if self.context.archives {
            for at in found.sealed {
                self.report("archive-unreadable".into(), Kind::Opaque, Severity::High, at, bytes.len());
            }
        }
    }

    /// What is reversed is not reversed or decoded again.
    fn redundant(&self, derived: &Derived) -> bool {
        derived.bytes.len() < 8 || self.maps.last().is_some_and(|(name, _)| *name == "reversed")
    }

    fn exact(&mut self, bytes: &[u8], until: usize) {
        let scanner = self.scanner;
        let mut scratch = std::mem::take(&mut self.scratch.squeezed);
        scanner.exact.find(bytes, until, &mut scratch, |hit| {
            let name = Cow::Owned(scanner.exact.name(hit.secret).to_owned());
            self.maps.push((hit.form, Map::Linear { start: 0, end: bytes.len(), num: 1, den: 1 }));
            if hit.form == "raw" {
                self.maps.pop();
            }
            self.report(name, Kind::Exact, Severity::Critical, hit.start, hit.end);
            if hit.form != "raw" {
                self.maps.pop();
            }
        });
        self.scratch.squeezed = scratch;
    }

    /// Keywords, and around each of them the expressions of its rules.
    fn patterns(&mut self, bytes: &[u8], until: usize, odd: Odd) {
        let rules = &self.scanner.rules;
        self.scratch.pending.resize(rules.entries.len(), (u32::MAX, 0));
        let mut announced: Vec<(usize, usize)> = vec![];
        rules.keywords.find(&bytes[..until], |word, keyword, end| {
            if word < words::ANNOUNCING.len() {
                let to = (keyword + PHRASE).min(bytes.len());
                match announced.last_mut().filter(|(start, end)| (*start..*end).contains(&keyword)) {
                    Some((_, end)) => *end = to,
                    None => announced.push((keyword, to)),
                }
            }
            for rule in &rules.calls[word] {
                let entry = &rules.entries[usize::from(*rule)];
                if !entry.may_begin(bytes, keyword) {
                    if odd.control && entry.is_prefixed(bytes, keyword) {
                        let end = keyword + usize::from(bytes[keyword - 1]);
                        self.search_string(bytes, *rule, keyword, end);
                    }
                    continue;
                }
                if entry.check == crate::rule::Check::Userinfo && !has_userinfo(&bytes[end..]) {
                    continue;
                }
                let from = keyword.saturating_sub(entry.back) as u32;
                let to = (keyword + entry.ahead).min(bytes.len()) as u32;
                let waiting = &mut self.scratch.pending[usize::from(*rule)];
                let (start, end) = *waiting;
                if start == u32::MAX {
                    *waiting = (from, to);
                    self.scratch.touched.push(*rule);
                } else if from <= end && start <= to {
                    *waiting = (start.min(from), end.max(to));
                } else {
                    *waiting = (from, to);
                    self.search(bytes, *rule, start as usize, end as usize);
                }
            }
        });
        for rule in std::mem::take(&mut self.scratch.touched) {
            let (start, end) = std::mem::replace(&mut self.scratch.pending[usize::from(rule)], (u32::MAX, 0));
            self.search(bytes, rule, start as usize, end as usize);
        }
        numbers::cards(bytes, until, |start, end, named| {
            let severity = if named { Severity::High } else { Severity::Medium };
            self.report("payment-card".into(), Kind::Pattern, severity, start, end);
        });
        if bytes.len() >= words::SHORTEST {
            let mut phrase = |from: usize, to: usize| {
                words::phrases(&bytes[from..to], |start, end| {
                    let (start, end) = (from + start, from + end);
                    self.report("bip39-seed-phrase".into(), Kind::Pattern, Severity::Critical, start, end);
                });
            };
            match bytes.len() <= SMALL {
                true => phrase(0, bytes.len()),
                false => announced.into_iter().for_each(|(from, to)| phrase(from, to)),
            }
        }
    }

    /// Rules that a run of letters and digits calls by its length.
    fn run(&mut self, bytes: &[u8], start: usize, end: usize) {
        let rules = &self.scanner.rules;
        span::each::<{ runs::LEAST }>(
            &bytes[start..end],
            usize::MAX,
            |b| b.is_ascii_alphanumeric(),
            |from, to| {
                let (at, stop, length) = (start + from, start + to, to - from);
                if rules.run_lengths >> length.min(63) & 1 == 0 {
                    return;
                }
                for rule in &rules.runs {
                    let entry = &rules.entries[usize::from(*rule)];
                    let fits = |(least, most): (u8, u8)| (usize::from(least)..=usize::from(most)).contains(&length);
                    if entry.run.is_some_and(fits)
                        && entry.may_begin(bytes, at)
                        && checks::may_hold(entry.check, bytes, at)
                    {
                        self.search(bytes, *rule, at.saturating_sub(96), (stop + 96).min(bytes.len()));
                    }
                }
            },
        );
    }

    /// The same of a string that stands alone, whatever is before it.
    fn search_string(&mut self, bytes: &[u8], rule: u16, from: usize, to: usize) {
        self.maps.push(("string", Map::Linear { start: from, end: to, num: 1, den: 1 }));
        self.search(&bytes[from..to], rule, 0, to - from);
        self.maps.pop();
    }

    fn search(&mut self, bytes: &[u8], rule: u16, from: usize, to: usize) {
        let entry = &self.scanner.rules.entries[usize::from(rule)];
        if !entry.may_match(&bytes[from..to]) {
            return;
        }
        let Some(regex) = entry.regex() else { return };
        let mut at = from;
        while at < to {
            // Most stretches have no match at all, which is found out faster than where one would be.
            let Some(whole) = regex.find_at(&bytes[..to], at) else { return };
            let token = regex.captures_at(&bytes[..to], at).and_then(|groups| groups.name("t"));
            let Some(token) = token else { return };
            let value = token.as_bytes();
            let plausible = (entry.entropy == 0.0 || checks::entropy(value) >= entry.entropy)
                && checks::holds(entry.check, value)
                && (entry.check == crate::rule::Check::Crc32 || !checks::is_placeholder(value));
            if plausible {
                self.report(entry.id.clone(), Kind::Pattern, entry.severity, token.start(), token.end());
            }
            at = token.end().max(whole.start() + 1);
        }
    }
}

/// Whether an `@` ends what may be a user and a password, before anything that no URL has there.
fn has_userinfo(bytes: &[u8]) -> bool {
    let end = bytes.iter().take(260).position(|b| matches!(b, b'@' | b'/' | b'"' | b'\'' | b'<' | b'>' | 0..=b' '));
    end.is_some_and(|end| bytes[end] == b'@')
}

/// Runs the other way round, with what stands between their parts.
fn reversed(bytes: &[u8], pieces: &[(usize, usize)], give: &mut dyn FnMut(Derived)) {
    for (start, end) in pieces.iter().copied().filter(|(start, end)| (20..=256).contains(&(end - start))) {
        // There is a digit in what nobody chose.
        if !bytes[start..end].iter().any(u8::is_ascii_digit) {
            continue;
        }
        let turned: Vec<u8> = bytes[start..end].iter().rev().copied().collect();
        give(Derived { name: "reversed", bytes: turned, map: Map::whole(start, end) });
    }
}
