//! What a bottle must not reach is not reached, nor is a bottle by those who must not; and a bottle that is not closed
//! does not start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

mod bottle;
mod hardening;
mod open;
mod outsiders;
mod requests;
mod table;
mod verdicts;

use anyhow::Result;
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, assert_nothing_left, eventually, identity_in},
    lab::Lab,
    standin::Standin,
    wire::Authority,
};

#[test]
fn a_refusal_is_logged_while_the_bottle_runs() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    let prompt = "@@bash curl -sS -m 5 'https://forbidden.example/a/path?with=query'; sleep 2";
    let child = home.start(&["start", "dev", "--yes", "--prompt", prompt], &[])?;
    let line = eventually("the refusal is in the log", || {
        home.egress_log().into_iter().find(|line| line["host"] == "forbidden.example:443")
    })?;
    assert_eq!((&line["decision"], &line["rule"], &line["status"]), (&"deny".into(), &"host".into(), &403.into()));
    assert_eq!((&line["method"], &line["path"]), (&"GET".into(), &"/a/path".into()));
    let run = child.finish()?;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)
}
