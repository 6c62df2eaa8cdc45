//! The screen as it is drawn, in `screens/*.txt`, and what its keys do. `BLESS=1` writes the screens anew; look at every
//! one of them then.

use super::{
    dialog::Verdict,
    draw,
    model::{Action, Bottle, Dialog, Event, Focus, LogRow, Model, News, Waiting},
    text::time,
};
use crate::{
    supervise::{
        desk::Decision,
        queue::{Entry, Standing},
    },
    ui,
};
use bottle_policy::{Proposal, ProposedRoute};
use proptest::prelude::*;
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    layout::Size,
};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};

const SIZES: [(u16, u16); 2] = [(80, 24), (200, 60)];
const HOSTILE: &str = "\x1b]0;owned\x07\x1b[2J\x1b[1;1Hall is well \u{202e}txet\u{2066} z\u{200b}e\u{200d}ro \
    a\u{301}\u{301}\u{301}\u{301}\u{301}\u{301} \u{9b}31m \u{e0041}\r\n\u{7f}\u{2028}end";

fn route(host: &str) -> Value {
    json!({"host": host})
}

fn egress(routes: &[Value], why: &str) -> Proposal {
    serde_json::from_value(json!({"tool": "egress-block", "routes": routes, "justification": why})).unwrap()
}

fn entry(n: usize, proposal: Proposal) -> Entry {
    let (id, asked) = (format!("{n:016x}"), format!("2026-11-21T08:{:02}:00Z", n % 60));
    Entry { id, asked, proposal, known: vec![], standing: Standing::Pending, error: None }
}

fn bottle(identity: &str, denied: u64) -> Bottle {
    let started = time("2026-11-21T06:55:30Z");
    Bottle { identity: identity.into(), agent: "dev".into(), backend: "docker".into(), started, denied }
}

fn lines(count: usize) -> Vec<LogRow> {
    let line = |n: usize| LogRow {
        time: format!("2026-11-21T09:00:{n:02}.000Z"),
        identity: "dev-x7k2q".into(),
        denied: n.is_multiple_of(3),
        text: match n % 3 {
            0 => format!("deny  403 GET  evil.example:443/{n}  [host]"),
            _ => format!("allow 200 POST api.anthropic.com:443/v1/messages/{n}"),
        },
    };
    (0..count).map(line).collect()
}

/// Those that wait are a running bottle's, but for the last of more than ten.
fn news(entries: Vec<Entry>) -> News {
    let count = entries.len();
    let waiting = entries.into_iter().enumerate().map(|(n, entry)| {
        let identity = if count > 10 && n + 1 == count { "reviewer-of-long-names-9zzzz" } else { "dev-x7k2q" };
        Arc::new(Waiting { identity: identity.into(), entry })
    });
    let bottles = vec![bottle("dev-x7k2q", 7), bottle("another-agent-1bc2d", 0)];
    News { waiting: waiting.collect(), unreadable: 0, bottles, lines: lines(20) }
}

fn model(news: News) -> Model {
    let mut model = Model::new(time("2026-11-21T09:00:30Z").unwrap(), Size::new(80, 24));
    model.take(Event::News(news));
    model
}

/// Presses keys: letters as they are, `<Enter>`, `<Esc>`, `<Tab>`, `<Down>`, `<PgDn>`, `<C-c>`, …
fn press(model: &mut Model, keys: &str) -> Option<Action> {
    let mut rest = keys;
    let mut action = None;
    while let Some(c) = rest.chars().next() {
        let named = rest.strip_prefix('<').and_then(|rest| rest.split_once('>'));
        let (key, after) = match named {
            Some((name, after)) => {
                let key = match name {
                    "Enter" => KeyCode::Enter.into(),
                    "Esc" => KeyCode::Esc.into(),
                    "Tab" => KeyCode::Tab.into(),
                    "Down" => KeyCode::Down.into(),
                    "Up" => KeyCode::Up.into(),
                    "End" => KeyCode::End.into(),
                    "PgDn" => KeyCode::PageDown.into(),
                    "PgUp" => KeyCode::PageUp.into(),
                    "Back" => KeyCode::Backspace.into(),
                    name => {
                        let (kind, letter) = name.split_once('-').unwrap();
                        let modifier = if kind == "C" { KeyModifiers::CONTROL } else { KeyModifiers::ALT };
                        KeyEvent::new(KeyCode::Char(letter.chars().next().unwrap()), modifier)
                    }
                };
                (key, after)
            }
            None => (KeyCode::Char(c).into(), &rest[c.len_utf8()..]),
        };
        action = model.take(Event::Key(key));
        rest = after;
    }
    action
}

fn drawn(model: &mut Model, (width, height): (u16, u16)) -> Buffer {
    model.size = Size::new(width, height);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, model)).unwrap();
    terminal.backend().buffer().clone()
}

fn text_of(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(width).map(|row| {
        // What a wide character covers is no cell of its own.
        let mut covered = 0;
        let symbols = row.iter().filter(|cell| {
            let shown = covered == 0;
            covered =
                if shown { ratatui::text::Span::raw(cell.symbol()).width().saturating_sub(1) } else { covered - 1 };
            shown
        });
        symbols.map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn capability() -> Proposal {
    let dockerfile = "RUN apt-get update \\\n && apt-get install -y postgresql-client\nENV PGHOST=db.example";
    let why = "The migrations need psql.";
    serde_json::from_value(json!({"tool": "capability-block", "dockerfile": dockerfile, "justification": why})).unwrap()
}

fn pipelock() -> Proposal {
    let url = "https://files.example:8443/v2/blob?token=1";
    let why = "It was refused as too large, and the build needs it.";
    serde_json::from_value(json!({"tool": "pipelock-block", "url": url, "justification": why})).unwrap()
}

/// A host that has a route, which is opened further.
fn widened() -> Entry {
    let route = json!({"host": "api.github.com", "methods": ["GET", "POST"], "paths": ["/repos/me/mine/issues"]});
    let known =
        json!({"host": "api.github.com", "ports": [443], "methods": ["GET"], "paths": ["/repos/me/mine/pulls"]});
    let proposal =
        egress(&[route, json!({"host": "new.example", "ports": [8443]})], "To answer the issue\nthat you named.");
    Entry { known: vec![serde_json::from_value(known).unwrap()], ..entry(1, proposal) }
}

fn many() -> Vec<Entry> {
    (0..30).map(|n| entry(n, egress(&[route(&format!("host-{n}.example"))], "It is needed."))).collect()
}

fn hostile() -> Vec<Entry> {
    let long = format!("{HOSTILE}{}", "A".repeat(10 << 20));
    let routes: Vec<ProposedRoute> =
        vec![ProposedRoute { host: HOSTILE.into(), ports: vec![], paths: vec![HOSTILE.into()], methods: vec![] }];
    let broken = Proposal::EgressBlock { routes, justification: long.clone() };
    let image = Proposal::CapabilityBlock { dockerfile: long.clone(), justification: HOSTILE.into() };
    let unseen = egress(&[route("a.example")], HOSTILE);
    vec![
        entry(1, unseen),
        Entry { error: Some(long), ..entry(2, image) },
        entry(3, broken),
        entry(4, Proposal::PipelockBlock { url: HOSTILE.into(), justification: HOSTILE.into() }),
    ]
}

/// Every screen, by name.
fn screens() -> Vec<(&'static str, Model)> {
    let of = |entries: Vec<Entry>, keys: &str| {
        let mut model = model(news(entries));
        press(&mut model, keys);
        model
    };
    let one = || vec![entry(1, egress(&[route("docs.example.com")], "I need the documentation of the API."))];
    let mut failed = one();
    failed[0].error = Some("the sidecar keeps the old policy: no such policy here".into());
    let mut modified = of(vec![widened()], "");
    let text = "routes: [{host: api.github.com, methods: [GET]}]".to_owned();
    modified.take(Event::Edited { id: format!("{:016x}", 1), result: Ok(text) });
    let mut refused = of(vec![widened()], "");
    let text = "routes: [{host: api.github.com, tls_passthrough: true}]".to_owned();
    refused.take(Event::Edited { id: format!("{:016x}", 1), result: Ok(text) });
    let mut deciding = of(one(), "a<Enter>");
    let decided = |result| Event::Decided { id: format!("{:016x}", 1), result };
    let mut answered = of(one(), "a<Enter>");
    answered.take(decided(Err(
        "the process that owns dev-x7k2q is dead (Take away what it left: `bottle cleanup`.)".into()
    )));
    let mut unread = News { unreadable: 2, ..news(one()) };
    unread.bottles = (0..12).map(|n| bottle(&format!("dev-0000{n}"), n)).collect();
    deciding.unreadable = 0;
    vec![
        ("before anything is read", Model::new(time("2026-11-21T09:00:30Z").unwrap(), Size::new(80, 24))),
        ("empty", model(News::default())),
        ("one", of(one(), "")),
        ("many, one in the middle", of(many(), &"j".repeat(12))),
        ("many, the last, whose bottle does not run", of(many(), "Ga")),
        ("a route opened further, and a new one", of(vec![widened()], "")),
        ("the same, a page on", of(vec![widened()], "<PgDn>")),
        ("a URL that was refused", of(vec![entry(1, pipelock())], "")),
        ("an image", of(vec![entry(1, capability())], "")),
        ("one that failed", of(failed, "")),
        ("approve", of(one(), "a")),
        ("approve once, with a word", of(one(), "othank you")),
        ("approve what was changed", modified),
        ("a change that is not taken", refused),
        ("reject", of(one(), "rthere is a copy in /usr/share/doc")),
        ("a decision under way", deciding),
        ("a decision that came to nothing", answered),
        ("help", of(one(), "?")),
        ("typing a filter", of(one(), "/evil")),
        ("a filter", of(one(), "/EVIL<Enter>")),
        ("a filter that nothing matches", of(one(), "/nowhere<Enter>")),
        ("the log, scrolled back", of(one(), "<Tab>kkk")),
        ("files that cannot be read, many bottles", model(unread)),
        ("hostile", of(hostile(), "")),
        ("hostile, an image", of(hostile(), "j")),
        ("hostile, routes", of(hostile(), "jj")),
        ("hostile, a URL", of(hostile(), "jjj")),
        ("hostile, approve", of(hostile(), "jja")),
    ]
}

#[test]
fn screens_are_what_they_are() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/supervise/screen/screens");
    for size @ (width, height) in SIZES {
        let mut said = String::new();
        for (name, mut model) in screens() {
            let buffer = drawn(&mut model, size);
            assert_harmless(&buffer, name);
            said += &format!("── {name} {}\n{}\n", "─".repeat(40), text_of(&buffer).trim_end());
        }
        let file = dir.join(format!("{width}x{height}.txt"));
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&file, &said).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        assert!(said == kept, "BLESS=1 writes {} anew; it would be:\n{said}", file.display());
    }
}

/// No cell makes a terminal do anything, or shows anything otherwise than it stands there.
fn assert_harmless(buffer: &Buffer, what: &str) {
    for cell in &buffer.content {
        let marks = cell.symbol().chars().count();
        assert!(cell.symbol().chars().all(ui::is_seen) && marks <= 8, "{what}: {:?}", cell.symbol());
    }
}

#[test]
fn it_fits_into_any_terminal_and_a_thousand_wait() {
    for (name, mut model) in screens() {
        for size in [(1, 1), (2, 3), (10, 2), (20, 5), (3, 60), (40, 12), (159, 24), (160, 5), (500, 1)] {
            drawn(&mut model, size);
        }
        assert!(!name.is_empty());
    }
    let entries = (0..1000).map(|n| entry(n, egress(&[route(&format!("host-{n}.example"))], "x"))).collect();
    let mut model = model(news(entries));
    press(&mut model, &"j".repeat(998));
    let text = text_of(&drawn(&mut model, (80, 24)));
    assert!(text.contains("Proposals 999 of 1000") && text.contains("host-998.example"), "{text}");
}

#[test]
fn keys_do_what_the_help_says() {
    let id = |n: usize| format!("{n:016x}");
    let decide = |n, decision| Some(Action::Decide { identity: "dev-x7k2q".into(), id: id(n), decision });
    let approve = |once, note: &str| Decision::Approve { once, note: note.into() };
    for (keys, expected) in [
        ("q", Some(Action::Quit)),
        ("<C-c>", Some(Action::Quit)),
        ("?q", None),
        ("?qq", Some(Action::Quit)),
        ("a<C-c>", Some(Action::Quit)),
        ("aq", None),
        ("a<Enter>", decide(0, approve(false, ""))),
        ("o<Enter>", decide(0, approve(true, ""))),
        ("a<Tab>ok<Enter>", decide(0, approve(true, "ok"))),
        ("o<Tab><Enter>", decide(0, approve(false, ""))),
        ("ja b<Back>c<Enter>", decide(1, approve(false, "c"))),
        ("jjkrno<Enter>", decide(1, Decision::Reject { reason: "no".into() })),
        ("r<Tab><Enter>", decide(0, Decision::Reject { reason: String::new() })),
        ("<Down><Down><Up>a<Enter>", decide(1, approve(false, ""))),
        ("a<Esc><Enter>", None),
        ("<C-a><Enter>", None),
        ("<A-a><Enter>", None),
        ("A<Enter>", None),
        ("y<Enter>", None),
        // Each once, until its owner answers.
        ("a<Enter>a<Enter>", None),
        ("a<Enter>ja<Enter>", decide(1, approve(false, ""))),
        ("/a<Enter><Enter>", None),
        ("<Tab>a<Enter>", decide(0, approve(false, ""))),
        ("Gkgja<Enter>", decide(1, approve(false, ""))),
    ] {
        let mut model = model(news(many()[..10].to_vec()));
        assert_eq!(press(&mut model, keys), expected, "{keys}");
    }
    let mut model = model(news(many()));
    let Some(Action::Edit { id: edited, text }) = press(&mut model, "jm") else { panic!("m edits") };
    assert!(edited == id(1) && text.contains("\nroutes:\n- host: host-1.example\n"), "{text}");
    press(&mut model, "<Tab>");
    assert_eq!(model.focus, Focus::Log);
    press(&mut model, "kk<PgUp>");
    assert_eq!(model.back, 7);
    press(&mut model, "j<PgDn>");
    assert_eq!(model.back, 1);
    press(&mut model, "g");
    assert_eq!(model.back, 19);
    press(&mut model, "/evil");
    assert_eq!((model.back, model.lines().count()), (0, 7));
    press(&mut model, "<Esc>");
    assert_eq!(model.lines().count(), 20);
}

#[test]
fn what_was_pasted_decides_nothing() {
    let mut model = model(news(many()));
    for text in ["a\n", "a\r\n\r\n", "q"] {
        assert_eq!(model.take(Event::Paste(text.into())), None);
        assert_eq!(model.dialog, Dialog::None);
    }
    press(&mut model, "r");
    assert_eq!(model.take(Event::Paste("no\nnever\x1b[A".into())), None);
    let Some(Action::Decide { decision, .. }) = press(&mut model, "<Enter>") else { panic!("Enter decides") };
    assert_eq!(decision, Decision::Reject { reason: "no never[A".into() });
}

#[test]
fn a_decision_is_for_what_it_was_asked_for_whatever_comes_or_goes() {
    let all = many()[..5].to_vec();
    let mut model = model(news(all.clone()));
    press(&mut model, "jja");
    // An earlier one goes, a later one comes: the dialog stands.
    model.take(Event::News(news(all[1..].to_vec())));
    let Dialog::Deciding(deciding) = &model.dialog else { panic!("it is asked still") };
    assert_eq!((deciding.id.as_str(), deciding.verdict), (all[2].id.as_str(), Verdict::Approve));
    assert_eq!(model.selected.as_deref(), Some(all[2].id.as_str()));
    // It goes itself: Enter decides nothing.
    model.take(Event::News(news([&all[1..2], &all[3..]].concat())));
    assert_eq!(press(&mut model, "<Enter>"), None);
    assert!(model.said.is_none() && model.selected.as_deref() == Some(all[3].id.as_str()));
    model.take(Event::News(News::default()));
    assert_eq!((press(&mut model, "a<Enter>"), model.selected.clone()), (None, None));
}

#[test]
fn the_bell_rings_for_what_is_new_and_for_nothing_else() {
    let all = many();
    let mut model = model(news(all[..2].to_vec()));
    assert!(!model.take_bell(), "how things stand is no news");
    for (entries, expected) in [
        (&all[..2], false),
        (&all[..3], true),
        (&all[..3], false),
        (&all[..1], false),
        (&all[..2], false),
        (&all[..9], true),
    ] {
        model.take(Event::News(news(entries.to_vec())));
        assert_eq!(model.take_bell(), expected);
    }
    assert!(!model.take_bell());
}

#[test]
fn what_an_editor_left_is_taken_or_kept_for_the_next_time() {
    let mut model = model(news(vec![widened()]));
    let id = format!("{:016x}", 1);
    let edited = |text: &str| Event::Edited { id: format!("{:016x}", 1), result: Ok(text.into()) };
    let wrong = "routes: [{host: 10.0.0.1}]";
    model.take(edited(wrong));
    assert!(model.said.as_ref().unwrap().contains("private address"), "{:?}", model.said);
    assert_eq!(press(&mut model, "m"), Some(Action::Edit { id: id.clone(), text: wrong.into() }));
    model.take(edited("routes: [{host: api.github.com, paths: [/only]}]"));
    let text = text_of(&drawn(&mut model, (80, 24)));
    assert!(text.contains("Approve as changed") && text.contains("+   path /only"), "{text}");
    let Some(Action::Decide { decision: Decision::Modify { proposal, once, .. }, .. }) =
        press(&mut model, "<Tab><Enter>")
    else {
        panic!("Enter decides")
    };
    assert!(once && proposal.routes().unwrap()[0].paths == ["/only"]);
}

/// Whatever stands in a proposal, in a name, or in a log.
fn anything() -> impl Strategy<Value = String> {
    "(\\PC|\\p{Cc}|\\p{Cf}|\\p{Mn}|[a ]){0,80}"
}

proptest! {
    #[test]
    fn no_cell_ever_acts_on_the_terminal(texts in prop::collection::vec(anything(), 6), keys in "[jkamort?/ \t]{0,6}") {
        let [host, path, why, dockerfile, error, line] = texts.try_into().unwrap();
        let routes = vec![ProposedRoute { host: host.clone(), ports: vec![1], paths: vec![path], methods: vec![why.clone()] }];
        let entries = vec![
            Entry { error: Some(error), ..entry(1, Proposal::EgressBlock { routes: routes.clone(), justification: why.clone() }) },
            Entry { known: routes, ..entry(2, Proposal::PipelockBlock { url: host.clone(), justification: why.clone() }) },
            entry(3, Proposal::CapabilityBlock { dockerfile, justification: why }),
        ];
        let mut news = news(entries);
        news.bottles.push(Bottle { identity: host.clone(), agent: line.clone(), backend: line.clone(), started: None, denied: 1 });
        news.lines.push(LogRow { time: line.clone(), identity: host, denied: true, text: line.clone() });
        let mut model = model(news);
        press(&mut model, &keys.replace('\t', "<Tab>"));
        model.take(Event::Paste(line));
        for size in [(80, 24), (200, 60), (30, 8)] {
            assert_harmless(&drawn(&mut model, size), &keys);
        }
    }
}
