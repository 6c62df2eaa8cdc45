//! Who looks at a body, whichever way it goes: bytes are held back until they were judged.

use bottle_scan::{Context, Finding, Redactor, Scanner, Stream};
use std::sync::Arc;

/// One body's.
pub(super) struct Inspector {
    scanner: Arc<Scanner>,
    context: Context,
    encoding: String,
    by: By,
}

enum By {
    /// Lets bytes go on as they came.
    Stream(Box<Stream>),
    /// Takes known secrets out of them.
    Redactor(Box<Redactor>),
}

/// What it says of a piece.
pub(super) struct Inspected {
    /// What may go on, if what was found in it lets it.
    pub(super) released: Vec<u8>,
    pub(super) findings: Vec<Finding>,
}

impl Inspector {
    /// Of a body that goes on as it came, or not at all. `encoding` is its coding, empty without one.
    pub(super) fn judging(scanner: &Arc<Scanner>, context: Context, encoding: &str) -> Self {
        let by = By::Stream(Box::new(scanner.stream(context.clone(), encoding)));
        Self { scanner: scanner.clone(), context, encoding: encoding.into(), by }
    }

    /// Of a body that goes on without the secrets in it. It has no coding: nothing can be taken out of one.
    pub(super) fn redacting(scanner: &Arc<Scanner>, context: Context) -> Self {
        let by = By::Redactor(Box::new(scanner.redactor(context.clone())));
        Self { scanner: scanner.clone(), context, encoding: String::new(), by }
    }

    /// Does it take secrets out? Then nobody knows beforehand how long the body will be.
    pub(super) fn redacts(&self) -> bool {
        matches!(self.by, By::Redactor(_))
    }

    /// The next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Inspected {
        match &mut self.by {
            By::Stream(stream) => stream.push(bytes).into(),
            By::Redactor(redactor) => redactor.push(bytes).into(),
        }
    }

    /// Everything that is held back, judged as if the body ended here. What comes after it is judged as another body.
    pub(super) fn finish(&mut self) -> Inspected {
        let anew = match &self.by {
            By::Stream(_) => Self::judging(&self.scanner, self.context.clone(), &self.encoding),
            By::Redactor(_) => Self::redacting(&self.scanner, self.context.clone()),
        };
        match std::mem::replace(self, anew).by {
            By::Stream(stream) => stream.finish().into(),
            By::Redactor(redactor) => redactor.finish().into(),
        }
    }
}

impl From<bottle_scan::Verdict> for Inspected {
    fn from(verdict: bottle_scan::Verdict) -> Self {
        Self { released: verdict.released, findings: verdict.findings }
    }
}

impl From<bottle_scan::Redacted> for Inspected {
    fn from(redacted: bottle_scan::Redacted) -> Self {
        Self { released: redacted.bytes, findings: redacted.findings }
    }
}
