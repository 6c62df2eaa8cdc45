//! A desk between a sidecar that a test plays and an operator that it is.

use super::*;
use anyhow::Context;
use bottle_api::control::{read_frame, write_frame};
use bottle_policy::{ProposedRoute, Route};
use std::{os::unix::net::UnixStream, sync::mpsc::channel, thread};

const IDENTITY: &str = "dev-12345";

/// What a desk and those around it leave behind.
struct Played {
    _home: tempfile::TempDir,
    paths: Paths,
    /// What the sidecar was told, reloads by their hosts.
    heard: Vec<Down>,
}

/// Has a desk serve a sidecar that answers reloads by `reloaded`, and an operator. The operator is lent the way to the
/// desk, a way to have the sidecar say something, whose answer is waited for, and further answers.
fn play(
    reloaded: impl Fn() -> Option<String> + Send + 'static,
    operate: impl FnOnce(&Words, &dyn Fn(Up) -> Answer, &Receiver<Answer>, &Paths),
) -> Played {
    play_with(reloaded, &|_, _, _| bail!("this backend does not support building images"), operate)
}

/// The same with images that are made so.
fn play_with(
    reloaded: impl Fn() -> Option<String> + Send + 'static,
    build: &Build<'_>,
    operate: impl FnOnce(&Words, &dyn Fn(Up) -> Answer, &Receiver<Answer>, &Paths),
) -> Played {
    let home = tempfile::tempdir().unwrap();
    let paths = Paths { home: home.path().into(), cwd: "/".into() };
    std::fs::create_dir_all(paths.state().join(IDENTITY)).unwrap();
    let (own, far) = UnixStream::pair().unwrap();
    let (words, to_desk) = words();
    let log = home.path().join("egress.jsonl");
    let sidecar = SidecarChannel::follow(own.into(), &log, Some(words.clone())).unwrap();
    let (hear, heard) = channel();
    let far_up = far.try_clone().unwrap();
    let playing = thread::spawn(move || {
        let (mut far, mut all) = (far, vec![]);
        while let Ok(Some(word)) = read_frame::<Down>(&mut far) {
            match &word {
                Down::Reload { .. } => write_frame(&mut far, &Up::Reloaded { error: reloaded() }).unwrap(),
                Down::Stop => break,
                Down::Answer { answer, .. } => drop(hear.send(answer.clone())),
                _ => {}
            }
            all.push(word);
        }
        all
    });
    let policy = Policy { routes: vec![Route::to("known.example")], ..Policy::default() };
    let policy = Policy {
        scan: bottle_policy::Scan { blocklist: vec!["*.bad.example".into()], ..Default::default() },
        ..policy
    };
    thread::scope(|scope| {
        let desk = Desk::new(&paths, IDENTITY, policy, &sidecar, build);
        scope.spawn(move || desk.serve(&to_desk));
        let _closing = Closing(Some(words.clone()));
        let up = |word: Up| {
            write_frame(&mut &far_up, &word).unwrap();
            heard.recv().unwrap()
        };
        operate(&words, &up, &heard, &paths);
    });
    drop(far_up);
    sidecar.finish();
    Played { _home: home, paths, heard: playing.join().unwrap() }
}

fn proposal(host: &str) -> Proposal {
    let routes = vec![ProposedRoute { host: host.into(), ports: vec![], paths: vec![], methods: vec![] }];
    Proposal::EgressBlock { routes, justification: "it is needed".into() }
}

fn image(n: usize, dockerfile: &str) -> Up {
    let proposal = Proposal::CapabilityBlock { dockerfile: dockerfile.into(), justification: "it is needed".into() };
    Up::Proposal { id: format!("{n:016x}"), proposal }
}

fn entry(paths: &Paths, n: usize) -> Entry {
    Queue::of(paths, IDENTITY).get(&format!("{n:016x}")).unwrap().unwrap()
}

fn proposed(n: usize, host: &str) -> Up {
    Up::Proposal { id: format!("{n:016x}"), proposal: proposal(host) }
}

fn decide(words: &Words, n: usize, decision: Decision) -> Result<()> {
    let (answer, answered) = channel();
    words.send(Word::Decided { id: format!("{n:016x}"), decision, answer })?;
    answered.recv().context("the desk answers")?
}

fn approve(words: &Words, n: usize) -> Result<()> {
    decide(words, n, Decision::Approve { once: false, note: String::new() })
}

fn events(paths: &Paths) -> Vec<String> {
    let mut events = vec![];
    let each = |record: &super::super::audit::Record, _: &str| {
        let json = serde_json::to_value(&record.event)?;
        events.push(json["event"].as_str().unwrap_or_default().to_owned());
        Ok(())
    };
    Audit::of(paths).read(each).unwrap();
    events
}

#[test]
fn what_is_approved_holds_before_the_agent_is_told_and_what_is_rejected_does_not() {
    let played = play(
        || None,
        |words, up, heard, _| {
            assert_eq!(up(proposed(1, "new.example")), Answer::Pending);
            assert_eq!(up(proposed(2, "other.example")), Answer::Pending);
            approve(words, 1).unwrap();
            decide(words, 2, Decision::Reject { reason: "no need".into() }).unwrap();
            assert!(approve(words, 1).unwrap_err().to_string().contains("was approved at"));
            assert!(approve(words, 2).unwrap_err().to_string().contains("was rejected at"));
            assert!(approve(words, 3).unwrap_err().to_string().contains("no proposal"));
            assert_eq!(heard.recv().unwrap(), Answer::Approved { note: String::new() });
            assert_eq!(heard.recv().unwrap(), Answer::Rejected { reason: "no need".into() });
            assert!(matches!(up(Up::Asked { id: format!("{:016x}", 9) }), Answer::Refused { .. }));
        },
    );
    let order: Vec<_> = played
        .heard
        .iter()
        .map(|word| match word {
            Down::Reload { policy } => policy["routes"].as_array().unwrap().last().unwrap()["host"].to_string(),
            Down::Answer { answer, .. } => serde_json::to_value(answer).unwrap()["type"].to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    let expected = ["pending", "pending", "new.example", "approved", "rejected", "refused"];
    assert_eq!(order, expected.map(|word| format!("\"{word}\"")));
    assert_eq!(events(&played.paths), ["proposed", "proposed", "approved", "applied", "rejected"]);
    // What was approved for good holds again in a session that goes on from this one.
    let mut policy = Policy::default();
    let said = super::super::grant_again(&played.paths, IDENTITY, &mut policy).unwrap();
    assert_eq!((said.len(), policy.routes.len()), (1, 1));
    assert!(said[0].contains("new.example was approved"), "{said:?}");
}

#[test]
fn what_an_operator_changes_is_held_to_the_same_rules_and_is_what_holds() {
    let refuse = std::sync::atomic::AtomicBool::new(true);
    let played = play(
        move || refuse.swap(false, std::sync::atomic::Ordering::SeqCst).then(|| "not now".into()),
        |words, up, heard, paths| {
            assert_eq!(up(proposed(1, "new.example")), Answer::Pending);
            let modify =
                |proposal: Proposal| decide(words, 1, Decision::Modify { proposal, once: true, note: "mind".into() });
            let image = Proposal::CapabilityBlock { dockerfile: "RUN true".into(), justification: "x".into() };
            for (proposal, word) in [
                (image, "another tool's"),
                (proposal("10.0.0.1"), "private address"),
                (proposal("x.bad.example"), "blocklist"),
            ] {
                let error = format!("{:#}", modify(proposal).unwrap_err());
                assert!(error.contains(word), "{word}: {error}");
            }
            let Proposal::EgressBlock { mut routes, justification } = proposal("new.example") else { unreachable!() };
            routes[0].paths = vec!["/only".into()];
            let narrower = Proposal::EgressBlock { routes, justification };
            assert!(modify(narrower.clone()).unwrap_err().to_string().contains("still waits"));
            let kept = || Queue::of(paths, IDENTITY).get(&format!("{:016x}", 1)).unwrap().unwrap();
            assert_eq!((kept().proposal, kept().standing), (proposal("new.example"), Standing::Pending));
            modify(narrower.clone()).unwrap();
            assert_eq!(kept().proposal, narrower);
            let Answer::Approved { note } = heard.recv().unwrap() else { panic!("it is approved") };
            assert!(note.starts_with("mind (") && note.contains("new.example:443 any method /only"), "{note}");
        },
    );
    let holds = played.heard.iter().rev().find_map(|word| match word {
        Down::Reload { policy } => Some(policy["routes"].as_array()?.last()?["paths"].to_string()),
        _ => None,
    });
    assert_eq!(holds.as_deref(), Some("[\"/only\"]"));
    let expected = ["proposed", "modified", "approved", "failed", "modified", "approved", "applied"];
    assert_eq!(events(&played.paths), expected);
}

#[test]
fn what_cannot_be_applied_waits_on_with_its_error() {
    let refuse = std::sync::atomic::AtomicBool::new(true);
    let played = play(
        move || refuse.swap(false, std::sync::atomic::Ordering::SeqCst).then(|| "no such policy here".into()),
        |words, up, heard, paths| {
            assert_eq!(up(proposed(1, "new.example")), Answer::Pending);
            let error = format!("{:#}", approve(words, 1).unwrap_err());
            assert!(error.contains("still waits") && error.contains("no such policy here"), "{error}");
            let entry = Queue::of(paths, IDENTITY).get(&format!("{:016x}", 1)).unwrap().unwrap();
            assert_eq!(entry.standing, Standing::Pending);
            assert!(entry.error.unwrap().contains("no such policy here"));
            approve(words, 1).unwrap();
            assert_eq!(heard.recv().unwrap(), Answer::Approved { note: String::new() });
            assert_eq!(up(image(2, "RUN true")), Answer::Pending);
            assert!(approve(words, 2).unwrap_err().to_string().contains("still waits"));
            assert!(self::entry(paths, 2).error.unwrap().contains("does not support building images"));
        },
    );
    let expected = ["proposed", "approved", "failed", "approved", "applied", "proposed", "approved", "failed"];
    assert_eq!(events(&played.paths), expected);
}

#[test]
fn what_nobody_needs_to_decide_on_is_refused_at_once_and_not_kept() {
    let played = play(
        || None,
        |_, up, _, paths| {
            for (n, host, word) in
                [(1, "known.example", "already"), (2, "x.bad.example", "blocklist"), (3, "10.0.0.1", "private")]
            {
                let Answer::Refused { message } = up(proposed(n, host)) else { panic!("{host} was not refused") };
                assert!(message.contains(word), "{host}: {message}");
            }
            let Answer::Refused { message } = up(Up::Asked { id: format!("{:016x}", 1) }) else { panic!("known") };
            assert!(message.contains("no proposal"), "{message}");
            assert_eq!(Queue::of(paths, IDENTITY).entries().unwrap(), (vec![], 0));
            // A daemon that did not hear the answer says it again.
            assert_eq!(up(proposed(4, "new.example")), Answer::Pending);
            assert_eq!(up(proposed(4, "new.example")), Answer::Pending);
            assert_eq!(Queue::of(paths, IDENTITY).entries().unwrap().0.len(), 1);
        },
    );
    assert_eq!(events(&played.paths), ["proposed"]);
}

#[test]
fn an_image_is_made_beside_the_desk_and_told_once_it_is_there() {
    let (go, gone) = channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let build = |id: &str, dockerfile: &str, _: BorrowedFd<'_>| {
        assert_eq!((id, dockerfile), ("0000000000000001", "ENV PATH=/opt:$PATH\nRUN true"));
        gone.lock().unwrap().recv()?;
        Ok("sha256:made".to_owned())
    };
    let played = play_with(
        || None,
        &build,
        |words, up, heard, paths| {
            assert_eq!(up(image(1, "ENV PATH=/opt:$PATH\nRUN true")), Answer::Pending);
            assert_eq!(up(image(2, "RUN false")), Answer::Pending);
            let once = decide(words, 1, Decision::Approve { once: true, note: String::new() }).unwrap_err();
            assert!(once.to_string().contains("never for this one"), "{once}");
            let approved = thread::scope(|scope| {
                let approved = scope.spawn(|| approve(words, 1));
                // The desk takes what comes meanwhile, but no other image.
                assert_eq!(up(proposed(3, "new.example")), Answer::Pending);
                while !events(paths).contains(&"approved".to_owned()) {
                    thread::yield_now();
                }
                approve(words, 3).unwrap();
                assert_eq!(heard.recv().unwrap(), Answer::Approved { note: String::new() });
                assert!(approve(words, 2).unwrap_err().to_string().contains("another image is being made"));
                let late = decide(words, 1, Decision::Reject { reason: String::new() }).unwrap_err();
                assert!(late.to_string().contains("its image is being made"), "{late}");
                assert_eq!(entry(paths, 1).standing, Standing::Pending);
                go.send(()).unwrap();
                approved.join().unwrap()
            });
            approved.unwrap();
            assert_eq!(heard.recv().unwrap(), Answer::Approved { note: String::new() });
        },
    );
    let expected = ["proposed", "proposed", "approved", "proposed", "approved", "applied", "applied"];
    let found = events(&played.paths);
    // When the third is proposed is a matter of who is quicker.
    let sorted = |mut events: Vec<String>| {
        events.sort();
        events
    };
    assert_eq!(sorted(found), sorted(expected.map(str::to_owned).into()));
    let mut images = vec![];
    let each = |record: &super::super::audit::Record, _: &str| {
        if let Event::Applied { image } = &record.event {
            images.push(image.clone());
        }
        Ok(())
    };
    Audit::of(&played.paths).read(each).unwrap();
    assert_eq!(images, [None, Some("sha256:made".into())]);
}

#[test]
fn an_image_that_is_not_made_when_the_session_ends_is_given_up_and_waits_on() {
    let build = |_: &str, _: &str, cancel: BorrowedFd<'_>| {
        let mut told = [0];
        rustix::io::read(cancel, &mut told)?;
        bail!("cancelled")
    };
    let played = play_with(
        || None,
        &build,
        |words, up, _, paths| {
            assert_eq!(up(image(1, "RUN sleep")), Answer::Pending);
            let (answer, _) = channel();
            let decision = Decision::Approve { once: false, note: String::new() };
            words.send(Word::Decided { id: format!("{:016x}", 1), decision, answer }).unwrap();
            while !events(paths).contains(&"approved".to_owned()) {
                thread::yield_now();
            }
        },
    );
    let waits = entry(&played.paths, 1);
    assert_eq!(waits.standing, Standing::Pending);
    let error = waits.error.unwrap();
    assert!(error.contains("the session ended before") && error.contains("cancelled"), "{error}");
    assert_eq!(events(&played.paths), ["proposed", "approved", "failed"]);
}

#[test]
fn a_dockerfile_that_would_not_be_run_waits_for_nobody() {
    let played = play(
        || None,
        |_, up, _, _| {
            for (n, dockerfile, word) in [
                (1, "RUN a\nCOPY . /", "line 2: COPY"),
                (2, "ENV HTTPS_PROXY=http://evil.example", "HTTPS_PROXY"),
                (3, "ENV ANTHROPIC_API_KEY=x", "ANTHROPIC_API_KEY"),
                (4, "ENV HOME=/x", "HOME"),
            ] {
                let Answer::Refused { message } = up(image(n, dockerfile)) else { panic!("{dockerfile} was taken") };
                assert!(message.contains(word), "{dockerfile}: {message}");
            }
        },
    );
    assert!(events(&played.paths).is_empty());
}
