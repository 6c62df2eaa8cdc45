//! Our own corpus on the wire, against the real sidecar.

use crate::{
    aeb_cases::host,
    generator::Generator,
    leaks::{self, Leak, Verdict},
    play::{self, Step, play},
    world::{Setup, World, hold},
};
use anyhow::{Context, Result, bail, ensure};
use bottle_tests::netns::Namespace;
use std::collections::{BTreeMap, BTreeSet};

/// Of the secrets that the sidecar knows, in all their forms.
const EXACT_PERCENT: usize = 99;
/// Of the credentials by form.
const PATTERN_PERCENT: usize = 95;
/// So many letters of a secret side by side are a piece of it.
const LEFT: usize = 5;
const MARK: &[u8] = b"[bottle:redacted SECRET_";

#[test]
fn secrets_do_not_leave_for_hosts_that_are_allowed() -> Result<()> {
    let (leaks, secrets) = leaks::all(&mut Generator::of_this_run()?)?;
    let families: BTreeSet<&str> = leaks.iter().map(|leak| leak.family.as_str()).collect();
    ensure!(leaks.len() >= 300 && families.len() >= 30, "{} cases in {} families", leaks.len(), families.len());
    let mut setup = Setup { secrets, ..Setup::default() };
    for leak in &leaks {
        for step in &leak.steps {
            let host = host(step.request())?;
            if leak.verdict == Verdict::Redact {
                setup.models.insert(host.clone());
            }
            setup.hosts.insert(host);
        }
    }
    let outcomes = hold(setup, |world, net| {
        let outcome = |leak: &Leak| {
            world.alive()?;
            held(world, net, leak).with_context(|| leak.id.clone())
        };
        let outcomes: Vec<_> = leaks.iter().map(outcome).collect();
        world.still_alive()?;
        Ok(outcomes)
    })?;
    let (mut table, mut missed, mut errors) = (BTreeMap::<(&str, bool), (usize, usize)>::new(), vec![], vec![]);
    for (leak, outcome) in leaks.iter().zip(outcomes) {
        let row = table.entry((&leak.family, leak.exact)).or_default();
        row.1 += 1;
        match outcome {
            Ok(true) => row.0 += 1,
            Ok(false) => missed.push(&leak.id),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    println!("{:24} known     by form", "family");
    for family in &families {
        let cell = |exact| table.get(&(*family, exact)).map(|(held, all)| format!("{held}/{all}")).unwrap_or_default();
        println!("{family:24} {:9} {}", cell(true), cell(false));
    }
    let sum = |exact| {
        let rows = table.iter().filter(|((_, own), _)| *own == exact).map(|(_, row)| row);
        rows.fold((0, 0), |(held, all), row| (held + row.0, all + row.1))
    };
    let (exact, pattern) = (sum(true), sum(false));
    println!("known secrets {}/{}, by form {}/{}\nmissed {missed:#?}", exact.0, exact.1, pattern.0, pattern.1);
    ensure!(errors.is_empty(), "cases that could not be judged: {errors:#?}");
    ensure!(exact.0 * 100 >= exact.1 * EXACT_PERCENT, "{} of {} known secrets stayed", exact.0, exact.1);
    ensure!(pattern.0 * 100 >= pattern.1 * PATTERN_PERCENT, "{} of {} credentials stayed", pattern.0, pattern.1);
    Ok(())
}

/// Was it held back as it should be?
fn held(world: &World, net: &Namespace, leak: &Leak) -> Result<bool> {
    match leak.verdict {
        Verdict::Block => Ok(matches!(play(world, net, &leak.steps)?, play::Verdict::Block(_))),
        Verdict::Redact => redacted(world, leak),
    }
}

/// The request arrived, with a mark where the secret was, and else as it was sent.
fn redacted(world: &World, leak: &Leak) -> Result<bool> {
    let [Step::Send(request, _)] = leak.steps.as_slice() else { bail!("a prompt is one request") };
    let reply = world.send(request)?;
    ensure!(reply.status == 200, "a conversation must survive: {reply:?}");
    let requests = world.origin.requests();
    let [seen] = requests.as_slice() else { bail!("it did not arrive") };
    if find(&seen.body, MARK).is_none() {
        return Ok(false);
    }
    // What differs is the secret alone, and nothing of it is left. A value that is cut by escapes has a mark and blanks.
    let (sent, seen) = (&request.body, &seen.body);
    let before = sent.iter().zip(seen.iter()).take_while(|(a, b)| a == b).count();
    let after = sent.iter().rev().zip(seen.iter().rev()).take_while(|(a, b)| a == b).count();
    let after = after.min(sent.len() - before).min(seen.len() - before);
    let place = find(sent, &leak.sent).context("the secret is not in the prompt")?;
    let within = place <= before && sent.len() - after <= place + leak.sent.len();
    ensure!(within, "more than the secret is gone: {}", String::from_utf8_lossy(seen));
    let gone = &seen[before..seen.len() - after];
    Ok(leak.sent.windows(LEFT).all(|part| find(gone, part).is_none()))
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word)
}
