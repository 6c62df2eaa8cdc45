//! Our own corpus without a proxy: the scanner's crate alone, whole and with a part switched off. Each case names the
//! part without which it leaks; a case that no part is needed for proves nothing.

use crate::{
    benign::{self, HARMED_PER_MILLE, MODEL},
    exchange::{Request, Url},
    generator::Generator,
    leaks::{self, Leak, Part},
    play::Step,
    sockets::Frame,
};
use anyhow::{Context, Result, ensure};
use bottle_scan::{Context as About, ExactSet, Finding, Kind, Options, Rules, Scanner, Session};
use std::{collections::BTreeMap, sync::Arc};

/// In how many of a hundred cases a weaker build must fail that they name: a credential may be found in two ways.
const NEEDED_PERCENT: usize = 95;

/// Judges what would be sent, as the proxy has the scanner judge it.
///
/// This is all that the corpus needs of the scanner, so that another one, or another version, is tried in one place.
trait Judge {
    /// Would it stop one of these?
    fn stops(&self, steps: &[Step]) -> Result<bool>;
}

/// The scanner, without a part of it, if any.
struct Build {
    scanner: Arc<Scanner>,
    without: Option<Part>,
}

impl Build {
    fn new(rules: &Arc<Rules>, secrets: &[(String, String)], without: Option<Part>) -> Self {
        let known = secrets.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let exact = if without == Some(Part::ExactMatch) { ExactSet::default() } else { ExactSet::new(known) };
        // What only looks odd is no secret that is found: it stays out of every build.
        let options = Options { entropy: false, ..Options::default() };
        Self { scanner: Arc::new(Scanner::new(rules.clone(), exact, options)), without }
    }

    /// Does a finding count, in this build?
    fn counts(&self, finding: &Finding) -> bool {
        let counts = match finding.kind {
            Kind::Exact | Kind::Split => true,
            Kind::Pattern => finding.blocks() && self.without != Some(Part::Patterns),
            // What cannot be read is not sent; whoever reads nothing knows of none.
            Kind::Opaque => self.without != Some(Part::Decoders),
            _ => false,
        };
        counts && (self.without != Some(Part::Decoders) || finding.decoders.is_empty())
    }

    fn request(&self, session: &mut Session, request: &Request) -> Result<Vec<Finding>> {
        let url = Url::parse(&request.url)?;
        let host = url.host.to_ascii_lowercase();
        let (path, query) = url.path.split_once('?').map_or((url.path.as_str(), None), |(path, q)| (path, Some(q)));
        let mut findings = self.scanner.judge_url(&host, path, query);
        findings.extend(session.observe_url(&host, path, query));
        let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        findings.extend(self.scanner.judge_headers(headers));
        for (name, value) in &request.headers {
            findings.extend(session.observe(&host, &format!("header {name}"), value.as_bytes()));
        }
        let about = About::outgoing(&host, request.header("content-type").unwrap_or_default());
        let encoding = request.header("content-encoding").filter(|_| self.without != Some(Part::Decoders));
        let encoding = encoding.unwrap_or_default();
        // Without holding back, each piece goes on once it was judged, by itself.
        if self.without == Some(Part::HoldBack) && request.chunk > 0 {
            for chunk in request.body.chunks(request.chunk) {
                findings.extend(self.scanner.judge_body(&about, encoding, chunk));
            }
            return Ok(findings);
        }
        let mut stream = self.scanner.stream(about, encoding);
        for chunk in request.body.chunks(if request.chunk > 0 { request.chunk } else { usize::MAX }) {
            findings.extend(stream.push(chunk).findings);
        }
        findings.extend(stream.finish().findings);
        findings.extend(session.observe(&host, "body", &request.body));
        Ok(findings)
    }

    fn frames(&self, session: &mut Session, host: &str, frames: &[Frame]) -> Vec<Finding> {
        let (mut findings, mut message) = (vec![], vec![]);
        for frame in frames {
            message.extend(&frame.payload);
            if frame.fin || self.without == Some(Part::HoldBack) {
                findings.extend(self.scanner.judge_message(host, &message, frame.rsv1));
                if self.without != Some(Part::HoldBack) {
                    findings.extend(session.observe(host, "message", &message));
                }
                message.clear();
            }
        }
        findings
    }
}

impl Build {
    /// What it would stop one of these for.
    fn finding(&self, steps: &[Step]) -> Result<Option<Finding>> {
        let mut session = Session::new(self.scanner.clone());
        for step in steps {
            let mut findings = self.request(&mut session, step.request())?;
            if let Step::Speak(request, frames) = step {
                findings.extend(self.frames(&mut session, &Url::parse(&request.url)?.host, frames));
            }
            if let Some(finding) = findings.into_iter().find(|finding| self.counts(finding)) {
                return Ok(Some(finding));
            }
        }
        Ok(None)
    }
}

impl Judge for Build {
    fn stops(&self, steps: &[Step]) -> Result<bool> {
        Ok(self.finding(steps)?.is_some())
    }
}

#[test]
fn every_leak_is_found_and_needs_the_part_that_it_names() -> Result<()> {
    let (leaks, secrets) = leaks::all(&mut Generator::of_this_run()?)?;
    let rules = Arc::new(Rules::builtin()?);
    let build = |without| Build::new(&rules, &secrets, without);
    let whole: &dyn Judge = &build(None);
    let parts = [Part::Decoders, Part::ExactMatch, Part::Patterns, Part::HoldBack];
    let weaker: BTreeMap<Part, Build> = parts.map(|part| (part, build(Some(part)))).into();
    let (mut missed, mut needless) = (vec![], vec![]);
    let mut table: BTreeMap<Part, (usize, usize)> = BTreeMap::new();
    for leak in &leaks {
        if !whole.stops(&leak.steps)? {
            missed.push(leak);
        }
        let row = table.entry(leak.fails_without).or_default();
        row.1 += 1;
        if weaker.get(&leak.fails_without).context("a weaker build")?.stops(&leak.steps)? {
            needless.push(leak.id.as_str());
        } else {
            row.0 += 1;
        }
    }
    println!("{:12} leaks of the cases that name it", "without");
    for (part, (leaked, all)) in &table {
        println!("{:12} {leaked}/{all}", format!("{part:?}"));
    }
    let exact = |leaks: &[&Leak]| leaks.iter().filter(|leak| leak.exact).count();
    let ids: Vec<&str> = missed.iter().map(|leak| leak.id.as_str()).collect();
    println!("missed {}/{} {ids:#?}\nfound without the part {needless:#?}", missed.len(), leaks.len());
    let (all_exact, all) = (leaks.iter().filter(|leak| leak.exact).count(), leaks.len());
    ensure!(exact(&missed) * 100 <= all_exact, "{} of {all_exact} known secrets are missed", exact(&missed));
    ensure!(missed.len() * 100 <= all * 5, "{} of {all} leaks are missed", missed.len());
    ensure!(needless.len() * 100 <= all * (100 - NEEDED_PERCENT), "{} of {all} need nothing", needless.len());
    Ok(())
}

#[test]
fn what_honest_tools_send_is_taken_for_no_leak() -> Result<()> {
    let (_, secrets) = leaks::all(&mut Generator::of_this_run()?)?;
    let build = Build::new(&Arc::new(Rules::builtin()?), &secrets, None);
    let recordings = benign::recordings()?;
    let mut harmed = vec![];
    for recording in &recordings {
        // On the model's own host a credential by form is logged, and goes on.
        let model = Url::parse(&recording.url)?.host == MODEL;
        let finding = build.finding(&[recording.step()?])?;
        if let Some(finding) = finding.filter(|f| !model || matches!(f.kind, Kind::Exact | Kind::Split)) {
            harmed.push(format!("{} {}: {finding}", recording.tool, recording.url));
        }
    }
    println!("taken for leaks {}/{} {harmed:#?}", harmed.len(), recordings.len());
    ensure!(harmed.len() * 1000 <= recordings.len() * HARMED_PER_MILLE, "harmed: {harmed:#?}");
    Ok(())
}
