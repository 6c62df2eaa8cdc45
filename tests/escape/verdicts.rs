//! One table of requests gives the same verdicts on every backend that this machine has. (Machines: `machines/escape.rs`.)

use crate::requests::{answers, requests};
use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, report},
    lab::{Lab, Target as Stranger},
    running::Running,
    standin::Standin,
    target::Target,
    wire::Authority,
};

const ALLOWED: &str = "allowed.example";

#[test]
fn one_table_gives_the_same_verdicts_on_every_backend() -> Result<()> {
    let (lab, authority, stranger) = (Lab::get(), Authority::new()?, Stranger::new()?);
    let before = stranger.packets()?;
    let requests = requests(stranger.address, ALLOWED);
    let mut first: Option<Vec<(&str, String)>> = None;
    for target in Target::ALL {
        let hosts = ["api.anthropic.com", ALLOWED];
        let standin = Standin::start(&authority, &hosts, &format!("Bearer {REAL_TOKEN}"))?;
        let home = Home::on(target, lab, &authority, &standin)?;
        let routes = hosts.map(|host| format!("{{host: {host}, address: {}}}", standin.address));
        home.bottle("box", &routes.each_ref().map(String::as_str))?;
        let bottle = Running::start(lab, &home).with_context(|| format!("{target:?}"))?;
        let verdicts = answers(&bottle, &requests)?;
        bottle.end()?;
        let expected = first.get_or_insert_with(|| verdicts.clone());
        for (one, other) in expected.iter().zip(&verdicts) {
            assert_eq!(one, other, "{target:?}");
        }
        let refused = verdicts.iter().filter(|(_, answer)| answer.contains("bottle_egress_denied")).count();
        let passed = verdicts.iter().filter(|(_, answer)| answer.starts_with("404")).count();
        assert!(refused > 5 && passed >= 2, "{target:?}: {verdicts:?}");
    }
    assert_eq!((stranger.packets()?, stranger.seen()), (before, vec![]));
    report(format!("{} requests on {} backends, the same verdicts", requests.len(), Target::ALL.len()));
    Ok(())
}
