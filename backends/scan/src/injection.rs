//! Instructions to an agent where it expects data. Warn or block is the caller's choice.
//!
//! A text *about* such instructions quotes them: what stands in quotation marks, code or a quotation, in a text that
//! speaks of attacks, is left alone, unless it is hidden from a reader's eyes.

use crate::{
    decode::fold,
    finding::{Finding, Kind},
    rule::Severity,
};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use std::sync::OnceLock;

const RULES: &[(&str, &str)] = &[
    (
        "prompt-override",
        r"\b(?:ignore|disregard|forget|override|bypass|neglect|overlook|do not follow|don't follow|stop following)\b[^.\n]{0,40}\b(?:previous|prior|above|earlier|preceding|all|any|existing|safety|original|your|system|initial)\b[^.\n]{0,40}\b(?:instruction|prompt|directive|guideline|rule|polic(?:y|ies)|context|training|restriction|constraint|filter)s?",
    ),
    (
        "prompt-override",
        r"\b(?:new|updated|revised|priority|override|additional|urgent|important) (?:system |priority |security |critical )?(?:directive|instruction|order|prompt|update|override)s?\b\s*[:.]",
    ),
    ("prompt-override", r"\b(?:important|critical|urgent) system (?:update|message|notice|instruction)\b"),
    (
        "role-confusion",
        r"(?:^|[\n>\x22])\s*(?:\[(?:system|inst|admin|developer)\]|<\|?(?:system|im_start|im_end|endoftext)\|?>|<<sys>>|\[/inst\]|###\s*(?:system|instruction)s?\s*:|system\s*:\s*you\b)",
    ),
    ("role-confusion", r"<\|im_start\|>|<\|endoftext\|>|<\|start_header_id\|>|\[inst\]|<<sys>>"),
    (
        "role-confusion",
        r"\byou are (?:now|no longer)\b[^.\n]{0,60}\b(?:mode|unrestricted|dan|jailbr|assistant|agent|admin|root|bound|limited|restricted|an? ai)\b",
    ),
    (
        "role-confusion",
        r"\b(?:act|behave|respond|pretend) as (?:if you (?:are|were|have)|an? (?:unrestricted|unfiltered|different|admin|root|evil|jailbroken))",
    ),
    (
        "role-confusion",
        r"\b(?:developer|god|dan|jailbreak|unrestricted|sudo|debug|maintenance) mode\b[^.\n]{0,30}\b(?:enabled|activated|engaged|on)\b|\b(?:enter|enable|activate|in) (?:developer|god|dan|jailbreak|unrestricted|unfiltered) mode\b",
    ),
    (
        "prompt-leak",
        r"\b(?:reveal|output|print|show|repeat|display|disclose|leak|send|reproduce|dump)\b[^.\n]{0,40}\b(?:system prompt|initial prompt|hidden prompt|tool definitions|your (?:full |complete |entire |original )?(?:instructions|prompt|configuration|system message))\b",
    ),
    (
        "exfiltration",
        r"\b(?:send|post|upload|transmit|exfiltrate|forward|submit|leak|deliver|report|email|include)\b[^.\n]{0,100}\b(?:credential|api[ _-]?key|secret|password|token|private key|environment variable|env(?:ironment)?|ssh key|conversation|chat history|user data|id_rsa|contents? of)s?\b[^.\n]{0,120}(?:https?://|\bto\b [a-z0-9.-]+\.[a-z]{2,})",
    ),
    (
        "exfiltration",
        r"\b(?:output|print|read|send|show|reveal|include|cat|return|display|encode|fetch)\b[^.\n]{0,40}(?:\bcontents? of\b[^.\n]{0,20})?(?:/etc/(?:passwd|shadow)|~?/?\.ssh/|id_rsa|\.aws/credentials|\.env\b file)",
    ),
    (
        "exfiltration",
        r"!\[[^\]]{0,100}\]\(https?://[^)\s]{1,200}[?&][a-z_]{1,20}=(?:[^)\s&]{0,40}(?:data|secret|token|prompt|key|conversation|history|\{|\$|%7b)[^)\s]{0,80})\)",
    ),
    (
        "orders",
        r"\b(?:you|the (?:assistant|agent|model|ai)) (?:must|should|shall|need to|have to|are required to|will) (?:now |immediately |first |always |then )*(?:call|execute|run|invoke|fetch|visit|navigate|download|install|use|open|send|curl)\b[^.\n]{0,60}(?:\btool\b|https?://|\bfunction\b|\bcommand\b|\bbash\b|\bshell\b|\bscript\b|\bcurl\b)",
    ),
    (
        "orders",
        r"\b(?:ai|llm|language model|assistant|agent|chatgpt|claude|copilot)s?\b[^.\n]{0,30}(?:reading|processing|parsing|summari[sz]ing|viewing|analy[sz]ing) (?:this|the)\b[^.\n]{0,60}\b(?:must|should|please|ignore|execute|run|send|call|include)\b",
    ),
    (
        "orders",
        r"\b(?:do not|don't|never|without) (?:tell|telling|inform|informing|notify|notifying|mention|mentioning|alert|alerting|reveal|revealing|ask|asking)(?: this| it| anything)?(?: to)? (?:the )?(?:user|human|operator|anyone)\b",
    ),
    (
        "orders",
        r"\b(?:before|prior to|instead of|after) (?:proceeding|continuing|responding|answering|doing anything|you (?:continue|proceed|respond|answer))\b[^.\n]{0,30}\b(?:output|send|print|call|execute|run|read|reveal|fetch|include|download)\b",
    ),
    (
        "orders",
        r"\b(?:navigate|go|redirect|browse) to\b[^.\n]{0,40}\b(?:admin panel|evil|attacker|malicious|settings page)\b",
    ),
    (
        "orders",
        r"\b(?:comply with (?:every|all|any) request|without (?:any )?(?:filter(?:ing)?|restriction|limitation|safety|confirmation)s?\b[^.\n]{0,20}\b(?:execute|respond|comply|answer|run)|grant (?:full |admin |root )?(?:access|permissions?) to)\b",
    ),
    (
        "memory",
        r"\b(?:remember|store|save|persist|add)\b[^.\n]{0,40}\b(?:in|to|into) (?:your|the) (?:long[- ]term )?(?:memory|context|system prompt|instructions)\b",
    ),
];

/// A description that does more than describe.
const POISON: &[&str] = &[
    r"\b(?:before|after|prior to|whenever|when|each time|every time|in order to|first)\b[^.]{0,80}\b(?:us(?:e|ing)|call(?:ing)?|invok(?:e|ing)|return(?:ing)?|summari[sz]ing|runn?(?:ing)?|execut(?:e|ing)|ask(?:s|ing)?|respond(?:ing)?|proceed(?:ing)?|process(?:ing)?)\b[^.]{0,60}\b(?:first |always |must |also |immediately )+(?:read|call|run|execute|send|fetch|include|pass|invoke|use|get|collect|access|cat|curl|open|retrieve)\b",
    r"(?i:~/|/home/|/root/|/etc/|\$home/)[^\s]{0,60}(?:\.ssh|id_rsa|\.aws|\.env|shadow|passwd|credentials|\.netrc|\.kube|\.config)|(?:~|/)\.(?:ssh|aws|gnupg|kube)/",
    r"\b(?:include|pass|append|attach|embed|send|add|provide|put|insert)\b[^.]{0,60}\b(?:contents?|file|full|entire|complete|conversation|history|credentials?|secrets?|tokens?|api keys?|environment variables?|env)\b[^.]{0,60}\b(?:parameter|argument|query|field|metadata|request|response|to https?:)",
    r"(?:curl|wget)\s+(?:-[a-z]+\s+)*https?://|\$\([^)]{0,40}(?:env|cat|base64)|\|\s*base64",
    r"<(?:important|system|secret|hidden|instructions?)>",
    r"\b(?:important|note to (?:ai|assistant|model|agent))\b\s*:[^.]{0,40}\b(?:before|always|first|must|ignore|never|do not)\b",
    r"\b(?:instead of|do not use|never use|replaces?|supersedes?|takes? precedence over|override(?:s)?)\b[^.]{0,40}\b(?:other|the|any|all) (?:tool|server|function|send_|read_|instructions)",
    r"\b(?:send|post|forward|upload|report|copy|bcc)\b[^.]{0,80}https?://",
    r"\b(?:do not|don't|never)\b[^.]{0,20}\b(?:tell|inform|mention|reveal|notify|show)\b[^.]{0,30}\buser\b",
    r"\b(?:drop table|; ?rm -rf|rm -rf /)",
];

struct Compiled {
    set: Option<RegexSet>,
    each: Vec<Option<Regex>>,
    poison: Option<RegexSet>,
    words: aho_corasick::AhoCorasick,
}

/// One of these stands in everything that a rule could match.
const WORDS: [&str; 46] = [
    "ignore",
    "disregard",
    "forget",
    "overrid",
    "bypass",
    "neglect",
    "overlook",
    "follow",
    "directive",
    "instruction",
    "[system]",
    "[inst",
    "[admin]",
    "[developer]",
    "<|",
    "<system",
    "<<sys",
    "# system",
    "#system",
    "###",
    "system:",
    "system :",
    "you are n",
    " as if you",
    " as a",
    " mode",
    "prompt",
    "tool definitions",
    "/etc/",
    ".ssh/",
    "id_rsa",
    ".aws/",
    ".env",
    "](http",
    "you ",
    "the assistant",
    "the agent",
    "the model",
    "the ai",
    "reading",
    "processing",
    "without",
    "memory",
    "http",
    "system update",
    "before",
];

fn compiled() -> Option<&'static Compiled> {
    static ALL: OnceLock<Option<Compiled>> = OnceLock::new();
    let make = || {
        let build = |patterns: &mut dyn Iterator<Item = &'static str>| {
            RegexSetBuilder::new(patterns).case_insensitive(true).unicode(false).size_limit(16 << 20).build().ok()
        };
        let one = |(_, text): &(&str, &'static str)| {
            RegexBuilder::new(text).case_insensitive(true).unicode(false).build().ok()
        };
        let words = aho_corasick::AhoCorasick::builder().ascii_case_insensitive(true).build(WORDS).ok()?;
        let set = build(&mut RULES.iter().map(|(_, text)| *text));
        Some(Compiled { set, each: RULES.iter().map(one).collect(), poison: build(&mut POISON.iter().copied()), words })
    };
    ALL.get_or_init(make).as_ref()
}

/// Looks at the parts of a text where one of the words stands: the rest of it costs one pass.
pub(crate) fn judge(bytes: &[u8]) -> Vec<Finding> {
    let Some(all) = compiled() else { return vec![] };
    let mut findings = vec![];
    let mut stretch: Option<(usize, usize)> = None;
    for word in all.words.find_iter(bytes) {
        let (from, to) = (word.start().saturating_sub(200), (word.end() + 320).min(bytes.len()));
        stretch = match stretch {
            Some((start, end)) if from <= end && to - start < 16 << 10 => Some((start, to)),
            Some((start, end)) => {
                look(all, bytes, start, end, &mut findings);
                Some((from, to))
            }
            None => Some((from, to)),
        };
    }
    if let Some((start, end)) = stretch {
        look(all, bytes, start, end, &mut findings);
    }
    invisible(bytes, &mut findings);
    // The same words in letters that only look like them.
    fold::decode(bytes, usize::MAX, &mut |made| look(all, &made.bytes, 0, made.bytes.len(), &mut findings));
    findings.sort();
    findings.dedup_by(|a, b| a.rule == b.rule);
    findings
}

fn look(all: &Compiled, bytes: &[u8], start: usize, end: usize, findings: &mut Vec<Finding>) {
    // Escaped line ends of JSON separate sentences like plain ones.
    let text = String::from_utf8_lossy(&bytes[start..end])
        .replace("\\n", "\n ")
        .replace("\\\"", "\u{1}\"")
        .replace("\\u003c", "<");
    let Some(set) = &all.set else { return };
    for rule in set.matches(text.as_bytes()).iter() {
        let Some(Some(expression)) = all.each.get(rule) else { continue };
        for found in expression.find_iter(text.as_bytes()) {
            if !is_quoted(bytes, &text, found.start(), found.end()) {
                findings.push(Finding {
                    rule: RULES[rule].0.into(),
                    kind: Kind::Injection,
                    severity: Severity::High,
                    place: "body".into(),
                    start: (start + found.start().min(end - start)) as u64,
                    end: (start + found.end().min(end - start)) as u64,
                    decoders: String::new(),
                });
                break;
            }
        }
    }
}

/// Whether the words are an example in a text about them.
fn is_quoted(all: &[u8], text: &str, start: usize, end: usize) -> bool {
    let (before, after) = (text.get(..start).unwrap_or_default(), text.get(end..).unwrap_or_default());
    let hidden = before.rfind("<!--").is_some_and(|open| !before[open..].contains("-->"))
        || ["display:none", "display: none", "visibility:hidden", "font-size:0", "opacity:0", "hidden>"]
            .iter()
            .any(|style| before.rfind(style).is_some_and(|at| !before[at..].contains("</")));
    if hidden {
        return false;
    }
    let lower = String::from_utf8_lossy(&all[..all.len().min(256 << 10)]).to_ascii_lowercase();
    let cues = [
        "prompt injection",
        "attack",
        "jailbreak",
        "injection",
        "malicious",
        "adversarial",
        "security research",
        "example of",
        "for example",
        "such as",
        "red team",
    ];
    if !cues.iter().any(|cue| lower.contains(cue)) {
        return false;
    }
    // Told of somebody, not said to anybody: `attempts to override …`.
    let told = ["to ", "could ", "can ", "may ", "might ", "would ", "that ", "which ", "will "];
    if told.iter().any(|word| before.ends_with(word)) {
        return true;
    }
    // A quotation that opens before the words and closes after them, within a paragraph.
    let near = before.get(before.len().saturating_sub(160)..).unwrap_or(before);
    let rest = after.get(..after.len().min(240)).unwrap_or(after);
    let pairs = [
        ("\u{1}\"", "\u{1}\""),
        ("\u{201c}", "\u{201d}"),
        ("`", "`"),
        ("&quot;", "&quot;"),
        ("<code>", "</code>"),
        ("<q>", "</q>"),
        ("<blockquote>", "</blockquote>"),
        ("<pre>", "</pre>"),
        ("\u{2018}", "\u{2019}"),
    ];
    let json = matches!(all.iter().find(|b| !b.is_ascii_whitespace()), Some(b'{' | b'['));
    let plain = [("\"", "\""), ("'", "'")];
    let marks = pairs.iter().chain(if json { &[][..] } else { &plain[..] });
    marks.into_iter().any(|(open, close)| {
        let opened = near
            .rfind(open)
            .is_some_and(|at| open != close || near.matches(open).count() % 2 == 1 && at + 140 > near.len());
        opened && rest.contains(close)
    })
}

/// Text that nobody sees: tags and zero-width characters in number.
fn invisible(bytes: &[u8], findings: &mut Vec<Finding>) {
    // Tag characters spell ASCII; there is no use for them but flags.
    let tags = memchr::memmem::find_iter(bytes, b"\xf3\xa0\x80").count()
        + memchr::memmem::find_iter(bytes, b"\xf3\xa0\x81").count();
    let zero = ["\u{200b}", "\u{2060}", "\u{200c}", "\u{200d}"]
        .iter()
        .map(|c| memchr::memmem::find_iter(bytes, c.as_bytes()).count())
        .sum::<usize>();
    if tags > 16 || zero > 64 && zero * 20 > bytes.len() {
        findings.push(Finding {
            rule: "hidden-text".into(),
            kind: Kind::Injection,
            severity: Severity::High,
            place: "body".into(),
            start: 0,
            end: bytes.len() as u64,
            decoders: String::new(),
        });
    }
}

/// Whether a description of a tool gives orders.
pub(crate) fn is_poisoned(text: &str) -> bool {
    let Some(all) = compiled() else { return false };
    let hit = |text: &[u8]| [&all.poison, &all.set].into_iter().flatten().any(|set| set.is_match(text));
    let mut folded = false;
    fold::decode(text.as_bytes(), usize::MAX, &mut |made| folded |= hit(&made.bytes));
    folded || hit(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_compiled() {
        let all = compiled().unwrap();
        assert!(all.set.is_some() && all.poison.is_some() && all.each.iter().all(Option::is_some));
    }
}
