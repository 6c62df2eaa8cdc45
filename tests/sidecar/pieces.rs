//! A credential that was put in and comes back: whole, in pieces, with pauses for as long as anything is held back.

use super::{
    origin::{Origin, tls},
    own_address,
    protocols::run,
    route,
};
use anyhow::Result;
use bottle_policy::{Auth, AuthScheme, Policy, Route};
use bottle_tests::{bottle::eventually, sidecar::Sidecar, wire::Authority};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TOKEN: &str = "tok-5Jx9QvLm2RzT8wKbH4nP7cYd";
const MARK: &str = "[bottle:redacted TOKEN]";

struct Wire {
    sidecar: Sidecar,
    origin: Origin,
}

/// `api.example` gets the credential.
fn setup(bind: u8) -> Result<Wire> {
    let authority = Authority::new()?;
    let origin = Origin::start(&authority, &["api.example"], &["http/1.1"])?;
    let api = Route {
        ports: vec![443],
        auth: Some(Auth { scheme: AuthScheme::Bearer, secret: "$TOKEN".into() }),
        ..route("api.example", origin.address.into())
    };
    let policy = Policy { routes: vec![api], upstream_ca_pem: Some(authority.pem), ..Policy::default() };
    let sidecar = Sidecar::start_knowing(own_address(bind), &policy, None, &[("$TOKEN", TOKEN)])?;
    Ok(Wire { sidecar, origin })
}

/// What the client has of the response's body when it ends, or is broken off; and whether it ended. Each piece is sent when
/// something of the one before it has come.
async fn heard(wire: &Wire, kind: &str, pieces: &[&str]) -> Result<(String, bool)> {
    wire.origin.say(kind, pieces);
    let proxy = &wire.sidecar.client;
    let mut io = tls(proxy, &proxy.ca_pem, "api.example:443", "api.example", "http/1.1").await?;
    io.write_all(super::get("api.example", "/said").as_bytes()).await?;
    let (mut all, mut buffer, mut before) = (String::new(), [0; 4096], 0);
    while let Ok(read @ 1..) = io.read(&mut buffer).await {
        all += std::str::from_utf8(&buffer[..read])?;
        let so_far = chunks(&all).0.len();
        if so_far > before {
            wire.origin.next_event();
            before = so_far;
        }
    }
    let head = all.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\ntransfer-encoding: chunked\r\n"), "{all}");
    Ok(chunks(&all))
}

/// The body of a response, as far as it has come, and whether that is all of it.
fn chunks(response: &str) -> (String, bool) {
    let (mut body, mut rest) = (String::new(), response.split_once("\r\n\r\n").map_or("", |(_, rest)| rest));
    while let Some((length, chunk)) = rest.split_once("\r\n") {
        match usize::from_str_radix(length, 16) {
            Ok(0) => return (body, true),
            Ok(length) if chunk.len() >= length + 2 => {
                body += &chunk[..length];
                rest = &chunk[length + 2..];
            }
            _ => break,
        }
    }
    (body, false)
}

/// The longest piece of the credential that stands in a text.
fn longest_piece(text: &str) -> usize {
    let has = |length: &usize| (0..=TOKEN.len() - length).any(|at| text.contains(&TOKEN[at..at + length]));
    (1..=TOKEN.len()).rev().find(has).unwrap_or_default()
}

/// What it is, its type, pieces with a pause after each, what arrives of it (`None`: the rest is refused), and how much of
/// the credential may be in it at most.
type Row<'r> = (&'r str, &'r str, Vec<String>, Option<String>, usize);

#[test]
fn a_credential_that_comes_back_is_taken_out_or_the_rest_of_it_is_refused() -> Result<()> {
    let event = |text: &str| format!("event: delta\ndata: {{\"delta\": {{\"text\": \"{text}\"}}}}\n\n");
    let (head, tail) = TOKEN.split_at(TOKEN.len() / 2);
    let (sse, text) = ("text/event-stream", "text/plain");
    let letters: Vec<String> = TOKEN.chars().map(String::from).collect();
    let thirds: Vec<String> = TOKEN.as_bytes().chunks(10).map(|part| event(&String::from_utf8_lossy(part))).collect();
    // Three fifths of its letters and digits are sixteen; a dash counts for nothing.
    let half = TOKEN.len() / 2;
    let rows: Vec<Row> = vec![
        ("whole in an event", sse, vec![event(TOKEN), event("x")], Some(event(MARK) + &event("x")), 0),
        (
            "whole, in a text with pauses",
            text,
            vec!["a".into(), TOKEN.into(), "b".into()],
            Some(format!("a{MARK}b")),
            0,
        ),
        ("in halves, an event each", sse, vec![event(head), event(tail), "END".into()], None, half),
        ("in thirds, an event each", sse, thirds, None, 10),
        ("in halves, with a pause", text, vec![head.into(), tail.into(), "END".into()], None, half),
        ("letter by letter, with pauses", text, letters, None, 17),
        (
            "most of it, without a pause",
            text,
            vec![format!("{head} and {}", &tail[..9])],
            Some(format!("{head} and {}", &tail[..9])),
            half,
        ),
        ("the last eight", sse, vec![event(&TOKEN[TOKEN.len() - 8..])], Some(event(&TOKEN[TOKEN.len() - 8..])), 8),
    ];
    let mut failures = vec![];
    for (bind, (what, kind, pieces, arrives, most)) in (150..).zip(rows) {
        let wire = setup(bind)?;
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let (body, ended) = run(heard(&wire, kind, &pieces))?;
        let log = eventually("it has a line", || Some(wire.sidecar.log()).filter(|log| !log.is_empty()))?;
        let refused = log.iter().any(|line| (&*line.decision, &*line.rule) == ("deny", "dlp-secret"));
        let right = match &arrives {
            Some(arrives) => body == *arrives && ended && !refused,
            None => !ended && refused && !body.contains("END"),
        };
        if !right || longest_piece(&body) > most.max(1) {
            failures.push(format!("{what}: ended {ended}, refused {refused}, {body:?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}
