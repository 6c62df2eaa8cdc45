//! What a rule is as people write it, and how a pack of rules is read. Also part of the build script, which turns the
//! built-in packs into static data.

use regex_syntax::{
    Parser, ParserBuilder,
    hir::{Class, Hir, HirKind, Literal, literal},
};
use serde::Deserialize;

/// How bad it is when this leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth a line in the log.
    Low,
    /// Looks like a credential by its surroundings only.
    Medium,
    /// A credential by its form.
    High,
    /// A credential whose checksum holds or whose form nothing else has.
    Critical,
}

/// What must hold of a match beside its pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Nothing.
    #[default]
    None,
    /// The last six characters are the CRC-32 of what stands before them, in base 62 (GitHub, npm).
    Crc32,
    /// Base58Check: a double SHA-256 (Bitcoin).
    Base58check,
    /// The header is JSON with an `alg`.
    Jwt,
    /// The user information of a URL is no placeholder.
    Userinfo,
    /// Digits and letters, as chance mixes them.
    Mixed,
    /// Numbers that have been given out.
    Ssn,
    /// ISO 13616: the country's length and the remainder modulo 97.
    Iban,
    /// The first part is a number in base64 (a snowflake).
    Discord,
    /// The letters' case is the address's checksum.
    Eip55,
    /// Twelve to twenty-four words of the list, the last with the checksum.
    Bip39,
}

/// One kind of credential.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Stable name: in logs, in denials.
    pub id: String,
    /// Who gives it out.
    pub vendor: String,
    /// The document that describes it, or the rule it was made from.
    pub from: String,
    /// How bad it is when this leaves.
    pub severity: Severity,
    /// One of these stands in it or near it, in any case. May be empty where `run` is given.
    #[serde(default)]
    pub keywords: Vec<String>,
    /// These stand in everything that matches, too, in any case. Where one is missing, no expression is asked: for those
    /// whose keyword is a common word and whose expression reads far.
    #[serde(default)]
    pub beside: Vec<String>,
    /// The shortest and the longest unbroken run of letters and digits that gives it away, instead of a keyword.
    #[serde(default)]
    pub run: Option<(u8, u8)>,
    /// The name that it is assigned to, where it has no form of its own.
    #[serde(default)]
    pub after: Option<String>,
    /// The credential itself: a regular expression over bytes.
    pub token: String,
    /// What must hold beside.
    #[serde(default)]
    pub check: Check,
    /// More may follow the token at once.
    #[serde(default)]
    pub open: bool,
    /// Bits per character, at least.
    #[serde(default)]
    pub entropy: f32,
    /// Texts that hold one.
    #[serde(default)]
    pub examples: Vec<String>,
    /// Texts that nearly do.
    #[serde(default)]
    pub misses: Vec<String>,
}

/// A file of rules.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// Its rules.
    pub rules: Vec<Rule>,
}

impl Pack {
    /// Reads a pack. The error says where: `file:line:column: what`.
    pub fn parse(file: &str, text: &str) -> Result<Self, String> {
        let pack: Self = serde_yaml::from_str(text).map_err(|error| match error.location() {
            Some(at) => format!("{file}:{}:{}: {error}", at.line(), at.column()),
            None => format!("{file}: {error}"),
        })?;
        for (n, rule) in pack.rules.iter().enumerate() {
            let wrong = rule.mistake().or_else(|| {
                let twice = pack.rules[..n].iter().any(|other| other.id == rule.id);
                twice.then(|| "there is a rule of this id above".to_owned())
            });
            if let Some(wrong) = wrong {
                let line = text.lines().enumerate().filter(|(_, line)| {
                    let line = line.trim_start_matches(['-', ' ']);
                    line.strip_prefix("id:").is_some_and(|id| id.trim().trim_matches(['"', '\'']) == rule.id)
                });
                let line = line.last().map_or(1, |(line, _)| line + 1);
                return Err(format!("{file}:{line}: rule {}: {wrong}", rule.id));
            }
        }
        Ok(pack)
    }
}

impl Rule {
    fn mistake(&self) -> Option<String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
        if self.id.is_empty() || !self.id.bytes().all(plain) {
            return Some("an id is made of lower-case letters, digits, `-`, `_` and `.`".into());
        }
        if self.keywords.is_empty() && self.run.is_none() {
            return Some("needs `keywords` (or `run`), without which nothing looks for it".into());
        }
        let is_bad = |word: &&String| word.len() < 3 || word.bytes().any(|b| b.is_ascii_uppercase());
        if let Some(bad) = self.keywords.iter().chain(&self.beside).find(is_bad) {
            return Some(format!("keyword {bad:?}: three characters at least, in lower case"));
        }
        match Shape::of(self) {
            Ok(_) => None,
            Err(error) => Some(format!("`token` or `after`: {error}")),
        }
    }

    /// The whole expression; the group `t` is the credential.
    pub fn pattern(&self) -> String {
        let token = &self.token;
        let end = if self.open { "" } else { r"(?:[^\w\-]|$)" };
        match &self.after {
            None => format!(r"(?:^|[^A-Za-z0-9]|\\[nrtbf])(?P<t>{token}){end}"),
            Some(name) => {
                let assigned = r#"[ \t\w.\-]{0,20}[\s'"\\]{0,4}(?:=>|:{1,3}=|\|\||[=>:,])[\x60'"\s=\\]{0,5}"#;
                format!(r"(?i:{name}){assigned}(?P<t>{token}){end}")
            }
        }
    }
}

/// How far from its keyword a match may begin and end.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Where the token begins with its keyword: with which of these it does, in their case. A keyword before which a
    /// letter stands, or that is none of these, needs no expression.
    pub begins: Vec<String>,
    /// Whether the keyword is the name that something is assigned to.
    pub assigned: bool,
    /// Bytes before the keyword.
    pub back: u16,
    /// Bytes after the keyword's beginning.
    pub ahead: u16,
    /// How long the token is at least,
    pub least: u16,
    /// and the bytes that may be in it, a bit each.
    pub letters: [u64; 4],
}

/// Reads expressions over bytes.
fn parser() -> Parser {
    ParserBuilder::new().unicode(false).utf8(false).build()
}

/// A token without an end is looked at this far.
const UNBOUNDED: usize = 1500;

impl Shape {
    /// The texts that everything which matches begins with; none if there are too many.
    fn beginnings(token: &str) -> Result<Vec<String>, String> {
        let parsed = parser().parse(token).map_err(|error| error.to_string())?;
        let mut found = literal::Extractor::new().limit_class(8).limit_total(24).extract(&parsed);
        found.minimize_by_preference();
        let text = |literal: &literal::Literal| {
            let text = std::str::from_utf8(literal.as_bytes()).ok()?;
            (text.len() >= 2).then(|| text.to_owned())
        };
        Ok(found.literals().and_then(|all| all.iter().map(text).collect::<Option<Vec<_>>>()).unwrap_or_default())
    }

    /// Adds the bytes that may be in a match.
    fn letters(hir: &Hir, all: &mut [u64; 4]) {
        let add = |byte: u8| all[usize::from(byte >> 6)] |= 1 << (byte & 63);
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(Literal(bytes)) => bytes.iter().copied().for_each(add),
            HirKind::Class(Class::Bytes(class)) => {
                class.ranges().iter().flat_map(|range| range.start()..=range.end()).for_each(add);
            }
            // None in expressions over bytes; any byte may be in it.
            HirKind::Class(Class::Unicode(_)) => (0..=u8::MAX).for_each(add),
            HirKind::Repetition(of) => Self::letters(&of.sub, all),
            HirKind::Capture(of) => Self::letters(&of.sub, all),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().for_each(|part| Self::letters(part, all));
            }
        }
    }

    /// Of a rule, or why its expression cannot be read.
    pub fn of(rule: &Rule) -> Result<Self, String> {
        let longest = |pattern: &str| -> Result<usize, String> {
            let parsed = parser().parse(pattern).map_err(|error| error.to_string())?;
            Ok(parsed.properties().maximum_len().unwrap_or(UNBOUNDED).min(4096))
        };
        let token = parser().parse(&rule.token).map_err(|error| error.to_string())?;
        let least = token.properties().minimum_len().unwrap_or(0).min(64) as u16;
        let mut letters = [0; 4];
        Self::letters(&token, &mut letters);
        let all = longest(&rule.pattern())?;
        // The usual case: the token begins with its keyword.
        let plain = rule.token.to_lowercase().replace(['\\', '('], "").replace("?i:", "").replace("?:", "");
        let begins = rule.after.is_none()
            && rule.keywords.iter().all(|k| plain.starts_with(k.as_str()))
            && !(rule.keywords.is_empty() && rule.check == Check::Discord);
        let name = rule.after.as_deref().unwrap_or_default().to_lowercase().replace(['[', ']', '\\', '?'], "");
        let assigned = !rule.keywords.is_empty() && rule.keywords.iter().all(|k| name.contains(k.as_str()));
        let back = match &rule.after {
            _ if begins => 3,
            Some(name) if assigned => longest(name)?.min(64) + 1,
            _ => all.min(600),
        };
        let mut begins = if begins { Self::beginnings(&rule.token)? } else { vec![] };
        // A run may be the end of a token that begins with something else.
        if rule.run.is_some() && begins.iter().any(|text| !text.bytes().all(|b| b.is_ascii_alphanumeric())) {
            begins.clear();
        }
        Ok(Self { begins, assigned, back: back as u16, ahead: (all + 4) as u16, least, letters })
    }
}
