//! What leaves a bottle, judged by the scanner: which findings stop a message, and which are written down.
//!
//! On the model's own host a conversation has to survive: known secrets are taken out of it (`upload`), what only looks
//! like a credential is written down, and the entropy of names says nothing.

use anyhow::{Result, anyhow, bail};
use bottle_api::{control::CAPABILITY, secret::Secrets};
use bottle_policy::{Denial, EnvSecret, Mode, Policy, Route};
use bottle_scan::{Context, ExactSet, Finding, Kind, Options, Pack, Rules, Scanner, Session, is_listed};
use hyper::{header::HeaderMap, http::request};
use std::sync::{Arc, Mutex, PoisonError};

/// Of the findings in one message, those that its line in the log names.
const NAMED: usize = 8;
/// The beginnings of names among the sidecar's secrets that say what kind they are.
const KINDS: [&str; 2] = ["env:", "$"];

/// The scanner of one policy.
pub(super) struct Guard {
    /// For what leaves: knows every secret.
    out: Arc<Scanner>,
    /// For what comes back: knows the credentials that are put in, which no agent has.
    back: Arc<Scanner>,
    /// What left in pieces, to any host.
    left: Mutex<Session>,
    env: Vec<EnvSecret>,
    mode: Mode,
}

/// What the scanner says of a message that may go on.
pub(super) type Noted = Vec<String>;

impl Guard {
    pub(super) fn new(policy: &Policy, secrets: &Secrets) -> Result<Self> {
        let rules = rules(policy)?;
        let injected = known(secrets, |name| !name.starts_with(KINDS[0]) && name != CAPABILITY);
        let blocklist = policy.scan.blocklist.clone();
        let named = |route: &&Route| blocklist.iter().any(|listed| is_listed(&route.host, listed));
        if let Some(route) = policy.routes.iter().find(named) {
            bail!("the blocklist names {}, which has a route", route.host);
        }
        let options = Options { entropy: true, blocklist };
        let out = Arc::new(Scanner::new(rules.clone(), known(secrets, |_| true), options));
        let back = Arc::new(Scanner::new(rules, injected, Options::default()));
        let left = Mutex::new(out.session());
        Ok(Self { out, back, left, env: policy.scan.env.clone(), mode: policy.mode })
    }

    /// For what leaves.
    pub(super) fn out(&self) -> &Arc<Scanner> {
        &self.out
    }

    /// For what comes back.
    pub(super) fn back(&self) -> &Arc<Scanner> {
        &self.back
    }

    /// Judges a request before its body, without any credential of ours.
    pub(super) fn head(&self, route: &Route, host: &str, head: &request::Parts) -> Result<Noted, Denial> {
        let (path, query) = (head.uri.path(), head.uri.query());
        let mut findings = self.out.judge_url(host, path, query);
        findings.extend(self.out.judge_headers(values(&head.headers)));
        if !route.conversation {
            let mut session = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            findings.extend(session.observe_url(host, path, query));
            for (name, value) in values(&head.headers) {
                findings.extend(session.observe(host, name, value));
            }
        }
        self.decide(route, host, findings)
    }

    /// Judges what follows a body.
    pub(super) fn trailers(&self, route: &Route, host: &str, trailers: &HeaderMap) -> Result<Noted, Denial> {
        self.decide(route, host, self.out.judge_headers(values(trailers)))
    }

    /// Judges a message of a WebSocket.
    pub(super) fn message(&self, route: &Route, host: &str, message: &[u8]) -> Result<Noted, Denial> {
        let mut findings = self.out.judge_message(host, message, false);
        findings.extend(self.pieces(host, "frame", message));
        self.decide(route, host, findings)
    }

    /// What has left in pieces, with this one.
    pub(super) fn pieces(&self, host: &str, slot: &str, bytes: &[u8]) -> Vec<Finding> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).observe(host, slot, bytes)
    }

    /// How bytes that go to this host are looked at.
    pub(super) fn context(host: &str, headers: &HeaderMap) -> Context {
        let kind = headers.get(hyper::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Context::outgoing(host, kind.unwrap_or_default())
    }

    /// What becomes of a message in which this was found.
    pub(super) fn decide(&self, route: &Route, host: &str, findings: Vec<Finding>) -> Result<Noted, Denial> {
        let mut noted = vec![];
        for finding in findings {
            if self.may_go(&finding, host) {
                continue;
            }
            let stops = match finding.kind {
                Kind::Exact | Kind::Split | Kind::Listed => true,
                _ => !route.conversation && self.mode == Mode::Enforce && finding.blocks(),
            };
            if stops {
                return Err(denial(&finding));
            }
            note(&mut noted, &finding);
        }
        Ok(noted)
    }

    /// Is it a secret of the agent's own, on its way to a host that it is for?
    fn may_go(&self, finding: &Finding, host: &str) -> bool {
        matches!(finding.kind, Kind::Exact | Kind::Split)
            && self.env.iter().any(|secret| secret.name == finding.rule && secret.hosts.iter().any(|own| own == host))
    }
}

/// For what leaves by another way than the proxy: the same rules, and every secret.
pub(crate) fn scanner(policy: &Policy, secrets: &Secrets) -> Result<Arc<Scanner>> {
    Ok(Arc::new(Scanner::new(rules(policy)?, known(secrets, |_| true), Options::default())))
}

fn rules(policy: &Policy) -> Result<Arc<Rules>> {
    let packs = policy.scan.packs.iter().map(|pack| Pack::parse(&pack.name, &pack.text));
    let packs = packs.collect::<Result<Vec<_>, _>>().map_err(|wrong| anyhow!("a pack of rules: {wrong}"))?;
    Ok(Arc::new(Rules::with_packs(&packs)?))
}

/// Those of the secrets whose names are wanted, by the names that people know. The authority's key is nobody's to know.
fn known(secrets: &Secrets, wanted: impl Fn(&str) -> bool) -> ExactSet {
    let named = secrets.iter().filter(|(name, _)| *name != super::ca::KEY_SECRET && wanted(name));
    ExactSet::new(named.map(|(name, secret)| (shown(name), secret.expose())))
}

/// Writes down a finding, as long as there are not many.
pub(super) fn note(noted: &mut Noted, finding: &Finding) {
    if noted.len() < NAMED {
        noted.push(finding.to_string());
    }
}

/// The refusal that a finding leads to: its rule and place, and never the value.
pub(super) fn denial(finding: &Finding) -> Denial {
    let (rule, what) = match finding.kind {
        Kind::Exact => ("dlp-secret", "the secret"),
        Kind::Split => ("dlp-secret", "with what went before, the secret"),
        Kind::Pattern => ("dlp-pattern", "what looks like a credential,"),
        Kind::Entropy => ("dlp-entropy", "what looks like encoded data,"),
        Kind::Opaque => ("dlp-opaque", "what cannot be looked into,"),
        Kind::Injection => ("dlp-injection", "orders to an agent,"),
        Kind::Structure => ("dlp-structure", "what no tool should be asked,"),
        Kind::Listed => return Denial::forbidden("dlp-blocklist", "this bottle's blocklist names the host"),
    };
    Denial::forbidden(rule, format!("it holds {what} {finding}"))
}

/// A secret's name as people know it.
fn shown(name: &str) -> &str {
    KINDS.iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name)
}

fn values(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bottle_api::Secret;

    const TOKEN: &str = "tok-5Jx9QvLm2RzT8wKb";
    const OWN: &str = "own-7Hf3WqPn6YcD1sVg";

    fn guard(mode: Mode) -> Guard {
        let mut policy = Policy { mode, ..Policy::default() };
        let hosts = vec!["own.example".into()];
        policy.scan.env = vec![EnvSecret { name: "OWN".into(), secret: "env:OWN".into(), hosts }];
        let mut secrets = Secrets::default();
        secrets.insert("env:OWN", Secret::new(OWN));
        secrets.insert("$TOKEN", Secret::new(TOKEN));
        Guard::new(&policy, &secrets).unwrap()
    }

    fn head(guard: &Guard, route: &Route, path: &str) -> Result<Noted, &'static str> {
        let request = hyper::Request::builder().uri(format!("https://{}{path}", route.host)).body(()).unwrap();
        guard.head(route, &route.host, &request.into_parts().0).map_err(|denial| {
            assert!(!denial.reason.contains(TOKEN) && !denial.reason.contains(OWN), "{denial:?}");
            denial.rule
        })
    }

    #[test]
    fn known_secrets_stop_everything_but_those_that_are_for_the_host() {
        for mode in [Mode::Enforce, Mode::Audit] {
            let guard = guard(mode);
            let model = Route { conversation: true, ..Route::to("model.example") };
            for (route, path, expected) in [
                (&Route::to("a.example"), format!("/x?t={TOKEN}"), Err("dlp-secret")),
                (&Route::to("a.example"), format!("/{OWN}"), Err("dlp-secret")),
                (&Route::to("own.example"), format!("/{OWN}"), Ok(())),
                (&Route::to("own.example"), format!("/{TOKEN}"), Err("dlp-secret")),
                (&model, format!("/{TOKEN}"), Err("dlp-secret")),
                (&Route::to("a.example"), "/plain?q=words".into(), Ok(())),
            ] {
                assert_eq!(head(&guard, route, &path).map(drop), expected, "{} {path}", route.host);
            }
        }
    }

    #[test]
    fn a_listed_host_is_refused_in_audit_mode_too_and_never_has_a_route() {
        let of = |mode, listed: &[&str], routes: &[&str]| {
            let mut policy = Policy { mode, ..Policy::default() };
            policy.routes = routes.iter().map(|host| Route::to(*host)).collect();
            policy.scan.blocklist = listed.iter().map(|listed| (*listed).to_owned()).collect();
            Guard::new(&policy, &Secrets::default())
        };
        for mode in [Mode::Enforce, Mode::Audit] {
            let guard = of(mode, &["bad.example", "*.worse.example"], &["good.example"]).unwrap();
            for (host, expected) in [
                ("bad.example", Err("dlp-blocklist")),
                ("BAD.example", Err("dlp-blocklist")),
                ("worse.example", Err("dlp-blocklist")),
                ("a.b.worse.example", Err("dlp-blocklist")),
                ("notbad.example", Ok(())),
                ("a.bad.example", Ok(())),
                ("noworse.example", Ok(())),
            ] {
                let model = Route { conversation: true, ..Route::to(host) };
                for route in [Route { host: host.into(), ..Route::to(host) }, model] {
                    assert_eq!(head(&guard, &route, "/").map(drop), expected, "{mode:?} {host}");
                }
            }
        }
        for (listed, route) in [("bad.example", "bad.example"), ("*.bad.example", "a.bad.example")] {
            assert!(of(Mode::Enforce, &[listed], &[route]).is_err_and(|e| e.to_string().contains(route)), "{listed}");
        }
    }

    #[test]
    fn what_looks_like_a_credential_stops_where_it_is_enforced_and_is_written_down_elsewhere() {
        let path = "/x?key=AKIAQ3EGRZ7XWVN2KLPT";
        let (to, model) = (Route::to("a.example"), Route { conversation: true, ..Route::to("model.example") });
        assert_eq!(head(&guard(Mode::Enforce), &to, path).map(drop), Err("dlp-pattern"));
        for (mode, route) in [(Mode::Audit, &to), (Mode::Enforce, &model)] {
            assert!(head(&guard(mode), route, path).is_ok_and(|noted| !noted.is_empty()), "{mode:?} {}", route.host);
        }
    }
}
