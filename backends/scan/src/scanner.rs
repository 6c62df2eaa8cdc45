//! The scanner: made once, shared by all connections.

use crate::{
    ExactSet, Rules, Stream,
    block::Window,
    decode::inflate::Open,
    fields,
    finding::{Finding, Kind},
    host,
    rule::Severity,
    window::{Collector, Scratch},
};
use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
};

/// What a message is, which decides what is looked for.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where the bytes go, or come from.
    pub host: String,
    /// The value of `Content-Type`.
    pub content_type: String,
    /// Whether credentials are looked for by their form; exact secrets always are.
    pub patterns: bool,
    /// Whether an archive is a finding that nobody can look into: where a body may carry data. What is kept as a file
    /// anyway may be one.
    pub archives: bool,
    /// Whether the bytes come in: instructions to an agent are looked for.
    pub incoming: bool,
}

impl Context {
    /// A message that leaves.
    pub fn outgoing(host: &str, content_type: &str) -> Self {
        Self { host: host.into(), content_type: content_type.into(), patterns: true, archives: true, incoming: false }
    }

    /// An answer: exact secrets, and instructions.
    pub fn incoming(host: &str, content_type: &str) -> Self {
        Self { host: host.into(), content_type: content_type.into(), patterns: false, archives: false, incoming: true }
    }
}

/// What the caller wants.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Hosts that nothing goes to, whatever it is; `*.example.net` includes all below.
    pub blocklist: Vec<String>,
    /// Whether names and paths of high entropy are reported.
    pub entropy: bool,
}

/// Rules and secrets, and what judges by them.
pub struct Scanner {
    pub(crate) rules: Arc<Rules>,
    pub(crate) exact: ExactSet,
    options: Options,
    /// What judgements work with, as many as there were at the same time.
    scratch: Mutex<Vec<Scratch>>,
}

impl Scanner {
    /// Of rules, which many scanners may share, and the secrets of one bottle.
    pub fn new(rules: Arc<Rules>, exact: ExactSet, options: Options) -> Self {
        Self { rules, exact, options, scratch: Mutex::default() }
    }

    /// The secrets it knows, and those it does not look for.
    pub fn exact(&self) -> &ExactSet {
        &self.exact
    }

    /// Judges the name of a host: encoded data in its labels, secrets, the caller's list.
    pub fn judge_host(&self, name: &str) -> Vec<Finding> {
        let mut findings = vec![];
        if self.options.blocklist.iter().any(|listed| host::is_listed(name, listed)) {
            findings.push(host::finding("blocklist", Kind::Listed, Severity::Critical, name));
        }
        // Dots are no letters: a secret in several labels is found, too.
        findings.extend(self.judge_part("host", &Context::outgoing(name, ""), name.as_bytes()));
        if self.options.entropy {
            findings.extend(host::entropy(name));
        }
        findings
    }

    /// Judges a URL: its host, its path, its query and the values in it.
    pub fn judge_url(&self, host_name: &str, path: &str, query: Option<&str>) -> Vec<Finding> {
        let context = Context::outgoing(host_name, "");
        let mut findings = self.judge_host(host_name);
        findings.extend(self.judge_part("path", &context, path.as_bytes()));
        if let Some(query) = query {
            findings.extend(self.judge_part("query", &context, query.as_bytes()));
            findings.extend(self.judge_blanks("query", &context, query.as_bytes()));
        }
        let whole = format!("{path}?{}", query.unwrap_or_default());
        findings.extend(self.judge_joined("url", &context, &fields::of_url(&whole)));
        if self.options.entropy {
            findings.extend(host::path_entropy(path, query.unwrap_or_default()));
        }
        findings
    }

    /// Judges headers, each and all together.
    pub fn judge_headers<'h>(&self, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Vec<Finding> {
        let context = Context::outgoing("", "");
        let mut findings = vec![];
        let mut values: Vec<Vec<u8>> = vec![];
        for (name, value) in headers {
            // The name says what an assigned value is: `X-Api-Key: …`.
            let line = [name.as_bytes(), b": ", value].concat();
            let place = format!("header {}", name.to_ascii_lowercase());
            findings.extend(self.judge_part(place, &context, &line));
            values.push(value.to_vec());
        }
        findings.extend(self.judge_joined("headers", &context, &values));
        findings
    }

    /// Judges a whole body.
    pub fn judge_body(self: &Arc<Self>, context: &Context, encoding: &str, bytes: &[u8]) -> Vec<Finding> {
        let mut stream = self.stream(context.clone(), encoding);
        let mut findings = stream.push(bytes).findings;
        findings.extend(stream.finish().findings);
        findings
    }

    /// Judges a message of a WebSocket: all its frames together. One that is compressed (RSV1) nobody can judge: refuse
    /// the extension in the handshake.
    pub fn judge_message(&self, host_name: &str, bytes: &[u8], compressed: bool) -> Vec<Finding> {
        let context = Context::outgoing(host_name, "");
        if compressed {
            return vec![host::finding("compressed-frame", Kind::Opaque, Severity::High, "")];
        }
        let mut findings = self.judge_part("message", &context, bytes);
        findings.extend(self.judge_structure("message", &context, bytes));
        findings
    }

    /// A stream of bytes, judged before it goes on.
    pub fn stream(self: &Arc<Self>, context: Context, encoding: &str) -> Stream {
        Stream::new(Arc::clone(self), context, encoding)
    }

    /// A body that goes on without the secrets in it.
    pub fn redactor(self: &Arc<Self>, context: Context) -> crate::Redactor {
        crate::Redactor::new(Arc::clone(self), context)
    }

    /// What has gone where, in pieces.
    pub fn session(self: &Arc<Self>) -> crate::Session {
        crate::Session::new(Arc::clone(self))
    }

    /// Judges bytes that are whole.
    pub(crate) fn judge_part(
        &self,
        place: impl Into<Cow<'static, str>>,
        context: &Context,
        bytes: &[u8],
    ) -> Vec<Finding> {
        self.judge_window(place, context, Window::whole(bytes)).0
    }

    /// Judges a part of a stream, and says what is compressed in it and goes on behind it.
    pub(crate) fn judge_window(
        &self,
        place: impl Into<Cow<'static, str>>,
        context: &Context,
        window: Window<'_>,
    ) -> (Vec<Finding>, Vec<Open>) {
        self.with_scratch(|scratch| {
            let mut collector = Collector::new(self, context, place.into(), window, scratch);
            collector.window(window);
            (collector.findings, collector.open)
        })
    }

    /// Works with what waits for work, and wipes it after.
    pub(crate) fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let waiting = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = waiting().pop().unwrap_or_default();
        let made = work(&mut scratch);
        scratch.wipe();
        waiting().push(scratch);
        made
    }

    /// What a message is made of: values that belong together, tools and their arguments.
    pub(crate) fn judge_structure(&self, place: &'static str, context: &Context, bytes: &[u8]) -> Vec<Finding> {
        let mut findings = vec![];
        if context.patterns {
            if fields::is_form(&context.content_type) {
                findings.extend(self.judge_blanks(place, context, bytes));
            }
            for group in fields::of_body(&context.content_type, bytes) {
                findings.extend(self.judge_joined(place, context, &group));
            }
        }
        findings.extend(crate::message::judge(bytes, context.incoming));
        findings
    }

    /// Judges the values of a form that have blanks.
    fn judge_blanks(&self, place: &'static str, context: &Context, bytes: &[u8]) -> Vec<Finding> {
        let judge = |value: Vec<u8>| self.judge_part(place, context, &value);
        let found = fields::with_blanks(bytes).into_iter().flat_map(judge);
        found.map(|finding| Finding { start: 0, end: 0, decoders: "form".into(), ..finding }).collect()
    }

    /// Judges values side by side: a credential in two of them is one.
    pub(crate) fn judge_joined(&self, place: &'static str, context: &Context, values: &[Vec<u8>]) -> Vec<Finding> {
        let mut findings = vec![];
        if values.len() < 2 {
            return findings;
        }
        let all = values.concat();
        let exact = Context { patterns: false, archives: false, ..context.clone() };
        findings.extend(self.judge_part(place, &exact, &all));
        if context.patterns {
            for joined in fields::neighbours(values) {
                let found = self.judge_part(place, context, &joined.bytes);
                // What is whole in one value was found there, with its right place.
                findings.extend(found.into_iter().filter(|f| joined.crosses(f.start, f.end)));
            }
        }
        for finding in &mut findings {
            finding.decoders =
                if finding.decoders.is_empty() { "joined".into() } else { format!("joined > {}", finding.decoders) };
            (finding.start, finding.end) = (0, 0);
        }
        findings.sort();
        findings.dedup();
        findings
    }
}
