//! The table of leaks, over the wire: each is refused before upstream is asked to take anything, and its honest twin is
//! taken.

use crate::{
    rows::ROWS,
    work::Work,
    world::{World, hold, template, usual},
};
use anyhow::{Result, ensure};

#[test]
fn no_leak_reaches_upstream_over_https_and_every_twin_does() -> Result<()> {
    hold(usual, |world| table(world, "web", "web.git", 1))
}

/// The way of a push to upstream is another one; what is judged is the same.
#[test]
fn no_leak_reaches_upstream_over_ssh_and_every_twin_does() -> Result<()> {
    hold(usual, |world| table(world, "app", "app.git", 6))
}

fn table(world: &World, remote: &str, repository: &str, every: usize) -> Result<()> {
    let template = template(world, remote)?;
    let before = world.refs(repository);
    let mut wrong = vec![];
    let mut played = 0;
    for (number, (name, [leak, twin], place, put)) in ROWS.iter().step_by(every).enumerate() {
        played += 1;
        let pushes = |work: &Work, value: &str| {
            let refs = put(work, value);
            work.tries(&[&["push", "-q", "origin"][..], &refs.iter().map(String::as_str).collect::<Vec<_>>()].concat())
        };
        let attempts = world.push_attempts();
        let said = pushes(&template.copy(world, &format!("leak-{number}"))?, leak);
        let told = said.text.contains("refused before upstream was asked") && said.text.contains(place);
        let remote_words = said.text.lines().filter(|line| line.starts_with("remote: ")).collect::<Vec<_>>().join("\n");
        if said.ok || !told || remote_words.contains(leak) {
            wrong.push(format!("{name}: a leak: taken: {}: {}", said.ok, said.text));
        }
        if world.push_attempts() != attempts || world.refs(repository) != before {
            wrong.push(format!("{name}: upstream heard of the leak"));
        }
        let said = pushes(&template.copy(world, &format!("twin-{number}"))?, twin);
        if !said.ok || world.push_attempts() == attempts || world.refs(repository) == before {
            wrong.push(format!("{name}: an honest push: taken: {}: {}", said.ok, said.text));
        }
        forget(world, repository, &before);
    }
    ensure!(wrong.is_empty(), "{} of {played}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{played} leaks over {remote}");
    let line = world.logged("a refusal", |line| line.rule == "git-leak")?;
    ensure!(line.decision == "deny" && line.method == "push", "{line:?}");
    let log = format!("{:?}", world.sidecar.log());
    ensure!(!ROWS.iter().any(|(_, [leak, _], ..)| log.contains(leak)), "the log holds a value: {log}");
    Ok(())
}

/// Upstream is as it was.
fn forget(world: &World, repository: &str, before: &str) {
    for line in world.refs(repository).lines().filter(|line| !before.contains(*line)) {
        world.at(repository, &["update-ref", "-d", line.split(' ').next().unwrap()]);
    }
}
