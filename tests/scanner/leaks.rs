//! Our own corpus: secrets on their way to hosts that a bottle allows. Read from `tests/corpora/leaks`, a file a family;
//! `tests/corpora/README.md` says what the fields mean.

use crate::{exchange::Request, generator::Generator, play::Step, sockets::Frame, transform};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    family: String,
    templates: Vec<Template>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    template: String,
    requests: Vec<Sent>,
    #[serde(default)]
    verdict: Verdict,
    cases: Vec<CaseText>,
}

/// What should become of a leak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It does not arrive.
    #[default]
    Block,
    /// Everything but the secret does.
    Redact,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    body_as: Vec<String>,
    #[serde(default)]
    chunk: usize,
    #[serde(default)]
    frames: Vec<String>,
    #[serde(default)]
    binary: bool,
    /// The frames are one message.
    #[serde(default)]
    fragmented: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseText {
    secret: String,
    #[serde(rename = "as")]
    transforms: Vec<String>,
    fails_without: Part,
}

/// A part of the scanner, without which it is the weaker build that a case fails against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    Decoders,
    ExactMatch,
    Patterns,
    HoldBack,
}

/// A case, its secret in it.
#[derive(Debug)]
pub(crate) struct Leak {
    pub(crate) family: String,
    /// `family/template/number`
    pub(crate) id: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) verdict: Verdict,
    pub(crate) fails_without: Part,
    /// The secret is one that the sidecar knows.
    pub(crate) exact: bool,
    /// The secret as it is sent.
    pub(crate) sent: Vec<u8>,
}

/// Values by their names.
pub(crate) type Named = Vec<(String, String)>;

/// All cases, with secrets of that generator, and the values that the sidecar is to know.
pub(crate) fn all(generator: &mut Generator) -> Result<(Vec<Leak>, Named)> {
    let known = generator.known();
    let mut leaks = vec![];
    for file in files()? {
        let family: Family = serde_json::from_slice(&fs::read(&file)?).with_context(|| file.display().to_string())?;
        for template in &family.templates {
            ensure!(template.cases.len() <= 10, "{}: more than ten cases", template.template);
            for (number, case) in template.cases.iter().enumerate() {
                let id = format!("{}/{}/{number}", family.family, template.template);
                let leak = leak(&family.family, id.clone(), template, case, &known, generator);
                leaks.push(leak.with_context(|| id)?);
            }
        }
    }
    let named = known.into_iter().enumerate().map(|(n, value)| (format!("SECRET_{n}"), value));
    Ok((leaks, named.collect()))
}

fn files() -> Result<Vec<PathBuf>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora/leaks");
    let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

fn leak(
    family: &str,
    id: String,
    template: &Template,
    case: &CaseText,
    known: &[String],
    generator: &mut Generator,
) -> Result<Leak> {
    let (sort, which) = case.secret.split_once(':').context("a secret is `exact:NUMBER` or `pattern:KIND`")?;
    let secret = match sort {
        "exact" => known.get(which.parse::<usize>()?).context("no such known secret")?.clone(),
        "pattern" => generator.kind(which).context("no such kind of credential")?,
        _ => bail!("{}", case.secret),
    };
    let sent = transform::all(secret.as_bytes(), &case.transforms)?;
    let steps = template.requests.iter().map(|request| request.step(&sent)).collect::<Result<_>>()?;
    Ok(Leak {
        family: family.to_owned(),
        id: format!("{id} {}|{}", case.secret, case.transforms.join(",")),
        steps,
        verdict: template.verdict,
        fails_without: case.fails_without,
        exact: sort == "exact",
        sent,
    })
}

impl Sent {
    fn step(&self, secret: &[u8]) -> Result<Step> {
        let text = |template: &str| Ok::<_, anyhow::Error>(String::from_utf8(filled(template, secret)?.0)?);
        let headers = self.headers.iter().map(|(name, value)| Ok((name.clone(), text(value)?)));
        let (plain, end) = filled(&self.body, secret)?;
        let body = transform::all(&plain, &self.body_as)?;
        // Of a body that was made into another one all is needed.
        let enough = if self.body_as.is_empty() { end } else { body.len() };
        let request = Request {
            method: self.method.clone(),
            url: text(&self.url)?,
            headers: headers.collect::<Result<_>>()?,
            body,
            chunk: self.chunk,
        };
        if self.frames.is_empty() {
            return Ok(Step::Send(request, enough));
        }
        let frame = |(n, template): (usize, &String)| {
            let last = !self.fragmented || n + 1 == self.frames.len();
            let opcode = if self.fragmented && n > 0 { 0 } else { 1 + u8::from(self.binary) };
            Ok(Frame { opcode, fin: last, rsv1: false, payload: filled(template, secret)?.0 })
        };
        Ok(Step::Speak(request, self.frames.iter().enumerate().map(frame).collect::<Result<_>>()?))
    }
}

/// A template with the secret in it, and where most of the secret has been said.
fn filled(template: &str, secret: &[u8]) -> Result<(Vec<u8>, usize)> {
    let (mut out, mut rest, mut end) = (vec![], template, 0);
    while let Some((before, after)) = rest.split_once("{{") {
        let (what, after) = after.split_once("}}").context("a placeholder ends with }}")?;
        out.extend(before.as_bytes());
        let words: Vec<&str> = what.split(' ').collect();
        match words[..] {
            ["secret"] => out.extend(secret),
            ["part", which] => {
                let (part, parts) = which.split_once('/').context("a part is `1/2`")?;
                let (part, parts): (usize, usize) = (part.parse()?, parts.parse()?);
                ensure!((1..=parts).contains(&part), "part {which}");
                out.extend(&secret[secret.len() * (part - 1) / parts..secret.len() * part / parts]);
            }
            ["filler", length] => {
                out.extend(b"the quick brown fox jumps over the lazy dog and ".iter().cycle().take(length.parse()?));
                rest = after;
                continue;
            }
            ["noise", length] => {
                out.extend(noise(length.parse()?));
                rest = after;
                continue;
            }
            _ => bail!("nobody knows the placeholder {what}"),
        }
        end = out.len() - secret.len() / 4;
        rest = after;
    }
    out.extend(rest.as_bytes());
    Ok((out, end))
}

/// Letters in words, hardly any of which comes twice: a compression has to write each of them in fewer bits.
fn noise(length: usize) -> impl Iterator<Item = u8> {
    let states = std::iter::successors(Some(1_u32), |n| Some(n.wrapping_mul(1_103_515_245).wrapping_add(12345)));
    states.zip(1..=length).map(|(state, n)| if n % 7 == 0 { b' ' } else { b'a' + (state >> 16) as u8 % 16 })
}
