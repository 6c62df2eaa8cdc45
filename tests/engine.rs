//! The Docker engine as a user meets it: where it is, what it is called, what it is made of, and what it says when it is in
//! trouble. Against the real one; a gate before it plays what that cannot be made to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use anyhow::{Context, Result};
use bottle_tests::{
    bottle::{
        Home, KillOnDrop, PATIENCE, REAL_TOKEN, Run, assert_nothing_left, eventually, identity_in, images,
        left_in_engine, report,
    },
    gate::{Gate, Rule, behind_tls},
    lab::Lab,
    standin::Standin,
    tiny,
    wire::Authority,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixListener,
        process::CommandExt,
    },
    time::Instant,
};

const START: [&str; 5] = ["start", "dev", "--yes", "--prompt", "hello"];
const HELP: &str = "say what to type";

fn home() -> Result<(&'static Lab, Home)> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    Ok((lab, Home::new(lab, &authority, &standin)?))
}

fn with(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Result<Run> {
    home.start(args, env)?.finish()
}

/// One error, and one hint below it.
fn assert_says(run: &Run, error: &str, hint: &str) {
    let lines = |start: &str| run.stderr.lines().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
    let (errors, hints) = (lines("bottle: error: "), lines("bottle: hint: "));
    assert!(errors.len() == 1 && errors[0].contains(error), "{error:?} expected: {run:?}");
    assert!(hints.len() == 1 && hints[0].contains(hint), "{HELP} ({hint:?}) expected: {run:?}");
}

/// The name of a bottle's container.
fn agent(lab: &Lab, identity: &str) -> Result<String> {
    let (label, role) = (format!("label=claude-bottle.identity={identity}"), "label=claude-bottle.role=agent");
    let name = lab.docker(&["ps", "--filter", &label, "--filter", role, "--format", "{{.Names}}"])?;
    Ok(name.trim().to_owned())
}

// ---- trouble ----

const DISK: &str = "write /var/lib/docker/tmp/docker-builder1/x: no space left on device";
const REGISTRY: &str =
    "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io on 10.0.0.2:53: no such host";
const DENIED: &str = "pull access denied for nobody/nothing, repository does not exist or may require 'docker login': denied: requested access to the resource is denied";
const LIMITED: &str = "toomanyrequests: You have reached your pull rate limit.";

fn failing_build(message: &str) -> Vec<Rule> {
    vec![("POST /build", 200, json!({"errorDetail": {"message": message}, "error": message}).to_string())]
}

#[test]
fn an_engine_in_trouble_is_one_error_that_says_what_to_type() -> Result<()> {
    let (lab, home) = home()?;
    let old = json!({"Version": "19.03.15", "ApiVersion": "1.40", "Arch": "amd64", "Components": []}).to_string();
    let full = json!({"message": "mkdir /var/lib/docker/overlay2/x-init: no space left on device"}).to_string();
    let unbuilt = images("bottle-test-unbuilt");
    let image = [("CLAUDE_BOTTLE_IMAGE", unbuilt.as_str())];
    let build = ["image", "build"];
    for (rules, args, env, code, error, hint) in [
        (
            vec![("GET /version", 200, old)],
            &START[..],
            &[][..],
            125,
            "19.03.15 at unix://",
            "Install Docker 20.10 or newer",
        ),
        (
            vec![("POST /containers/create", 500, full)],
            &START,
            &[],
            125,
            "the engine's disk is full",
            "docker system df",
        ),
        (failing_build(DISK), &START, &image, 125, "the engine's disk is full", "docker system df"),
        (failing_build(DISK), &build, &image, 1, "the engine's disk is full", "docker system df"),
        (failing_build(REGISTRY), &build, &image, 1, "does not reach the image's registry", "docker pull IMAGE"),
        (failing_build(DENIED), &build, &image, 1, "there is no such image", "CLAUDE_BOTTLE_BASE_IMAGE"),
        (failing_build(LIMITED), &build, &image, 1, "the registry wants you to wait", "docker login"),
    ] {
        let gate = Gate::open(lab, rules)?;
        let host = gate.docker_host();
        let env = [env, &[("DOCKER_HOST", host.as_str())]].concat();
        let run = with(&home, args, &env)?;
        assert_eq!(run.code, Some(code), "{run:?}");
        assert_says(&run, error, hint);
        assert_eq!(home.identities(), Vec::<String>::new(), "{run:?}");
        if let Ok(identity) = identity_in(&run.stderr) {
            assert_eq!(left_in_engine(lab, &identity)?, Vec::<String>::new(), "{run:?}");
        }
    }
    Ok(())
}

#[test]
fn an_engine_that_cannot_be_used_is_the_same_error_for_start_and_doctor() -> Result<()> {
    let (lab, home) = home()?;
    let (locked, dead) = (Gate::open(lab, vec![])?, home.path().join("dead.sock"));
    // It would answer.
    let strangers = Gate::open(lab, vec![])?;
    chown(strangers.path(), Some(65534), None)?;
    fs::set_permissions(locked.path(), fs::Permissions::from_mode(0o600))?;
    drop(UnixListener::bind(&dead)?);
    let file = home.path().join("ca.pem");
    // Another user than root: nobody else is kept out by a file's mode.
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
    for (socket, user, error, hint) in [
        ("/nowhere/docker.sock".to_owned(), 0, "names a socket that is not there", "Start the engine there"),
        (dead.display().to_string(), 0, "Connection refused", "Start the engine there"),
        (file.display().to_string(), 0, "is no socket", "DOCKER_HOST=unix://"),
        (strangers.path().display().to_string(), 0, "belongs to another user", "that root or you have started"),
        (locked.path().display().to_string(), 65534, "ermission denied", "usermod -aG docker"),
    ] {
        let host = format!("unix://{socket}");
        let run = |args: &[&str]| -> Result<Run> {
            Ok(home.command(args).env("DOCKER_HOST", &host).uid(user).gid(user).output()?.into())
        };
        let start = run(&["start", "dev", "--dry-run"])?;
        assert_eq!(start.code, Some(125), "{start:?}");
        assert_says(&start, error, hint);
        let doctor = run(&["doctor", "--json"])?;
        let found: Value = serde_json::from_str(&doctor.stdout).with_context(|| format!("{doctor:?}"))?;
        let missing = found["findings"].as_array().context("findings")?.iter().find(|f| f["ok"] == false);
        let missing = missing.with_context(|| format!("{doctor:?}"))?;
        let (said, typed) =
            (missing["found"].as_str().unwrap_or_default(), missing["hint"].as_str().unwrap_or_default());
        assert!(start.stderr.contains(said) && start.stderr.contains(typed), "{missing} {start:?}");
        assert_eq!(doctor.code, Some(1));
    }
    Ok(())
}

#[test]
fn an_engine_that_goes_away_in_a_session_is_an_error_and_nothing_is_left_once_it_is_back() -> Result<()> {
    let (lab, home) = home()?;
    let (gate, tiny) = (Gate::open(lab, vec![])?, tiny::image(lab)?);
    let host = gate.docker_host();
    let env = [("DOCKER_HOST", host.as_str()), ("CLAUDE_BOTTLE_IMAGE", tiny)];
    let child = home.start(&START, &env)?;
    let identity = eventually("the bottle is listed", || home.listed().pop())?;
    let name = agent(lab, &identity)?;
    eventually("claude runs", || lab.docker(&["top", &name]).ok().filter(|table| table.contains("claude --danger")))?;
    gate.shut()?;
    let run = child.finish()?;
    assert_eq!(run.code, Some(125), "{run:?}");
    let errors: Vec<_> = run.stderr.lines().filter(|line| line.starts_with("bottle: error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains("the engine went away"), "{run:?}");
    assert!(run.stderr.contains("then take away what is left: `bottle cleanup`"), "{HELP}: {run:?}");
    assert!(!left_in_engine(lab, &identity)?.is_empty(), "{run:?}");
    gate.reopen()?;
    let cleanup = with(&home, &["cleanup", "--yes"], &env)?;
    assert_eq!(cleanup.code, Some(0), "{cleanup:?}");
    assert_nothing_left(lab, &home, &identity)
}

// ---- where it is ----

/// Docker's own settings in a home: contexts by name and address, and which is current.
fn contexts(home: &Home, contexts: &[(&str, &str)], current: &str) -> Result<()> {
    for (name, host) in contexts {
        let id = format!("{:x}", Sha256::digest(name));
        let meta = json!({"Name": name, "Endpoints": {"docker": {"Host": host}}});
        home.write(&format!(".docker/contexts/meta/{id}/meta.json"), &meta.to_string())?;
    }
    home.write(".docker/config.json", &json!({"currentContext": current}).to_string())
}

#[test]
fn a_bottle_of_a_context_is_cleaned_up_there_after_the_context_is_switched() -> Result<()> {
    let (lab, home) = home()?;
    contexts(&home, &[("lab", &lab.docker_host), ("other", "unix:///nowhere/docker.sock")], "lab")?;
    let tiny = tiny::image(lab)?;
    let env = [("DOCKER_HOST", ""), ("CLAUDE_BOTTLE_IMAGE", tiny), ("CLAUDE_BOTTLE_FAULT", "kill@launched:1")];
    let run = with(&home, &START, &env)?;
    let dead = identity_in(&run.stderr)?;
    assert_eq!(left_in_engine(lab, &dead)?.len(), 4, "{run:?}");
    contexts(&home, &[], "other")?;
    let cleanup = with(&home, &["cleanup", "--yes"], &[("DOCKER_HOST", "")])?;
    assert_eq!(cleanup.code, Some(0), "{cleanup:?}");
    assert!(cleanup.stderr.contains("the Docker context `other`"), "{cleanup:?}");
    assert_nothing_left(lab, &home, &dead)
}

#[test]
fn a_session_runs_over_tls_and_neither_side_takes_a_stranger() -> Result<()> {
    let (lab, home) = home()?;
    let (ours, theirs, plain) = (Authority::new()?, Authority::new()?, home.path().join("certs"));
    let strange = home.path().join("strange");
    [&plain, &strange].into_iter().try_for_each(fs::create_dir)?;
    let host = format!("tcp://127.0.0.1:{}", behind_tls(lab, &ours, &plain)?);
    let verified = |certs: &str, args: &[&str]| {
        with(&home, args, &[("DOCKER_HOST", &host), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", certs)])
    };
    let run = verified(&plain.display().to_string(), &["start", "dev", "--yes", "--prompt", "@@bash echo by-tls"])?;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.results()?[0].contains("by-tls"), "{run:?}");
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)?;
    // Who the engine does not know, and an engine that the client does not know.
    let (cert, key) = theirs.client()?;
    for (ca, cert, key) in [(&ours.pem, &cert, &key), (&theirs.pem, &cert, &key)] {
        for (name, text) in [("ca.pem", ca), ("cert.pem", cert), ("key.pem", key)] {
            fs::write(strange.join(name), text)?;
        }
        let run = verified(&strange.display().to_string(), &["start", "dev", "--dry-run"])?;
        assert_eq!(run.code, Some(125), "{run:?}");
        assert_says(&run, "does not answer", "compare ca.pem");
    }
    let run = with(&home, &["start", "dev", "--dry-run"], &[("DOCKER_HOST", &host)])?;
    assert_says(&run, "over TCP without TLS", "DOCKER_TLS_VERIFY=1");
    Ok(())
}

// ---- names and addresses ----

/// Starts bottles of one agent at once, looks at them, lets them end. Names are distinct, and nothing is left.
fn fleet(size: usize) -> Result<()> {
    let (lab, home) = home()?;
    let env = [("CLAUDE_BOTTLE_IMAGE", tiny::image(lab)?)];
    with(&home, &["list", "active"], &[])?;
    let began = Instant::now();
    let children: Vec<KillOnDrop> = (0..size).map(|_| home.start(&START, &env)).collect::<Result<_>>()?;
    let deadline = began + PATIENCE * 10;
    while home.listed().len() < size {
        assert!(Instant::now() < deadline, "{} of {size} run", home.listed().len());
    }
    let up = began.elapsed();
    let gate = Gate::open(lab, vec![])?;
    let list = with(&home, &["list", "active", "--json"], &[("DOCKER_HOST", gate.docker_host().as_str())])?;
    let rows: Value = serde_json::from_str(&list.stdout)?;
    assert_eq!(rows["bottles"].as_array().map(Vec::len), Some(size), "{list:?}");
    assert!(gate.asked().len() <= 2, "{:?}", gate.asked());
    let identities = home.identities();
    let mut names = BTreeSet::new();
    for identity in &identities {
        let name = agent(lab, identity)?;
        let rest = name.strip_prefix("claude-bottle-dev").with_context(|| name.clone())?;
        assert!(rest.is_empty() || rest[1..].parse::<u32>().is_ok_and(|n| (2..=100).contains(&n)), "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), size, "{names:?}");
    for name in &names {
        lab.docker(&["exec", name, "claude", "end"])?;
    }
    for child in children {
        let run = child.finish()?;
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    report(format!("{size} bottles: up {up:?}, up and down {:?}", began.elapsed()));
    identities.iter().try_for_each(|identity| assert_nothing_left(lab, &home, identity))
}

#[test]
fn eight_starts_of_one_agent_at_once_run_under_distinct_names() -> Result<()> {
    fleet(8)
}

#[test]
#[ignore = "takes minutes: `cargo xtask test --full`"]
fn fifty_bottles_at_once_all_run_and_end() -> Result<()> {
    fleet(50)
}

#[test]
fn a_pinned_name_that_is_taken_is_refused_before_anything_is_made() -> Result<()> {
    let (lab, home) = home()?;
    let (tiny, name) = (tiny::image(lab)?, format!("bottle-test-pinned-{}", std::process::id()));
    let env = [("CLAUDE_BOTTLE_IMAGE", tiny), ("CLAUDE_BOTTLE_CONTAINER", name.as_str())];
    let child = home.start(&START, &env)?;
    let identity = eventually("the bottle is listed", || home.listed().pop())?;
    assert!(lab.docker(&["ps", "--format", "{{.Names}}"])?.lines().any(|line| line == name));
    let run = with(&home, &START, &env)?;
    assert_eq!(run.code, Some(125), "{run:?}");
    assert_says(&run, &format!("the container name {name} is taken"), &format!("docker rm -f {name}"));
    assert!(!run.stderr.contains("make images and networks ready"), "{run:?}");
    assert_eq!(home.identities(), [identity.as_str()], "{run:?}");
    eventually("it can be told to end", || lab.docker(&["exec", &name, "claude", "end"]).ok())?;
    assert_eq!(child.finish()?.code, Some(0));
    assert_nothing_left(lab, &home, &identity)
}

#[test]
fn a_pool_without_a_free_block_is_an_error_that_names_it() -> Result<()> {
    let (lab, home) = home()?;
    // One block, and a bottle needs two.
    let env = [("CLAUDE_BOTTLE_SUBNET_POOL", "10.233.77.16/28"), ("CLAUDE_BOTTLE_IMAGE", tiny::image(lab)?)];
    let run = with(&home, &START, &env)?;
    assert_eq!(run.code, Some(125), "{run:?}");
    assert_says(&run, "every block of the address pool 10.233.77.16/28 is taken", "CLAUDE_BOTTLE_SUBNET_POOL=");
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)
}

// ---- images ----

/// An `npm` that knows every version of Claude Code but 9.9.9, which it never finds.
const NPM: &str = r#"#!/bin/sh
case "$*" in *@9.9.9) until [ -e /nowhere ]; do sleep 0.1; done;; esac
mkdir -p package && echo 'echo fake' >package/claude && tar -czf fake.tgz package && echo fake.tgz
"#;

#[test]
fn an_image_is_built_with_the_claude_that_was_asked_for_and_keeps_it() -> Result<()> {
    let (lab, home) = home()?;
    let (base, image) = (images("bottle-test-npm"), images("bottle-test-asked"));
    home.write("base/npm", NPM)?;
    fs::set_permissions(home.path().join("base/npm"), fs::Permissions::from_mode(0o755))?;
    home.write("base/Dockerfile", &format!("FROM {}\nUSER root\nCOPY npm /usr/local/bin/npm\n", lab.base_image))?;
    lab.docker(&["build", "-q", "--no-cache", "-t", &base, &home.path().join("base").display().to_string()])?;
    let _ = lab.docker(&["rmi", &image]);
    let env = [("CLAUDE_BOTTLE_BASE_IMAGE", base.as_str()), ("CLAUDE_BOTTLE_IMAGE", image.as_str())];
    let listed = || -> Result<Value> {
        let run = with(&home, &["image", "ls", "--json"], &env)?;
        let json: Value = serde_json::from_str(&run.stdout).with_context(|| format!("{run:?}"))?;
        assert_eq!((json["version"].as_u64(), json["backend"].as_str()), (Some(1), Some("docker")));
        Ok(json["images"][0].clone())
    };
    assert_eq!(listed()?["state"], "missing");

    // A build that is cancelled leaves neither a container nor an image.
    let child = home.start(&["image", "build", "--claude", "9.9.9"], &env)?;
    let ancestor = format!("ancestor={base}");
    let steps = || lab.docker(&["ps", "-q", "--no-trunc", "--filter", &ancestor]).unwrap_or_default();
    let npm = || lab.docker(&["top", steps().lines().next()?]).ok().filter(|table| table.contains("npm pack"));
    eventually("the build waits for npm", npm)?;
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let run = child.finish()?;
    assert_eq!(run.code, Some(128 + 15), "{run:?}");
    assert_eq!(lab.docker(&["ps", "-aq", "--filter", &ancestor])?, "");
    assert_eq!(children(lab, &base)?, Vec::<String>::new());
    assert_eq!(listed()?["state"], "missing");

    let run = with(&home, &["image", "build", "--claude", "1.2.3"], &env)?;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("Claude Code 1.2.3 is not the pinned version"), "{run:?}");
    let built = listed()?;
    assert_eq!((&built["state"], &built["claude"]), (&json!("current"), &json!("1.2.3")));
    // A start takes it as it is; a build that asks for nothing goes back to the pin.
    let run = with(&home, &START, &env)?;
    assert!(run.stdout.contains("fake") && !run.stderr.contains("build the agent image"), "{run:?}");
    assert_eq!(listed()?, built);
    let run = with(&home, &["image", "build"], &env)?;
    assert_eq!(run.code, Some(0), "{run:?}");
    let pinned = listed()?;
    assert_eq!((&pinned["state"], pinned["claude"] == "1.2.3"), (&json!("current"), false));

    // What bottle has not built it does not build over.
    let tiny = [("CLAUDE_BOTTLE_IMAGE", tiny::image(lab)?)];
    assert_says(&with(&home, &["image", "build"], &tiny)?, "was not built by bottle", "CLAUDE_BOTTLE_IMAGE=NAME");
    assert_eq!(with(&home, &["image", "build", "--claude", "latest"], &env)?.code, Some(1));
    lab.docker(&["rmi", &image, &base]).map(drop)
}

/// Images that were made on top of this one.
fn children(lab: &Lab, image: &str) -> Result<Vec<String>> {
    let id = lab.docker(&["image", "inspect", "-f", "{{.Id}}", image])?;
    let all = lab.docker(&["images", "-aq", "--no-trunc"])?;
    let parents =
        all.lines().filter_map(|i| Some((i, lab.docker(&["image", "inspect", "-f", "{{.Parent}}", i]).ok()?)));
    Ok(parents.filter(|(_, parent)| *parent == id).map(|(i, _)| i.to_owned()).collect())
}

// ---- what has no label ----

#[test]
fn what_is_only_named_like_ours_never_goes_by_yes_alone() -> Result<()> {
    let (lab, home) = home()?;
    let (tiny, name) = (tiny::image(lab)?, format!("claude-bottle-old-{}", std::process::id()));
    lab.docker(&["create", "--name", &name, "--network", "none", tiny, "claude"])?;
    lab.docker(&["network", "create", "--internal", &name])?;
    let there = || -> Result<usize> {
        let containers = lab.docker(&["ps", "-a", "--format", "{{.Names}}"])?;
        let networks = lab.docker(&["network", "ls", "--format", "{{.Name}}"])?;
        Ok(containers.lines().chain(networks.lines()).filter(|line| *line == name).count())
    };
    let run = home.run(&["cleanup", "--yes"])?;
    assert_eq!((run.code, there()?), (Some(0), 2), "{run:?}");
    assert!(run.stderr.contains("nothing to clean up") && run.stdout.contains(&name), "{run:?}");
    assert!(run.stderr.contains("--unlabelled"), "{run:?}");
    let run = home.run(&["cleanup", "--dry-run", "--unlabelled", "--json"])?;
    let json: Value = serde_json::from_str(&run.stdout)?;
    let ours: Vec<_> = json["unlabelled"].as_array().into_iter().flatten().filter(|row| row["name"] == *name).collect();
    assert_eq!((ours.len(), there()?, &json["leftovers"]), (2, 2, &json!([])), "{run:?}");
    // Others may be at work on this engine: it is shown these two alone.
    let id = |args: &[&str]| lab.docker(args).map(|id| id.trim().to_owned());
    let container = id(&["inspect", "-f", "{{.Id}}", &name, "--type", "container"])?;
    let network = id(&["network", "inspect", "-f", "{{.Id}}", &name])?;
    let gate = Gate::open(
        lab,
        vec![
            ("GET /containers/json", 200, json!([{"Id": container, "Names": [format!("/{name}")]}]).to_string()),
            ("GET /networks", 200, json!([{"Id": network, "Name": name}]).to_string()),
        ],
    )?;
    let run = with(&home, &["cleanup", "--yes", "--unlabelled"], &[("DOCKER_HOST", gate.docker_host().as_str())])?;
    assert_eq!((run.code, there()?), (Some(0), 0), "{run:?}");
    Ok(())
}
