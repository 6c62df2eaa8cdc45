//! The decision, as a table of requests and as properties: a denied request never becomes allowed by re-spelling it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

use bottle_policy::{Auth, AuthScheme, Policy, Request, Route, Scheme, Verdict, decide, decide_tunnel};
use proptest::{prelude::*, sample::select};

const TABLE: &str = include_str!("verdicts.txt");

fn policy() -> Policy {
    let auth = Some(Auth { scheme: AuthScheme::Bearer, secret: "t".into() });
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let to = Route::to;
    let routes = vec![
        Route {
            paths: texts(&["/v1"]),
            methods: texts(&["POST"]),
            ports: vec![443],
            auth: auth.clone(),
            ..to("api.example")
        },
        to("open.example"),
        Route { ports: vec![8443, 8080], ..to("ports.example") },
        Route { methods: texts(&["GET", "HEAD"]), ..to("get.example") },
        Route { paths: texts(&["/a", "/b/c/", "/d%20e"]), ..to("paths.example") },
        Route { ports: vec![8080], auth, ..to("auth-on-8080.example") },
        Route { ports: vec![443], tls_passthrough: true, ..to("unseen.example") },
        to("_under.score.example"),
        to("xn--bcher-kva.example"),
        to("203.0.113.7"),
        to("2001:db8::7"),
    ];
    let policy = Policy { routes, ..Policy::default() };
    policy.check().unwrap();
    policy
}

/// A request in pieces, so that a piece can be spelled in another way.
#[derive(Debug, Clone)]
struct Asked {
    method: String,
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
    header: Option<String>,
}

impl Asked {
    /// `METHOD scheme://host:port/path?query`, with the Host header that a client would send.
    fn new(method: &str, url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap();
        let at = rest.find(":443").or(rest.find(":80")).or_else(|| rest.rfind(':')).unwrap();
        let end = at + rest[at..].find('/').unwrap_or(rest.len() - at);
        let (authority, path) = rest.split_at(end);
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let (host, port) = (&authority[..at], authority[at + 1..].parse().unwrap());
        let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
        let (method, path, query) = (method.to_owned(), path.to_owned(), query.map(str::to_owned));
        Self { method, scheme, host: host.to_owned(), port, path, query, header: Some(authority.to_owned()) }
    }

    fn verdict(&self) -> &'static str {
        let policy = policy();
        let request = Request {
            scheme: self.scheme,
            host: &self.host,
            port: self.port,
            host_header: self.header.as_deref(),
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
        };
        let verdict = match decide(&policy, &request) {
            Verdict::Allow(_) => "allow",
            Verdict::Deny(denial) => {
                assert!(matches!(denial.status, 400 | 403) && !denial.reason.is_empty(), "{denial:?}");
                denial.rule
            }
        };
        // What is allowed inside a tunnel has a tunnel.
        let tunnel = matches!(decide_tunnel(&policy, &self.host, self.port), Verdict::Allow(_));
        assert!(tunnel || verdict != "allow", "{self:?}");
        verdict
    }
}

/// `\t`, `\0`, `\s`, `\u{..}` and the like, as the table writes them.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let (plain, length) = match after.as_bytes()[0] {
            b'u' => {
                let end = after.find('}').unwrap();
                (u32::from_str_radix(&after[2..end], 16).ok().and_then(char::from_u32).unwrap(), end + 1)
            }
            b't' => ('\t', 1),
            b'n' => ('\n', 1),
            b'r' => ('\r', 1),
            b's' => (' ', 1),
            b'0' => ('\0', 1),
            b'\\' => ('\\', 1),
            other => panic!("\\{} in the table", other as char),
        };
        out.push(plain);
        rest = &after[length..];
    }
    out + rest
}

/// What is expected, and the request.
fn rows() -> impl Iterator<Item = (&'static str, Asked)> {
    TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let mut asked = Asked::new(words[1], &unescaped(words[2]));
        match words.get(3) {
            Some(&"-") => asked.header = None,
            Some(header) => asked.header = Some(unescaped(header)),
            None => {}
        }
        (words[0], asked)
    })
}

#[test]
fn every_row_of_the_table() {
    let wrong: Vec<String> = rows()
        .filter_map(|(expected, asked)| {
            let verdict = asked.verdict();
            (verdict != expected).then(|| format!("{verdict} and not {expected}: {asked:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows().count() >= 200);
}

/// Percent-encodes the character at a place.
fn encoded(text: &str, at: usize, upper: bool) -> String {
    let (at, c) = text.char_indices().nth(at % text.chars().count().max(1)).unwrap_or((0, '/'));
    let hex: String =
        c.to_string().bytes().map(|b| if upper { format!("%{b:02X}") } else { format!("%{b:02x}") }).collect();
    format!("{}{hex}{}", &text[..at], &text[(at + c.len_utf8()).min(text.len())..])
}

fn flipped(text: &str, at: usize) -> String {
    let flip = |c: char| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    text.char_indices().map(|(i, c)| if i == at % text.len().max(1) { flip(c) } else { c }).collect()
}

fn with(text: &str, at: usize, piece: &str) -> String {
    let at = text.char_indices().map(|(i, _)| i).chain([text.len()]).nth(at % (text.chars().count() + 1)).unwrap();
    format!("{}{piece}{}", &text[..at], &text[at..])
}

/// One way to write the same request so that a lenient server, resolver or proxy takes it for the same.
fn respelled(mut asked: Asked, (kind, at, piece): (u8, usize, &str)) -> Asked {
    match kind {
        0 => asked.path = encoded(&asked.path, at, at.is_multiple_of(2)),
        1 => asked.path = with(&asked.path, at, piece),
        2 => asked.path = flipped(&asked.path, at),
        3 => asked.path = format!("/v1/..{}", asked.path),
        4 => asked.path = format!("{}{piece}", asked.path),
        5 => asked.host = flipped(&asked.host, at),
        6 => asked.host.push('.'),
        7 => asked.host = with(&asked.host, at, piece),
        8 => asked.host = format!("open.example@{}", asked.host),
        9 => asked.query = asked.query.map(|query| encoded(&query, at, true)),
        10 => asked.query = Some(format!("{}&{piece}", asked.query.unwrap_or_default())),
        11 => asked.header = asked.header.map(|header| flipped(&header, at)),
        12 => asked.header = Some("open.example".into()),
        _ => asked.header = asked.header.map(|header| with(&header, at, piece)),
    }
    asked
}

const PIECES: [&str; 22] = [
    "/", "//", "/./", "/../", "..", ".", "%2e", "%2f", "%5c", "\\", ";", ";x", "%00", "\0", "\t", " ", "%", "%25", "@",
    ":443", "#", "?",
];

fn spellings() -> impl Strategy<Value = Vec<(u8, usize, &'static str)>> {
    prop::collection::vec((0_u8..14, 0_usize..64, select(&PIECES[..])), 1..6)
}

/// What a lenient server makes of a path, at most: everything decoded, no dots, no empty segments; spelled plainly.
fn understood(path: &str) -> String {
    let mut decoded = path.to_owned();
    for _ in 0..8 {
        decoded = bottle_policy::path::percent_decoded(&decoded);
    }
    let mut segments = vec![];
    for segment in decoded.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default().trim_matches(|c: char| c.is_control() || c == ' ') {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_owned()),
        }
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~!$&'()*+,=:@".contains(&b);
    let spelled = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    format!("/{}", segments.join("/").bytes().map(spelled).collect::<String>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// However a denied request is written anew: if it passes, it asks for something that was allowed all along, in the
    /// plainest spelling that anybody could read into it.
    #[test]
    fn no_spelling_opens_what_is_denied(row in 0_usize..10_000, spellings in spellings()) {
        let denied: Vec<Asked> = rows().filter(|(expected, _)| *expected != "allow").map(|(_, asked)| asked).collect();
        let first = denied[row % denied.len()].clone();
        let again = spellings.into_iter().fold(first.clone(), respelled);
        if again.verdict() == "allow" {
            let plain = Asked { path: understood(&again.path), ..again.clone() };
            prop_assert_eq!(plain.verdict(), "allow", "{:?} as {:?}", first, again);
            prop_assert!(again.host.eq_ignore_ascii_case(&first.host) || policy().routes.iter().any(|r| r.host == again.host.to_ascii_lowercase()));
        }
    }

    /// A push stays one, and is refused whatever else is wrong or right about it.
    #[test]
    fn a_push_is_one_in_every_spelling(row in 0_usize..10_000, spellings in spellings()) {
        let pushes: Vec<Asked> = rows().filter(|(expected, _)| *expected == "git-push").map(|(_, asked)| asked).collect();
        let first = pushes[row % pushes.len()].clone();
        // Inserted letters can make another word of it: only what changes no letter.
        let same = spellings.into_iter().filter(|(kind, _, _)| matches!(kind, 0 | 2 | 3 | 5 | 6 | 9 | 10 | 11 | 12));
        let again = same.fold(first.clone(), respelled);
        prop_assert_ne!(again.verdict(), "allow", "{:?} as {:?}", first, again);
    }

    /// Nothing that anybody can write makes the decision fail, and what is allowed is plain.
    #[test]
    fn anything_is_judged(
        method in "\\PC{0,12}|GET|POST",
        host in "\\PC{0,40}|[a-z0-9.:\\[\\]-]{0,24}|open\\.example",
        path in "\\PC{0,60}|/[a-z%2fe./;]{0,24}",
        query in prop::option::of("\\PC{0,60}"),
        header in prop::option::of("\\PC{0,40}|open\\.example(:443)?"),
        port in prop_oneof![Just(443_u16), Just(80), any::<u16>()],
        http in any::<bool>(),
    ) {
        let scheme = if http { Scheme::Http } else { Scheme::Https };
        let asked = Asked { method, scheme, host, port, path, query, header };
        if asked.verdict() == "allow" {
            prop_assert!(bottle_policy::path::ambiguity(&asked.path).is_none(), "{:?}", asked);
            prop_assert!(bottle_policy::host::ambiguity(&asked.host).is_none(), "{:?}", asked);
            let decoded = bottle_policy::path::percent_decoded;
            let (lenient, strict) = (decoded(&understood(&asked.path)), decoded(&asked.path));
            prop_assert_eq!(lenient.trim_end_matches('/'), strict.trim_end_matches('/'));
        }
    }
}
